//! A virtio-scsi target that loses nothing when it moves.
//!
//! | module | what it knows |
//! |---|---|
//! | [`scsi`] | SPC and SBC: commands, sense, unit attentions, reservations; no I/O, no virtio |
//! | [`args`], [`config`], [`ctl`] | what the operator wants: on the command line, as values, later |

pub mod args;
pub mod config;
pub mod ctl;
pub mod scsi;
