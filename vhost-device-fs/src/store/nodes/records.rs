//! Records by nodeid, side by side in memory and in the order in which the guest got to know them.
//!
//! A save walks through millions of them, and a load puts as many here: each in memory of its own, both would wait for that memory
//! most of the time, and a table of them would cost more than what is in it. Knows no lock and no identity.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::record::Record;
use crate::store::hash::NumberHash;

/// Records that share a piece of memory: 104 KiB, of which the kernel provides what was written to. To ask for less each time costs more
/// than to fill it.
const CHUNK_RECORDS: u32 = 1 << 10;
/// Places that can be told apart, in one shard: more than a state may have inodes.
pub(super) const PLACES_MAX: u32 = 1 << 28;
/// A table smaller than this is never made smaller.
const KEPT_ENTRIES: usize = 1_024;
/// A table of which less than one in so many is in use is made smaller.
const SPARSE: usize = 8;

/// Where a record is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u32);

impl Place {
    fn new(chunk: u32, index: u32) -> Self {
        Self(chunk * CHUNK_RECORDS + index)
    }

    fn chunk(self) -> usize {
        usize::try_from(self.0 / CHUNK_RECORDS).unwrap_or(usize::MAX)
    }

    fn index(self) -> usize {
        usize::try_from(self.0 % CHUNK_RECORDS).unwrap_or(usize::MAX)
    }
}

/// Some records, and where none is any more. Room is made for all at once.
#[derive(Debug, Default)]
struct Chunk {
    records: Vec<Option<Record>>,
    vacant: Vec<u32>,
}

/// Pieces of memory with room for records. What has none in it is given back.
#[derive(Debug, Default)]
struct Chunks {
    all: Vec<Chunk>,
    /// Those with room. The last one is filled next.
    with_room: Vec<u32>,
}

/// Records by nodeid.
#[derive(Debug, Default)]
pub(super) struct Records {
    chunks: Chunks,
    places: HashTable<Place>,
    hash: NumberHash,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.vacant.is_empty() && self.records.len() >= CHUNK_RECORDS as usize
    }

    fn is_empty(&self) -> bool {
        self.vacant.len() == self.records.len()
    }

    /// To be asked only if it is not full.
    fn insert(&mut self, record: Record) -> Option<u32> {
        let Some(index) = self.vacant.pop() else {
            if self.records.is_empty() {
                self.records.reserve_exact(CHUNK_RECORDS as usize);
            }
            self.records.push(Some(record));
            return u32::try_from(self.records.len() - 1).ok();
        };
        *self.records.get_mut(usize::try_from(index).ok()?)? = Some(record);
        Some(index)
    }

    fn remove(&mut self, index: usize) -> Option<Record> {
        let record = self.records.get_mut(index)?.take()?;
        self.vacant.push(u32::try_from(index).ok()?);
        Some(record)
    }
}

impl Chunks {
    fn get(&self, place: Place) -> Option<&Record> {
        let chunk = self.all.get(place.chunk())?;
        chunk.records.get(place.index())?.as_ref()
    }

    fn is_of(&self, place: Place, nodeid: u64) -> bool {
        let record = self.get(place);
        record.is_some_and(|record| record.nodeid == nodeid)
    }

    fn get_mut(&mut self, place: Place) -> Option<&mut Record> {
        let chunk = self.all.get_mut(place.chunk())?;
        chunk.records.get_mut(place.index())?.as_mut()
    }

    /// `None` and nothing done if there are more records than [`PLACES_MAX`].
    fn insert(&mut self, record: Record) -> Option<Place> {
        if self.with_room.is_empty() {
            let number = u32::try_from(self.all.len()).ok()?;
            if number >= PLACES_MAX / CHUNK_RECORDS {
                return None;
            }
            self.with_room.push(number);
            self.all.push(Chunk::default());
        }
        let number = *self.with_room.last()?;
        let chunk = self.all.get_mut(usize::try_from(number).ok()?)?;
        let index = chunk.insert(record)?;
        if chunk.is_full() {
            self.with_room.pop();
        }
        Some(Place::new(number, index))
    }

    fn remove(&mut self, place: Place) -> Option<Record> {
        let number = u32::try_from(place.chunk()).ok()?;
        let chunk = self.all.get_mut(place.chunk())?;
        let was_full = chunk.is_full();
        let record = chunk.remove(place.index())?;
        if was_full {
            self.with_room.push(number);
        }
        // The only one with room is kept, or a guest that knows a file more and less would have it made each time.
        if chunk.is_empty() && self.with_room.len() > 1 {
            *chunk = Chunk::default();
        }
        Some(record)
    }

    fn iter(&self) -> impl Iterator<Item = &Record> {
        let chunks = self.all.iter();
        chunks.flat_map(|chunk| chunk.records.iter().flatten())
    }
}

impl Records {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, records: usize) {
        let Self {
            chunks,
            places,
            hash,
        } = self;
        places.reserve(records, |place| rehash(*hash, chunks, *place));
    }

    /// Where the record of `nodeid` is.
    pub(super) fn place(&self, nodeid: u64) -> Option<Place> {
        let is_it = |place: &Place| self.chunks.is_of(*place, nodeid);
        self.places.find(self.hash.hash_one(nodeid), is_it).copied()
    }

    /// The record that is there.
    pub(super) fn at(&self, place: Place) -> Option<&Record> {
        self.chunks.get(place)
    }

    /// The record that is there, to be changed.
    pub(super) fn at_mut(&mut self, place: Place) -> Option<&mut Record> {
        self.chunks.get_mut(place)
    }

    /// The record of `nodeid`.
    pub(super) fn get(&self, nodeid: u64) -> Option<&Record> {
        self.at(self.place(nodeid)?)
    }

    /// The record of `nodeid`, to be changed.
    pub(super) fn get_mut(&mut self, nodeid: u64) -> Option<&mut Record> {
        let place = self.place(nodeid)?;
        self.at_mut(place)
    }

    /// Adds a record of a nodeid that has none. `None` and nothing done if there is no place left.
    pub(super) fn insert(&mut self, record: Record) -> Option<Place> {
        let hash = self.hash;
        let hash_of_it = hash.hash_one(record.nodeid);
        let place = self.chunks.insert(record)?;
        let chunks = &self.chunks;
        self.places
            .insert_unique(hash_of_it, place, |place| rehash(hash, chunks, *place));
        Some(place)
    }

    /// Removes the record of `nodeid`.
    pub(super) fn remove(&mut self, nodeid: u64) -> Option<Record> {
        let Self {
            chunks,
            places,
            hash,
        } = self;
        let is_it = |place: &Place| chunks.is_of(*place, nodeid);
        let entry = places.find_entry(hash.hash_one(nodeid), is_it).ok()?;
        let (place, _) = entry.remove();
        let record = chunks.remove(place);
        shrink_if_sparse(places, |place| rehash(*hash, chunks, *place));
        record
    }

    /// All of them, in the order in which they are in memory.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.chunks.iter()
    }
}

fn rehash(hash: NumberHash, chunks: &Chunks, place: Place) -> u64 {
    let record = chunks.get(place);
    record.map_or(0, |record| hash.hash_one(record.nodeid))
}

/// Gives back what a table keeps for more than there is in it now: a guest may know a million files, and forget them.
pub(super) fn shrink_if_sparse<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    let capacity = table.capacity();
    if capacity > KEPT_ENTRIES && table.len() < capacity / SPARSE {
        table.shrink_to(table.len() * 2, hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::nodes::Sighting;
    use crate::store::{FileKind, Identity};

    fn record(nodeid: u64) -> Record {
        let identity = Identity {
            mount: 0,
            ino: nodeid,
            birth_ns: 0,
        };
        let kind = FileKind::Regular;
        Record::new(nodeid, Sighting { identity, kind })
    }

    fn filled(count: u64) -> Records {
        let mut records = Records::default();
        for nodeid in 1..=count {
            records.insert(record(nodeid)).unwrap();
        }
        records
    }

    fn chunks(records: &Records) -> usize {
        let all = records.chunks.all.iter();
        all.filter(|chunk| chunk.records.capacity() > 0).count()
    }

    #[test]
    fn what_is_put_in_is_found_and_kept_in_order() {
        let mut records = filled(1_000);
        assert_eq!(records.len(), 1_000);
        assert!(records.iter().map(|record| record.nodeid).eq(1..=1_000));
        for nodeid in 1..=1_000 {
            let place = records.place(nodeid).unwrap();
            assert_eq!(records.at(place).unwrap().nodeid, nodeid);
            records.get_mut(nodeid).unwrap().lookups = nodeid;
        }
        assert!(records.get(0).is_none() && records.get(1_001).is_none());
        for nodeid in (1..=1_000).step_by(2) {
            assert_eq!(records.remove(nodeid).unwrap().lookups, nodeid);
            assert!(records.remove(nodeid).is_none());
        }
        assert_eq!(records.len(), 500);
        for nodeid in 1..=1_000 {
            assert_eq!(records.get(nodeid).is_some(), nodeid % 2 == 0);
        }
    }

    #[test]
    fn the_room_of_what_was_removed_is_used_again() {
        let mut records = filled(10_000);
        let before = chunks(&records);
        for round in 1..=20 {
            for nodeid in 1..=5_000 {
                let old = nodeid * 2 + (round - 1) * 20_000 * u64::from(round > 1);
                let _removed = records.remove(old);
                let new = nodeid * 2 + round * 20_000;
                records.insert(record(new)).unwrap();
            }
        }
        assert!(chunks(&records) <= before + 1, "{}", chunks(&records));
        assert_eq!(records.len(), 10_000);
    }

    #[test]
    fn what_is_forgotten_is_given_back() {
        let mut records = filled(100_000);
        for nodeid in 1..100_000 {
            records.remove(nodeid).unwrap();
        }
        assert_eq!(records.get(100_000).unwrap().nodeid, 100_000);
        assert!(chunks(&records) <= 2, "{}", chunks(&records));
        assert!(records.places.capacity() <= KEPT_ENTRIES * 2);
    }

    #[test]
    fn a_file_known_and_forgotten_makes_no_memory_each_time() {
        let mut records = filled(u64::from(CHUNK_RECORDS));
        let place = |records: &mut Records| {
            let place = records.insert(record(5_000)).unwrap();
            records.remove(5_000).unwrap();
            place
        };
        let first = place(&mut records);
        assert_eq!(chunks(&records), 2, "the empty one is kept");
        assert_eq!(place(&mut records), first);
    }

    #[test]
    fn a_record_is_as_small_as_it_may_be() {
        assert_eq!(size_of::<Option<Record>>(), 104);
    }
}
