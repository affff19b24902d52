//! Requests that are left with the guest while their ring is drained.

use super::*;

/// Pops all, leaves the first one and completes the others.
fn leave_the_first(ring: &TestRing) -> u16 {
    let mut left = None;
    serve(ring, |view| {
        if left.is_none()
            && let Some(request) = view.pop()
        {
            left = Some(view.detach(request).leave());
        }
        complete_all(view);
    });
    left.unwrap()
}

#[test]
fn a_ring_is_drained_of_a_request_that_is_left() {
    let ring = TestRing::new();
    offer_all(&ring);
    let gate = Gate::new(1);
    gate.open(LANE);
    let token = gate.begin(LANE).unwrap();
    let mut view = Ring::new(&ring.vring, &ring.handle, &gate, &token);
    let request = view.pop().unwrap();
    let detached = view.detach(request);
    assert!(!detached.is_waited_for());
    drop(token);
    gate.close(LANE);
    assert!(detached.is_waited_for());
    assert!(!gate.drain(LANE, Some(std::time::Duration::ZERO)));
    assert_eq!(detached.leave(), 0);
    assert!(gate.drain(LANE, Some(std::time::Duration::ZERO)));
    assert_eq!(ring.used(), 0, "the guest goes on waiting");
}

#[test]
fn what_was_left_is_taken_up_once_and_before_or_after_a_restart() {
    for restart in [false, true] {
        let ring = TestRing::new();
        offer_all(&ring);
        let head = leave_the_first(&ring);
        assert_eq!((head, ring.used()), (0, SIZE - 1));
        if restart {
            ring.restart();
        }
        serve(&ring, |view| {
            assert!(view.take_up(SIZE).is_none(), "no such head");
            let request = view.take_up(head).unwrap();
            assert!(view.take_up(head).is_none(), "it is in flight");
            assert!(view.take_up(1).is_none(), "the guest has it back");
            let request = view.put_back(request).unwrap_err();
            view.complete(request, 0);
            assert!(view.take_up(head).is_none(), "the guest has it back");
        });
        assert_eq!(ring.used(), SIZE);
    }
}

#[test]
fn another_back_end_takes_up_what_the_indices_say_is_missing_and_no_more() {
    let ring = TestRing::new();
    offer_all(&ring);
    let head = leave_the_first(&ring);
    let moved = ring.after_a_crash(None);
    // Where the source stopped, which the front-end tells.
    moved.set_base(SIZE);
    serve(&moved, |view| {
        let request = view.take_up(head).unwrap();
        assert!(view.take_up(3).is_none(), "only one is missing");
        view.complete(request, 0);
    });
    assert_eq!(ring.used(), SIZE);
    // A driver that has begun anew waits for nothing.
    let fresh = TestRing::new();
    offer_all(&fresh);
    serve(&fresh, |view| assert!(view.take_up(head).is_none()));
}
