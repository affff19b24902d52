//! Locks on names in directories: held from the look at a name on the host until we have noted what we saw there.
//!
//! A LOOKUP that is overtaken by a RENAME would note the old name as the newest one. Requests on different names are not in each other's
//! way, also in one directory: what they note are different names. Knows no file, and makes no system call.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::store::Name;

/// Each lock is that of many names.
const LOCKS: usize = 64;

/// The locks of all names.
#[derive(Debug)]
pub(crate) struct NameLocks([RwLock<()>; LOCKS]);

/// A name is not changed while this lives.
pub(crate) type Kept<'a> = RwLockReadGuard<'a, ()>;
/// No other request looks at a name while this lives.
pub(crate) type Changed<'a> = RwLockWriteGuard<'a, ()>;

impl Default for NameLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RwLock::default()))
    }
}

impl NameLocks {
    /// While this is held, no request changes what is called `name` in `directory`.
    pub(crate) fn keep(&self, directory: u64, name: Name<'_>) -> Kept<'_> {
        let (_, lock) = self.of(directory, name);
        lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, no other request looks at `name` in `directory`.
    pub(crate) fn change(&self, directory: u64, name: Name<'_>) -> Changed<'_> {
        let (_, lock) = self.of(directory, name);
        lock.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`change`](Self::change) of two names. They may be the same.
    pub(crate) fn change_both(
        &self,
        one: (u64, Name<'_>),
        other: (u64, Name<'_>),
    ) -> (Changed<'_>, Option<Changed<'_>>) {
        let mut locks = [self.of(one.0, one.1), self.of(other.0, other.1)];
        // Always in the same order, so that two do not wait for each other.
        locks.sort_unstable_by_key(|(index, _)| *index);
        let [(first_index, first), (second_index, second)] = locks;
        let first = first.write().unwrap_or_else(PoisonError::into_inner);
        let second = (first_index != second_index)
            .then(|| second.write().unwrap_or_else(PoisonError::into_inner));
        (first, second)
    }

    fn of(&self, directory: u64, name: Name<'_>) -> (usize, &RwLock<()>) {
        let [first, ..] = &self.0;
        let index = place(directory, name);
        (index, self.0.get(index).unwrap_or(first))
    }
}

/// Spread well enough: a guest that chooses names which meet waits for itself.
fn place(directory: u64, name: Name<'_>) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 divided by the golden ratio, odd
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    let hash = name
        .bytes()
        .chunks(size_of::<u64>())
        .fold(directory, |hash, chunk| {
            let mut word = [0; size_of::<u64>()];
            for (byte, of_name) in word.iter_mut().zip(chunk) {
                *byte = *of_name;
            }
            mix(hash, u64::from_le_bytes(word))
        });
    usize::try_from(mix(hash, 0) >> (u64::BITS - LOCKS.ilog2())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(text: &str) -> Name<'_> {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_of_one_directory_are_spread_and_one_name_is_one_lock() {
        let places: HashSet<usize> = (0..1_000)
            .map(|number| place(7, name(&format!("file{number}"))))
            .collect();
        assert_eq!(places.len(), LOCKS);
        assert_eq!(place(7, name("a")), place(7, name("a")));
        let of_directories: HashSet<usize> =
            (0..1_000).map(|number| place(number, name("a"))).collect();
        assert_eq!(of_directories.len(), LOCKS);
    }

    #[test]
    fn two_names_are_taken_in_any_order_and_the_same_one_once() {
        let locks = NameLocks::default();
        let (one, other) = ((1, name("a")), (2, name("b")));
        std::thread::scope(|scope| {
            for (first, second) in [(one, other), (other, one), (one, one)] {
                let locks = &locks;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        drop(locks.change_both(first, second));
                    }
                });
            }
        });
        let _both = locks.change_both(one, other);
        for (directory, name) in [one, other] {
            let (_, lock) = locks.of(directory, name);
            assert!(lock.try_read().is_err());
        }
    }
}
