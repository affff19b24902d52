//! The gate: who may work on the device, and how to wait until nobody does.
//!
//! Every piece of work holds a [`Token`] from its first look at a ring until after the used ring is updated and
//! the guest notified. There is a slot for each ring and one for background work. Closing a slot refuses new
//! work; draining waits until the tokens given out before are dropped.
//!
//! Knows nothing of rings, of vhost-user and of why it is closed: `protocol/control.rs` decides that. A kick that
//! is refused is not remembered; whoever opens a slot looks at the ring again.
//!
//! Cost on the hot path: one atomic operation to begin, one to end, one load before each pop, no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Set in a slot that admits work; the other bits count the tokens out.
const OPEN: u32 = 1 << 31;

/// Admission and in-flight counts of one device.
#[derive(Debug)]
pub struct Gate {
    rings: Box<[Slot]>,
    background: Slot,
    /// Guards no data: it orders "the last token was dropped" with "somebody waits for that".
    waiting: Mutex<()>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Slot(AtomicU32);

impl Slot {
    fn begin(&self) -> bool {
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |slot| {
                (slot & OPEN != 0).then_some(slot + 1)
            })
            .is_ok()
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) & OPEN != 0
    }

    /// Admits work that helps what is in flight to its end.
    fn join(&self) -> bool {
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |slot| {
                (slot != 0).then_some(slot + 1)
            })
            .is_ok()
    }

    fn in_flight(&self) -> u32 {
        self.0.load(Ordering::Acquire) & !OPEN
    }
}

/// Which rings are started, whether or not they are served. Written by `protocol/control.rs` only.
#[derive(Debug, Default)]
pub(crate) struct StartedRings(AtomicU64);

impl StartedRings {
    /// Bit per ring.
    pub(crate) fn set(&self, rings: u64) {
        self.0.store(rings, Ordering::Release);
    }

    /// Whether a ring is.
    pub(crate) fn contains(&self, ring: usize) -> bool {
        u32::try_from(ring)
            .ok()
            .and_then(|ring| self.0.load(Ordering::Acquire).checked_shr(ring))
            .is_some_and(|rest| rest & 1 != 0)
    }
}

/// Which slot of the gate is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Work on the ring of this index.
    Ring(usize),
    /// Work on no ring: timers, workers, senders.
    Background,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(index) => write!(formatter, "ring {index}"),
            Self::Background => formatter.write_str("background work"),
        }
    }
}

/// Leave to work, until dropped. Drop it after the used ring is updated and the guest notified.
#[derive(Debug)]
#[must_use = "work is admitted only as long as the token lives"]
pub struct Token {
    gate: Arc<Gate>,
    lane: Lane,
}

impl Token {
    /// Another token of the same kind, for a part of the work that ends elsewhere; granted even if the gate was
    /// closed meanwhile, for the drain waits for this token anyway.
    pub fn split(&self) -> Self {
        if let Some(slot) = self.gate.slot(self.lane) {
            slot.0.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            gate: Arc::clone(&self.gate),
            lane: self.lane,
        }
    }

    /// Whether nothing new is admitted in the same place any more: somebody waits for this token, or is about to.
    pub fn is_waited_for(&self) -> bool {
        !self.gate.is_open(self.lane)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let Some(slot) = self.gate.slot(self.lane) else {
            return;
        };
        // Closed, and this was the last one: somebody may be waiting. While the gate is open nobody is.
        if slot.0.fetch_sub(1, Ordering::Release) == 1 {
            drop(self.gate.lock());
            self.gate.idle.notify_all();
        }
    }
}

impl Gate {
    /// A gate for `rings` rings, closed everywhere.
    pub fn new(rings: usize) -> Arc<Self> {
        Arc::new(Self {
            rings: std::iter::repeat_with(Slot::default).take(rings).collect(),
            background: Slot::default(),
            waiting: Mutex::new(()),
            idle: Condvar::new(),
        })
    }

    /// Leave to work on a ring, or `None` while it is closed.
    pub fn begin(self: &Arc<Self>, lane: Lane) -> Option<Token> {
        self.slot(lane)?.begin().then(|| Token {
            gate: Arc::clone(self),
            lane,
        })
    }

    /// Leave to finish what is in flight on a ring, be it closed or not; `None` if it is closed and nothing is. Whoever has this
    /// asks [`is_open`](Self::is_open) before beginning anything new.
    pub fn join(self: &Arc<Self>, lane: Lane) -> Option<Token> {
        self.slot(lane)?.join().then(|| Token {
            gate: Arc::clone(self),
            lane,
        })
    }

    /// Leave to do background work, or `None` while the device is not started.
    pub fn begin_background(self: &Arc<Self>) -> Option<Token> {
        self.begin(Lane::Background)
    }

    /// Whether work may begin. Asked before every pop, so that a guest that keeps adding cannot prolong a drain.
    pub fn is_open(&self, lane: Lane) -> bool {
        self.slot(lane).is_some_and(Slot::is_open)
    }

    /// Admits work.
    pub fn open(&self, lane: Lane) {
        if let Some(slot) = self.slot(lane) {
            slot.0.fetch_or(OPEN, Ordering::Release);
        }
    }

    /// Refuses new work. Work in flight goes on: see [`drain`](Self::drain).
    pub fn close(&self, lane: Lane) {
        if let Some(slot) = self.slot(lane) {
            slot.0.fetch_and(!OPEN, Ordering::Relaxed);
        }
    }

    /// Waits until no work is in flight on a closed lane, or `limit` has passed. Returns whether it is idle.
    pub fn drain(&self, lane: Lane, limit: Option<Duration>) -> bool {
        let Some(slot) = self.slot(lane) else {
            return true;
        };
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut guard = self.lock();
        while slot.in_flight() > 0 {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            guard = match left {
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    self.idle
                        .wait_timeout(guard, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .idle
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }

    /// Tokens that are out.
    pub fn in_flight(&self, lane: Lane) -> u32 {
        self.slot(lane).map_or(0, Slot::in_flight)
    }

    /// All lanes, background last.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        (0..self.rings.len())
            .map(Lane::Ring)
            .chain(std::iter::once(Lane::Background))
    }

    fn slot(&self, lane: Lane) -> Option<&Slot> {
        match lane {
            Lane::Ring(index) => self.rings.get(index),
            Lane::Background => Some(&self.background),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const RING: Lane = Lane::Ring(0);
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

    #[test]
    fn a_new_gate_admits_nothing() {
        let gate = Gate::new(1);
        assert!(gate.begin(RING).is_none());
        assert!(gate.begin_background().is_none());
        assert!(gate.begin(Lane::Ring(1)).is_none(), "no such ring");
    }

    #[test]
    fn closing_refuses_new_work_and_draining_waits_for_the_old() {
        let gate = Gate::new(1);
        gate.open(RING);
        let token = gate.begin(RING).unwrap();
        let part = token.split();
        gate.close(RING);
        assert!(gate.begin(RING).is_none());
        assert!(!gate.drain(RING, Some(Duration::ZERO)));
        drop(token);
        assert!(
            !gate.drain(RING, Some(Duration::ZERO)),
            "a part is still out"
        );
        let waiter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.drain(RING, PATIENCE))
        };
        drop(part);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_lane_is_joined_as_long_as_something_is_in_flight() {
        let gate = Gate::new(1);
        assert!(gate.join(RING).is_none());
        gate.open(RING);
        let token = gate.join(RING).unwrap();
        gate.close(RING);
        let helper = gate.join(RING).unwrap();
        drop(token);
        drop(gate.join(RING).unwrap());
        drop(helper);
        assert!(gate.join(RING).is_none());
        assert!(gate.drain(RING, Some(Duration::ZERO)));
    }

    #[test]
    fn lanes_are_independent() {
        let gate = Gate::new(2);
        gate.open(Lane::Ring(1));
        gate.open(Lane::Background);
        let _busy = gate.begin(Lane::Ring(1)).unwrap();
        assert!(gate.begin(RING).is_none());
        gate.close(Lane::Background);
        assert!(gate.drain(Lane::Background, PATIENCE));
        assert!(!gate.drain(Lane::Ring(1), Some(Duration::ZERO)));
    }

    /// Threads work whenever they may, while the gate is closed and opened again and again: no work is ever seen
    /// between the end of a drain and the next opening, and no drain misses its wake-up.
    #[test]
    fn nothing_happens_between_a_drain_and_the_next_opening() {
        let gate = Gate::new(1);
        let (work, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (gate, work, stop) = (Arc::clone(&gate), Arc::clone(&work), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(_token) = gate.begin(RING) {
                            work.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2_000 {
            gate.open(RING);
            thread::yield_now();
            gate.close(RING);
            assert!(gate.drain(RING, PATIENCE), "a wake-up was lost");
            let before = work.load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(before, work.load(Ordering::Relaxed), "work while closed");
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap();
        }
    }
}
