//! The locks of a state, taken on this host. The source has let them go; who else has one in the way keeps it.

use rustix::io::Errno;

use super::Failures;
use crate::operations::{FsResult, Lock, LockKind};
use crate::passthrough::{Tables, Target, lose, set_lock};
use crate::state::{FsState, LockV1};

/// Takes all locks. A handle whose lock cannot be had is lost: the guest believes that it has the lock.
pub(super) fn take(tables: &Tables, state: &FsState, failures: &mut Failures) {
    for lock in &state.locks {
        let handle = lock.handle;
        if let Err(errno) = take_one(tables, lock) {
            failures.add(|| match errno {
                Errno::AGAIN => format!("host: the lock of handle {handle} is somebody else's"),
                _ => format!("host: the lock of handle {handle} cannot be had: {errno}"),
            });
            tables.locks.forget(handle);
            lose(tables, handle);
        }
    }
}

fn take_one(tables: &Tables, lock: &LockV1) -> FsResult<()> {
    let file = tables.handles.get(lock.handle)?;
    if matches!(file.target, Target::Lost) {
        return Ok(()); // counted, or lost in an earlier migration
    }
    let wanted = Lock {
        owner: lock.owner,
        pid: lock.pid,
        kind: if lock.exclusive {
            LockKind::Exclusive
        } else {
            LockKind::Shared
        },
        start: lock.start,
        end: lock.end,
        whole_file: lock.whole_file,
    };
    set_lock(tables, lock.handle, &file, &wanted).map(drop)
}
