//! Whether to look at a ring for a little longer before sleeping. To be woken costs a guest that waits for each answer more than
//! the answer does; to look in vain costs the host.
//!
//! Decided by the last gap between requests: if that was short, the next one is expected to be. Whoever looked in vain looks less and
//! less often, until something is found again. Knows time, and no ring.

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

/// A gap is worth another try if it was at most so many times as long as is waited for: much of what a sleeper sees of it is its own
/// way to wake up, which is saved if something is found.
const GAP_FACTOR: u32 = 8;
/// Tries that are left out, after many in vain: 2 to this power, less one.
const VAIN_MAX: u32 = 4;

/// How long one ring is looked at.
#[derive(Debug)]
pub(crate) struct Patience {
    max: Duration,
    /// Since when there has been nothing on the ring.
    idle_since: Option<Instant>,
    last_gap_was_short: bool,
    /// How often nothing was found, since something was.
    vain: u32,
    /// Tries that are to be left out.
    left_out: u32,
}

impl Patience {
    /// Pauses up to `max` are waited for; zero: none.
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            max,
            idle_since: None,
            last_gap_was_short: false,
            vain: 0,
            left_out: 0,
        }
    }

    /// Something came, and somebody else has noticed.
    pub(crate) fn woken(&mut self) {
        if let Some(since) = self.idle_since.take() {
            self.last_gap_was_short = since.elapsed() <= self.max * GAP_FACTOR;
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
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        let _polling = pollers.begin()?;
        while since.elapsed() < self.max {
            std::hint::spin_loop();
            if let Some(found) = look() {
                self.idle_since = None;
                self.vain = 0;
                return Some(found);
            }
        }
        self.vain = (self.vain + 1).min(VAIN_MAX);
        self.left_out = (1 << self.vain) - 1;
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
        std::thread::sleep(SHORT * (GAP_FACTOR + 1));
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
    fn in_vain_it_looks_less_and_less_often() {
        let pollers = pollers(1);
        let mut patience = Patience::new(Duration::from_micros(1));
        patience.last_gap_was_short = true;
        let mut tries = Vec::new();
        for number in 0..40 {
            let nothing: Option<()> = patience.wait(&pollers, || None);
            assert!(nothing.is_none());
            if patience.left_out + 1 == 1 << patience.vain {
                tries.push(number);
            }
        }
        assert_eq!(tries, [0, 2, 6, 14, 30]);
        patience.left_out = 0;
        patience.max = LONG;
        assert!(looks(&mut patience, &pollers));
        assert_eq!(patience.vain, 0);
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
