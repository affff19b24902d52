//! Operations on file locks that others see, too. Without the options for it the guest keeps its locks to itself.

use rustix::io::Errno;

use super::abi::{FileLock, LK_FLOCK, LkIn, LkOut, init};
use super::call::Call;
use crate::operations::{FsResult, Lock, LockKind};

/// `F_RDLCK`, `F_WRLCK` and `F_UNLCK` of Linux.
const SHARED: u32 = 0;
const EXCLUSIVE: u32 = 1;
const NONE: u32 = 2;

pub(super) fn get(call: &mut Call<'_>) -> FsResult<()> {
    let (handle, wanted) = take(call)?;
    let found = call.file_system.get_lock(handle, &wanted)?;
    call.put(&LkOut {
        lock: FileLock {
            start: found.start,
            end: found.end,
            kind: match found.kind {
                LockKind::Shared => SHARED,
                LockKind::Exclusive => EXCLUSIVE,
                LockKind::None => NONE,
            },
            pid: found.pid,
        },
    });
    Ok(())
}

pub(super) fn set(call: &mut Call<'_>) -> FsResult<()> {
    let (handle, wanted) = take(call)?;
    call.file_system.set_lock(handle, &wanted)
}

/// Like [`set`], and is served again until the lock can be had.
pub(super) fn set_waiting(call: &mut Call<'_>) -> FsResult<()> {
    match set(call) {
        Err(Errno::AGAIN) if call.may_wait => {
            call.waits = true;
            Ok(())
        }
        // "Too many locks", which is what it is: as many wait already.
        Err(Errno::AGAIN) => Err(Errno::NOLCK),
        result => result,
    }
}

fn take(call: &mut Call<'_>) -> FsResult<(u64, Lock)> {
    let asked: LkIn = call.input.take()?;
    let whole_file = asked.lk_flags & LK_FLOCK != 0;
    let needed = if whole_file {
        init::FLOCK_LOCKS
    } else {
        init::POSIX_LOCKS
    };
    if !call.session.is_some_and(|session| session.has(needed)) {
        return Err(Errno::NOSYS);
    }
    let FileLock {
        start,
        end,
        kind,
        pid,
    } = asked.lock;
    let kind = match kind {
        SHARED => LockKind::Shared,
        EXCLUSIVE => LockKind::Exclusive,
        NONE => LockKind::None,
        _ => return Err(Errno::INVAL),
    };
    let wanted = Lock {
        owner: asked.owner,
        pid,
        kind,
        start,
        end,
        whole_file,
    };
    Ok((asked.handle, wanted))
}
