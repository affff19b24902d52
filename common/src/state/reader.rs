//! Reading a state stream, section by section.
//!
//! Knows neither the device nor where the bytes come from. Holds one section in memory at a time, and
//! never more of it than has arrived.

use std::error::Error;
use std::io::Read;

use crc32c::crc32c;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::report::Sparse;

use super::error::StateError;
use super::schema::{StateSchema, decode};
use super::source::Source;
use super::stream::{
    End, HEADER_BYTES, Header, Importance, Limits, SECTION_BYTES_MAX, SECTION_HEADER_BYTES,
    SectionHeader, Tag, header_checksum, section_header_checksum,
};

/// Reads one whole stream, from its first byte to the end of `input`, as the state of `S`.
pub fn read_state<S: StateSchema>(input: &mut dyn Read, limits: &Limits) -> Result<S, StateError> {
    let mut reader = StateReader::open(input, limits)?;
    admit::<S>(reader.header())?;
    let state = S::read(&mut reader)?;
    match reader.next_section()? {
        None => Ok(state),
        Some(Section { tag, offset, .. }) => Err(StateError::UnreadSection { tag, offset }),
    }
}

/// Refuses streams of other devices and of versions that `S` does not read.
fn admit<S: StateSchema>(header: Header) -> Result<(), StateError> {
    let (kind, oldest, newest) = (S::KIND, S::VERSION_OLDEST, S::VERSION);
    let Header {
        kind: found_kind,
        reader_oldest,
        version,
    } = header;
    if found_kind != kind.as_u16() {
        return Err(StateError::Device {
            expected: kind,
            found: found_kind,
        });
    }
    if reader_oldest > newest {
        return Err(StateError::ReaderTooOld {
            kind,
            needed: reader_oldest,
            newest,
        });
    }
    if version < oldest {
        return Err(StateError::VersionTooOld {
            kind,
            found: version,
            oldest,
            newest,
        });
    }
    Ok(())
}

/// One section, whose checksums are right. Nothing else about it is known to be.
#[derive(Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub tag: Tag,
    /// Its version.
    pub version: u16,
    /// What to do if it is not known.
    pub importance: Importance,
    /// Where it begins, in bytes from the beginning of the stream.
    pub offset: u64,
    payload: Vec<u8>,
}

impl Section {
    /// The payload as it is, for opaque data.
    pub fn bytes(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as it is, to be kept.
    pub fn into_bytes(self) -> Vec<u8> {
        self.payload
    }

    /// What there is to say if the payload is opaque data that the device cannot read.
    pub fn malformed(&self, source: impl Error + Send + Sync + 'static) -> StateError {
        StateError::Payload {
            tag: self.tag,
            offset: self.payload_offset(),
            source: Box::new(source),
        }
    }

    /// The payload as one value, of which nothing may be left over.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        let (value, rest) = self.decode_first(&self.payload)?;
        self.finished(rest)?;
        Ok(value)
    }

    /// [`decode_table`](Self::decode_table), added to what earlier sections of this tag held. More than `items_max` items in all are
    /// refused before they are decoded: in memory an item may be many times as large as in the stream.
    pub fn decode_table_onto<T: DeserializeOwned>(
        &self,
        table: &mut Option<Vec<T>>,
        items_max: usize,
    ) -> Result<(), StateError> {
        let table = table.get_or_insert_default();
        self.decode_items(table.len(), items_max, |item| table.push(item))
    }

    /// The payload as a piece of a table, of which nothing may be left over. The whole table is what
    /// all sections of this tag hold, in order.
    pub fn decode_table<T: DeserializeOwned>(&self) -> Result<Vec<T>, StateError> {
        let mut table = Vec::new();
        self.decode_items(0, usize::MAX, |item| table.push(item))?;
        Ok(table)
    }

    /// [`decode_table`](Self::decode_table) for a table that keeps its items in a form of its own: `take` gets each, and it may borrow
    /// from the payload. More than `items_max`, `before` included, are refused first. On an error `take` may have got some.
    pub fn decode_items<'s, T: Deserialize<'s>>(
        &'s self,
        before: usize,
        items_max: usize,
        mut take: impl FnMut(T),
    ) -> Result<(), StateError> {
        const {
            assert!(
                size_of::<T>() > 0,
                "any number of items without bytes fits into nothing"
            );
        };
        let (count, mut rest): (u32, _) = self.decode_first(&self.payload)?;
        let (tag, offset) = (self.tag, self.payload_offset());
        let items = before.saturating_add(count as usize);
        if items > items_max {
            return Err(StateError::TableTooLong {
                tag,
                offset,
                items,
                items_max,
            });
        }
        // An item has at least one byte. The table grows with what was decoded, not with the claim.
        let (items, bytes) = (u64::from(count), rest.len() as u64);
        if items > bytes {
            return Err(StateError::TableItems {
                tag,
                offset,
                items,
                bytes,
            });
        }
        for _ in 0..count {
            let (item, after) = self.decode_first(rest)?;
            if after.len() == rest.len() {
                return Err(StateError::EmptyItem { tag });
            }
            take(item);
            rest = after;
        }
        self.finished(rest)
    }

    fn decode_first<'b, T: Deserialize<'b>>(
        &self,
        bytes: &'b [u8],
    ) -> Result<(T, &'b [u8]), StateError> {
        let (value, consumed) = decode(bytes).map_err(|source| self.malformed(source))?;
        Ok((value, bytes.get(consumed..).unwrap_or_default()))
    }

    fn finished(&self, rest: &[u8]) -> Result<(), StateError> {
        if rest.is_empty() {
            return Ok(());
        }
        Err(StateError::PayloadTooLong {
            tag: self.tag,
            offset: self.payload_offset(),
            surplus: rest.len() as u64,
        })
    }

    fn payload_offset(&self) -> u64 {
        self.offset + SECTION_HEADER_BYTES as u64
    }
}

/// Gives the sections of a stream, one after the other.
pub struct StateReader<'a> {
    source: Source<'a>,
    header: Header,
    section_bytes_max: u64,
    /// The checksum at the end of the latest header.
    checksum: u32,
    sections: u64,
    ended: bool,
    /// Optional sections that the schema does not know.
    skipped: Sparse,
}

impl<'a> StateReader<'a> {
    /// Reads the header and checks that it is sound. Whose stream it is, is not asked.
    pub fn open(input: &'a mut dyn Read, limits: &Limits) -> Result<Self, StateError> {
        let &Limits {
            total_bytes_max,
            section_bytes_max,
        } = limits;
        let mut source = Source {
            input,
            offset: 0,
            limit: total_bytes_max,
        };
        let bytes = match source.exactly::<HEADER_BYTES>() {
            Err(StateError::Truncated { offset: 0, .. }) => Err(StateError::Empty),
            other => other,
        }?;
        Ok(Self {
            header: Header::from_bytes(&bytes)?,
            source,
            section_bytes_max: section_bytes_max.min(SECTION_BYTES_MAX),
            checksum: header_checksum(&bytes),
            sections: 0,
            ended: false,
            skipped: Sparse::default(),
        })
    }

    /// What the stream says about itself.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The schema version that the stream was written with.
    pub fn version(&self) -> u16 {
        self.header.version
    }

    /// Length of what was read so far, in bytes.
    pub fn offset(&self) -> u64 {
        self.source.offset
    }

    /// The next section; `None` once the stream is whole, sound and at the end of the input.
    pub fn next_section(&mut self) -> Result<Option<Section>, StateError> {
        if self.ended {
            return Ok(None);
        }
        let offset = self.source.offset;
        let bytes = self.source.exactly::<SECTION_HEADER_BYTES>()?;
        let SectionHeader {
            tag,
            version,
            importance,
            length,
            payload_checksum,
        } = SectionHeader::from_bytes(&bytes, self.checksum, offset)?;
        self.checksum = section_header_checksum(&bytes);
        if length > self.section_bytes_max {
            let limit = self.section_bytes_max;
            return Err(StateError::SectionTooLong {
                tag,
                offset,
                length,
                limit,
            });
        }
        let payload = self.source.some(length)?;
        let section = Section {
            tag,
            version,
            importance,
            offset,
            payload,
        };
        let found = crc32c(&section.payload);
        if found != payload_checksum {
            let offset = section.payload_offset();
            let expected = payload_checksum;
            return Err(StateError::SectionDamaged {
                tag,
                offset,
                expected,
                found,
            });
        }
        if tag == Tag::END {
            self.end(&section)?;
            return Ok(None);
        }
        self.sections += 1;
        Ok(Some(section))
    }

    /// To be called with every section that the schema does not know, be it for its tag or for its
    /// version: a critical one is refused, an optional one is noted in the log.
    pub fn unknown(&self, section: &Section) -> Result<(), StateError> {
        let &Section {
            tag,
            version,
            importance,
            offset,
            payload: _,
        } = section;
        match importance {
            Importance::Critical => Err(StateError::UnknownSection {
                tag,
                version,
                offset,
            }),
            Importance::Optional => {
                if let Some(count) = self.skipped.count() {
                    log::warn!(
                        "state stream: skipped optional section {tag} version {version} ({count} so far)"
                    );
                }
                Ok(())
            }
        }
    }

    fn end(&mut self, section: &Section) -> Result<(), StateError> {
        let offset = section.offset;
        let wrong = |what, expected: u64, found: u64| {
            let error = StateError::End {
                offset,
                what,
                expected,
                found,
            };
            if expected == found {
                Ok(())
            } else {
                Err(error)
            }
        };
        wrong(
            "version of itself",
            End::VERSION.into(),
            section.version.into(),
        )?;
        let Ok(bytes) = section.payload.as_slice().try_into() else {
            return wrong(
                "length of itself",
                End::BYTES as u64,
                section.payload.len() as u64,
            );
        };
        let End { sections, bytes } = End::from_bytes(bytes);
        wrong("number of sections", self.sections, sections)?;
        wrong("length of the stream", self.source.offset, bytes)?;
        self.source.at_end()?;
        self.ended = true;
        Ok(())
    }
}
