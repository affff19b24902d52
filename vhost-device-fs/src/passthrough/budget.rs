//! How many descriptors the guest may hold: room is reserved before something is opened, so that rings that open at the same time do
//! not take the same room twice.
//!
//! Keeps no count of what is held, only of what is about to be; knows neither handles nor files.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::operations::FsResult;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Budget {
    held_max: usize,
    reserved: AtomicUsize,
}

/// Room for descriptors. Dropped when they count as held, or will never be.
#[derive(Debug)]
#[must_use = "room is reserved only as long as this lives"]
pub(crate) struct Reserved<'a> {
    budget: &'a Budget,
    count: usize,
}

impl Budget {
    /// Room for `held_max` descriptors.
    pub(crate) fn new(held_max: usize) -> Self {
        Self {
            held_max,
            reserved: AtomicUsize::new(0),
        }
    }

    /// Reserves room for `count` descriptors beside what `held` says is held; `ENFILE` if there is not enough.
    ///
    /// What is held is asked for afterwards: what another thread has opened since is either seen there, or was still reserved.
    /// For a moment it may be both, and the last room is refused to one that would have fitted; never given to two.
    pub(crate) fn reserve(
        &self,
        count: usize,
        held: impl FnOnce() -> usize,
    ) -> FsResult<Reserved<'_>> {
        let before = self.reserved.fetch_add(count, Ordering::AcqRel);
        // Gives it back if it is too much.
        let reserved = Reserved {
            budget: self,
            count,
        };
        if held() + before + count <= self.held_max {
            Ok(reserved)
        } else {
            Err(Errno::NFILE)
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget
            .reserved
            .fetch_sub(self.count, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn what_is_reserved_is_given_once_until_it_is_given_back() {
        let budget = Budget::new(3);
        let held = || 1;
        let one = budget.reserve(1, held).unwrap();
        assert!(budget.reserve(2, held).is_err(), "two do not fit");
        let other = budget.reserve(1, held).unwrap();
        assert_eq!(budget.reserve(1, held).map(drop), Err(Errno::NFILE));
        drop(one);
        drop(budget.reserve(1, held).unwrap());
        drop(other);
        let both = budget.reserve(2, held).unwrap();
        assert!(budget.reserve(1, held).is_err());
        drop(both);
        assert!(budget.reserve(1, || 3).is_err(), "held already");
        assert!(budget.reserve(0, || 3).is_ok());
    }

    /// Threads hold what they get for a while, counted after the fact as a table of handles does.
    #[test]
    fn threads_never_hold_more_than_there_is() {
        const HELD_MAX: usize = 1;
        let budget = Budget::new(HELD_MAX);
        let held = AtomicUsize::new(0);
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..20_000 {
                        let Ok(reserved) = budget.reserve(1, || held.load(Ordering::Relaxed))
                        else {
                            continue;
                        };
                        std::thread::yield_now();
                        let before = held.fetch_add(1, Ordering::Relaxed);
                        drop(reserved);
                        assert!(before < HELD_MAX, "{before} were held already");
                        std::thread::yield_now();
                        held.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(budget.reserved.load(Ordering::Relaxed), 0);
    }
}
