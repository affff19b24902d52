//! How a worker is made to look at its ring again without a kick from the guest.
//!
//! Knows neither rings nor workers: it holds an event descriptor for each, which whoever made the worker listens on.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// For each ring of the current connection the event of its worker, which may serve several; none between connections.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Mutex<Vec<OwnedFd>>);

impl Wakers {
    /// Replaces the events, index by index of the rings.
    pub(crate) fn set(&self, events: Vec<OwnedFd>) {
        *self.lock() = events;
    }

    /// Wakes the worker of one ring.
    pub(crate) fn wake(&self, ring: usize) {
        if let Some(event) = self.lock().get(ring) {
            signal(event);
        }
    }

    /// The event by which the worker of a ring is woken, for whoever signals it without us (`io_uring`).
    pub(crate) fn event(&self, ring: usize) -> Option<OwnedFd> {
        let events = self.lock();
        let event = events.get(ring)?;
        event
            .try_clone()
            .inspect_err(|error| log::error!("host: no descriptor for a worker's event: {error}"))
            .ok()
    }

    /// Wakes all workers.
    pub(crate) fn wake_all(&self) {
        self.lock().iter().for_each(signal);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(event: &OwnedFd) {
    if let Err(error) = rustix::io::write(event, &1_u64.to_le_bytes()) {
        log::error!("host: a worker cannot be woken: {error}");
    }
}
