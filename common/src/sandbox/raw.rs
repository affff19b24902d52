//! fork and unshare, which concern the whole process, and a call on mounts that rustix does not have.

#![expect(
    unsafe_code,
    reason = "fork, unshare and mount_setattr have no safe wrappers"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Whether this process has one thread only. After `fork`, locks of others would stay locked for ever.
fn is_single_threaded() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Makes a second process like this one. Returns its id here, and `None` there.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    if !is_single_threaded()? {
        return Err(io::Error::other("there are threads already"));
    }
    // SAFETY: no other thread exists that could hold a lock, or be in the middle of anything.
    let id = unsafe { libc::fork() };
    if id < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(id))
}

/// Leaves the namespaces in `flags` for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared (no `FILES` in the flags of any caller), and nothing here relies on the rest.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Sets `attributes` (`MOUNT_ATTR_*`) on the mount at `directory` and on all beneath it.
pub(super) fn set_mount_attributes(directory: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let wanted = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a string that ends with NUL, and the structure has the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
