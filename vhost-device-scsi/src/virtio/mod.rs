//! virtio-scsi: how commands, task management and events lie on the rings (virtio 1.3, 5.6).
//!
//! Knows addresses and layouts; knows no SCSI command.

pub(crate) mod commands;
pub mod events;
pub mod sweep;
pub mod tasks;
pub mod wire;
