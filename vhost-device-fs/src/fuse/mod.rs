//! The FUSE protocol as virtio-fs carries it (virtio 1.3, 5.11). Knows bytes and sessions, and no file of the host.
//!
//! A request goes through [`Server::serve`]: its header and body are copied once, `dispatch` finds the operation,
//! the operation takes its arguments off the [`Input`](input::Input), asks the file system and appends to the reply.
//! The data of READ and WRITE never passes through here: it goes straight between file and guest memory.

pub mod abi;
mod attributes;
mod call;
mod data;
mod directories;
mod dispatch;
pub mod input;
mod locks;
mod names;
mod server;
pub mod session;
pub mod wire;
mod xattrs;

pub use dispatch::Effort;
pub use server::{Buffers, Served, Server};
