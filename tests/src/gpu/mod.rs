//! Both ends of a GPU: the driver in the guest, and the front-end's display.
//!
//! | file | what |
//! |---|---|
//! | `wire.rs` | commands of virtio-gpu and their answers |
//! | `driver.rs` | a guest that puts commands on the rings of a daemon |
//! | `display.rs`, `messages.rs` | the front-end's end of the display socket, which takes nothing that breaks the protocol |
//! | `picture.rs` | what is seen on a head |
//! | `model.rs` | what has to be seen: a GPU that is simple, slow, and right |
//! | `script.rs` | random commands to a driver and to the model, with interruptions |
//! | `speed.rs` | how fast it all is |
//! | `foreign.rs` | the driver of the crate `virtio-drivers`, on our rings |
//!
//! All of it is written from the specifications, and shares nothing with the daemon.

pub mod display;
pub mod driver;
pub mod foreign;
mod messages;
pub mod model;
pub mod picture;
pub mod script;
pub mod speed;
pub mod wire;

use std::ffi::OsStr;

use anyhow::Result;

use crate::daemon_runner::Daemon;

/// Starts the daemon with `arguments`.
pub fn start_daemon<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Daemon> {
    Daemon::start("vhost-device-gpu", arguments)
}
