//! Whether the host's storage answers at once, as memory does: then it is not worth it to wake a thread that waits for it.
//!
//! Knows durations, and no file.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What is answered within this time keeps others waiting for no longer than they would notice.
const QUICK: Duration = Duration::from_micros(100);
/// So many quick answers in a row are needed: one may be quick because there was nothing to do.
const QUICK_ENOUGH: u32 = 16;

/// See the [module](self). Slow until the opposite is shown.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Quick answers since the last one that was not.
    quick: AtomicU32,
}

impl Pace {
    /// Whether the next answer may take long.
    pub(crate) fn is_slow(&self) -> bool {
        self.quick.load(Ordering::Relaxed) < QUICK_ENOUGH
    }

    /// Two that come at the same time may count as one.
    pub(crate) fn answered_within(&self, duration: Duration) {
        let quick = if duration > QUICK {
            0
        } else {
            self.quick.load(Ordering::Relaxed).saturating_add(1)
        };
        self.quick.store(quick, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_is_remembered_for_a_while() {
        let pace = Pace::default();
        for _ in 0..2 {
            for _ in 0..QUICK_ENOUGH {
                assert!(pace.is_slow());
                pace.answered_within(QUICK);
            }
            assert!(!pace.is_slow());
            pace.answered_within(Duration::ZERO);
            assert!(!pace.is_slow());
            pace.answered_within(QUICK + Duration::from_nanos(1));
        }
        assert!(pace.is_slow());
    }
}
