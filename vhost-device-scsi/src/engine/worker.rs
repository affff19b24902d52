//! A worker: serves a group of request rings, on one thread, with one `io_uring`.
//!
//! It never waits: what is done later comes back through the `io_uring` or the mailbox, and wakes it by its event. Knows when to
//! look at what; what is done with a request is in `service.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use common::device::Guest;
use common::ring::Ring;

use super::job::Finished;
use super::pool::Pool;
use super::service::{Others, Service};
use crate::target::Target;
use crate::virtio::sweep::Notice;

/// Rounds on one ring before the others of the group get their turn.
const ROUNDS_MAX: u32 = 16;

/// What others leave for the worker.
#[derive(Default)]
pub(crate) struct Mailbox {
    finished: Mutex<Vec<Finished>>,
    notices: Mutex<Vec<(usize, Notice)>>,
    /// Something may be in one of them.
    full: AtomicBool,
}

impl Mailbox {
    /// A job has come out of the pool.
    pub(crate) fn finish(&self, finished: Finished) {
        lock(&self.finished).push(finished);
        self.full.store(true, Ordering::Release);
    }

    /// Jobs that have come out of the pool since the last time.
    pub(super) fn finished(&self) -> Vec<Finished> {
        std::mem::take(&mut *lock(&self.finished))
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Sweeps for a ring.
    fn notices(&self, ring: usize) -> Vec<Notice> {
        lock(&self.notices)
            .extract_if(.., |(of, _)| *of == ring)
            .map(|(_, notice)| notice)
            .collect()
    }
}

/// See the [module](self).
pub(crate) struct Worker {
    service: Mutex<Service>,
    mailbox: Arc<Mailbox>,
}

impl Worker {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            service: Mutex::new(service),
            mailbox: Arc::default(),
        }
    }

    /// A sweep for one ring, which is to be served afterwards.
    pub(crate) fn notify(&self, ring: usize, notice: Notice) {
        lock(&self.mailbox.notices).push((ring, notice));
        self.mailbox.full.store(true, Ordering::Release);
    }

    /// Serves a ring of the group until there is nothing to do; finishes what is done of all of them.
    pub(crate) fn serve(&self, ring: &mut Ring<'_>, target: &Target, pool: &Pool, guest: &Guest) {
        let mut service = lock(&self.service);
        service.attend(target, guest, ring.index());
        let others = Others {
            pool,
            guest,
            mailbox: &self.mailbox,
        };
        let mut rounds = 0;
        let mut idle_since = None;
        loop {
            let (mut finished, mut notices) = (Vec::new(), Vec::new());
            if self.mailbox.full.swap(false, Ordering::Acquire) {
                finished = self.mailbox.finished();
                notices = self.notices(ring.index());
            }
            let mut progress = service.finish(finished, &others);
            // Before the kernel is given more to do: what it can do at once, it does before a submission returns.
            service.announce(ring);
            progress |= service.take(ring, target, &notices);
            service.start(ring, !notices.is_empty(), &others);
            service.announce(ring);
            drop(notices); // sweeps without a victim end here
            if progress {
                idle_since = None;
                rounds += 1;
                if rounds >= ROUNDS_MAX {
                    guest.serve(ring.index());
                    break;
                }
            } else if is_over(&mut idle_since, target) || !ring.is_open() {
                break;
            }
        }
        // What came between the last look and now has not signalled anybody.
        if service.leave() || self.mailbox.is_full() {
            guest.serve(ring.index());
        }
    }

    /// Sweeps for a ring. Those for other rings of the group are still in the box.
    fn notices(&self, ring: usize) -> Vec<Notice> {
        let notices = self.mailbox.notices(ring);
        if !lock(&self.mailbox.notices).is_empty() {
            self.mailbox.full.store(true, Ordering::Release);
        }
        notices
    }
}

/// Whether the worker has looked in vain for long enough.
fn is_over(idle_since: &mut Option<Instant>, target: &Target) -> bool {
    let busy_poll = target.config().busy_poll;
    if busy_poll.is_zero() {
        return true;
    }
    let now = Instant::now();
    std::hint::spin_loop();
    now - *idle_since.get_or_insert(now) >= busy_poll
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
