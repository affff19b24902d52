//! The vhost-user side: the only place, with `daemon.rs`, that names the stock crates' types.

pub mod codec;
pub mod dirty_log;
mod membarrier;
pub mod messages;
pub(crate) mod vring;
