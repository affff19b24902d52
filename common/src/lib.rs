//! What every stateful vhost-user device daemon shares.
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the trait a device author writes; start here |
//! | [`ring`], [`request`], [`memory`] | what a device works with while it serves a ring |
//! | [`lifecycle`], [`gate`] | when a device may work, and how to wait until it does not |
//! | [`state`] | the state stream: framing, schemas, errors |
//! | [`daemon`], [`args`], [`id_map`] | sockets, signals, options, logging: a device's `main` |
//! | [`sandbox`] | what a daemon gives up before it serves |
//! | [`file_locks`] | locks on bytes of the host's files |
//! | [`frontend`] | the other half, for VMM authors, tests and tools |
//! | [`protocol`] | vhost-user itself |
//!
//! Only `protocol` and `daemon` know the stock vhost-user crates. A device never sees a descriptor that state moves
//! through; `protocol` never sees what is in a state.

pub mod args;
mod buffers;
#[cfg(feature = "test-kit")]
pub mod counting_allocator;
pub mod daemon;
pub mod device;
pub mod file_locks;
pub mod frontend;
pub mod gate;
pub mod id_map;
pub mod lifecycle;
pub mod memory;
pub mod protocol;
pub mod report;
pub mod request;
pub mod ring;
pub mod sandbox;
pub mod state;
#[cfg(test)]
mod test_device;
mod wakers;

pub use buffers::{IoVectors, Placement};
