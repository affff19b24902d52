//! A connection that cannot be left at once: the device works on, and it is tried again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::frontend::{Frontend, Region, RingSetup};
use crate::protocol::handover::Parcel;
use crate::protocol::messages::{MemoryRegion, RingAddress, feature, protocol_feature};
use crate::state::DeviceKind;
use crate::test_device::TestDevice;

const PATIENCE: Duration = Duration::from_mins(1);
const MEMORY_BYTES: u64 = 0x1_0000;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const DATA: u64 = 0x4000;
const RING_SIZE: u16 = 8;

/// Keeps one parcel, unless it refuses.
#[derive(Default)]
struct Shelf {
    refuse: AtomicBool,
    refused: AtomicU64,
    kept: Mutex<Option<Parcel>>,
}

impl Keeper for Shelf {
    fn keep(&self, record: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let files = files.iter().map(BorrowedFd::try_clone_to_owned);
        *self.kept.lock().unwrap() = Some(Parcel {
            record: record.to_vec(),
            files: files.collect::<io::Result<_>>()?,
        });
        Ok(())
    }

    fn forget(&self) -> io::Result<()> {
        *self.kept.lock().unwrap() = None;
        Ok(())
    }
}

/// A front-end, and a driver that has one request at a time.
struct Guest {
    frontend: Frontend,
    memory: File,
    kick: OwnedFd,
    call: OwnedFd,
    asked: u16,
}

impl Guest {
    fn boot(socket: UnixStream) -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(MEMORY_BYTES).unwrap();
        // One descriptor, for the device to write to, which every place of the available ring names.
        let mut descriptor = DATA.to_le_bytes().to_vec();
        descriptor.extend([8, 0, 0, 0, 2, 0, 0, 0]);
        memory.write_all_at(&descriptor, DESCRIPTORS).unwrap();
        let mut frontend = Frontend::from_stream(socket).unwrap();
        frontend
            .negotiate(protocol_feature::REPLY_ACK | protocol_feature::CONFIGURE_MEM_SLOTS)
            .unwrap();
        frontend
            .set_features(feature::VERSION_1 | feature::PROTOCOL_FEATURES)
            .unwrap();
        let layout = MemoryRegion {
            guest_address: 0,
            size: MEMORY_BYTES,
            user_address: 0,
            file_offset: 0,
        };
        let file = memory.as_fd();
        frontend.set_memory(&[Region { layout, file }]).unwrap();
        let (kick, call) = (event(), event());
        let address = RingAddress {
            index: 0,
            flags: 0,
            descriptors: DESCRIPTORS,
            used: USED,
            available: AVAILABLE,
            log: 0,
        };
        let ring = RingSetup {
            size: RING_SIZE,
            base: 0,
            address,
            kick: kick.as_fd(),
            call: call.as_fd(),
        };
        frontend.start(&[ring]).unwrap();
        Self {
            frontend,
            memory,
            kick,
            call,
            asked: 0,
        }
    }

    /// Puts one request on the ring.
    fn ask(&mut self) {
        self.asked += 1;
        let index = self.asked.to_le_bytes();
        self.memory.write_all_at(&index, AVAILABLE + 2).unwrap();
        rustix::io::write(&self.kick, &1_u64.to_le_bytes()).unwrap();
    }

    /// Waits for its answer.
    fn hear(&self) {
        until(|| is_readable(self.call.as_fd()));
        rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, USED + 2).unwrap();
        assert_eq!(u16::from_le_bytes(index), self.asked, "once each");
    }
}

fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it never happened");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What says no.
#[derive(Clone, Copy, Debug)]
enum Refusing {
    Suspension,
    Save,
    Keeper,
}

impl Refusing {
    fn set(self, device: &TestDevice, shelf: &Shelf, refuse: bool) {
        let switch = match self {
            Self::Suspension => &device.refuse_suspend,
            Self::Save => &device.refuse_save,
            Self::Keeper => &shelf.refuse,
        };
        switch.store(refuse, Ordering::SeqCst);
    }
}

#[test]
fn what_is_refused_is_tried_again_and_the_device_works_meanwhile() {
    for refusing in [Refusing::Suspension, Refusing::Save, Refusing::Keeper] {
        let shelf = Shelf::default();
        let host = Host::new(TestDevice::with_state(b"state"), Options::default());
        let (near, far) = UnixStream::pair().unwrap();
        let (stop, stopper) = UnixStream::pair().unwrap();
        let mut guest = thread::scope(|scope| {
            let serving = scope.spawn(|| host.serve_kept(&far, stop.as_fd(), Some(&shelf), None));
            let mut guest = Guest::boot(near);
            refusing.set(host.device(), &shelf, true);
            drop(stopper);
            for times in 1..=2 {
                let refusals = [&host.device().refused, &shelf.refused];
                until(|| {
                    refusals
                        .map(|count| count.load(Ordering::SeqCst))
                        .contains(&times)
                });
                guest.ask();
                guest.hear();
                guest.frontend.features().unwrap();
                assert!(!serving.is_finished(), "{refusing:?}");
            }
            refusing.set(host.device(), &shelf, false);
            let end = serving.join().unwrap().unwrap();
            assert_eq!(end, End::HandedOver, "{refusing:?}");
            guest
        });
        guest.ask();

        let parcel = shelf.kept.lock().unwrap().take().unwrap();
        let next = Host::new(TestDevice::default(), Options::default());
        let inheritance = parcel.unpack(DeviceKind::Null).unwrap();
        let front_end = inheritance.front_end().unwrap();
        let (stop, _stopper) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                next.serve_kept(&front_end, stop.as_fd(), Some(&shelf), Some(inheritance))
            });
            guest.hear();
            guest.frontend.features().unwrap();
            assert_eq!(next.device().state().as_slice(), b"state");
            drop(guest);
            assert_eq!(serving.join().unwrap().unwrap(), End::FrontEndLeft);
        });
    }
}
