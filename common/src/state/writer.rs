//! Writing a state stream, section by section.
//!
//! Knows neither the device nor where the bytes go. Holds one section in memory at a time.

use std::io::{self, Read, Write};

use crc32c::crc32c;
use serde::Serialize;

use super::error::StateError;
use super::schema::{StateSchema, encode};
use super::stream::{
    CHUNK_BYTES_MAX, End, Header, Importance, SECTION_BYTES_MAX, SECTION_HEADER_BYTES,
    SectionHeader, Tag, header_checksum, section_header_checksum,
};

/// A table is cut into sections of about this many bytes: it stays in the processor's cache from where it is encoded into the pipe,
/// which is as large, and the other end begins at once. One item may be longer.
const TABLE_BYTES: usize = 1 << 16;

/// What a finished stream amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSummary {
    /// Length of the stream in bytes.
    pub bytes: u64,
    /// Number of sections, without the one that ends the stream.
    pub sections: u64,
}

/// Writes `state` to `out` in `version`, which lies between the schema's oldest and newest.
///
/// On an error `out` holds part of a stream, which no reader accepts.
pub fn write_state<S: StateSchema>(
    state: &S,
    version: u16,
    out: &mut dyn Write,
) -> Result<WriteSummary, StateError> {
    let (oldest, newest) = (S::VERSION_OLDEST, S::VERSION);
    if !(oldest..=newest).contains(&version) {
        let kind = S::KIND;
        return Err(StateError::VersionNotWritten {
            kind,
            asked: version,
            oldest,
            newest,
        });
    }
    let reader_oldest = S::reader_oldest(version);
    let header = Header {
        kind: S::KIND.as_u16(),
        reader_oldest,
        version,
    };
    let mut writer = StateWriter::begin(header, out)?;
    state.write(&mut writer)?;
    writer.end()
}

/// Takes the sections of a state, in the order in which they are to be read.
pub struct StateWriter<'a> {
    out: &'a mut dyn Write,
    version: u16,
    /// Length of what was written so far, in bytes.
    offset: u64,
    sections: u64,
    /// The checksum at the end of the latest header.
    checksum: u32,
}

impl<'a> StateWriter<'a> {
    pub(super) fn begin(header: Header, out: &'a mut dyn Write) -> Result<Self, StateError> {
        let bytes = header.to_bytes();
        let checksum = header_checksum(&bytes);
        let mut writer = Self {
            out,
            version: header.version,
            offset: 0,
            sections: 0,
            checksum,
        };
        writer.put(&bytes)?;
        Ok(writer)
    }

    /// The schema version to write.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Writes one value as one section of at most [`SECTION_BYTES_MAX`] bytes.
    pub fn section<T: Serialize>(
        &mut self,
        tag: Tag,
        version: u16,
        importance: Importance,
        value: &T,
    ) -> Result<(), StateError> {
        let mut payload = Vec::new();
        encode_value(tag, value, &mut payload)?;
        self.piece(tag, version, importance, &payload)
    }

    /// Writes a table of any length, one item at a time, as as many sections as it takes. An empty
    /// table is one section without items.
    ///
    /// A payload is the number of items (u32) and the items.
    pub fn table<T: Serialize>(
        &mut self,
        tag: Tag,
        version: u16,
        importance: Importance,
        items: impl IntoIterator<Item = T>,
    ) -> Result<(), StateError> {
        const COUNT_BYTES: usize = size_of::<u32>();
        let mut count: u32 = 0;
        let mut payload = count.to_le_bytes().to_vec();
        for item in items {
            let before = payload.len();
            encode_value(tag, &item, &mut payload)?;
            if payload.len() == before {
                return Err(StateError::EmptyItem { tag });
            }
            if count > 0 && payload.len() > TABLE_BYTES {
                let whole = payload.get(..before).unwrap_or_default();
                self.piece(tag, version, importance, whole)?;
                payload.drain(COUNT_BYTES..before);
                count = 0;
            }
            count += 1; // cannot overflow: an item has a byte, a piece at most 2^16 of them
            for (byte, new) in payload.iter_mut().zip(count.to_le_bytes()) {
                *byte = new;
            }
        }
        self.piece(tag, version, importance, &payload)
    }

    /// Writes opaque bytes as as many sections as it takes; no bytes are one empty section.
    pub fn raw(
        &mut self,
        tag: Tag,
        version: u16,
        importance: Importance,
        bytes: &[u8],
    ) -> Result<(), StateError> {
        self.raw_from(tag, version, importance, &mut &*bytes, bytes.len() as u64)
    }

    /// Like [`raw`](Self::raw), with the next `length` bytes of `source`. Fewer are an error of the
    /// host.
    pub fn raw_from(
        &mut self,
        tag: Tag,
        version: u16,
        importance: Importance,
        source: &mut dyn Read,
        length: u64,
    ) -> Result<(), StateError> {
        let mut left = length;
        let mut chunk = Vec::new();
        loop {
            let wanted = usize::try_from(left).map_or(CHUNK_BYTES_MAX, |l| l.min(CHUNK_BYTES_MAX));
            chunk.resize(wanted, 0);
            source
                .read_exact(&mut chunk)
                .map_err(|source| self.failed(source))?;
            self.piece(tag, version, importance, &chunk)?;
            left -= wanted as u64;
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Writes the section that ends the stream.
    pub(super) fn end(mut self) -> Result<WriteSummary, StateError> {
        let sections = self.sections;
        let length = SECTION_HEADER_BYTES + End::BYTES;
        let end = End {
            sections,
            bytes: self.offset + length as u64,
        };
        self.piece(
            Tag::END,
            End::VERSION,
            Importance::Critical,
            &end.to_bytes(),
        )?;
        self.out.flush().map_err(|source| self.failed(source))?;
        Ok(WriteSummary {
            bytes: self.offset,
            sections,
        })
    }

    /// Writes opaque bytes as one section, of at most [`SECTION_BYTES_MAX`] bytes.
    pub fn piece(
        &mut self,
        tag: Tag,
        version: u16,
        importance: Importance,
        payload: &[u8],
    ) -> Result<(), StateError> {
        let length = payload.len() as u64;
        if length > SECTION_BYTES_MAX {
            let limit = SECTION_BYTES_MAX;
            return Err(StateError::SectionTooLongToWrite { tag, length, limit });
        }
        let payload_checksum = crc32c(payload);
        let header = SectionHeader {
            tag,
            version,
            importance,
            length,
            payload_checksum,
        }
        .to_bytes(self.checksum);
        self.checksum = section_header_checksum(&header);
        self.sections += 1;
        self.put(&header)?;
        self.put(payload)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.out
            .write_all(bytes)
            .map_err(|source| self.failed(source))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> StateError {
        StateError::Write {
            offset: self.offset,
            source,
        }
    }
}

fn encode_value<T: Serialize>(tag: Tag, value: &T, bytes: &mut Vec<u8>) -> Result<(), StateError> {
    encode(value, bytes).map_err(|source| StateError::Encode {
        tag,
        source: Box::new(source),
    })
}
