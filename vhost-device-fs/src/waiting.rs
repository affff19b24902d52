//! Requests that wait for a lock of somebody else's, on whichever ring they came.
//!
//! They keep no ring from being served: a thread, which is there while there are any, serves them again and again, at once
//! when the guest has given a lock back and soon when somebody else has. They keep no ring from being stopped either: they are
//! left with the guest then, and taken up when it goes on, here or elsewhere. Which ones those are is part of the state.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::device::Guest;
use common::ring::DetachedRequest;

use crate::fuse::{Buffers, Served};

/// How often is looked whether a lock can be had that is somebody else's, and whether the guest is being stopped.
const GLANCE: Duration = Duration::from_millis(10);

/// Requests that may wait on one ring. With three descriptors each they leave room on the smallest ring that QEMU makes by
/// default: what ends their waiting may have to come the same way.
const WAITING_MAX: usize = 32;

/// A ring and the head of a chain on it.
pub(crate) type Place = (u16, u16);

/// See the [module](self).
pub(crate) struct Waiting {
    /// For each ring: those that wait and those that are left.
    counts: Vec<AtomicUsize>,
    list: Mutex<List>,
    /// Whether any were left.
    any_left: AtomicBool,
    /// How a ring is looked at again.
    guest: Mutex<Option<Guest>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Waiting")
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct List {
    waiting: Vec<(usize, DetachedRequest)>,
    left: BTreeSet<Place>,
    has_thread: bool,
}

/// Serves a request, and perhaps leaves it waiting.
pub(crate) type Serve = dyn Fn(&DetachedRequest, &mut Buffers) -> Served + Send;

impl Waiting {
    pub(crate) fn new(rings: usize) -> Self {
        Self {
            counts: (0..rings).map(|_| AtomicUsize::new(0)).collect(),
            list: Mutex::default(),
            any_left: AtomicBool::new(false),
            guest: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device works again, for this guest.
    pub(crate) fn resume(&self, guest: &Guest) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest.clone());
    }

    /// Whether one more request of a ring may wait.
    pub(crate) fn has_room(&self, ring: usize) -> bool {
        self.counts
            .get(ring)
            .is_some_and(|count| count.load(Ordering::Relaxed) < WAITING_MAX)
    }

    fn count(&self, ring: usize, change: impl FnOnce(&AtomicUsize)) {
        if let Some(count) = self.counts.get(ring) {
            change(count);
        }
    }

    fn ended(&self, ring: usize) {
        self.count(ring, |count| {
            count.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Has `request`, which came on `ring`, served until it does not wait any more. `started` learns of the thread that does;
    /// without one the request is returned.
    pub(crate) fn wait(
        self: &Arc<Self>,
        ring: usize,
        request: DetachedRequest,
        serve: Box<Serve>,
        started: impl FnOnce(&thread::Thread),
    ) -> Result<(), DetachedRequest> {
        self.count(ring, |count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut list = self.lock();
        list.waiting.push((ring, request));
        if list.has_thread {
            return Ok(());
        }
        let waiting = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("fs-locks".to_owned())
            .spawn(move || waiting.run(&*serve));
        match spawned {
            Ok(thread) => {
                list.has_thread = true;
                started(thread.thread());
                Ok(())
            }
            Err(error) => {
                log::error!("host: no thread for requests that wait for locks: {error}");
                self.ended(ring);
                list.waiting
                    .pop()
                    .map_or(Ok(()), |(_, request)| Err(request))
            }
        }
    }

    fn run(&self, serve: &Serve) {
        let mut buffers = Buffers::default();
        loop {
            thread::park_timeout(GLANCE);
            let waiting = std::mem::take(&mut self.lock().waiting);
            let mut still = Vec::new();
            for (ring, request) in waiting {
                if request.is_waited_for() {
                    self.leave(ring, request);
                    continue;
                }
                match serve(&request, &mut buffers) {
                    Served::Waits | Served::Left => still.push((ring, request)),
                    Served::Answered(written) => {
                        self.ended(ring);
                        request.complete(written);
                    }
                }
            }
            let mut list = self.lock();
            list.waiting.append(&mut still);
            if list.waiting.is_empty() {
                list.has_thread = false;
                return;
            }
        }
    }

    /// Noted before the drain can end: a SAVE may follow at once. The ring is looked at once more, should it have been closed
    /// and opened without a drain: nobody else would take the request up.
    fn leave(&self, ring: usize, request: DetachedRequest) {
        if let Ok(number) = u16::try_from(ring) {
            self.lock().left.insert((number, request.request().head()));
            self.any_left.store(true, Ordering::Release);
        }
        request.leave();
        let guest = self.guest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = &*guest {
            guest.serve(ring);
        }
    }

    /// The heads that were left on `ring`, to be taken up now.
    pub(crate) fn take_left(&self, ring: usize) -> Vec<u16> {
        if !self.any_left.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut list = self.lock();
        let of_ring: Vec<Place> = list
            .left
            .extract_if(.., |(number, _)| usize::from(*number) == ring)
            .collect();
        self.any_left
            .store(!list.left.is_empty(), Ordering::Release);
        self.count(ring, |count| {
            count.fetch_sub(of_ring.len(), Ordering::Relaxed);
        });
        of_ring.into_iter().map(|(_, head)| head).collect()
    }

    /// All that were left.
    pub(crate) fn left(&self) -> Vec<Place> {
        self.lock().left.iter().copied().collect()
    }

    /// Takes over what was left elsewhere, in place of what was left here.
    pub(crate) fn set_left(&self, places: impl IntoIterator<Item = Place>) {
        let mut list = self.lock();
        list.left = places.into_iter().collect();
        self.any_left
            .store(!list.left.is_empty(), Ordering::Release);
        for (ring, count) in self.counts.iter().enumerate() {
            let of_ring = list.left.iter();
            let number = of_ring.filter(|(number, _)| usize::from(*number) == ring);
            count.store(number.count(), Ordering::Relaxed);
        }
    }
}
