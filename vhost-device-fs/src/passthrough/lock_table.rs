//! The locks that the guest has on files of the share, which others on the host see (`--remote-posix-locks`, `--remote-flock`).
//!
//! A lock on bytes belongs to an owner in the guest. The host's locks belong to an open file, so each owner has one of its own
//! on each file, and owners exclude each other and everybody else. A lock on a whole file belongs to an open file on both sides.
//!
//! Who does not run holds no locks that somebody else was told of: see `hand_over`.

mod hand_over;

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::file_locks;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

pub(crate) use hand_over::LockImage;

use super::handle::Handle;
use super::host::Host;
use super::tables::Tables;
use crate::operations::FsResult;
use crate::store::{Range, Ranges};

/// Locks that a guest can make us keep.
const LOCKS_MAX: usize = 1 << 16;
/// The last byte of any file (`OFFSET_MAX` of Linux).
pub(crate) const LAST_BYTE: u64 = i64::MAX as u64;
/// The locks of one owner on one file.
#[derive(Debug)]
struct Owned {
    /// A descriptor that nobody else uses.
    file: OwnedFd,
    /// The handle that was used last: when it goes, the locks go.
    handle: u64,
    /// The process in the guest, for whoever asks.
    pid: u32,
    ranges: Ranges,
}

/// A lock on a whole file.
#[derive(Debug)]
struct Whole {
    handle: Arc<Handle>,
    owner: u64,
    exclusive: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// By nodeid and owner.
    owned: HashMap<(u64, u64), Owned>,
    /// By handle.
    whole: HashMap<u64, Whole>,
    are_let_go: bool,
}

/// A lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) range: Range,
    /// The process in this guest; 0 if it is none of this guest's.
    pub(crate) pid: u32,
}

impl Inner {
    /// How many locks a state would have to hold.
    fn kept(&self) -> usize {
        let ranges: usize = self.owned.values().map(|own| own.ranges.all().len()).sum();
        ranges + self.whole.len()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct LockTable {
    inner: Mutex<Inner>,
    locks_max: usize,
    /// How many there are of either sort, to see that there are none.
    count: AtomicUsize,
    /// Descriptors that are held for them.
    descriptors: AtomicUsize,
}

impl Default for LockTable {
    fn default() -> Self {
        Self::at_most(LOCKS_MAX)
    }
}

impl LockTable {
    pub(super) fn at_most(locks_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            locks_max,
            count: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how many there are.
    fn counted(&self, inner: &Inner) {
        let owned = inner.owned.len();
        self.descriptors.store(owned, Ordering::Relaxed);
        self.count
            .store(owned + inner.whole.len(), Ordering::Relaxed);
    }

    /// Whether there are no locks at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Number of descriptors that locks hold.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// The lock on bytes that would be in the way of `wanted`.
    pub(crate) fn in_the_way(
        &self,
        file: &Handle,
        owner: u64,
        wanted: Range,
    ) -> FsResult<Option<Holder>> {
        let inner = self.lock();
        let own = inner.owned.get(&(file.nodeid, owner));
        let descriptor = match own {
            Some(own) => own.file.as_fd(),
            None => file.file()?,
        };
        let (start, len) = extent(wanted);
        let found = file_locks::conflict(descriptor, wanted.exclusive, start, len)
            .map_err(|error| errno(&error))?;
        let Some(found) = found else {
            return Ok(None);
        };
        // The host does not know processes of the guest.
        let ours = inner
            .owned
            .iter()
            .filter(|((nodeid, other), _)| *nodeid == file.nodeid && *other != owner)
            .find_map(|(_, owned)| Some((owned.ranges.in_the_way_of(wanted)?, owned.pid)));
        let (range, pid) = ours.unwrap_or_else(|| (range(found), 0));
        Ok(Some(Holder { range, pid }))
    }

    /// Takes a lock on bytes, in place of what the owner has there; `EAGAIN` if somebody else's is in the way.
    pub(crate) fn take(
        &self,
        tables: &Tables,
        (handle, file): (u64, &Handle),
        (owner, pid): (u64, u32),
        wanted: Range,
    ) -> FsResult<()> {
        let mut inner = self.lock();
        // One may become three.
        if inner.kept() + 2 > self.locks_max {
            return Err(Errno::NOLCK);
        }
        let key = (file.nodeid, owner);
        if let Some(own) = inner.owned.get_mut(&key) {
            try_range(own.file.as_fd(), wanted)?;
            own.ranges
                .set(wanted.start, wanted.end, Some(wanted.exclusive));
            (own.handle, own.pid) = (handle, pid);
            return Ok(());
        }
        let _room = tables.reserve_descriptors(1)?;
        let own = open(&tables.host, file)?;
        try_range(own.as_fd(), wanted)?;
        let mut ranges = Ranges::default();
        ranges.set(wanted.start, wanted.end, Some(wanted.exclusive));
        let own = Owned {
            file: own,
            handle,
            pid,
            ranges,
        };
        inner.owned.insert(key, own);
        self.counted(&inner);
        Ok(())
    }

    /// Gives back what the owner has there. True if that was anything.
    pub(crate) fn give_back(
        &self,
        nodeid: u64,
        owner: u64,
        start: u64,
        end: u64,
    ) -> FsResult<bool> {
        let mut inner = self.lock();
        let Some(own) = inner.owned.get_mut(&(nodeid, owner)) else {
            return Ok(false);
        };
        let (first, len) = extent(Range {
            start,
            end,
            exclusive: false,
        });
        file_locks::unlock_range(own.file.as_fd(), first, len).map_err(|error| errno(&error))?;
        own.ranges.set(start, end, None);
        if own.ranges.all().is_empty() {
            inner.owned.remove(&(nodeid, owner));
            self.counted(&inner);
        }
        Ok(true)
    }

    /// Takes a lock on a whole file; `EAGAIN` if somebody else's is in the way, when the one that it was to replace is gone,
    /// too (flock(2)).
    pub(crate) fn take_whole(
        &self,
        handle: u64,
        file: &Arc<Handle>,
        owner: u64,
        exclusive: bool,
    ) -> FsResult<()> {
        let mut inner = self.lock();
        if !inner.whole.contains_key(&handle) && inner.kept() >= self.locks_max {
            return Err(Errno::NOLCK);
        }
        let result = try_whole(file.file()?, exclusive);
        if result.is_ok() {
            let whole = Whole {
                handle: Arc::clone(file),
                owner,
                exclusive,
            };
            inner.whole.insert(handle, whole);
        } else {
            inner.whole.remove(&handle);
        }
        self.counted(&inner);
        result
    }

    /// Gives the lock on a whole file back. True if there was one.
    pub(crate) fn give_back_whole(&self, handle: u64) -> FsResult<bool> {
        let mut inner = self.lock();
        let Some(whole) = inner.whole.remove(&handle) else {
            return Ok(false);
        };
        self.counted(&inner);
        rustix::fs::flock(whole.handle.file()?, FlockOperation::NonBlockingUnlock)?;
        Ok(true)
    }

    /// The handle is gone: so is what was locked by it. True if that was anything.
    pub(crate) fn released(&self, nodeid: u64, handle: u64) -> bool {
        let whole = self.give_back_whole(handle).unwrap_or(true);
        let mut inner = self.lock();
        let before = inner.owned.len();
        inner
            .owned
            .retain(|(of_node, _), own| *of_node != nodeid || own.handle != handle);
        self.counted(&inner);
        whole || inner.owned.len() < before
    }

    /// What was locked by a handle is not locked any more.
    pub(crate) fn forget(&self, handle: u64) {
        let mut inner = self.lock();
        inner.owned.retain(|_, own| own.handle != handle);
        inner.whole.remove(&handle);
        self.counted(&inner);
    }
}

/// Opens the file once more, for one owner: for writing if that can be, since the owner may lock by other handles later.
fn open(host: &Host, file: &Handle) -> FsResult<OwnedFd> {
    let descriptor = file.file()?;
    let most = if host.config.readonly {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    match host.reopen(descriptor, most) {
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => {
            host.reopen(descriptor, OFlags::RDONLY)
        }
        result => result,
    }
}

fn try_range(file: BorrowedFd<'_>, wanted: Range) -> FsResult<()> {
    let (start, len) = extent(wanted);
    match file_locks::try_range(file, wanted.exclusive, start, len) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::AGAIN),
        Err(error) => Err(errno(&error)),
    }
}

fn try_whole(file: BorrowedFd<'_>, exclusive: bool) -> FsResult<()> {
    let operation = if exclusive {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    rustix::fs::flock(file, operation)
}

/// First byte and length as the host wants them: a length of 0 is up to the end of any file.
fn extent(range: Range) -> (i64, i64) {
    let start = i64::try_from(range.start).unwrap_or(i64::MAX);
    let len = match range.end {
        LAST_BYTE.. => 0,
        end => i64::try_from(end - range.start + 1).unwrap_or(0),
    };
    (start, len)
}

fn range(found: file_locks::Conflict) -> Range {
    let start = u64::try_from(found.start).unwrap_or(0);
    let len = u64::try_from(found.len).unwrap_or(0);
    let end = if len == 0 {
        LAST_BYTE
    } else {
        start.saturating_add(len - 1).min(LAST_BYTE)
    };
    Range {
        start,
        end,
        exclusive: found.exclusive,
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
