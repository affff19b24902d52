//! The FUSE protocol as virtio-fs carries it. Knows bytes and sessions, and no file of the host.

pub mod abi;
pub mod input;
pub mod session;
pub mod wire;
