//! What every stateful vhost-user device daemon shares.

pub mod args;
mod buffers;
pub mod daemon;
// device: next commit
pub mod frontend;
pub mod gate;
pub mod lifecycle;
pub mod memory;
pub mod protocol;
pub mod request;
pub mod ring;
pub mod state;

pub use buffers::Placement;
