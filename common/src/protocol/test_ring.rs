//! A ring in guest memory and the driver's hand on it, for unit tests. Writes what no correct driver would, too.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use vhost_user_backend::VringT as _;
use vm_memory::{Bytes as _, GuestAddress};

use crate::memory::{GuestMemory, GuestMemoryHandle};
use crate::protocol::inflight::Regions;
use crate::protocol::owed::Owed;
use crate::protocol::vring::{Connection, Popped, RingObserver, Vring, Which, observed};
use crate::request::{ChainError, Request, Segments};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Guest memory: two regions without a gap between them. The ring is at the start of the first.
pub(crate) const REGION_BYTES: u64 = 0x1_0000;
/// Number of descriptors.
pub(crate) const SIZE: u16 = 8;
const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
/// Free for the test from here on.
pub(crate) const FREE: u64 = 0x4000;

/// `(address, length, flags, next)`
pub(crate) type Descriptor = (u64, u32, u16, u16);

pub(crate) struct TestRing {
    pub(crate) handle: GuestMemoryHandle,
    pub(crate) vring: Vring,
    offered: Cell<u16>,
}

/// There is no connection, hence nobody who observes.
struct Nobody;

impl RingObserver for Nobody {
    fn started(&self, _ring: usize, _owed: &Arc<Owed>) {}

    fn stopping(&self, _ring: usize, _owed: &Owed) {}

    fn enabled(&self, _ring: usize, _enabled: bool) {}
}

impl TestRing {
    pub(crate) fn new() -> Self {
        let region = usize::try_from(REGION_BYTES).unwrap();
        Self::in_memory(&[
            (GuestAddress(0), region),
            (GuestAddress(REGION_BYTES), region),
        ])
    }

    pub(crate) fn in_memory(ranges: &[(GuestAddress, usize)]) -> Self {
        let handle = GuestMemoryHandle::new();
        let memory = GuestMemory::from_ranges(ranges).unwrap();
        handle.table().lock().unwrap().replace(memory);
        let vring = Vring::new(handle.table().clone(), SIZE).unwrap();
        let ring = Self {
            handle,
            vring,
            offered: Cell::new(0),
        };
        ring.start(0);
        ring
    }

    /// The same ring in the hands of another process, which was given `regions` if there are any; the one before does nothing any
    /// more. It is started at the used index, since nobody knows better (QEMU's `vhost_virtqueue_stop`).
    pub(crate) fn after_a_crash(&self, regions: Option<&Regions>) -> Self {
        let connection = Connection {
            regions: regions.cloned(),
            ..Connection::default()
        };
        let nobody: Weak<dyn RingObserver> = Weak::<Nobody>::new();
        let vring = observed(nobody, &connection, || {
            Vring::new(self.handle.table().clone(), SIZE).unwrap()
        });
        let ring = Self {
            handle: self.handle.clone(),
            vring,
            offered: self.offered.clone(),
        };
        ring.start(self.used());
        ring
    }

    fn start(&self, base: u16) {
        self.vring.set_queue_size(SIZE);
        self.vring.set_queue_next_avail(base);
        self.vring
            .set_queue_info(DESCRIPTORS, AVAILABLE, USED)
            .unwrap();
        let used = self.vring.queue_used_idx().unwrap();
        self.vring.set_queue_next_used(used);
        self.vring.set_queue_ready(true);
        self.vring.set_enabled(true);
    }

    pub(crate) fn memory(&self) -> Arc<GuestMemory> {
        self.handle.snapshot()
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory()
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory()
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Writes descriptors at the start of the ring's own table.
    pub(crate) fn describe(&self, descriptors: &[Descriptor]) {
        self.describe_at(DESCRIPTORS, descriptors);
    }

    /// Writes descriptors into a table at `address`.
    pub(crate) fn describe_at(&self, mut address: u64, descriptors: &[Descriptor]) {
        for &(buffer, len, flags, next) in descriptors {
            let words = [
                buffer.to_le_bytes(),
                (u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48).to_le_bytes(),
            ];
            self.write(address, &words.concat());
            address += 16;
        }
    }

    /// Puts `head` on the available ring.
    pub(crate) fn offer(&self, head: u16) {
        let offered = self.offered.get();
        let slot = AVAILABLE + 4 + 2 * u64::from(offered % SIZE);
        self.write(slot, &head.to_le_bytes());
        self.set_available(offered.wrapping_add(1));
    }

    /// Sets the available index.
    pub(crate) fn set_available(&self, index: u16) {
        self.offered.set(index);
        self.write(AVAILABLE + 2, &index.to_le_bytes());
    }

    /// The used index.
    pub(crate) fn used(&self) -> u16 {
        u16::from_le_bytes(self.read(USED + 2, 2).try_into().unwrap())
    }

    /// Sets the ring up anew, with its parts at these addresses.
    pub(crate) fn place(&self, available: u64, used: u64) {
        self.vring
            .set_queue_info(DESCRIPTORS, available, used)
            .unwrap();
    }

    /// Starts the ring at this available index.
    pub(crate) fn set_base(&self, base: u16) {
        self.start(base);
    }

    /// Starts the ring again.
    pub(crate) fn restart(&self) {
        self.vring.set_queue_ready(true);
    }

    pub(crate) fn pop(&self) -> Popped {
        self.vring
            .pop(&self.memory(), Segments::default(), Which::Any)
    }

    /// Pops a chain of these descriptors, beginning with the first of them. The ring is started again for each: none of them is
    /// in flight.
    pub(crate) fn chain(&self, descriptors: &[Descriptor]) -> Result<Request, ChainError> {
        self.restart();
        self.describe(descriptors);
        self.offer(0);
        match self.pop() {
            Popped::Request(request) => Ok(request),
            Popped::Malformed { error, .. } => Err(error),
            Popped::Nothing(_) => panic!("nothing on the ring"),
        }
    }
}
