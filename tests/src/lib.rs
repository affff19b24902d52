//! What the tests of the whole are made of. Nothing depends on this crate but `xtask`.

pub mod bridge;
pub mod conformance;
pub mod daemon_runner;
pub mod fs_daemon;
pub mod fuse_client;
pub mod gpu;
pub mod guest;
pub mod guest_program;
pub mod in_process;
pub mod limited_backend;
pub mod load;
pub mod many_files;
pub mod mounted_share;
pub mod null_device;
pub mod painter;
pub mod probe_device;
pub mod qemu;
pub mod random;
pub mod reserver;
pub mod scenarios;
pub mod scsi_client;
pub mod scsi_suite;
pub mod stoppable_storage;
pub mod tools;
pub mod transfer_log;
pub mod workload;
