//! What the daemon keeps of the host once it serves.
//!
//! No layer knows paths: the operator may add a unit while the daemon runs, and it may be any file. For the same reason the
//! right to open a file of somebody else's is kept. `io_uring` does its work beside the filter of system calls, which is why no
//! other daemon may use it.

use common::sandbox::calls::{any, one_of};
use common::sandbox::{Call, CapabilitySet, Policy};

/// `BLKSSZGET`, `BLKPBSZGET`, `BLKROTATIONAL`, `BLKGETSIZE64`, `BLKDISCARD`, `BLKZEROOUT`.
const OF_BLOCK_DEVICES: &[u64] = &[0x1268, 0x127b, 0x127e, 0x8008_1272, 0x1277, 0x127f];

/// Files and block devices, and the control socket.
const CALLS: &[Call] = &[
    any(libc::SYS_copy_file_range),
    any(libc::SYS_fadvise64),
    any(libc::SYS_fallocate),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fdatasync),
    any(libc::SYS_flock),
    any(libc::SYS_fsync),
    any(libc::SYS_getegid),
    any(libc::SYS_geteuid),
    any(libc::SYS_io_uring_enter),
    any(libc::SYS_io_uring_register),
    any(libc::SYS_io_uring_setup),
    any(libc::SYS_newfstatat),
    any(libc::SYS_openat),
    any(libc::SYS_readlinkat),
    any(libc::SYS_statfs),
    any(libc::SYS_statx),
    any(libc::SYS_sync_file_range),
    any(libc::SYS_umask),
    one_of(libc::SYS_ioctl, 1, OF_BLOCK_DEVICES),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_chmod),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
];

/// What every daemon keeps.
pub fn policy() -> Policy {
    Policy {
        capabilities: CapabilitySet::DAC_OVERRIDE,
        paths: None,
        calls: CALLS.to_vec(),
    }
}
