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

    /// Any number of 32 bits.
    pub fn word(&mut self) -> u32 {
        let [.., a, b, c, d] = self.number().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// One of `start` to `end`, both included.
    pub fn between(&mut self, start: u32, end: u32) -> u32 {
        let span = u64::from(end.saturating_sub(start)) + 1;
        // Less than a span of 32 bits and one.
        start + u32::try_from(self.number() % span).unwrap_or_default()
    }

    /// One of `things`, if there are any.
    pub fn choose<'a, T>(&mut self, things: &'a [T]) -> Option<&'a T> {
        things.get(self.below(things.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_repeat_with_their_seed_and_keep_their_limits() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        for _ in 0..1_000 {
            let number = one.between(3, 5);
            assert_eq!(number, two.between(3, 5));
            assert!((3..=5).contains(&number));
        }
        assert_eq!(one.choose::<u8>(&[]), None);
        assert_eq!(one.between(9, 9), 9);
    }
}
