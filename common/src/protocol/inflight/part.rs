//! The part of a region that is about one split ring: where its fields are (vhost-user.rst, "Inflight I/O tracking").
//!
//! ```text
//! bytes  0..8   features, 0          16..  for each descriptor that is a head:
//!        8..10  version                    0      whether it is in flight
//!       10..12  number of descriptors      6..8   the head given back before it, in a batch
//!       12..14  head given back last       8..16  its number in the order of popping
//!       14..16  used index
//! ```
//!
//! The parts follow each other, each rounded up to 64 bytes, as in QEMU's libvhost-user. Numbers are in the machine's own byte
//! order. Knows no rule of when what is written; bounds are those of the message that handed the region over, never those that
//! stand in it.
//!
//! Each store is released: the process that reads what this one wrote sees a store only if it sees those before it. What was
//! stored is in memory even if this process is killed at the next instruction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use vm_memory::{AtomicInteger, MmapRegion, VolatileMemory};

/// The only version there is. 0 is a region that no back-end has used.
pub(super) const VERSION: u16 = 1;

const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
const ALIGNMENT: usize = 64;

const FEATURES_AT: usize = 0;
const VERSION_AT: usize = 8;
const COUNT_AT: usize = 10;
const LAST_HEAD_AT: usize = 12;
const USED_AT: usize = 14;

const MARK_AT: usize = 0;
const PREVIOUS_AT: usize = 6;
const NUMBER_AT: usize = 8;

/// Bytes of a part for a ring of `ring_size` descriptors.
pub(super) fn part_bytes(ring_size: u16) -> usize {
    (HEADER_BYTES + usize::from(ring_size) * ENTRY_BYTES).next_multiple_of(ALIGNMENT)
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Part {
    mapping: Arc<MmapRegion<()>>,
    start: usize,
    ring_size: u16,
}

impl Part {
    pub(super) fn new(mapping: &Arc<MmapRegion<()>>, ring: u16, ring_size: u16) -> Self {
        Self {
            mapping: Arc::clone(mapping),
            start: usize::from(ring) * part_bytes(ring_size),
            ring_size,
        }
    }

    /// Version and features.
    pub(super) fn kind(&self) -> (u16, u64) {
        (
            self.header::<AtomicU16>(VERSION_AT),
            self.header::<AtomicU64>(FEATURES_AT),
        )
    }

    /// How many descriptors it is for.
    pub(crate) fn ring_size(&self) -> u16 {
        self.ring_size
    }

    /// Whether no back-end has used it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.header::<AtomicU16>(VERSION_AT) == 0
    }

    /// It is used from now on, for a ring whose used index is `used`. Without that, what the next process finds looks like a
    /// batch that was given back and not noted.
    pub(crate) fn begin(&self, used: u16) {
        self.set_header::<AtomicU16>(COUNT_AT, self.ring_size);
        self.set_header::<AtomicU16>(LAST_HEAD_AT, self.ring_size); // none
        self.set_used(used);
        self.set_header::<AtomicU16>(VERSION_AT, VERSION);
    }

    /// The used index up to which marks are right.
    pub(crate) fn used(&self) -> u16 {
        self.header::<AtomicU16>(USED_AT)
    }

    pub(crate) fn set_used(&self, used: u16) {
        self.set_header::<AtomicU16>(USED_AT, used);
    }

    /// The head given back last.
    pub(crate) fn last_head(&self) -> u16 {
        self.header::<AtomicU16>(LAST_HEAD_AT)
    }

    pub(crate) fn set_last_head(&self, head: u16) {
        self.set_header::<AtomicU16>(LAST_HEAD_AT, head);
    }

    /// Whether `head` is in flight.
    pub(crate) fn is_marked(&self, head: u16) -> bool {
        self.entry::<AtomicU8>(head, MARK_AT) != 0
    }

    pub(crate) fn mark(&self, head: u16) {
        self.set_entry::<AtomicU8>(head, MARK_AT, 1);
    }

    pub(crate) fn unmark(&self, head: u16) {
        self.set_entry::<AtomicU8>(head, MARK_AT, 0);
    }

    /// The head that was given back before `head` was.
    pub(crate) fn previous(&self, head: u16) -> u16 {
        self.entry::<AtomicU16>(head, PREVIOUS_AT)
    }

    pub(crate) fn set_previous(&self, head: u16, previous: u16) {
        self.set_entry::<AtomicU16>(head, PREVIOUS_AT, previous);
    }

    /// The number of `head` in the order of popping.
    pub(crate) fn number(&self, head: u16) -> u64 {
        self.entry::<AtomicU64>(head, NUMBER_AT)
    }

    pub(crate) fn set_number(&self, head: u16, number: u64) {
        self.set_entry::<AtomicU64>(head, NUMBER_AT, number);
    }

    fn header<T: AtomicInteger>(&self, at: usize) -> T::V
    where
        T::V: Default,
    {
        self.load::<T>(self.start + at)
    }

    fn set_header<T: AtomicInteger>(&self, at: usize, value: T::V) {
        self.store::<T>(self.start + at, value);
    }

    /// Zero for a head that is beyond the part, of which no caller asks.
    fn entry<T: AtomicInteger>(&self, head: u16, at: usize) -> T::V
    where
        T::V: Default,
    {
        self.entry_at(head)
            .map_or_else(T::V::default, |entry| self.load::<T>(entry + at))
    }

    fn set_entry<T: AtomicInteger>(&self, head: u16, at: usize, value: T::V) {
        if let Some(entry) = self.entry_at(head) {
            self.store::<T>(entry + at, value);
        }
    }

    fn entry_at(&self, head: u16) -> Option<usize> {
        (head < self.ring_size).then(|| self.start + HEADER_BYTES + usize::from(head) * ENTRY_BYTES)
    }

    fn load<T: AtomicInteger>(&self, at: usize) -> T::V
    where
        T::V: Default,
    {
        self.mapping
            .get_atomic_ref::<T>(at)
            .map_or_else(|_| T::V::default(), |place| place.load(Ordering::Acquire))
    }

    fn store<T: AtomicInteger>(&self, at: usize, value: T::V) {
        if let Ok(place) = self.mapping.get_atomic_ref::<T>(at) {
            place.store(value, Ordering::Release);
        }
    }
}
