//! Against a device of a few lines that uses chains by hand.

use super::super::memory::PAGE;
use super::*;

const DEADLINE: Duration = Duration::from_mins(1);

fn ring(event_idx: bool) -> (Arc<Memory>, Ring) {
    let memory = Memory::new(&[64 * PAGE, 16 * PAGE]).unwrap();
    let ring = Ring::new(&memory, 0, 8, event_idx).unwrap();
    (memory, ring)
}

fn buffers(memory: &Memory) -> [Buffer; 3] {
    [(10, false), (20, false), (30, true)].map(|(length, writable)| Buffer {
        address: memory.allocate(u64::from(length)).unwrap(),
        length,
        writable,
    })
}

/// What the device does: writes a used element and the index, and perhaps notifies.
fn use_chain(ring: &Ring, slot: u16, head: u32, written: u32, call: bool) {
    let element = ring.at.used + 4 + 8 * u64::from(slot % ring.at.size);
    ring.memory.store(element, head.to_le()).unwrap();
    ring.memory.store(element + 4, written.to_le()).unwrap();
    ring.memory
        .store(ring.at.used + 2, slot.wrapping_add(1).to_le())
        .unwrap();
    if call {
        rustix::io::write(&ring.call, &1_u64.to_le_bytes()).unwrap();
    }
}

fn descriptor(memory: &Memory, table: u64, number: u16) -> Descriptor {
    let at = table + DESCRIPTOR_SIZE * u64::from(number);
    Descriptor {
        address: u64::from_le(memory.load(at).unwrap()),
        length: u32::from_le(memory.load(at + 8).unwrap()),
        flags: u16::from_le(memory.load(at + 12).unwrap()),
        next: u16::from_le(memory.load(at + 14).unwrap()),
    }
}

fn kicked(ring: &Ring) -> bool {
    rustix::io::read(&ring.kick, &mut [0; 8]).is_ok()
}

#[test]
fn a_chain_lies_in_memory_as_the_specification_has_it() {
    let (memory, mut ring) = ring(false);
    let buffers = buffers(&memory);
    for table in [Table::Direct, Table::Indirect] {
        let head = ring.add(&buffers, table).unwrap();
        let mut at = (ring.at.descriptors, head);
        if table == Table::Indirect {
            let whole = descriptor(&memory, at.0, head);
            assert_eq!((whole.length, whole.flags), (48, DESCRIPTOR_INDIRECT));
            at = (whole.address, 0);
        }
        for (position, buffer) in buffers.iter().enumerate() {
            let found = descriptor(&memory, at.0, at.1);
            assert_eq!(
                (found.address, found.length),
                (buffer.address, buffer.length)
            );
            assert_eq!(found.flags & DESCRIPTOR_WRITE != 0, buffer.writable);
            assert_eq!(found.flags & DESCRIPTOR_NEXT != 0, position < 2);
            at.1 = found.next;
        }
    }
    assert_eq!(memory.load::<u16>(ring.at.available + 2).unwrap(), 0);
    ring.publish().unwrap();
    assert_eq!(memory.load::<u16>(ring.at.available + 2).unwrap(), 2);
    assert!(kicked(&ring));
}

#[test]
fn used_chains_give_everything_back_also_when_the_indices_wrap() {
    let (memory, mut ring) = ring(true);
    let buffers = buffers(&memory);
    let (free, bytes) = (ring.free_descriptors(), memory.free_bytes());
    for slot in 0..u16::MAX {
        let table = if slot % 2 == 0 {
            Table::Direct
        } else {
            Table::Indirect
        };
        let head = ring.add(&buffers, table).unwrap();
        ring.publish_silently().unwrap();
        use_chain(&ring, slot, u32::from(head), 7, true);
        assert_eq!(ring.wait(DEADLINE).unwrap(), [Used { head, written: 7 }]);
    }
    for slot in [u16::MAX, 0, 1] {
        let head = ring.add(&buffers, Table::Direct).unwrap();
        ring.publish_silently().unwrap();
        use_chain(&ring, slot, u32::from(head), 7, false);
        assert_eq!(ring.collect().unwrap(), [Used { head, written: 7 }]);
    }
    assert_eq!(
        (ring.free_descriptors(), memory.free_bytes()),
        (free, bytes)
    );
}

#[test]
fn the_device_is_kicked_when_it_wants_to_be() {
    let (memory, mut ring) = ring(false);
    let buffers = buffers(&memory);
    memory.store(ring.at.used, NO_NOTIFICATION.to_le()).unwrap();
    ring.add(&buffers, Table::Indirect).unwrap();
    ring.publish().unwrap();
    assert!(!kicked(&ring));

    let (memory, mut ring) = self::ring(true);
    let event = ring.at.used + 4 + 8 * 8;
    memory.store(event, 1_u16.to_le()).unwrap();
    ring.add(&buffers, Table::Indirect).unwrap();
    ring.publish().unwrap();
    assert!(
        !kicked(&ring),
        "the device wants to know of the second chain"
    );
    ring.add(&buffers, Table::Indirect).unwrap();
    ring.publish().unwrap();
    assert!(kicked(&ring));
}

#[test]
fn a_device_that_answers_twice_or_something_else_is_found_out() {
    let (memory, mut ring) = ring(false);
    let buffers = buffers(&memory);
    let head = ring.add(&buffers, Table::Indirect).unwrap();
    ring.add(&buffers, Table::Indirect).unwrap();
    use_chain(&ring, 0, u32::from(head), 0, false);
    assert_eq!(ring.collect().unwrap().len(), 1);
    use_chain(&ring, 1, u32::from(head), 0, false);
    assert!(ring.collect().is_err());
    use_chain(&ring, 1, 0x1_0000 + u32::from(head), 0, false);
    assert!(ring.collect().is_err());
    use_chain(&ring, 3, u32::from(head), 0, false);
    assert!(ring.collect().is_err(), "more chains than there are");
}

#[test]
fn a_device_that_does_not_notify_is_found_out() {
    let (memory, mut ring) = ring(false);
    ring.add(&buffers(&memory), Table::Direct).unwrap();
    assert!(ring.wait(Duration::from_millis(1)).is_err());
}

#[test]
fn a_driver_goes_on_from_a_copy() {
    let (memory, mut ring) = ring(true);
    let head = ring.add(&buffers(&memory), Table::Indirect).unwrap();
    ring.publish().unwrap();
    let copy = memory.copy().unwrap();
    let mut other = Ring::at(&copy, ring.position()).unwrap();
    use_chain(&other, 0, u32::from(head), 3, true);
    assert_eq!(other.wait(DEADLINE).unwrap(), [Used { head, written: 3 }]);
    assert_eq!(ring.collect().unwrap(), []);
    assert_eq!(ring.in_flight(), 1);
    assert_eq!(copy.free_bytes(), memory.free_bytes() + 48);
}

#[test]
fn a_full_ring_is_an_error() {
    let (memory, mut ring) = ring(false);
    let buffers = buffers(&memory);
    for _ in 0..2 {
        ring.add(&buffers, Table::Direct).unwrap();
    }
    assert!(ring.add(&buffers, Table::Direct).is_err());
    for _ in 0..2 {
        ring.add(&buffers, Table::Indirect).unwrap();
    }
    assert!(ring.add(&buffers, Table::Indirect).is_err());
    ring.reset().unwrap();
    assert_eq!((ring.free_descriptors(), ring.in_flight()), (8, 0));
}

#[test]
fn the_wish_to_be_notified_is_of_the_next_chain_also_after_some_were_collected() {
    let (memory, mut ring) = ring(true);
    let buffers = buffers(&memory);
    let event = ring.at.available + 4 + 2 * 8;
    let head = ring.add(&buffers, Table::Indirect).unwrap();
    assert_eq!(ring.collect_and_listen().unwrap(), []);
    assert_eq!(memory.load::<u16>(event).unwrap(), 0);
    use_chain(&ring, 0, u32::from(head), 0, true);
    assert_eq!(ring.collect_and_listen().unwrap().len(), 1);
    assert_eq!(memory.load::<u16>(event).unwrap(), 1);
}
