//! All inodes that the guest knows: looked at together to be saved, and put into another store. Knows no state stream.

use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Record;
use super::records::Records;
use super::{NodeStore, Shard, Slot, lock, part};
use crate::operations::ROOT_NODEID;
use crate::store::{FileKind, Identity};

/// The store while nothing in it changes. The one who holds it asks the store for nothing else.
pub(crate) struct Still<'a>(Vec<MutexGuard<'a, Shard>>);

impl Still<'_> {
    /// All records, sorted by nodeid.
    pub(crate) fn records(&self) -> Vec<&Record> {
        let shards = || self.0.iter().map(|shard| &shard.records);
        let count = shards().map(Records::len).sum();
        // Sorted with the nodeid beside it: a look into each record for each comparison would take most of the time.
        let mut numbered: Vec<(u64, &Record)> = Vec::with_capacity(count);
        for records in shards() {
            numbered.extend(records.iter().map(|record| (record.nodeid, record)));
        }
        // Each shard is mostly sorted already, which the stable sort makes use of.
        numbered.sort_by_key(|(nodeid, _)| *nodeid);
        numbered.into_iter().map(|(_, record)| record).collect()
    }
}

impl NodeStore {
    /// Has the store keep still. The only one who takes more than one lock of a record, and always in the same order.
    pub(crate) fn still(&self) -> Still<'_> {
        Still(self.shards.iter().map(lock).collect())
    }

    /// All directories, each with the number of its mount.
    pub(crate) fn directories(&self) -> Vec<(u64, u32)> {
        let still = self.still();
        let records = still.records().into_iter();
        records
            .filter(|record| record.kind == FileKind::Directory)
            .map(|record| (record.nodeid, record.identity.mount))
            .collect()
    }

    /// Makes room for so many records, so that placing them does not do it again and again.
    pub(crate) fn reserve(&mut self, records: usize) {
        // Nodeids are numbers that were counted, so they are spread evenly; so are identities, by their hash.
        let share = records.div_ceil(self.shards.len());
        for shard in &mut self.shards {
            exclusive(shard).records.reserve(share);
        }
        for identities in &mut self.identities {
            exclusive(identities).reserve(share);
        }
    }

    /// Puts a record under the nodeid it had before it was saved. Its parents come first; one that is unknown is
    /// left out.
    ///
    /// While nobody else has the store, for a lock waits until all that was written before is in the cache: with hundreds of
    /// thousands of records that is most of the time.
    pub(crate) fn place(&mut self, mut record: Record) {
        let mut unknown = Vec::new();
        for location in record.locations.iter() {
            let records = &mut self.shard_mut(location.parent).records;
            match records.get_mut(location.parent) {
                Some(parent) => parent.references = parent.references.saturating_add(1),
                None => unknown.push(location.parent),
            }
        }
        if !unknown.is_empty() {
            record
                .locations
                .change(|all| all.retain(|location| !unknown.contains(&location.parent)));
        }
        record.references = 0;
        let (nodeid, identity, lost) = (record.nodeid, record.identity, record.lost);
        let pinned = usize::from(record.pinned.is_some());
        let records = &mut self.shard_mut(nodeid).records;
        // The root was there before, and nothing else: a state has each nodeid once.
        if nodeid == ROOT_NODEID
            && let Some(before) = records.get_mut(nodeid)
        {
            let unpinned = usize::from(before.pinned.is_some());
            *before = record;
            let count = self.pinned.get_mut();
            *count = *count + pinned - unpinned;
            return;
        }
        // A state has no more of them than there are places.
        let Some(place) = records.insert(record) else {
            return;
        };
        *self.pinned.get_mut() += pinned;
        if !lost {
            let slot = self.slot(nodeid, place);
            self.place_identity(&identity, slot);
        }
    }

    /// The first one of an identity is the one that is found by it.
    fn place_identity(&mut self, identity: &Identity, slot: Slot) {
        let hash = self.hash.hash_one(identity);
        let identities = exclusive(Self::pick_mut(&mut self.identities, part(hash)));
        let shards = &mut self.shards;
        identities.insert_if_new(hash, slot, |slot| {
            let records = &exclusive(Self::pick_mut(shards, slot.shard())).records;
            let record = records.at(slot.place());
            record.is_some_and(|record| record.identity == *identity)
        });
    }

    fn shard_mut(&mut self, nodeid: u64) -> &mut Shard {
        exclusive(Self::pick_mut(&mut self.shards, nodeid))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is at least one, and the index is reduced"
    )]
    fn pick_mut<T>(all: &mut [T], number: u64) -> &mut T {
        let index = Self::index(all.len(), number);
        &mut all[index]
    }
}

fn exclusive<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}
