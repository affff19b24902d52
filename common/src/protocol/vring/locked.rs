//! A ring's queue and its tracker, under one lock: the stock vring's.
//!
//! The stock state has no room for what we keep beside it, and cannot be made but by the stock crate; a lock of our own would be
//! one more for each request. Knows what is locked, not what it is for.

#![expect(
    unsafe_code,
    reason = "the tracker is guarded by a lock of the stock crate, which cannot hold it"
)]

use std::cell::UnsafeCell;
use std::sync::MutexGuard;

use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::Queue;

use super::Table;
use super::tracker::Tracker;

/// The stock vring, and what its lock guards besides.
pub(super) struct Tracked {
    stock: VringMutex<Table>,
    tracker: UnsafeCell<Tracker>,
}

// SAFETY: the tracker is reached through `Locked` only, which holds the lock of `stock`; it is `Send`.
unsafe impl Sync for Tracked {}

/// Both, while the lock is held.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, VringState<Table>>,
    tracker: &'a UnsafeCell<Tracker>,
}

impl Tracked {
    pub(super) fn new(stock: VringMutex<Table>) -> Self {
        Self {
            stock,
            tracker: UnsafeCell::default(),
        }
    }

    /// The stock vring, for all that does not concern the tracker. Nobody may keep a clone of it: it would be locked, and
    /// guard nothing.
    pub(super) fn stock(&self) -> &VringMutex<Table> {
        &self.stock
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            state: self.stock.get_mut(),
            tracker: &self.tracker,
        }
    }
}

impl Locked<'_> {
    pub(super) fn parts(&mut self) -> (&mut Queue, &mut Tracker) {
        // SAFETY: `state` is the guard of the one lock that there is for this tracker, and lives as long as the reference, for
        // which `self` is borrowed mutably.
        let tracker = unsafe { &mut *self.tracker.get() };
        (self.state.get_queue_mut(), tracker)
    }
}
