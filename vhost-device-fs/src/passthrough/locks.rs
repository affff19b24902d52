//! GETLK, SETLK and what else ends a lock: FLUSH, RELEASE, and a state that was given away.

use std::sync::Arc;

use rustix::io::Errno;

use super::FileSystem;
use super::handle::{Handle, Target};
use super::lock_table::{Holder, LAST_BYTE};
use super::tables::Tables;
use crate::operations::{FsResult, Lock, LockKind};
use crate::store::Range;

impl FileSystem {
    /// The lock on bytes that would be in the way of `wanted`; itself, with nothing in it, if there is none.
    pub fn get_lock(&self, handle: u64, wanted: &Lock) -> FsResult<Lock> {
        let tables = self.tables();
        let file = tables.handles.get(handle)?;
        let Some(range) = range(wanted)? else {
            return Err(Errno::INVAL);
        };
        let found = tables.locks.in_the_way(&file, wanted.owner, range)?;
        Ok(match found {
            Some(Holder { range, pid }) => Lock {
                start: range.start,
                end: range.end,
                kind: if range.exclusive {
                    LockKind::Exclusive
                } else {
                    LockKind::Shared
                },
                pid,
                ..*wanted
            },
            None => Lock {
                kind: LockKind::None,
                pid: 0,
                ..*wanted
            },
        })
    }

    /// Takes or gives back a lock; `EAGAIN` if somebody else's is in the way.
    pub fn set_lock(&self, handle: u64, wanted: &Lock) -> FsResult<()> {
        let tables = self.tables();
        let file = tables.handles.get(handle)?;
        let given_back = set(&tables, handle, &file, wanted)?;
        if given_back {
            self.lock_given_back();
        }
        Ok(())
    }

    /// The owner closed a descriptor of the file: its locks on bytes go (close(2), fcntl(2)).
    pub(super) fn flush_locks(&self, tables: &Tables, nodeid: u64, owner: u64) -> FsResult<()> {
        if tables.locks.is_empty() {
            return Ok(());
        }
        if tables.locks.give_back(nodeid, owner, 0, LAST_BYTE)? {
            self.lock_given_back();
        }
        Ok(())
    }

    /// The file was closed: what was locked by it goes.
    pub(super) fn release_locks(&self, tables: &Tables, nodeid: u64, handle: u64) {
        if !tables.locks.is_empty() && tables.locks.released(nodeid, handle) {
            self.lock_given_back();
        }
    }

    /// The state was given away, or nobody says any more what becomes of the guest: whoever has it may have its locks.
    pub(crate) fn let_locks_go(&self) {
        self.tables().locks.let_go();
    }

    /// The guest goes on here. What it does with a file whose lock somebody else has taken meanwhile fails from now on, for
    /// it would do it without knowing.
    pub(crate) fn take_locks_again(&self) {
        let tables = self.tables();
        for handle in tables.locks.take_again() {
            log::error!(
                "host: the lock of handle {handle} was taken by somebody else while the guest was stopped; the guest will see errors on it"
            );
            lose(&tables, handle);
        }
    }
}

/// Takes or gives back a lock. True if one was given back.
pub(crate) fn set(
    tables: &Tables,
    handle: u64,
    file: &Arc<Handle>,
    wanted: &Lock,
) -> FsResult<bool> {
    file.file()?;
    let Some(wanted_range) = range(wanted)? else {
        return match wanted.kind {
            LockKind::None => tables.locks.give_back_whole(handle),
            kind @ (LockKind::Shared | LockKind::Exclusive) => tables
                .locks
                .take_whole(handle, file, wanted.owner, kind == LockKind::Exclusive)
                .map(|()| false),
        };
    };
    match wanted.kind {
        LockKind::None => {
            tables
                .locks
                .give_back(file.nodeid, wanted.owner, wanted.start, wanted.end)
        }
        LockKind::Shared | LockKind::Exclusive => {
            let owner = (wanted.owner, wanted.pid);
            tables
                .locks
                .take(tables, (handle, file), owner, wanted_range)
                .map(|()| false)
        }
    }
}

/// Every further use of the handle fails.
pub(crate) fn lose(tables: &Tables, handle: u64) {
    if let Ok(file) = tables.handles.get(handle) {
        let lost = Handle::new(file.nodeid, file.flags, Target::Lost);
        tables.handles.place(handle, lost);
    }
}

/// The bytes that are meant; `None` is the whole file.
fn range(lock: &Lock) -> FsResult<Option<Range>> {
    if lock.whole_file {
        return Ok(None);
    }
    if lock.start > lock.end || lock.end > LAST_BYTE {
        return Err(Errno::INVAL);
    }
    Ok(Some(Range {
        start: lock.start,
        end: lock.end,
        exclusive: lock.kind == LockKind::Exclusive,
    }))
}
