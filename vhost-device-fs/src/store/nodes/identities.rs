//! From an inode of the host to where its record is. Holds no identity itself: that is in the record, and a million are not kept twice.
//!
//! Knows hashes of identities and places. Whoever asks looks into the record whether it is the right one.

use hashbrown::HashTable;

use super::records::{PLACES_MAX, Place, shrink_if_sparse};

/// Numbers of shards.
pub(super) const SHARDS_MAX: u32 = 16;

/// Where a record is in a store: in which shard, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

const _: () = assert!(PLACES_MAX <= u32::MAX / SHARDS_MAX + 1, "slots fit");

impl Slot {
    /// A place in the shard of this number.
    pub(super) fn new(shard: usize, place: Place) -> Self {
        let shard = u32::try_from(shard).unwrap_or(0); // below SHARDS_MAX
        Self(place.0 * SHARDS_MAX + shard)
    }

    /// The number of the shard.
    pub(super) fn shard(self) -> u64 {
        (self.0 % SHARDS_MAX).into()
    }

    /// Where in it.
    pub(super) fn place(self) -> Place {
        Place(self.0 / SHARDS_MAX)
    }
}

/// A half of the hash is kept, so that a table that grows need not look into every record.
#[derive(Debug)]
struct Entry {
    hash: u32,
    slot: Slot,
}

/// Slots of records by the hash of the identity that is in them.
#[derive(Debug, Default)]
pub(super) struct Identities(HashTable<Entry>);

/// What is kept of a hash. The upper half says in which part of the store the identity is.
fn kept(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}

/// What a table takes its position from, low bits, and what it compares first, the uppermost ones: both from what is kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Identities {
    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.0.reserve(entries, |entry| spread(entry.hash));
    }

    /// The first slot which is said to be the right one, of those that may be.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(Slot) -> bool) -> Option<Slot> {
        let hash = kept(hash);
        let found = self.0.find(spread(hash), |entry| {
            entry.hash == hash && is_it(entry.slot)
        });
        found.map(|entry| entry.slot)
    }

    /// Adds a slot of an identity that has none.
    pub(super) fn insert(&mut self, hash: u64, slot: Slot) {
        let hash = kept(hash);
        let entry = Entry { hash, slot };
        self.0
            .insert_unique(spread(hash), entry, |entry| spread(entry.hash));
    }

    /// Adds a slot, unless another one is said to be of the same identity.
    pub(super) fn insert_if_new(
        &mut self,
        hash: u64,
        slot: Slot,
        mut is_same: impl FnMut(Slot) -> bool,
    ) {
        let hash = kept(hash);
        let found = self.0.entry(
            spread(hash),
            |entry| entry.hash == hash && is_same(entry.slot),
            |entry| spread(entry.hash),
        );
        if let hashbrown::hash_table::Entry::Vacant(vacant) = found {
            vacant.insert(Entry { hash, slot });
        }
    }

    /// Removes a slot, if it is there.
    pub(super) fn remove(&mut self, hash: u64, slot: Slot) {
        let hash = kept(hash);
        let entry = self.0.find_entry(spread(hash), |entry| entry.slot == slot);
        if let Ok(entry) = entry {
            entry.remove();
            shrink_if_sparse(&mut self.0, |entry| spread(entry.hash));
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;
    use crate::store::hash::NumberHash;

    fn hash(ino: u64) -> u64 {
        NumberHash::default().hash_one(ino)
    }

    #[test]
    fn a_slot_is_its_shard_and_its_place() {
        for (shard, place) in [(0, 0), (15, 0), (0, PLACES_MAX - 1), (15, PLACES_MAX - 1)] {
            let slot = Slot::new(shard, Place(place));
            assert_eq!(slot.shard(), shard as u64);
            assert_eq!(slot.place(), Place(place));
        }
    }

    #[test]
    fn slots_are_found_through_growth_and_removal() {
        let mut identities = Identities::default();
        let slot = |ino: u64| Slot::new(3, Place(u32::try_from(ino).unwrap()));
        for ino in 0..10_000 {
            identities.insert(hash(ino), slot(ino));
        }
        for ino in (0..10_000).step_by(2) {
            identities.remove(hash(ino), slot(ino));
            identities.remove(hash(ino), slot(ino));
        }
        assert_eq!(identities.len(), 5_000);
        for ino in 0..10_000 {
            let found = identities.find(hash(ino), |found| found == slot(ino));
            assert_eq!(found.is_some(), ino % 2 == 1, "{ino}");
        }
        let mut asked = 0;
        let refused = identities.find(hash(1), |_| {
            asked += 1;
            false
        });
        assert_eq!(refused, None);
        identities.insert_if_new(hash(1), slot(1), |found| found == slot(1));
        assert_eq!(identities.len(), 5_000);
        identities.insert_if_new(hash(0), slot(0), |found| found == slot(0));
        assert_eq!(identities.len(), 5_001);
        assert!((1..=2).contains(&asked), "few are asked: {asked}");
    }

    #[test]
    fn an_entry_is_as_small_as_it_may_be() {
        assert_eq!(size_of::<Entry>(), 8);
    }
}
