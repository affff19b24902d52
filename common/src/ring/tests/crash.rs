//! A ring whose process is killed, and the next one, which has the region for requests in flight, or has it not.

use super::*;
use crate::protocol::inflight::Regions;
use crate::protocol::messages::Inflight;
use crate::protocol::test_ring::{Descriptor, INDIRECT};

fn regions() -> Regions {
    let regions = Regions::new(1, SIZE);
    let shape = Inflight {
        rings: 1,
        ring_size: SIZE,
        ..Inflight::default()
    };
    regions.create(shape).unwrap();
    regions
}

fn tracked() -> (Regions, TestRing) {
    let regions = regions();
    let ring = TestRing::new().after_a_crash(Some(&regions));
    (regions, ring)
}

/// Heads that are popped, and which of them were resubmitted; given back if `completed`.
fn pop_all(ring: &TestRing, completed: bool) -> Vec<(u16, bool)> {
    let mut heads = Vec::new();
    serve(ring, |view| {
        while let Some(request) = view.pop() {
            heads.push((request.head(), request.is_resubmitted()));
            if completed {
                view.complete(request, 0);
            }
        }
    });
    heads
}

/// The driver takes what was used and checks that it waits for it.
fn take_used(ring: &TestRing, from: u16, waiting: &mut Vec<u16>) -> u16 {
    let end = ring.used();
    let mut at = from;
    while at != end {
        let slot = USED + 4 + 8 * u64::from(at % SIZE);
        let head = u16::from_le_bytes(ring.read(slot, 2).try_into().unwrap());
        let place = waiting.iter().position(|other| *other == head);
        waiting.remove(place.expect("given back, and not waited for"));
        at = at.wrapping_add(1);
    }
    end
}

#[test]
fn what_was_in_flight_comes_first_and_everything_is_given_back_once() {
    let (regions, ring) = tracked();
    offer_all(&ring);
    let mut waiting: Vec<u16> = (0..SIZE).collect();
    serve(&ring, |view| {
        let requests = [(); 5].map(|()| view.pop().unwrap());
        for (number, request) in requests.into_iter().enumerate() {
            if number == 1 || number == 3 {
                view.complete(request, 0);
            }
        }
    });
    let from = take_used(&ring, 0, &mut waiting);
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(ring.vring.base(), 5);
    let expected = [
        (0, true),
        (2, true),
        (4, true),
        (5, false),
        (6, false),
        (7, false),
    ];
    assert_eq!(pop_all(&ring, true), expected);
    take_used(&ring, from, &mut waiting);
    assert!(waiting.is_empty(), "{waiting:?}");
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(pop_all(&ring, true), []);
}

/// Killed again and again before anything is given back: the order stays.
#[test]
fn a_crash_while_requests_are_resubmitted_loses_none() {
    let (regions, mut ring) = tracked();
    offer_all(&ring);
    for round in 0..5 {
        let heads: Vec<_> = pop_all(&ring, false)
            .iter()
            .map(|(head, _)| *head)
            .collect();
        assert_eq!(heads, (0..SIZE).collect::<Vec<_>>(), "round {round}");
        ring = ring.after_a_crash(Some(&regions));
    }
    assert!(
        pop_all(&ring, true)
            .iter()
            .all(|(_, resubmitted)| *resubmitted)
    );
    assert_eq!(ring.used(), SIZE);
}

/// What the region is for: at the used index, as QEMU says it, the next process would do some twice and some never.
#[test]
fn without_the_region_requests_are_lost() {
    let (_, ring) = tracked();
    offer_all(&ring);
    serve(&ring, |view| {
        let [_first, second] = [(); 2].map(|()| view.pop().unwrap());
        view.complete(second, 0);
    });
    let ring = ring.after_a_crash(None);
    let heads = pop_all(&ring, true);
    assert!(heads.contains(&(1, false)) && !heads.contains(&(0, false)));
}

/// The order of giving back: the batch is linked, then published, then unmarked. Here publishing is as far as it comes, since the
/// used ring is not there.
#[test]
fn what_could_not_be_published_is_still_in_flight() {
    let (regions, ring) = tracked();
    offer_all(&ring);
    serve(&ring, |view| {
        let request = view.pop().unwrap();
        ring.place(AVAILABLE, 2 * crate::protocol::test_ring::REGION_BYTES);
        view.complete(request, 0);
    });
    let part = regions.part(0).unwrap();
    assert!(part.is_marked(0));
    assert_eq!((part.last_head(), part.used()), (0, 0));
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(pop_all(&ring, true)[..2], [(0, true), (1, false)]);
}

#[test]
fn what_was_put_back_is_popped_as_new() {
    let (regions, ring) = tracked();
    offer_all(&ring);
    serve(&ring, |view| {
        let [_kept, second, third] = [(); 3].map(|()| view.pop().unwrap());
        view.put_back(third).unwrap();
        view.put_back(second).unwrap();
    });
    let ring = ring.after_a_crash(Some(&regions));
    let heads = pop_all(&ring, true);
    assert_eq!(heads[..3], [(0, true), (1, false), (2, false)]);
}

#[test]
fn what_was_resubmitted_can_be_put_back_while_the_ring_is_open() {
    let (regions, ring) = tracked();
    offer_all(&ring);
    pop_all(&ring, false);
    let ring = ring.after_a_crash(Some(&regions));
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    let [first, second] = [(); 2].map(|()| view.pop().unwrap());
    let first = view.put_back(first).expect_err("not the last one");
    view.put_back(second).unwrap();
    view.put_back(first).unwrap();
    let first = view.pop().unwrap();
    assert_eq!((first.head(), first.is_resubmitted()), (0, true));
    // Stopped: it has no place on the available ring any more, so it is to be finished.
    gate.close(LANE);
    assert!(view.is_open());
    let first = view.put_back(first).unwrap_err();
    view.complete(first, 0);
    while let Some(request) = view.pop() {
        assert!(request.is_resubmitted());
        view.complete(request, 0);
    }
    assert!(!view.is_open());
    assert_eq!(ring.used(), SIZE);
}

#[test]
fn a_region_that_makes_no_sense_stops_its_ring() {
    let (regions, ring) = tracked();
    offer_all(&ring);
    pop_all(&ring, false);
    ring.set_available(3);
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(pop_all(&ring, true), []);
    assert!(!ring.vring.owes());
    ring.set_available(SIZE);
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(pop_all(&ring, true).len(), usize::from(SIZE));
}

/// The chain is found by its head, and is checked as any other.
#[test]
fn resubmitted_chains_are_whole_or_given_back_unserved() {
    let table = FREE + 0x100;
    let sound = |ring: &TestRing| {
        ring.describe(&[
            (FREE, 3, NEXT, 1),
            (FREE + 8, 5, WRITE, 0),
            (table, 32, INDIRECT, 0),
        ]);
        ring.describe_at(table, &[(FREE, 4, NEXT, 1), (FREE + 8, 6, WRITE, 0)]);
    };
    let (regions, ring) = tracked();
    sound(&ring);
    ring.write(FREE, b"abcd");
    ring.offer(0);
    ring.offer(2);
    pop_all(&ring, false);
    let read = |ring: &TestRing| {
        let mut found = Vec::new();
        serve(ring, |view| {
            while let Some(request) = view.pop() {
                let mut bytes = vec![0; request.reader().remaining()];
                request.reader().read_exact(&mut bytes).unwrap();
                found.push((bytes, request.writer().remaining()));
            }
        });
        found
    };
    let ring = ring.after_a_crash(Some(&regions));
    assert_eq!(read(&ring), [(b"abc".to_vec(), 5), (b"abcd".to_vec(), 6)]);

    let malformed: [&[Descriptor]; 8] = [
        &[(u64::MAX, 1, 0, 0)],
        &[(FREE, 1, NEXT, 0)],
        &[(FREE, 1, NEXT, SIZE)],
        &[(FREE, 1, WRITE | NEXT, 1), (FREE, 1, 0, 0)],
        &[(FREE, u32::MAX, NEXT, 1), (FREE, u32::MAX, 0, 0)],
        &[(table, 8, INDIRECT, 0)],
        &[(table, 16 << 16, INDIRECT, 0)],
        &[(table + 32, 32, INDIRECT, 0)],
    ];
    for descriptors in malformed {
        let (regions, ring) = tracked();
        sound(&ring);
        ring.describe_at(
            table + 32,
            &[(table, 16, INDIRECT, 0), (table, 16, INDIRECT, 0)],
        );
        ring.offer(0);
        pop_all(&ring, false);
        ring.describe(descriptors);
        let ring = ring.after_a_crash(Some(&regions));
        assert_eq!(read(&ring), [], "{descriptors:?}");
        assert_eq!(ring.used(), 1, "{descriptors:?}");
    }
}
