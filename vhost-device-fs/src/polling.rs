//! Whether to look at a ring for a little longer before sleeping. To be woken costs a guest that waits for each answer more than
//! the answer does; to look in vain costs the host.
//!
//! Decided by the last gap between requests: if that was short, the next one is expected to be. Whoever looked in vain looks less and
//! less often, until something is found again. Knows time, and no ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// For how long a ring that had something is taken for one that has: up to two of these, in milliseconds.
const WINDOW_MS: u64 = 10;

/// Which rings have something lately. If they are many nobody looks: the processor of one who looks serves no other ring, and those whom
/// he keeps from it could not even say so.
#[derive(Debug)]
pub(crate) struct Pollers {
    start: Instant,
    processors: u32,
    /// The number of the window of time, and a bit for each ring that had something in it and in the one before.
    window: AtomicU64,
    now: AtomicU64,
    before: AtomicU64,
}

impl Pollers {
    /// As many rings may be in use for somebody to look as the host has processors, by half.
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::with_processors(u32::try_from(processors).unwrap_or(u32::MAX))
    }

    fn with_processors(processors: u32) -> Self {
        Self {
            start: Instant::now(),
            processors,
            window: AtomicU64::new(0),
            now: AtomicU64::new(0),
            before: AtomicU64::new(0),
        }
    }

    /// Two that come at the same time may lose a bit, which is there again at the next request.
    fn in_use(&self, ring: u32, at: Instant) {
        let elapsed = at.saturating_duration_since(self.start);
        let window =
            elapsed.as_secs() * (1000 / WINDOW_MS) + u64::from(elapsed.subsec_millis()) / WINDOW_MS;
        let last = self.window.swap(window, Ordering::Relaxed);
        if window != last {
            let rings = self.now.swap(0, Ordering::Relaxed);
            let follows = window == last.wrapping_add(1);
            self.before
                .store(if follows { rings } else { 0 }, Ordering::Relaxed);
        }
        let bit = 1_u64.wrapping_shl(ring); // a device has 64 at most
        self.now.fetch_or(bit, Ordering::Relaxed);
    }

    fn may_look(&self) -> bool {
        self.rings_in_use() <= (self.processors / 2).max(1)
    }

    /// `ring` is in use. Whether the host has a processor beside those that all such rings need.
    pub(crate) fn is_processor_left(&self, ring: u32, at: Instant) -> bool {
        self.in_use(ring, at);
        self.rings_in_use() < self.processors
    }

    fn rings_in_use(&self) -> u32 {
        let rings = self.now.load(Ordering::Relaxed) | self.before.load(Ordering::Relaxed);
        rings.count_ones()
    }
}

/// A gap is worth another try if it was at most so many times as long as is waited for: much of what a sleeper sees of it is its own
/// way to wake up, which is saved if something is found.
const GAP_FACTOR: u32 = 8;
/// Tries that are left out, after many in vain: 2 to this power, less one.
const VAIN_MAX: u32 = 4;

/// What a look at a ring came to.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// A request.
    Found(T),
    /// Nothing, yet.
    Nothing,
    /// Nothing more is begun: whoever stops the ring waits for the one who looks.
    Closed,
}

/// How long one ring is looked at.
#[derive(Debug)]
pub(crate) struct Patience {
    ring: u32,
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
    /// Pauses of `ring` up to `max` are waited for; zero: none, and it is in nobody's way.
    pub(crate) fn new(ring: u32, max: Duration) -> Self {
        Self {
            ring,
            max,
            idle_since: None,
            last_gap_was_short: false,
            vain: 0,
            left_out: 0,
        }
    }

    /// Its number.
    pub(crate) fn ring(&self) -> u32 {
        self.ring
    }

    /// Something came, and somebody else has noticed.
    pub(crate) fn woken(&mut self, pollers: &Pollers) {
        if let Some(since) = self.idle_since.take() {
            let now = Instant::now();
            self.last_gap_was_short = now.duration_since(since) <= self.max * GAP_FACTOR;
            pollers.in_use(self.ring, now);
        }
    }

    /// There is nothing on the ring. Asks `look` again and again, for as long as it seems to be worth it.
    pub(crate) fn wait<T>(
        &mut self,
        pollers: &Pollers,
        mut look: impl FnMut() -> Look<T>,
    ) -> Option<T> {
        if self.max.is_zero() {
            return None;
        }
        let since = Instant::now();
        self.idle_since = Some(since);
        pollers.in_use(self.ring, since);
        if !self.last_gap_was_short {
            return None;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        while pollers.may_look() {
            if since.elapsed() >= self.max {
                self.vain = (self.vain + 1).min(VAIN_MAX);
                self.left_out = (1 << self.vain) - 1;
                break;
            }
            std::hint::spin_loop();
            match look() {
                Look::Found(found) => {
                    self.idle_since = None;
                    self.vain = 0;
                    return Some(found);
                }
                Look::Nothing => {}
                Look::Closed => break,
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

    fn looks(patience: &mut Patience, pollers: &Pollers) -> bool {
        patience.wait(pollers, || Look::Found(())).is_some()
    }

    #[test]
    fn a_short_gap_is_waited_for_and_a_long_one_is_not() {
        let pollers = Pollers::with_processors(2);
        let mut patience = Patience::new(1, LONG);
        assert!(!looks(&mut patience, &pollers), "there was no gap yet");
        patience.woken(&pollers);
        assert!(looks(&mut patience, &pollers));
        assert!(looks(&mut patience, &pollers));
        let mut patience = Patience::new(1, SHORT);
        assert!(!looks(&mut patience, &pollers));
        std::thread::sleep(SHORT * (GAP_FACTOR + 1));
        patience.woken(&pollers);
        assert!(!looks(&mut patience, &pollers));
        assert!(!looks(&mut Patience::new(0, Duration::ZERO), &pollers));
    }

    #[test]
    fn in_vain_it_ends() {
        let pollers = Pollers::with_processors(2);
        let mut patience = Patience::new(1, Duration::from_millis(2));
        patience.last_gap_was_short = true;
        let mut count = 0;
        let end = Instant::now() + Duration::from_secs(30); // turns a hang into a failure
        let nothing: Option<()> = patience.wait(&pollers, || {
            count += 1;
            assert!(Instant::now() < end, "it never ends");
            Look::Nothing
        });
        assert!(nothing.is_none() && count > 0);
    }

    #[test]
    fn in_vain_it_looks_less_and_less_often() {
        let pollers = Pollers::with_processors(2);
        let mut patience = Patience::new(1, Duration::from_micros(1));
        patience.last_gap_was_short = true;
        let mut tries = Vec::new();
        for number in 0..40 {
            let nothing: Option<()> = patience.wait(&pollers, || Look::Nothing);
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
    fn nobody_looks_while_many_rings_are_in_use() {
        let pollers = Pollers::with_processors(2);
        let windows = |count| pollers.start + Duration::from_millis(WINDOW_MS * count);
        for at in 5..8 {
            pollers.in_use(1, windows(at));
            assert!(pollers.may_look(), "one ring");
        }
        pollers.in_use(63, windows(7));
        assert!(!pollers.may_look(), "two in one window");
        pollers.in_use(1, windows(8));
        assert!(!pollers.may_look(), "the other one in the window before");
        pollers.in_use(1, windows(9));
        assert!(pollers.may_look(), "the other one long ago");
        pollers.in_use(2, windows(20));
        assert!(pollers.may_look(), "after a pause only the other one");
        assert!(Pollers::new().may_look());
    }

    #[test]
    fn a_processor_is_left_if_rings_in_use_are_fewer() {
        let pollers = Pollers::with_processors(2);
        let windows = |count| pollers.start + Duration::from_millis(WINDOW_MS * count);
        for at in 5..8 {
            assert!(pollers.is_processor_left(1, windows(at)));
        }
        assert!(!pollers.is_processor_left(2, windows(8)));
        assert!(
            pollers.is_processor_left(2, windows(9)),
            "the first one is idle"
        );
        assert!(!Pollers::with_processors(1).is_processor_left(1, windows(1)));
    }

    #[test]
    fn whoever_looks_ends_when_others_are_in_use() {
        let pollers = Pollers::with_processors(2);
        let mut patience = Patience::new(1, LONG);
        patience.last_gap_was_short = true;
        let nothing: Option<()> = patience.wait(&pollers, || {
            let now = Instant::now();
            pollers.in_use(1, now);
            pollers.in_use(2, now);
            Look::Nothing
        });
        assert!(nothing.is_none() && patience.vain == 0);
    }

    #[test]
    fn whoever_looks_ends_with_the_ring() {
        let pollers = Pollers::with_processors(2);
        let mut patience = Patience::new(1, LONG);
        patience.last_gap_was_short = true;
        let mut looks = [Look::Nothing, Look::Closed].into_iter();
        let nothing: Option<()> = patience.wait(&pollers, || looks.next().expect("it had an end"));
        assert!(nothing.is_none() && looks.next().is_none());
        assert_eq!((patience.vain, patience.left_out), (0, 0), "not in vain");
    }
}
