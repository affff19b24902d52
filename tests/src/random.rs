//! Random numbers for tests: from one seed always the same ones, so that a failure can be seen again.
//!
//! Sebastiano Vigna's `SplitMix64`: any seed is a good one.

use std::time::UNIX_EPOCH;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed made of the time. Whoever uses it tells it when the test fails.
    pub fn seed_of_the_time() -> u64 {
        let now = UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_nanos() % u128::from(u64::MAX));
        u64::try_from(now).unwrap_or(0)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        let [byte, ..] = self.number().to_le_bytes();
        byte
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end.max(1) as u64).unwrap_or(0)
    }

    /// True once in about `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `all`, or `other` if there are none.
    pub fn one_of<T: Copy>(&mut self, all: &[T], other: T) -> T {
        all.get(self.below(all.len())).copied().unwrap_or(other)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}
