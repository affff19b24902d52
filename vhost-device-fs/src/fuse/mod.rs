//! The FUSE protocol as virtio-fs carries it. Knows bytes and sessions, and no file of the host.

pub mod session;
