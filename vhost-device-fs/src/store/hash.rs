//! How nodeids, handles and identities are hashed. Knows numbers only.
//!
//! The numbers come from a guest, from the host's file system or from a state stream, and whoever forges a stream would like them
//! all to fall into one place of a table. So the function is drawn at random when the process starts, from a family that is
//! *strongly universal* (Dietzfelbinger, "Universal hashing and k-wise independent random variables via integer arithmetic
//! without primes", 1996): `h(x) = (offset + sum of multiplier[i] * x[i] mod 2^128) / 2^64`. Whatever two different keys somebody
//! has chosen, they agree in any `n` bits of the hash with probability 2^-n, because the stream was written before the multipliers
//! were drawn, and nothing ever tells of them. That is all that a table needs of its hash, and it costs two multiplications for
//! each number of a key; std's default, which is made for keys of any length, costs a multiple of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// Numbers in the longest key, an [`Identity`](super::Identity).
const NUMBERS_MAX: usize = 3;

/// A function of the family: the same one for all tables of this process.
#[derive(Clone, Copy)]
struct Function {
    offset: u128,
    multipliers: [u128; NUMBERS_MAX],
}

static FUNCTION: LazyLock<Function> = LazyLock::new(|| {
    // std's keys are the operating system's random numbers.
    let random = RandomState::new();
    let draw = |number: usize| {
        let half = |half: u8| u128::from(random.hash_one((number, half)));
        half(0) << 64 | half(1)
    };
    Function {
        offset: draw(NUMBERS_MAX),
        multipliers: std::array::from_fn(draw),
    }
});

/// Makes the hashes of the store's tables.
#[derive(Clone, Copy)]
pub(super) struct NumberHash(Function);

impl Default for NumberHash {
    fn default() -> Self {
        Self(*FUNCTION)
    }
}

impl std::fmt::Debug for NumberHash {
    /// Tells nothing of the function.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NumberHash")
    }
}

impl BuildHasher for NumberHash {
    type Hasher = Sum;

    fn build_hasher(&self) -> Sum {
        Sum {
            total: self.0.offset,
            multipliers: self.0.multipliers,
            numbers: 0,
        }
    }
}

/// A key that is being hashed.
#[derive(Clone)]
pub(super) struct Sum {
    total: u128,
    multipliers: [u128; NUMBERS_MAX],
    numbers: usize,
}

impl Hasher for Sum {
    fn write_u64(&mut self, number: u64) {
        // No key has more numbers; if one had, it would be hashed less well.
        let multiplier = self.multipliers.get(self.numbers % NUMBERS_MAX);
        let product = multiplier.copied().unwrap_or(1).wrapping_mul(number.into());
        self.total = self.total.wrapping_add(product);
        self.numbers += 1;
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        u64::try_from(self.total >> 64).unwrap_or_default() // 64 bits are left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Identity;

    /// Greatest number of `keys` that agree in the `bits` lowest bits of their hash.
    fn most_alike(keys: impl Iterator<Item = u64>, bits: u32) -> usize {
        let mut alike = vec![0; 1 << bits];
        for key in keys {
            let hash = NumberHash::default().hash_one(key);
            alike[usize::try_from(hash % (1 << bits)).unwrap()] += 1;
        }
        alike.into_iter().max().unwrap()
    }

    #[test]
    fn keys_that_are_alike_are_spread() {
        // Counters, and numbers that only differ in their uppermost bits, as a forger of a weaker hash would have them.
        for shift in [0, 1, 12, 32, 48] {
            let most = most_alike((0..1 << 16).map(|key: u64| key << shift), 12);
            // 16 on average. A function that is no good puts them all together; a drawn one is rarely this uneven.
            assert!(most < 1_000, "{most} of 65536 keys, shifted by {shift}");
        }
    }

    #[test]
    fn every_number_of_an_identity_counts() {
        let identity = Identity {
            mount: 1,
            ino: 2,
            birth_ns: 3,
        };
        let changed = [
            Identity {
                mount: 2,
                ..identity
            },
            Identity { ino: 1, ..identity },
            Identity {
                birth_ns: 4,
                ..identity
            },
            Identity {
                ino: 3,
                birth_ns: 2,
                ..identity
            },
        ];
        let hash = NumberHash::default();
        assert_eq!(hash.hash_one(identity), hash.hash_one(identity));
        for other in changed {
            assert_ne!(hash.hash_one(identity), hash.hash_one(other));
        }
    }
}
