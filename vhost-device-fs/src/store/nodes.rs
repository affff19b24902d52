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
mod identities;
mod locations;
mod record;
mod records;
mod ways;

use std::hash::BuildHasher as _;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::descriptors::DescriptorCache;
use super::hash::NumberHash;
use super::{FileKind, Identity, Name};
use crate::operations::{FsResult, ROOT_NODEID};
use identities::{Identities, SHARDS_MAX, Slot};
pub(crate) use locations::Location;
pub(crate) use record::{Known, Record, Sighting, Traits, View};
use records::{Place, Records};

/// Records that a guest can make us keep; one that has so many inodes in use has 16 GiB of its own memory for them.
const RECORDS_MAX: usize = 1 << 24;

#[derive(Debug)]
struct Shard {
    records: Records,
    descriptors: DescriptorCache,
}

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

/// Which part of the store is asked for an identity. The tables there use the lower half of the hash.
fn part(hash: u64) -> u64 {
    hash >> u32::BITS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeStore {
    /// A store that knows the root only, and keeps about `descriptors_max` descriptors.
    pub(crate) fn new(root: Sighting, root_descriptor: Arc<OwnedFd>, descriptors_max: u32) -> Self {
        // Locks of either sort, unless there are too few descriptors to share out. A power of two, so that none is looked for by division.
        let wanted = (descriptors_max / 8).clamp(1, SHARDS_MAX);
        let shards = 1 << wanted.ilog2();
        let share = usize::try_from(descriptors_max / shards).unwrap_or(usize::MAX);
        let mut store = Self {
            shards: (0..shards)
                .map(|_| {
                    Mutex::new(Shard {
                        records: Records::default(),
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

    fn identity_shard(&self, hash: u64) -> MutexGuard<'_, Identities> {
        lock(Self::pick(&self.identities, part(hash)))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is at least one, and the index is reduced"
    )]
    fn pick<T>(all: &[T], number: u64) -> &T {
        &all[Self::index(all.len(), number)]
    }

    fn index(count: usize, number: u64) -> usize {
        usize::try_from(number & (count as u64 - 1)).unwrap_or(0)
    }

    fn slot(&self, nodeid: u64, place: Place) -> Slot {
        Slot::new(Self::index(self.shards.len(), nodeid), place)
    }

    /// Where the record of an inode is, with the lock of it. Locks one record after the other if their hashes are the same.
    fn find<'s>(
        &'s self,
        identities: &Identities,
        identity: &Identity,
        hash: u64,
    ) -> Option<(MutexGuard<'s, Shard>, Slot)> {
        let mut found = None;
        identities.find(hash, |slot| {
            let shard = lock(Self::pick(&self.shards, slot.shard()));
            let record = shard.records.at(slot.place());
            let is_it = record.is_some_and(|record| record.identity == *identity);
            if is_it {
                found = Some((shard, slot));
            }
            is_it
        });
        found
    }

    /// The guest found `sighting` where it found it the last time: it holds one more lookup of it. `None`, and nothing
    /// happened, if that is not so. What most lookups are; allocates nothing.
    pub(crate) fn found_again(
        &self,
        sighting: Sighting,
        parent: u64,
        name: Name<'_>,
    ) -> Option<Known> {
        let hash = self.hash.hash_one(sighting.identity);
        let identities = self.identity_shard(hash);
        let (mut shard, slot) = self.find(&identities, &sighting.identity, hash)?;
        let record = shard.records.at_mut(slot.place())?;
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
            let hash = self.hash.hash_one(sighting.identity);
            let mut identities = self.identity_shard(hash);
            let mut before = None;
            let found = self.find(&identities, &sighting.identity, hash);
            let found = found.and_then(|(mut shard, slot)| {
                before = Some(slot);
                let record = shard.records.at_mut(slot.place())?;
                record.is_of(sighting.kind).then(|| {
                    if let Some(location) = location.clone() {
                        released = record.add_location(location);
                    }
                    record.look_up()
                })
            });
            let known =
                found.or_else(|| self.add(&mut identities, sighting, hash, location, before));
            if known.is_none() {
                released.extend(parent);
            }
            known
        };
        self.release_all(released);
        known.ok_or(Errno::NFILE)
    }

    /// Adds a record, of an identity with this hash, that the guest has looked up once, in the place of another one of that identity. `None` if there are too many.
    fn add(
        &self,
        identities: &mut Identities,
        sighting: Sighting,
        hash: u64,
        location: Option<Location>,
        before: Option<Slot>,
    ) -> Option<Known> {
        let nodeid = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(nodeid);
        if shard.records.len() >= self.records_max / self.shards.len() {
            return None;
        }
        let mut record = Record {
            locations: location.into_iter().collect(),
            ..Record::new(nodeid, sighting)
        };
        let known = record.look_up();
        let place = shard.records.insert(record)?;
        if let Some(before) = before {
            identities.remove(hash, before);
        }
        identities.insert(hash, self.slot(nodeid, place));
        Some(known)
    }

    /// The guest gives up `count` lookups. More than it holds, or of an unknown nodeid: no harm is done.
    pub(crate) fn forget(&self, nodeid: u64, count: u64) {
        let unused = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get_mut(nodeid) else {
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
        let record = shard.records.get_mut(nodeid).ok_or(Errno::STALE)?;
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
            shard.records.get_mut(*nodeid).is_some_and(|record| {
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
                    if let Some(parent) = shard.records.get_mut(location.parent) {
                        parent.references = parent.references.saturating_sub(1);
                        if parent.is_unused() {
                            candidates.push(location.parent);
                        }
                    }
                }
            }
        }
    }

    fn remove_if_unused(&self, nodeid: u64) -> Option<(Record, Option<Arc<OwnedFd>>)> {
        if nodeid == ROOT_NODEID {
            return None;
        }
        let identity = self.shard(nodeid).records.get(nodeid)?.identity;
        let hash = self.hash.hash_one(identity);
        let mut identities = self.identity_shard(hash);
        let mut shard = self.shard(nodeid);
        let place = shard.records.place(nodeid)?;
        if !shard.records.at(place)?.is_unused() {
            return None; // Found again in the meantime.
        }
        identities.remove(hash, self.slot(nodeid, place));
        let descriptor = shard.descriptors.remove(nodeid);
        let record = shard.records.remove(nodeid)?;
        if record.pinned.is_some() {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
        }
        Some((record, descriptor))
    }

    /// The record of `nodeid`; `ESTALE` if it is unknown, `EIO` if its inode was lost in a migration.
    pub(crate) fn view(&self, nodeid: u64) -> FsResult<View> {
        let shard = self.shard(nodeid);
        let record = shard.records.get(nodeid).ok_or(Errno::STALE)?;
        if record.lost {
            return Err(Errno::IO);
        }
        Ok(View {
            identity: record.identity,
            kind: record.kind,
            locations: record.locations.clone(),
        })
    }

    /// What never changes of `nodeid`. Errors like [`view`](Self::view).
    pub(crate) fn traits(&self, nodeid: u64) -> FsResult<Traits> {
        let shard = self.shard(nodeid);
        let record = shard.records.get(nodeid).ok_or(Errno::STALE)?;
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
        let record = shard.records.get(nodeid).ok_or(Errno::STALE)?;
        match (&record.pinned, record.lost) {
            (_, true) => Err(Errno::IO),
            (Some(pinned), false) => Ok(Some(Arc::clone(pinned))),
            (None, false) => Ok(shard.descriptors.get(nodeid)),
        }
    }

    /// The nodeid of an inode of the host, if the guest knows it.
    pub(crate) fn nodeid(&self, identity: &Identity) -> Option<u64> {
        let hash = self.hash.hash_one(identity);
        let identities = self.identity_shard(hash);
        let (shard, slot) = self.find(&identities, identity, hash)?;
        Some(shard.records.at(slot.place())?.nodeid)
    }

    /// Keeps a descriptor of `nodeid` for the next time.
    pub(crate) fn cache(&self, nodeid: u64, descriptor: Arc<OwnedFd>) {
        let _closed = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get(nodeid) else {
                return;
            };
            let is_directory = record.kind == FileKind::Directory;
            shard.descriptors.insert(nodeid, descriptor, is_directory)
        };
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
