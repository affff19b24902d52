//! Does the SCSI daemon survive a guest that attacks it, and a state stream that was forged?
//!
//! The guest here is no kernel: it sends what a kernel never would, over real rings to the real daemon. Each test of it ends with
//! [`Rig::survived`](rig::Rig::survived): every request was given back, the daemon still serves, nothing in it panicked, its memory and
//! its log have not grown without bound, and the disks beside those of the guest are what they were.

mod chains;
mod events;
mod fuzz;
mod lists;
mod rig;
mod states;
mod tasks;
