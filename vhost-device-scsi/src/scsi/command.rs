//! A command descriptor block, read without ever leaving it: what is beyond its end is zero.
//!
//! Knows no command.

/// The bytes of a command.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a>(pub &'a [u8]);

impl Command<'_> {
    /// The byte at `at`.
    pub fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Whether `bit` of the byte at `at` is set.
    pub fn bit(self, at: usize, bit: u32) -> bool {
        self.byte(at)
            .checked_shr(bit)
            .is_some_and(|rest| rest & 1 != 0)
    }

    /// Two bytes at `at`.
    pub fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    /// Four bytes at `at`.
    pub fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// Eight bytes at `at`.
    pub fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// Three bytes at `at`.
    pub fn u24(self, at: usize) -> u32 {
        let [a, b, c] = self.array(at);
        u32::from_be_bytes([0, a, b, c])
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.byte(at + index))
    }
}
