//! Locks that somebody else may have to take over: which they are, letting them go, and taking them again.
//!
//! A state that was saved may be loaded anywhere, also where this very file system is, so its locks are let go when it is handed
//! out. Whoever goes on with the guest takes them before the guest does anything: the destination before it says that it has
//! loaded the state, or the source when it is resumed. That somebody was faster is noticed then.

use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use common::file_locks;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{LockTable, try_range, try_whole};
use crate::operations::FsResult;
use crate::store::Range;

/// How long locks are waited for that were let go: whoever was to take them over, and was not needed after all, takes a while
/// to leave. And how often is looked.
const PATIENCE: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(10);

/// A lock as it is saved and loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockImage {
    pub(crate) nodeid: u64,
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) pid: u32,
    /// `None` is the whole file.
    pub(crate) range: Option<Range>,
    /// Of a whole file; of bytes it is in `range`.
    pub(crate) exclusive: bool,
}

impl LockTable {
    /// All locks, in the order of their handles.
    pub(crate) fn images(&self) -> Vec<LockImage> {
        let inner = self.lock();
        let of_bytes = inner.owned.iter().flat_map(|((nodeid, owner), own)| {
            own.ranges.all().iter().map(|range| LockImage {
                nodeid: *nodeid,
                handle: own.handle,
                owner: *owner,
                pid: own.pid,
                range: Some(*range),
                exclusive: range.exclusive,
            })
        });
        let of_files = inner.whole.iter().map(|(handle, whole)| LockImage {
            nodeid: whole.handle.nodeid,
            handle: *handle,
            owner: whole.owner,
            pid: 0,
            range: None,
            exclusive: whole.exclusive,
        });
        let mut images: Vec<_> = of_bytes.chain(of_files).collect();
        images.sort_unstable_by_key(|image| {
            let start = image.range.map(|range| range.start);
            (image.handle, image.nodeid, image.owner, start)
        });
        images
    }

    /// Lets go of all locks on the host, and remembers them: the state was given away, and whoever has it takes them. The
    /// device is suspended, so nothing is done without them.
    pub(crate) fn let_go(&self) {
        let mut inner = self.lock();
        for own in inner.owned.values() {
            if let Err(error) = file_locks::unlock_range(own.file.as_fd(), 0, 0) {
                log::warn!("host: a lock cannot be let go: {error}");
            }
        }
        for whole in inner.whole.values() {
            let unlocked = whole
                .handle
                .file()
                .and_then(|file| rustix::fs::flock(file, FlockOperation::NonBlockingUnlock));
            if let Err(errno) = unlocked {
                log::warn!("host: a lock cannot be let go: {errno}");
            }
        }
        inner.are_let_go = true;
    }

    /// Takes all locks again that were [let go](Self::let_go), and forgets those that somebody else has taken meanwhile. Returns
    /// the handles of these: what the guest does with them it does without the locks that it believes in.
    pub(crate) fn take_again(&self) -> Vec<u64> {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.are_let_go) {
            return Vec::new();
        }
        let deadline = Instant::now() + PATIENCE;
        let mut lost = Vec::new();
        inner.owned.retain(|_, own| {
            let mut ranges = own.ranges.all().iter();
            let taken = ranges
                .all(|range| patiently(deadline, || try_range(own.file.as_fd(), *range)).is_ok());
            if !taken {
                lost.push(own.handle);
            }
            taken
        });
        inner.whole.retain(|handle, whole| {
            let file = whole.handle.file();
            let taken = file
                .is_ok_and(|file| patiently(deadline, || try_whole(file, whole.exclusive)).is_ok());
            if !taken {
                lost.push(*handle);
            }
            taken
        });
        self.counted(&inner);
        lost
    }
}

fn patiently(deadline: Instant, take: impl Fn() -> FsResult<()>) -> FsResult<()> {
    loop {
        match take() {
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(GLANCE),
            result => return result,
        }
    }
}
