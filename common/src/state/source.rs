//! The bytes of a state as they arrive: no more than the reader allows, and memory only for what came. Knows no section.

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

    /// The next `length` bytes. Beyond the size of a usual piece of a table, memory grows as they arrive.
    pub(super) fn some(&mut self, length: u64) -> Result<Vec<u8>, StateError> {
        if length > self.limit.saturating_sub(self.offset) {
            return Err(StateError::StreamTooLong { limit: self.limit });
        }
        let mut bytes = Vec::new();
        let result = self.fill(&mut bytes, length);
        let read = bytes.len() as u64;
        self.offset += read;
        let offset = self.offset;
        match result {
            Err(source) => Err(StateError::Read { offset, source }),
            Ok(()) if read < length => Err(StateError::Truncated {
                offset,
                missing: length - read,
            }),
            Ok(()) => Ok(bytes),
        }
    }

    /// Reads until there are `length` bytes, or no more: as many at once as there is room for, which `read_to_end` would only do after
    /// some smaller attempts.
    fn fill(&mut self, bytes: &mut Vec<u8>, length: u64) -> io::Result<()> {
        while (bytes.len() as u64) < length {
            let begin = bytes.len();
            let left = usize::try_from(length - begin as u64).unwrap_or(usize::MAX);
            bytes.resize(begin + left.min(CHUNK_BYTES_MAX), 0);
            let mut end = begin;
            let mut result = Ok(());
            while let Some(room) = bytes.get_mut(end..).filter(|room| !room.is_empty()) {
                match self.input.read(room) {
                    Ok(0) => break,
                    Ok(count) => end += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            let is_short = end < bytes.len();
            bytes.truncate(end);
            if is_short {
                return result;
            }
        }
        Ok(())
    }

    pub(super) fn at_end(&mut self) -> Result<(), StateError> {
        let offset = self.offset;
        let mut surplus = [0];
        loop {
            match self.input.read(&mut surplus) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(StateError::Trailing { offset }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(StateError::Read { offset, source }),
            }
        }
    }
}
