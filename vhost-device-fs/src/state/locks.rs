//! Locks of files that others see, and requests that wait for some: how they lie in a state, and what they must be like to be believed.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::rules::{FILE_BYTES_MAX, REGULAR};
use super::{ForgedState, FsState, NodeFinder};

/// Locks that others see, and requests that wait for some.
const LOCKS_MAX: usize = 1 << 16;
pub(super) const WAITERS_MAX: usize = 1 << 16;
/// Rings that a device can have, and descriptors that a ring can have.
const RINGS_MAX: u16 = 64;
const RING_SIZE_MAX: u16 = 32_768;
/// Flags of a session in which the guest does not keep locks of fcntl(2), and of flock(2), to itself.
const POSIX_LOCKS: u64 = 1 << 1;
const FLOCK_LOCKS: u64 = 1 << 10;

/// A lock that others see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockV1 {
    /// Whose locks it is one of, in the guest.
    pub owner: u64,
    /// What it was taken by, and goes with.
    pub handle: u64,
    /// The process in the guest; 0 if it is not known.
    pub pid: u32,
    /// It is one of flock(2), on the whole file, not of fcntl(2).
    pub whole_file: bool,
    /// Nobody else may have one.
    pub exclusive: bool,
    /// The first byte; 0 for the whole file.
    pub start: u64,
    /// The last byte; 2^63 - 1 for the whole file.
    pub end: u64,
}

/// A request that the guest has not got back, for it waits for a lock. It is served again from its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterV1 {
    /// Index of its ring.
    pub ring: u16,
    /// Head of its chain.
    pub head: u16,
}

impl FsState {
    /// Each lock is of an open file; those of one owner on one file do not overlap.
    pub(super) fn validate_locks(&self, finder: &mut NodeFinder) -> Result<(), ForgedState> {
        let counts = self.locks.len().max(self.waiters.len());
        if self.locks.len() > LOCKS_MAX || self.waiters.len() > WAITERS_MAX {
            return Err(ForgedState::Locks(counts));
        }
        let agreed = self.session.as_ref().map_or(0, |session| session.flags);
        let files: HashMap<u64, u64> = self
            .handles
            .iter()
            .filter(|handle| {
                let found = finder.find(handle.nodeid);
                found.is_some_and(|found| found.kind == REGULAR)
            })
            .map(|handle| (handle.handle, handle.nodeid))
            .collect();
        let mut of_files = HashSet::new();
        let mut of_bytes: HashMap<(u64, u64), Vec<&LockV1>> = HashMap::new();
        for lock in &self.locks {
            let LockV1 {
                handle, start, end, ..
            } = *lock;
            let needed = if lock.whole_file {
                FLOCK_LOCKS
            } else {
                POSIX_LOCKS
            };
            let nodeid = files.get(&handle).filter(|_| agreed & needed != 0);
            let nodeid = *nodeid.ok_or(ForgedState::LockHandle(handle))?;
            let sound = if lock.whole_file {
                (start, end) == (0, FILE_BYTES_MAX) && of_files.insert(handle)
            } else {
                of_bytes.entry((nodeid, lock.owner)).or_default().push(lock);
                start <= end && end <= FILE_BYTES_MAX
            };
            if !sound {
                return Err(ForgedState::LockRange { handle, start, end });
            }
        }
        for locks in of_bytes.values_mut() {
            locks.sort_unstable_by_key(|lock| lock.start);
            if let Some(
                [
                    _,
                    LockV1 {
                        handle, start, end, ..
                    },
                ],
            ) = locks
                .array_windows()
                .find(|[one, next]| next.start <= one.end)
            {
                let (handle, start, end) = (*handle, *start, *end);
                return Err(ForgedState::LockRange { handle, start, end });
            }
        }
        let mut seen = HashSet::new();
        let is_forged = self.waiters.iter().find(|waiter| {
            waiter.ring >= RINGS_MAX
                || waiter.head >= RING_SIZE_MAX
                || !seen.insert((waiter.ring, waiter.head))
        });
        is_forged.map_or(Ok(()), |waiter| {
            let (ring, head) = (waiter.ring, waiter.head);
            Err(ForgedState::Waiter { ring, head })
        })
    }
}
