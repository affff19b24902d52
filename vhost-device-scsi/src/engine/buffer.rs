//! A buffer of our own, aligned as `O_DIRECT` wants it.
//!
//! Knows nothing of what is in it.

use crate::backing::DIRECT_ALIGNMENT;

/// See the [module](self).
pub(super) struct Aligned {
    room: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(super) fn new(len: usize) -> Self {
        let room = vec![0; len + DIRECT_ALIGNMENT];
        let start = room.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self { room, start, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.room
            .get(self.start..self.start + self.len)
            .unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.room
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_as_long_as_asked() {
        for len in [0, 1, 512, 1 << 20] {
            let mut buffer = Aligned::new(len);
            assert_eq!(buffer.bytes().len(), len);
            assert_eq!(
                buffer.bytes_mut().as_ptr().align_offset(DIRECT_ALIGNMENT),
                0
            );
        }
    }
}
