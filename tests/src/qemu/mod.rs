//! End-to-end rig: a real Linux guest in an unmodified QEMU, driven from Rust.
//!
//! The way through it: [`provision`] finds or fetches QEMU, a guest kernel and busybox; [`image`]
//! packs a guest from them, with what it needs of the kernel's [`modules`]; [`vm`] starts it with the devices under test and talks to it through
//! [`qmp`] (the machine) and [`console`] (the guest); [`migration`] moves it, live or through a
//! file; [`channel`] disturbs it and [`snapshot`] looks into it. [`process`] owns the child processes, so that none outlives its test.
//!
//! [`laboratory`] is a guest for experiments that this machine cannot have.
//!
//! Only [`fs_machine`], [`laboratory`], [`scsi_machine`], [`scsi_rig`] and [`show`] know a device: elsewhere one is a list of QEMU arguments.

pub mod channel;
pub mod console;
pub mod fs_machine;
pub mod gpu_machine;
pub mod image;
pub mod laboratory;
pub mod migration;
pub mod modules;
pub mod process;
pub mod provision;
pub mod qmp;
pub mod rig;
pub mod scsi_machine;
pub mod scsi_rig;
pub mod show;
pub mod snapshot;
pub mod vm;
pub mod whole_machine;

pub use migration::{Outcome, Transfer};
pub use rig::Rig;
pub use vm::{Config, Start, Vm};
