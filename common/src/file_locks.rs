//! Locks on bytes of a file that belong to the open file, not to the process (`F_OFD_SETLK` of fcntl(2)).
//!
//! Knows neither what a byte stands for nor who else has a lock. They go away with the open file. Ranges are those of
//! `struct flock`: a length of 0 is up to the end of any file.

#![expect(
    unsafe_code,
    reason = "fcntl's open file description locks are in no safe interface"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a shared lock on a byte. False if somebody else has an exclusive one.
pub fn try_read(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    set(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte, 1)
}

/// Takes an exclusive lock on a byte. False if somebody else has one.
pub fn try_write(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    set(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte, 1)
}

/// Takes an exclusive lock on a byte, however long that takes.
pub fn write(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<()> {
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
pub fn unlock(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<()> {
    unlock_range(file, byte, 1)
}

/// Gives all locks on `len` bytes back.
pub fn unlock_range(file: BorrowedFd<'_>, start: libc::off_t, len: libc::off_t) -> io::Result<()> {
    set(file, libc::F_OFD_SETLK, libc::F_UNLCK, start, len).map(drop)
}

/// Takes a lock on `len` bytes, in place of what the open file has there. False if somebody else has one that is in the way;
/// then nothing has changed.
pub fn try_range(
    file: BorrowedFd<'_>,
    exclusive: bool,
    start: libc::off_t,
    len: libc::off_t,
) -> io::Result<bool> {
    set(file, libc::F_OFD_SETLK, kind(exclusive), start, len)
}

/// A lock that somebody else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whether it is an exclusive one.
    pub exclusive: bool,
    /// Its first byte.
    pub start: libc::off_t,
    /// Its length in bytes.
    pub len: libc::off_t,
}

/// A lock of somebody else's that is in the way of one on `len` bytes.
pub fn conflict(
    file: BorrowedFd<'_>,
    exclusive: bool,
    start: libc::off_t,
    len: libc::off_t,
) -> io::Result<Option<Conflict>> {
    let found = get(file, description(kind(exclusive), start, len))?;
    let is_one = libc::c_int::from(found.l_type) != libc::F_UNLCK;
    Ok(is_one.then_some(Conflict {
        exclusive: libc::c_int::from(found.l_type) == libc::F_WRLCK,
        start: found.l_start,
        len: found.l_len,
    }))
}

fn kind(exclusive: bool) -> libc::c_int {
    if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    }
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
pub fn is_held(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    conflict(file, true, byte, 1).map(|found| found.is_some())
}

/// What is in the way of `wanted`, or that nothing is.
fn get(file: BorrowedFd<'_>, wanted: libc::flock) -> io::Result<libc::flock> {
    let mut lock = wanted;
    // SAFETY: the descriptor is open, and the kernel fills in the structure, which is ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == 0 {
        Ok(lock)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn two_open_files_exclude_each_other_and_one_does_not_exclude_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (file.reopen().unwrap(), file.reopen().unwrap());
        assert!(try_range(one.as_fd(), true, 10, 5).unwrap());
        assert!(try_range(one.as_fd(), true, 12, 0).unwrap());
        assert!(!try_range(two.as_fd(), false, 14, 1).unwrap());
        let expected = Conflict {
            exclusive: true,
            start: 10,
            len: 0,
        };
        assert_eq!(conflict(two.as_fd(), false, 0, 0).unwrap(), Some(expected));
        assert_eq!(conflict(two.as_fd(), true, 0, 10).unwrap(), None);
        assert!(try_range(one.as_fd(), false, 10, 0).unwrap());
        assert!(
            try_range(two.as_fd(), false, 14, 1).unwrap(),
            "both are shared"
        );
        assert!(!try_range(one.as_fd(), true, 14, 1).unwrap());
        unlock_range(two.as_fd(), 0, 0).unwrap();
        assert!(!is_held(one.as_fd(), 14).unwrap());
        drop(one);
        assert!(
            !is_held(two.as_fd(), 10).unwrap(),
            "gone with the open file"
        );
    }
}
