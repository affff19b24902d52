//! A virtio-scsi target that loses nothing when it moves.
//!
//! | module | what it knows |
//! |---|---|
//! | [`scsi`] | SPC and SBC: commands, sense, unit attentions, reservations; no I/O, no virtio |
//! | [`config`] | what the operator wants |

pub mod config;
pub mod scsi;
