//! What every stateful vhost-user device daemon shares.

pub mod args;
pub mod daemon;
pub mod frontend;
pub mod lifecycle;
pub mod protocol;
pub mod state;
