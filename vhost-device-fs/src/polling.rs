//! Whether to look at a ring for a little longer before sleeping. To be woken costs a guest that waits for each answer more than
//! the answer does; to look in vain costs the host.
//!
//! Decided by the last gap between requests: if that was short enough to be waited for, the next one is expected to be. Knows time, and no ring.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// How many threads may look at a time. With as many as there are processors none would be left for guests.
#[derive(Debug)]
pub(crate) struct Pollers {
    free: AtomicUsize,
}

impl Pollers {
    /// A half of the host's processors.
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            free: AtomicUsize::new((processors / 2).max(1)),
        }
    }

    fn begin(&self) -> Option<Polling<'_>> {
        let less = |free: usize| free.checked_sub(1);
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .ok()
            .map(|_| Polling(self))
    }
}

/// One of the threads that look.
struct Polling<'a>(&'a Pollers);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long one ring is looked at.
#[derive(Debug)]
pub(crate) struct Patience {
    max: Duration,
    /// Since when there has been nothing on the ring.
    idle_since: Option<Instant>,
    last_gap_was_short: bool,
}

impl Patience {
    /// Pauses up to `max` are waited for; zero: none.
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            max,
            idle_since: None,
            last_gap_was_short: false,
        }
    }

    /// Something came, and somebody else has noticed.
    pub(crate) fn woken(&mut self) {
        if let Some(since) = self.idle_since.take() {
            self.last_gap_was_short = since.elapsed() <= self.max;
        }
    }

    /// There is nothing on the ring. Asks `look` again and again, for as long as it seems to be worth it.
    pub(crate) fn wait<T>(
        &mut self,
        pollers: &Pollers,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.max.is_zero() {
            return None;
        }
        let since = Instant::now();
        self.idle_since = Some(since);
        if !self.last_gap_was_short {
            return None;
        }
        let _polling = pollers.begin()?;
        while since.elapsed() < self.max {
            std::hint::spin_loop();
            if let Some(found) = look() {
                self.idle_since = None;
                return Some(found);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const SHORT: Duration = Duration::from_nanos(1);

    fn pollers(free: usize) -> Pollers {
        Pollers {
            free: AtomicUsize::new(free),
        }
    }

    fn looks(patience: &mut Patience, pollers: &Pollers) -> bool {
        patience.wait(pollers, || Some(())).is_some()
    }

    #[test]
    fn a_short_gap_is_waited_for_and_a_long_one_is_not() {
        let pollers = pollers(1);
        let mut patience = Patience::new(LONG);
        assert!(!looks(&mut patience, &pollers), "there was no gap yet");
        patience.woken();
        assert!(looks(&mut patience, &pollers));
        assert!(looks(&mut patience, &pollers));
        let mut patience = Patience::new(SHORT);
        assert!(!looks(&mut patience, &pollers));
        std::thread::sleep(Duration::from_millis(1));
        patience.woken();
        assert!(!looks(&mut patience, &pollers));
        assert!(!looks(&mut Patience::new(Duration::ZERO), &pollers));
    }

    #[test]
    fn in_vain_it_ends_and_a_place_is_free_again() {
        let pollers = pollers(1);
        let mut patience = Patience::new(Duration::from_millis(2));
        patience.last_gap_was_short = true;
        let mut count = 0;
        let nothing: Option<()> = patience.wait(&pollers, || {
            count += 1;
            None
        });
        assert!(nothing.is_none() && count > 0);
        assert_eq!(pollers.free.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn not_all_processors_look() {
        let none = pollers(0);
        let mut patience = Patience::new(LONG);
        patience.last_gap_was_short = true;
        assert!(!looks(&mut patience, &none));
        assert!(Pollers::new().free.load(Ordering::Relaxed) > 0);
    }
}
