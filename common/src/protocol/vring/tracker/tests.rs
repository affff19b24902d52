//! Crashes at every step of a request, and regions that no back-end would leave.

use proptest::prelude::*;

use super::*;
use crate::protocol::inflight::Regions;
use crate::protocol::messages::Inflight;

const SIZE: u16 = 8;

fn regions() -> Regions {
    let regions = Regions::new(1, 256);
    let shape = Inflight {
        rings: 1,
        ring_size: SIZE,
        ..Inflight::default()
    };
    regions.create(shape).unwrap();
    regions
}

fn part(regions: &Regions) -> Part {
    regions.part(0).unwrap()
}

fn indices(used: u16, available: u16) -> Indices {
    Indices { used, available }
}

/// A process that goes on with the region; the error is the region's.
fn next(regions: &Regions, at: Indices) -> Result<(Tracker, Option<u16>), TrackError> {
    let mut tracker = Tracker::default();
    tracker.start(SIZE);
    let base = tracker.recover(at, part(regions))?;
    Ok((tracker, base))
}

fn owed(mut tracker: Tracker) -> Vec<u16> {
    std::iter::from_fn(|| tracker.pop_owed().map(|(head, _)| head)).collect()
}

fn first(regions: &Regions) -> Tracker {
    next(regions, indices(0, 0)).unwrap().0
}

#[test]
fn what_was_popped_and_not_given_back_is_owed_in_the_order_of_popping() {
    let regions = regions();
    let mut tracker = first(&regions);
    for head in [5, 2, 7, 0] {
        assert!(tracker.pop(head));
    }
    tracker.giving_back(2);
    tracker.gave_back(2, 1);
    let (mut tracker, base) = next(&regions, indices(1, 6)).unwrap();
    assert_eq!(base, Some(4), "one given back, three in flight");
    assert!(tracker.owes() && !tracker.pop(7), "in flight");
    assert_eq!(tracker.pop_owed(), Some((5, 0)));
    assert_eq!(tracker.pop_owed(), Some((7, 1)));
    assert!(!tracker.owe(5, 0), "not the last");
    assert!(tracker.owe(7, 1) && tracker.owe(5, 0));
    assert!(tracker.pop(1), "after them in the next crash's order");
    assert_eq!(owed(next(&regions, indices(1, 6)).unwrap().0), [5, 7, 0, 1]);
}

#[test]
fn a_head_in_flight_and_a_head_that_does_not_exist_are_not_popped() {
    let regions = regions();
    let mut tracked = first(&regions);
    let mut untracked = Tracker::default();
    untracked.start(SIZE);
    for tracker in [&mut tracked, &mut untracked] {
        assert!(tracker.pop(3));
        assert!(!tracker.pop(3) && !tracker.pop(SIZE) && !tracker.pop(u16::MAX));
        tracker.giving_back(3);
        tracker.gave_back(3, 1);
        assert!(tracker.pop(3));
    }
}

/// The process is killed between any two stores of a request's life.
#[test]
fn a_crash_between_any_two_steps_leaves_a_head_in_flight_or_given_back() {
    for step in 0..=4 {
        let regions = regions();
        let mut tracker = first(&regions);
        let part = part(&regions);
        assert!(tracker.pop(6));
        if step > 0 {
            assert!(tracker.pop(1));
        }
        if step > 1 {
            tracker.giving_back(1);
        }
        // The used ring's index is written in between, then the mark goes, then the index is noted.
        let used = u16::from(step > 2);
        if step > 3 {
            part.unmark(1);
        }
        let (tracker, base) = next(&regions, indices(used, 2)).unwrap();
        let expected: &[u16] = match step {
            0 | 3 | 4 => &[6],
            _ => &[6, 1],
        };
        assert_eq!(owed(tracker), expected, "killed at step {step}");
        assert_eq!(base, Some(used + u16::try_from(expected.len()).unwrap()));
        assert_eq!(part.used(), used);
    }
}

/// Key fact of SPDK#3766: without it the next process takes 0 to be the batch of a ring that was used before.
#[test]
fn a_new_region_begins_at_the_used_index_of_its_ring() {
    let regions = regions();
    let (mut tracker, base) = next(&regions, indices(7, 7)).unwrap();
    assert_eq!(base, None, "the front-end knows");
    assert!(tracker.pop(0));
    assert_eq!(part(&regions).used(), 7);
    assert_eq!(owed(next(&regions, indices(7, 8)).unwrap().0), [0]);
}

#[test]
fn what_was_put_back_is_not_in_flight() {
    let regions = regions();
    let mut tracker = first(&regions);
    assert!(tracker.pop(4) && tracker.pop(5));
    tracker.put_back(5);
    let (tracker, base) = next(&regions, indices(0, 2)).unwrap();
    assert_eq!((owed(tracker), base), (vec![4], Some(1)));
    tracker_of(&regions, 2);
}

fn tracker_of(regions: &Regions, available: u16) {
    let (mut tracker, _) = next(regions, indices(0, available)).unwrap();
    assert!(tracker.pop(5), "it may be popped again");
}

/// Back-ends that give back several at once link them.
#[test]
fn a_batch_that_was_published_and_not_noted_is_not_in_flight() {
    let regions = regions();
    let mut tracker = first(&regions);
    (0..5).for_each(|head| assert!(tracker.pop(head)));
    for head in [1, 4, 2] {
        tracker.giving_back(head);
    }
    part(&regions).unmark(2);
    let (tracker, base) = next(&regions, indices(3, 5)).unwrap();
    assert_eq!((owed(tracker), base), (vec![0, 3], Some(5)));
}

#[test]
fn indices_wrap_around() {
    let regions = regions();
    let (mut tracker, _) = next(&regions, indices(u16::MAX, u16::MAX)).unwrap();
    assert!(tracker.pop(0) && tracker.pop(1));
    tracker.giving_back(0);
    let (tracker, base) = next(&regions, indices(0, 1)).unwrap();
    assert_eq!((owed(tracker), base), (vec![1], Some(1)));
}

/// The driver was reset, and the front-end kept the region: nothing is in flight, so nothing can be wrong.
#[test]
fn with_nothing_in_flight_any_indices_will_do() {
    let regions = regions();
    let (mut tracker, _) = next(&regions, indices(1000, 1000)).unwrap();
    assert!(tracker.pop(0));
    tracker.giving_back(0);
    tracker.gave_back(0, 1001);
    let (tracker, base) = next(&regions, indices(0, 3)).unwrap();
    assert_eq!((owed(tracker), base), (vec![], Some(0)));
    assert_eq!(part(&regions).used(), 0);
}

#[test]
fn forged_regions_are_errors_and_stay_as_they_are() {
    type Forge = fn(&Part);
    let cases: [(&str, Forge, Indices, TrackError); 5] = [
        (
            "the used index is of another ring",
            |part| part.set_used(100),
            indices(2, 4),
            TrackError::Published {
                published: 65438,
                size: SIZE,
            },
        ),
        (
            "a batch goes in a circle",
            |part| {
                part.set_last_head(1);
                part.set_previous(1, 2);
                part.set_previous(2, 1);
            },
            indices(3, 4),
            TrackError::Batch {
                head: 1,
                size: SIZE,
            },
        ),
        (
            "a batch begins nowhere",
            |part| part.set_last_head(SIZE),
            indices(1, 4),
            TrackError::Batch {
                head: SIZE,
                size: SIZE,
            },
        ),
        (
            "a batch goes on nowhere",
            |part| {
                part.set_last_head(1);
                part.set_previous(1, u16::MAX);
            },
            indices(2, 4),
            TrackError::Batch {
                head: u16::MAX,
                size: SIZE,
            },
        ),
        (
            "more is in flight than was made available",
            |part| (0..4).for_each(|head| part.mark(head)),
            indices(0, 3),
            TrackError::TooMany {
                marked: 4,
                outstanding: 3,
            },
        ),
    ];
    for (name, forge, at, expected) in cases {
        let regions = regions();
        let mut tracker = first(&regions);
        assert!(tracker.pop(1) && tracker.pop(2));
        let part = part(&regions);
        forge(&part);
        assert_eq!(next(&regions, at).unwrap_err(), expected, "{name}");
        assert!(part.is_marked(1) && part.is_marked(2), "{name}");
    }
}

#[test]
fn a_region_for_another_size_of_ring() {
    let regions = regions();
    part(&regions).begin(0);
    part(&regions).mark(7);
    let mut tracker = Tracker::default();
    tracker.start(4);
    assert_eq!(
        tracker.recover(indices(0, 4), part(&regions)),
        Err(TrackError::Beyond { head: 7, size: 4 })
    );
    tracker.start(16);
    assert_eq!(
        tracker.recover(indices(0, 4), part(&regions)),
        Err(TrackError::Room { room: 8, size: 16 })
    );
    // With nothing in flight the ring is served, and not written down.
    part(&regions).unmark(7);
    assert_eq!(tracker.recover(indices(0, 4), part(&regions)), Ok(None));
    assert!(tracker.pop(15));
    assert!(!part(&regions).is_marked(7) && !tracker.pop(15));
}

#[test]
fn numbers_of_any_kind_are_an_order() {
    let regions = regions();
    let mut tracker = first(&regions);
    (0..3).for_each(|head| assert!(tracker.pop(head)));
    let part = part(&regions);
    part.set_number(0, u64::MAX);
    part.set_number(2, 1);
    let (mut tracker, _) = next(&regions, indices(0, 8)).unwrap();
    assert!(tracker.pop(5), "the number after the last of all");
    assert_eq!(owed(tracker), [1, 2, 0]);
}

proptest! {
    /// Whatever stands in a region: an error, or heads that exist, each once, no more than the guest waits for.
    #[test]
    fn any_bytes_are_a_region(
        bytes in proptest::collection::vec(any::<u8>(), 16 + 16 * usize::from(SIZE)),
        used: u16,
        available: u16,
        plausible: bool,
    ) {
        let regions = regions();
        let part = part(&regions);
        part.begin(used.wrapping_sub(u16::from(bytes[0] % 10)));
        part.set_last_head(if plausible { u16::from(bytes[1] % 8) } else { u16::from(bytes[1]) });
        for head in 0..SIZE {
            let entry = &bytes[16 + 16 * usize::from(head)..][..16];
            if entry[0] % 2 == 1 {
                part.mark(head);
            }
            part.set_previous(head, u16::from(if plausible { entry[6] % 8 } else { entry[6] }));
            part.set_number(head, u64::from(entry[8]));
        }
        if let Ok((tracker, base)) = next(&regions, indices(used, available)) {
            let heads = owed(tracker);
            let count = u16::try_from(heads.len()).unwrap();
            prop_assert!(count <= available.wrapping_sub(used));
            prop_assert_eq!(base, Some(used.wrapping_add(count)));
            let mut sorted = heads.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), heads.len());
            prop_assert!(heads.iter().all(|head| *head < SIZE));
        }
    }

    /// Any life of a ring with any number of crashes: every request is given back exactly once.
    #[test]
    fn exactly_once(steps in proptest::collection::vec((0..6_u8, any::<u8>()), 1..200)) {
        let regions = regions();
        let mut tracker = first(&regions);
        let (mut used, mut available, mut next_available) = (0_u16, 0_u16, 0_u16);
        let mut ring: Vec<u16> = Vec::new(); // available, in order
        let mut free: Vec<u16> = (0..SIZE).collect();
        let mut out: Vec<u16> = Vec::new(); // in the device's hands
        for (step, choice) in steps {
            match step {
                0 | 1 if !free.is_empty() => {
                    ring.push(free.swap_remove(usize::from(choice) % free.len()));
                    available = available.wrapping_add(1);
                }
                2 => {
                    if let Some((head, _)) = tracker.pop_owed() {
                        out.push(head);
                    } else if let Some(head) = ring.get(usize::from(next_available)) {
                        prop_assert!(tracker.pop(*head), "offered once");
                        out.push(*head);
                        next_available += 1;
                    }
                }
                3 if !out.is_empty() => {
                    let head = out.swap_remove(usize::from(choice) % out.len());
                    tracker.giving_back(head);
                    used = used.wrapping_add(1);
                    tracker.gave_back(head, used);
                    free.push(head);
                }
                // Killed: at rest, or while a request is given back, before or after it is published.
                4 | 5 => {
                    if step == 5 && !out.is_empty() {
                        let head = out.swap_remove(usize::from(choice) % out.len());
                        tracker.giving_back(head);
                        if choice % 2 == 0 {
                            used = used.wrapping_add(1);
                            free.push(head);
                        }
                    }
                    let (restarted, base) = next(&regions, indices(used, available)).unwrap();
                    tracker = restarted;
                    prop_assert_eq!(base, Some(next_available));
                    out.clear();
                }
                _ => {}
            }
        }
        // All that is left is served.
        while let Some((head, _)) = tracker.pop_owed() {
            out.push(head);
        }
        for head in &ring[usize::from(next_available)..] {
            prop_assert!(tracker.pop(*head));
            out.push(*head);
        }
        out.extend(free);
        out.sort_unstable();
        prop_assert_eq!(out, (0..SIZE).collect::<Vec<_>>());
    }
}
