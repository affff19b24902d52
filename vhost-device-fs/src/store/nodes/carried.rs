//! All inodes that the guest knows: looked at together to be saved, and put into another store. Knows no state stream.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::record::Record;
use super::{NodeStore, Shard, lock};
use crate::store::FileKind;

/// The store while nothing in it changes. The one who holds it asks the store for nothing else.
pub(crate) struct Still<'a>(Vec<MutexGuard<'a, Shard>>);

impl Still<'_> {
    /// All records, sorted by nodeid.
    pub(crate) fn records(&self) -> Vec<&Record> {
        let shards = || self.0.iter().map(|shard| &shard.records);
        let count = shards().map(std::collections::HashMap::len).sum();
        let mut records = Vec::with_capacity(count);
        records.extend(shards().flat_map(|records| records.values().map(Box::as_ref)));
        records.sort_unstable_by_key(|record| record.nodeid);
        records
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
    pub(crate) fn reserve(&self, records: usize) {
        // Nodeids are numbers that were counted, so they are spread evenly; so are identities, by their hash.
        let share = records.div_ceil(self.shards.len());
        for shard in &self.shards {
            lock(shard).records.reserve(share);
        }
        for identities in &self.identities {
            lock(identities).reserve(share);
        }
    }

    /// Puts a record under the nodeid it had before it was saved. Its parents come first; one that is unknown is
    /// left out.
    pub(crate) fn place(&self, mut record: Record) {
        let is_unknown = |parent| self.hold(parent).is_err();
        let unknown: Vec<u64> = record
            .locations
            .iter()
            .map(|location| location.parent)
            .filter(|parent| is_unknown(*parent))
            .collect();
        if !unknown.is_empty() {
            record
                .locations
                .change(|all| all.retain(|location| !unknown.contains(&location.parent)));
        }
        record.references = 0;
        if record.pinned.is_some() {
            self.pinned.fetch_add(1, Ordering::Relaxed);
        }
        let (nodeid, identity, lost) = (record.nodeid, record.identity, record.lost);
        let mut identities = self.identity_shard(&identity);
        self.shard(nodeid).records.insert(nodeid, Box::new(record));
        if !lost {
            identities.entry(identity).or_insert(nodeid);
        }
    }
}
