//! Locks on images that QEMU understands: open file description locks on single bytes (`RAW_LOCK_*` in its block/file-posix.c).
//!
//! Whoever has a permission holds a read lock on byte 100 plus the permission's number; whoever does not want others to have one
//! holds a read lock on byte 200 plus its number. A conflict is looked for after the locks were taken, so that of two who come at the
//! same time at most one stays. Locks go away with the open file.

use std::io;
use std::os::fd::BorrowedFd;

use common::file_locks as locks;

const HAVE: libc::off_t = 100;
const REFUSE: libc::off_t = 200;
/// Numbers of the permissions (`BLK_PERM_*`): consistent read, write, resize.
const READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// Takes the locks of a reader, or of a writer. False if another user is in the way, when nothing is held.
pub(super) fn acquire(file: BorrowedFd<'_>, writes: bool) -> io::Result<bool> {
    let have: &[_] = if writes { &[READ, WRITE] } else { &[READ] };
    // Nobody else writes, or changes the size.
    let refuse = [WRITE, RESIZE];
    let result = take(file, have, &refuse);
    if !matches!(result, Ok(true)) {
        release(file)?;
    }
    result
}

fn take(file: BorrowedFd<'_>, have: &[libc::off_t], refuse: &[libc::off_t]) -> io::Result<bool> {
    let ours = have
        .iter()
        .map(|number| HAVE + number)
        .chain(refuse.iter().map(|number| REFUSE + number));
    for byte in ours {
        if !locks::try_read(file, byte)? {
            return Ok(false);
        }
    }
    let theirs = have
        .iter()
        .map(|number| REFUSE + number)
        .chain(refuse.iter().map(|number| HAVE + number));
    for byte in theirs {
        if locks::is_held(file, byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives all locks back.
pub(super) fn release(file: BorrowedFd<'_>) -> io::Result<()> {
    locks::unlock_range(file, HAVE, REFUSE - HAVE + RESIZE + 1)
}
