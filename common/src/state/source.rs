//! The bytes of a state as they arrive: no more than the reader allows, and memory for little more than what came. Knows no section.

use std::io::{self, Read};

use super::error::StateError;
use super::stream::CHUNK_BYTES_MAX;

/// The input, how far we are, and how far we go.
pub(super) struct Source<'a> {
    pub(super) input: &'a mut dyn Read,
    pub(super) offset: u64,
    pub(super) limit: u64,
}

impl Source<'_> {
    pub(super) fn exactly<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let bytes = self.some(N as u64)?;
        Ok(bytes.try_into().unwrap_or([0; N])) // there are N of them
    }

    /// The next `length` bytes. Room is made for [`CHUNK_BYTES_MAX`] at a time, when what came before it is full; as many are read at
    /// once as there is room for, which `read_to_end` would only do after some smaller attempts.
    pub(super) fn some(&mut self, length: u64) -> Result<Vec<u8>, StateError> {
        if length > self.limit.saturating_sub(self.offset) {
            return Err(StateError::StreamTooLong { limit: self.limit });
        }
        let mut bytes = Vec::new();
        let mut filled = 0;
        loop {
            let missing = length - filled as u64;
            if missing == 0 {
                return Ok(bytes);
            }
            if filled == bytes.len() {
                let left = usize::try_from(missing).unwrap_or(usize::MAX);
                bytes.resize(filled + left.min(CHUNK_BYTES_MAX), 0);
            }
            let room = bytes.get_mut(filled..).unwrap_or_default();
            let count = self.read(room)?;
            if count == 0 {
                let offset = self.offset;
                return Err(StateError::Truncated { offset, missing });
            }
            filled += count;
        }
    }

    pub(super) fn at_end(&mut self) -> Result<(), StateError> {
        let offset = self.offset;
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(StateError::Trailing { offset }),
        }
    }

    /// Some of what comes next; none at the end.
    fn read(&mut self, room: &mut [u8]) -> Result<usize, StateError> {
        loop {
            match self.input.read(room) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset;
                    return Err(StateError::Read { offset, source });
                }
            }
        }
    }
}
