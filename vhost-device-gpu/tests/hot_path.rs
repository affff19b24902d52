//! Does serving a command allocate? Not for those that a guest sends for every frame.

use std::cell::RefCell;

use common::counting_allocator::{CountingAllocator, allocations_of};
use common::request::Request;
use vhost_device_gpu::renderer::{Renderer as _, Stage};
use vhost_device_gpu::screens::Screens;
use vhost_device_gpu::two_d::{Core, GuestBytes, Limits};
use vhost_device_gpu::wire;

const OK_NODATA: u32 = 0x1100;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Every address has memory, and a pattern in it.
struct Everywhere;

impl GuestBytes for Everywhere {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        into.fill(address.to_le_bytes()[1] | 1);
        true
    }

    fn contains(&self, _address: u64, _len: u64) -> bool {
        true
    }
}

struct OneThread(RefCell<Screens>);

impl Stage for OneThread {
    fn change<R>(&self, change: impl FnOnce(&mut Screens) -> R) -> R {
        change(&mut self.0.borrow_mut())
    }
}

/// A command, with room for its answer.
fn command(kind: u32, words: &[u32]) -> Request {
    let header = [kind, 1, 7, 0, 0, 0];
    let bytes: Vec<u8> = header
        .iter()
        .chain(words)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    Request::in_memory(&[&bytes], &[wire::Header::BYTES])
}

/// From the ring to the ring, as the device does it.
fn serve(core: &mut Core, stage: &OneThread, request: &Request) -> u32 {
    let (header, command) = wire::parse(request.reader());
    let result = command.and_then(|command| core.execute(command, &Everywhere, stage));
    wire::write(&header, &result, &mut request.writer())
}

#[test]
fn commands_of_every_frame_allocate_nothing() {
    let limits = Limits {
        bytes_max: 64 << 20,
        scanouts: 2,
    };
    let mut core = Core::new(limits, || [0; 16]);
    let stage = OneThread(RefCell::new(Screens::new(64 << 20)));
    let (create, attach) = (0x101, 0x106);
    for (resource, format, width, height) in [(1, 67, 300, 200), (2, 1, 300, 200), (3, 1, 64, 64)] {
        let bytes = width * height * 4;
        for request in [
            command(create, &[resource, format, width, height]),
            command(attach, &[resource, 2, 4096, 0, 8, 0, 1 << 20, 1, bytes, 0]),
        ] {
            serve(&mut core, &stage, &request);
        }
    }
    let whole = [0, 0, 300, 200];
    let requests = [
        (
            "SET_SCANOUT",
            command(0x103, &[&whole[..], &[0, 1]].concat()),
        ),
        (
            "SET_SCANOUT of another buffer",
            command(0x103, &[&whole[..], &[0, 2]].concat()),
        ),
        (
            "TRANSFER_TO_HOST_2D",
            command(0x105, &[3, 4, 100, 50, 4 * 1203, 0, 1, 0]),
        ),
        (
            "TRANSFER_TO_HOST_2D of all",
            command(0x105, &[&whole[..], &[0, 0, 2, 0]].concat()),
        ),
        ("RESOURCE_FLUSH", command(0x104, &[3, 4, 100, 50, 2, 0])),
        ("UPDATE_CURSOR", command(0x300, &[0, 1, 2, 0, 3, 4, 5, 0])),
        ("MOVE_CURSOR", command(0x301, &[0, 1, 2, 0, 3, 0, 0, 0])),
    ];
    for (name, request) in &requests {
        for _ in 0..2 {
            serve(&mut core, &stage, request); // what grows once, has grown
        }
        let allocations = allocations_of(|| {
            for _ in 0..100 {
                assert_eq!(serve(&mut core, &stage, request), 24);
            }
        });
        assert_eq!(allocations, 0, "allocations in 100 {name}");
        let number = request.written(4).try_into().map(u32::from_le_bytes);
        assert_eq!(number, Ok(OK_NODATA), "{name}");
    }
}
