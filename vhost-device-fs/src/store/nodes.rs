//! The inodes that the guest knows: identity, names, counts. Makes no system call beside closing descriptors.
//!
//! # Locks
//!
//! An identity's lock first, then a record's; never two of the same sort at once. Descriptors are dropped, that is
//! closed, with no lock held.
//!
//! # How long a record lives
//!
//! While the guest holds lookups of it, while it is open, and while a location of another record leads through it.

mod carried;
mod locations;
mod record;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::descriptors::DescriptorCache;
use super::hash::NumberHash;
use super::{FileKind, Identity, Name};
use crate::operations::{FsResult, ROOT_NODEID};
pub(crate) use locations::Location;
pub(crate) use record::{Known, Record, Sighting, Traits, View};

/// Locks of either sort, unless there are too few descriptors to share out.
const SHARDS_MAX: u64 = 16;
/// Records that a guest can make us keep; one that has so many inodes in use has 16 GiB of its own memory for them.
const RECORDS_MAX: usize = 1 << 24;

#[derive(Debug)]
struct Shard {
    /// Boxed, because a table keeps about as much room free as it uses.
    records: HashMap<u64, Box<Record>, NumberHash>,
    descriptors: DescriptorCache,
}

type Identities = HashMap<Identity, u64, NumberHash>;

/// All inodes that the guest knows, by nodeid and by identity. A nodeid is never given twice.
#[derive(Debug)]
pub(crate) struct NodeStore {
    shards: Vec<Mutex<Shard>>,
    identities: Vec<Mutex<Identities>>,
    hash: NumberHash,
    next: AtomicU64,
    /// Records with a pinned descriptor.
    pinned: AtomicUsize,
    records_max: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeStore {
    /// A store that knows the root only, and keeps about `descriptors_max` descriptors.
    pub(crate) fn new(root: Sighting, root_descriptor: Arc<OwnedFd>, descriptors_max: u32) -> Self {
        let shards = (u64::from(descriptors_max) / 8).clamp(1, SHARDS_MAX);
        let share = usize::try_from(u64::from(descriptors_max) / shards).unwrap_or(usize::MAX);
        let mut store = Self {
            shards: (0..shards)
                .map(|_| {
                    Mutex::new(Shard {
                        records: HashMap::default(),
                        descriptors: DescriptorCache::new(share),
                    })
                })
                .collect(),
            identities: (0..shards).map(|_| Mutex::default()).collect(),
            hash: NumberHash::default(),
            next: AtomicU64::new(ROOT_NODEID + 1),
            pinned: AtomicUsize::new(0),
            records_max: RECORDS_MAX,
        };
        store.place(Record {
            lookups: 1,
            pinned: Some(root_descriptor),
            ..Record::new(ROOT_NODEID, root)
        });
        store
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, Shard> {
        lock(Self::pick(&self.shards, nodeid))
    }

    fn identity_shard(&self, identity: &Identity) -> MutexGuard<'_, Identities> {
        let part = self.hash.part(identity, self.identities.len() as u64);
        lock(Self::pick(&self.identities, part))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is at least one, and the index is reduced"
    )]
    fn pick<T>(all: &[T], number: u64) -> &T {
        &all[Self::index(all.len(), number)]
    }

    fn index(count: usize, number: u64) -> usize {
        usize::try_from(number % count as u64).unwrap_or(0)
    }

    /// The guest found `sighting` where it found it the last time: it holds one more lookup of it. `None`, and nothing
    /// happened, if that is not so. What most lookups are; allocates nothing.
    pub(crate) fn found_again(
        &self,
        sighting: Sighting,
        parent: u64,
        name: Name<'_>,
    ) -> Option<Known> {
        let identities = self.identity_shard(&sighting.identity);
        let nodeid = *identities.get(&sighting.identity)?;
        let mut shard = self.shard(nodeid);
        let record = shard.records.get_mut(&nodeid)?;
        let same = record.is_of(sighting.kind) && record.is_newest_at(parent, name);
        same.then(|| record.look_up())
    }

    /// The guest found `sighting` at `location`, or made it without a name: it holds one more lookup of it.
    ///
    /// `ESTALE` if the directory is unknown, `ENFILE` if the guest knows more inodes than we keep records of.
    pub(crate) fn found(&self, sighting: Sighting, location: Option<Location>) -> FsResult<Known> {
        if let Some(location) = &location {
            self.hold(location.parent)?;
        }
        let parent = location.as_ref().map(|location| location.parent);
        let mut released = Vec::new();
        let known = {
            let mut identities = self.identity_shard(&sighting.identity);
            let known_id = identities.get(&sighting.identity).copied();
            let found = known_id.and_then(|nodeid| {
                let mut shard = self.shard(nodeid);
                let record = shard.records.get_mut(&nodeid)?;
                record.is_of(sighting.kind).then(|| {
                    if let Some(location) = location.clone() {
                        released = record.add_location(location);
                    }
                    record.look_up()
                })
            });
            found.or_else(|| {
                let nodeid = self.next.fetch_add(1, Ordering::Relaxed);
                let mut shard = self.shard(nodeid);
                if shard.records.len() >= self.records_max / self.shards.len() {
                    released.extend(parent);
                    return None;
                }
                let mut record = Box::new(Record {
                    locations: location.into_iter().collect(),
                    ..Record::new(nodeid, sighting)
                });
                let known = record.look_up();
                shard.records.insert(nodeid, record);
                identities.insert(sighting.identity, nodeid);
                Some(known)
            })
        };
        self.release_all(released);
        known.ok_or(Errno::NFILE)
    }

    /// The guest gives up `count` lookups. More than it holds, or of an unknown nodeid: no harm is done.
    pub(crate) fn forget(&self, nodeid: u64, count: u64) {
        let unused = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get_mut(&nodeid) else {
                return;
            };
            record.lookups = record.lookups.saturating_sub(count);
            record.is_unused()
        };
        if unused {
            self.remove_unused(vec![nodeid]);
        }
    }

    /// Keeps a record alive, until [`release`](Self::release). `ESTALE` if it is unknown.
    pub(crate) fn hold(&self, nodeid: u64) -> FsResult<()> {
        let mut shard = self.shard(nodeid);
        let record = shard.records.get_mut(&nodeid).ok_or(Errno::STALE)?;
        record.references = record.references.saturating_add(1);
        Ok(())
    }

    /// Undoes one [`hold`](Self::hold).
    pub(crate) fn release(&self, nodeid: u64) {
        self.release_all(vec![nodeid]);
    }

    fn release_all(&self, nodeids: Vec<u64>) {
        let mut unused = nodeids;
        unused.retain(|nodeid| {
            let mut shard = self.shard(*nodeid);
            shard.records.get_mut(nodeid).is_some_and(|record| {
                record.references = record.references.saturating_sub(1);
                record.is_unused()
            })
        });
        self.remove_unused(unused);
    }

    /// Removes those records that are still unused, and then the directories that only they kept alive. A list
    /// instead of recursion: a path may be longer than our stack.
    fn remove_unused(&self, mut candidates: Vec<u64>) {
        while let Some(nodeid) = candidates.pop() {
            if let Some((record, _descriptor)) = self.remove_if_unused(nodeid) {
                for location in record.locations.iter() {
                    let mut shard = self.shard(location.parent);
                    if let Some(parent) = shard.records.get_mut(&location.parent) {
                        parent.references = parent.references.saturating_sub(1);
                        if parent.is_unused() {
                            candidates.push(location.parent);
                        }
                    }
                }
            }
        }
    }

    fn remove_if_unused(&self, nodeid: u64) -> Option<(Box<Record>, Option<Arc<OwnedFd>>)> {
        if nodeid == ROOT_NODEID {
            return None;
        }
        let identity = self.shard(nodeid).records.get(&nodeid)?.identity;
        let mut identities = self.identity_shard(&identity);
        let mut shard = self.shard(nodeid);
        if !shard.records.get(&nodeid)?.is_unused() {
            return None; // Found again in the meantime.
        }
        if identities.get(&identity) == Some(&nodeid) {
            identities.remove(&identity);
        }
        let descriptor = shard.descriptors.remove(nodeid);
        let record = shard.records.remove(&nodeid)?;
        if record.pinned.is_some() {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
        }
        Some((record, descriptor))
    }

    /// The record of `nodeid`; `ESTALE` if it is unknown, `EIO` if its inode was lost in a migration.
    pub(crate) fn view(&self, nodeid: u64) -> FsResult<View> {
        let mut shard = self.shard(nodeid);
        let shard = &mut *shard;
        let record = shard.records.get(&nodeid).ok_or(Errno::STALE)?;
        if record.lost {
            return Err(Errno::IO);
        }
        Ok(View {
            identity: record.identity,
            kind: record.kind,
            descriptor: match &record.pinned {
                Some(pinned) => Some(Arc::clone(pinned)),
                None => shard.descriptors.get(nodeid),
            },
            locations: record.locations.clone(),
        })
    }

    /// What never changes of `nodeid`. Errors like [`view`](Self::view).
    pub(crate) fn traits(&self, nodeid: u64) -> FsResult<Traits> {
        let shard = self.shard(nodeid);
        let record = shard.records.get(&nodeid).ok_or(Errno::STALE)?;
        if record.lost {
            return Err(Errno::IO);
        }
        Ok(Traits {
            kind: record.kind,
            mount: record.identity.mount,
            ino_shown: record.ino_shown,
        })
    }

    /// A descriptor of `nodeid` if there is one at hand. Errors like [`view`](Self::view).
    pub(crate) fn descriptor(&self, nodeid: u64) -> FsResult<Option<Arc<OwnedFd>>> {
        let mut shard = self.shard(nodeid);
        let shard = &mut *shard;
        let record = shard.records.get(&nodeid).ok_or(Errno::STALE)?;
        match (&record.pinned, record.lost) {
            (_, true) => Err(Errno::IO),
            (Some(pinned), false) => Ok(Some(Arc::clone(pinned))),
            (None, false) => Ok(shard.descriptors.get(nodeid)),
        }
    }

    /// The nodeid of an inode of the host, if the guest knows it.
    pub(crate) fn nodeid(&self, identity: &Identity) -> Option<u64> {
        self.identity_shard(identity).get(identity).copied()
    }

    /// Keeps a descriptor of `nodeid` for the next time.
    pub(crate) fn cache(&self, nodeid: u64, descriptor: Arc<OwnedFd>) {
        let _closed = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get(&nodeid) else {
                return;
            };
            let is_directory = record.kind == FileKind::Directory;
            shard.descriptors.insert(nodeid, descriptor, is_directory)
        };
    }

    /// Keeps `descriptor` as the way to an inode that never had a name. Without effect if it is unknown.
    pub(crate) fn pin(&self, nodeid: u64, descriptor: OwnedFd) {
        let mut shard = self.shard(nodeid);
        if let Some(record) = shard.records.get_mut(&nodeid)
            && record.pinned.is_none()
        {
            record.pinned = Some(Arc::new(descriptor));
            self.pinned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of descriptors that are the only way to their inode.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// The inode got another name. Without effect if it or the directory is unknown.
    pub(crate) fn add_location(&self, nodeid: u64, location: Location) {
        if self.hold(location.parent).is_err() {
            return;
        }
        let parent = location.parent;
        let released = match self.shard(nodeid).records.get_mut(&nodeid) {
            Some(record) => record.add_location(location),
            None => vec![parent],
        };
        self.release_all(released);
    }

    /// The inode lost a name. If that was its last one, `pin` is kept as the way to it.
    pub(crate) fn remove_location(
        &self,
        nodeid: u64,
        location: &Location,
        pin: Option<Arc<OwnedFd>>,
    ) {
        let removed = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get_mut(&nodeid) else {
                return;
            };
            let before = record.locations.len();
            record
                .locations
                .change(|locations| locations.retain(|known| known != location));
            if record.locations.is_empty() && record.pinned.is_none() && pin.is_some() {
                record.pinned = pin;
                self.pinned.fetch_add(1, Ordering::Relaxed);
            }
            before - record.locations.len()
        };
        self.release_all(vec![location.parent; removed]);
    }

    /// The nodeid that will be given next.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Closes all descriptors that can be opened again.
    #[cfg(test)]
    pub(crate) fn drop_descriptors(&self) {
        for shard in &self.shards {
            lock(shard).descriptors.clear();
        }
    }

    /// Number of descriptors in the cache.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).descriptors.len())
            .sum()
    }

    /// Goes on giving nodeids from `next`.
    pub(crate) fn set_next(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
