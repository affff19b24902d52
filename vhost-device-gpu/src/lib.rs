//! A virtio-gpu device behind QEMU's vhost-user-gpu display protocol, whose picture survives when the guest moves.
//!
//! | module | what it knows |
//! |---|---|
//! | [`wire`] | how commands and answers lie on the rings |
//! | [`two_d`] | what 2D commands do: resources, scanouts, formats; no I/O, no rings |
//! | [`screens`] | what is on the screens, and what of it is news |
//! | [`display`] | the display socket |
//! | [`renderer`] | what a renderer is; [`two_d`] is the only one |
//! | [`edid`], [`screenshot`], [`uuid`] | monitors that nobody describes, pictures for people, names |
//! | [`device`], [`state`], [`save`], [`load`] | the device, and what moves with it |
//! | [`config`], [`args`] | what the operator wants |
//!
//! # What is on a screen
//!
//! `SET_SCANOUT` shows the whole rectangle at once; afterwards a screen changes by `RESOURCE_FLUSH`, and by nothing else. The reader of
//! the display socket gets `SCANOUT` when the size of a screen is new to it, then `UPDATE` with what has changed.
//!
//! # Byte order
//!
//! virtio is little-endian and the display protocol has the host's order. Hosts are little-endian here.

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the display protocol is written for little-endian hosts"
);

pub mod args;
pub mod config;
pub mod device;
pub mod display;
pub mod edid;
pub mod load;
mod memory;
pub mod renderer;
pub mod sandbox;
pub mod save;
pub mod screens;
pub mod screenshot;
pub mod state;
pub mod two_d;
pub mod uuid;
pub mod wire;
