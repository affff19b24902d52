//! A virtio-scsi target that loses nothing when it moves.
//!
//! | module | what it knows |
//! |---|---|
//! | [`scsi`] | SPC and SBC: commands, sense, unit attentions, reservations; no I/O, no virtio |
//! | [`virtio`] | how commands, task management and events lie on the rings |
//! | [`target`] | which logical units there are |
//! | [`engine`] | how commands get done |
//! | [`backing`], [`reservations`] | image files, and stores of reservations beside them |
//! | [`device`], [`state`], [`save`], [`load`] | the device, and what moves with it |
//! | [`config`], [`args`], [`ctl`] | what the operator wants, at start and later |

mod administration;
pub mod args;
pub mod backing;
pub mod config;
pub mod ctl;
pub mod device;
pub mod engine;
pub mod load;
pub mod reservations;
pub mod sandbox;
pub mod save;
pub mod scsi;
pub mod state;
pub mod target;
pub mod virtio;
