//! Locks on bytes of a file that belong to the open file, not to the process (`F_OFD_SETLK` of fcntl(2)).
//!
//! Knows neither what a byte stands for nor who else has a lock. They go away with the open file.

#![expect(
    unsafe_code,
    reason = "fcntl's open file description locks are in no safe interface"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a shared lock on a byte. False if somebody else has an exclusive one.
pub(crate) fn try_read(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    set(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte, 1)
}

/// Takes an exclusive lock on a byte. False if somebody else has one.
pub(crate) fn try_write(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    set(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte, 1)
}

/// Takes an exclusive lock on a byte, however long that takes.
pub(crate) fn write(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<()> {
    loop {
        match set(file, libc::F_OFD_SETLKW, libc::F_WRLCK, byte, 1) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gives the lock on a byte back.
pub(crate) fn unlock(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<()> {
    unlock_range(file, byte, 1)
}

/// Gives all locks on `len` bytes back.
pub(crate) fn unlock_range(
    file: BorrowedFd<'_>,
    start: libc::off_t,
    len: libc::off_t,
) -> io::Result<()> {
    set(file, libc::F_OFD_SETLK, libc::F_UNLCK, start, len).map(drop)
}

fn description(kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or(0),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// False if somebody else has a lock that is in the way.
fn set(
    file: BorrowedFd<'_>,
    command: libc::c_int,
    kind: libc::c_int,
    start: libc::off_t,
    len: libc::off_t,
) -> io::Result<bool> {
    let lock = description(kind, start, len);
    // SAFETY: the descriptor is open, and the kernel only reads the structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether somebody else holds any lock on a byte.
pub(crate) fn is_held(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    let mut lock = description(libc::F_WRLCK, byte, 1);
    // SAFETY: the descriptor is open, and the kernel fills in the structure, which is ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == 0 {
        Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
    } else {
        Err(io::Error::last_os_error())
    }
}
