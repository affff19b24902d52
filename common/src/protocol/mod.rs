//! The vhost-user side: the only place, with `daemon.rs`, that names the stock crates' types.
//!
//! ```text
//! front-end -- relay -- private link -- stock VhostUserDaemon -- adapter -- Device
//!                |                                                  |
//!                +--- SUSPEND, RESUME --> control <-- rings --------+-- transfer <- channel
//! ```

mod adapter;
mod channel;
pub mod codec;
mod control;
pub mod dirty_log;
mod exit_events;
mod handover;
pub(crate) mod inflight;
mod membarrier;
pub mod messages;
pub(crate) mod owed;
mod relay;
mod session;
#[cfg(test)]
pub(crate) mod test_ring;
mod transfer;
mod trust;
pub(crate) mod vring;

pub(crate) use handover::{
    HandoverError, Inheritance, Keeper, PARCEL_BYTES_MAX, PARCEL_FILES_MAX, Parcel,
};
pub(crate) use relay::End;
pub use session::Options;
pub(crate) use session::{Host, SessionError};
pub use transfer::{SaveChannel, TransferOptions};
