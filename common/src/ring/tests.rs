//! A ring served by devices that complete, put back, detach and panic.

use super::*;
use crate::protocol::test_ring::{AVAILABLE, FREE, NEXT, SIZE, TestRing, USED, WRITE};
use crate::request::ChainError;

const LANE: Lane = Lane::Ring(0);

/// Runs `device` as a worker would, for as long as there is something to look at; at most ten times.
fn serve(ring: &TestRing, mut device: impl FnMut(&mut Ring<'_>)) -> usize {
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    for round in 1..=10 {
        view.disable_notification();
        device(&mut view);
        view.flush();
        if !view.enable_notification(false) {
            return round;
        }
    }
    panic!("looked at for ever");
}

fn complete_all(ring: &mut Ring<'_>) {
    while let Some(request) = ring.pop() {
        ring.complete(request, 0);
    }
}

fn offer_all(ring: &TestRing) {
    ring.describe(&[(FREE, 1, 0, 0); SIZE as usize]);
    (0..SIZE).for_each(|head| ring.offer(head));
}

#[test]
fn a_full_ring_is_served_in_one_go() {
    let ring = TestRing::new();
    offer_all(&ring);
    assert_eq!(serve(&ring, complete_all), 1);
    assert_eq!(ring.used(), SIZE);
}

/// The guest adds something and does not kick, since it was asked not to.
#[test]
fn what_comes_at_the_last_moment_is_looked_at_again() {
    let ring = TestRing::new();
    ring.describe(&[(FREE, 1, 0, 0); 2]);
    ring.offer(0);
    let mut late = Some(1);
    let rounds = serve(&ring, |view| {
        complete_all(view);
        late.take().into_iter().for_each(|head| ring.offer(head));
    });
    assert_eq!((rounds, ring.used()), (2, 2));
}

#[test]
fn malformed_chains_are_given_back_with_nothing_written_and_the_next_is_served() {
    let ring = TestRing::new();
    ring.describe(&[(u64::MAX, 1, 0, 0), (FREE, 1, WRITE, 0)]);
    ring.offer(0);
    ring.offer(1);
    let mut heads = Vec::new();
    serve(&ring, |view| {
        while let Some(request) = view.pop() {
            heads.push(request.head());
            view.complete(request, 1);
        }
    });
    assert_eq!(heads, [1]);
    assert_eq!(ring.used(), 2);
    let elements: Vec<u8> = [[0_u32, 0], [1, 1]]
        .concat()
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    assert_eq!(ring.read(USED + 4, 16), elements);
}

/// G4 of the threat model: not served, not waited for, and served again once it is set up again.
#[test]
fn an_available_index_out_of_reach_stops_the_ring_and_nothing_else() {
    let ring = TestRing::new();
    offer_all(&ring);
    ring.set_available(SIZE + 1);
    assert_eq!(serve(&ring, complete_all), 1);
    assert_eq!(ring.used(), 0);
    ring.set_available(SIZE);
    serve(&ring, complete_all);
    assert_eq!(ring.used(), 0, "left alone until it is set up again");
    ring.restart();
    serve(&ring, complete_all);
    assert_eq!(ring.used(), SIZE);
}

#[test]
fn a_ring_that_lies_outside_of_memory_is_left_alone() {
    let end = 2 * crate::protocol::test_ring::REGION_BYTES;
    // The index of the available ring can be read, its elements cannot.
    let cases = [(end - 4, USED), (end, USED), (0, USED), (AVAILABLE, end)];
    for (available, used) in cases {
        let ring = TestRing::new();
        offer_all(&ring);
        ring.place(available, used);
        if available < end {
            ring.write(available + 2, &1_u16.to_le_bytes());
        }
        assert_eq!(serve(&ring, complete_all), 1, "{available:#x} {used:#x}");
    }
}

#[test]
fn a_head_that_cannot_be_given_back_stops_the_ring() {
    let ring = TestRing::new();
    offer_all(&ring);
    ring.write(AVAILABLE + 4, &SIZE.to_le_bytes());
    assert_eq!(serve(&ring, complete_all), 1);
    assert_eq!(ring.used(), 0);
}

#[test]
fn the_requests_popped_last_can_be_put_back_in_turn() {
    let ring = TestRing::new();
    ring.describe(&[(FREE, 1, 0, 0); 3]);
    (0..3).for_each(|head| ring.offer(head));
    let rounds = serve(&ring, |view| {
        let [first, second, third] = [(); 3].map(|()| view.pop().unwrap());
        let second = view.put_back(second).expect_err("not the last one");
        view.put_back(third).unwrap();
        view.put_back(second).unwrap();
        view.complete(first, 0);
    });
    assert_eq!(rounds, 1, "it was put back because it cannot be served yet");
    assert_eq!(ring.used(), 1);
    let mut heads = Vec::new();
    serve(&ring, |view| {
        while let Some(request) = view.pop() {
            heads.push(request.head());
            view.complete(request, 0);
        }
    });
    assert_eq!(heads, [1, 2]);
}

#[test]
fn nothing_is_popped_through_a_closed_gate() {
    let ring = TestRing::new();
    offer_all(&ring);
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    assert!(view.pop().is_some());
    gate.close(LANE);
    assert!(view.pop().is_none());
    assert!(!view.enable_notification(false), "who opens looks again");
}

/// The memory table of the next front-end is not written by a request of the last one.
#[test]
fn a_request_ends_in_the_memory_it_came_from() {
    let ring = TestRing::new();
    offer_all(&ring);
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    let detached = [(); 2].map(|()| {
        let request = view.pop().unwrap();
        view.detach(request)
    });
    let kept = view.pop().unwrap();
    drop(token.split());
    let old = ring.memory();
    let region = usize::try_from(crate::protocol::test_ring::REGION_BYTES).unwrap();
    let new = GuestMemory::from_ranges(&[(vm_memory::GuestAddress(0), region)]).unwrap();
    ring.handle.table().lock().unwrap().replace(new);
    view.complete(kept, 0);
    for request in detached {
        request.complete(0);
    }
    assert_eq!(ring.used(), 0);
    let mut used = [0; 2];
    vm_memory::Bytes::read_slice(&*old, &mut used, vm_memory::GuestAddress(USED + 2)).unwrap();
    assert_eq!(u16::from_le_bytes(used), 3);
}

#[test]
fn after_a_panic_the_next_request_is_looked_at_but_never_the_same() {
    let ring = TestRing::new();
    ring.describe(&[(FREE, 1, NEXT, 1), (FREE, 1, WRITE, 0), (FREE, 1, 0, 0)]);
    ring.offer(0);
    ring.offer(2);
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    assert!(
        !view.enable_notification(true),
        "panicked without a request"
    );
    let lost = view.pop().unwrap();
    assert!(!view.enable_notification(false));
    assert!(view.enable_notification(true), "another one follows");
    drop(lost);
    assert!(view.pop().is_some());
    assert!(!view.enable_notification(true), "none follows");
}

/// Key fact: a guest can offer a head again before it got it back.
#[test]
fn a_head_in_flight_is_refused_and_the_rest_of_the_ring_is_finished() {
    let ring = TestRing::new();
    offer_all(&ring);
    let mut kept = None;
    serve(&ring, |view| kept = kept.take().or_else(|| view.pop()));
    ring.offer(0);
    serve(&ring, complete_all);
    assert_eq!(ring.used(), SIZE - 1, "all before it");
    serve(&ring, |view| view.complete(kept.take().unwrap(), 0));
    assert_eq!(ring.used(), SIZE);
    ring.restart();
    serve(&ring, complete_all);
    assert_eq!(ring.used(), SIZE + 1, "it is the next one");
}

#[test]
fn the_reason_is_told() {
    let error = ChainError::Empty { head: 7 };
    assert!(error.to_string().starts_with("guest: descriptor chain 7"));
}

mod crash;
mod left;
