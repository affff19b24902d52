//! A virtio-fs device whose state migrates: a FUSE server that passes a host directory through to a guest.
//!
//! # The way through the code
//!
//! ```text
//! args -> config -> device (common::device::Device)
//!                     |
//!   ring -> fuse/ (bytes: decode, INIT, dispatch, encode) -> passthrough/ (files: FileSystem) -> host
//!                     |          \___ operations ___/          |
//!                     |                                      store/ (nodeids, locations, descriptors)
//!                     +-> save -> state (plain data) -> common::state
//!                         load <-        <-
//! ```
//!
//! `fuse/` knows the FUSE protocol and no file; `passthrough/` and `store/` know files and no FUSE bytes.
//! They meet in [`operations`], plain types without behaviour. Only `save.rs` and `load.rs` see both live
//! and state types.

pub mod args;
pub mod config;
pub mod device;
pub mod fuse;
pub mod limits;
pub mod load;
pub mod operations;
mod pace;
pub mod passthrough;
mod polling;
pub mod sandbox;
pub mod save;
mod side_threads;
pub mod state;
mod store;
pub mod translation;
mod waiting;
pub mod xattr_map;
