//! The fixed bytes of a state stream: header, section header, end section, and the limits.
//!
//! Knows neither payloads nor I/O. The layout is drawn in the [module above](super).

use std::fmt;

use crc32c::{crc32c, crc32c_append};

use super::error::StateError;

const MAGIC: [u8; 8] = *b"VHUSTATE";

/// The format written and read here.
pub const FORMAT: u16 = 1;

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 32;

/// Length of a section header in bytes.
pub const SECTION_HEADER_BYTES: usize = 24;

/// Greatest length of a section's payload in bytes: nothing larger is written, whatever the reader's
/// [`Limits`] are, and it is also the limit of the payload codec.
pub const SECTION_BYTES_MAX: u64 = 16 << 20;

/// Opaque data is cut into sections of at most this many bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What a reader is willing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Greatest length of the stream in bytes.
    pub total_bytes_max: u64,
    /// Greatest length of a section's payload in bytes; [`SECTION_BYTES_MAX`] is the ceiling.
    pub section_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes_max: 256 << 20,
            section_bytes_max: SECTION_BYTES_MAX,
        }
    }
}

/// The name of a section: four ASCII letters, readable in a hex dump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

impl Tag {
    /// The section that ends a stream. Reserved: a schema gives its sections other names.
    pub const END: Self = Self::new(*b"ENDS");

    /// The tag with these letters.
    pub const fn new(letters: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(letters))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = self.0.to_le_bytes();
        match str::from_utf8(&letters) {
            Ok(text) if letters.iter().all(u8::is_ascii_graphic) => formatter.pad(text),
            _ => formatter.pad(&format!("{:#010x}", self.0)),
        }
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What a reader does with a section that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// It refuses the stream: without this section the device would not be the same.
    Critical,
    /// It goes on without it.
    Optional,
}

const FLAG_CRITICAL: u16 = 1;

impl Importance {
    fn flags(self) -> u16 {
        match self {
            Self::Critical => FLAG_CRITICAL,
            Self::Optional => 0,
        }
    }

    fn from_flags(flags: u16) -> Option<Self> {
        match flags {
            FLAG_CRITICAL => Some(Self::Critical),
            0 => Some(Self::Optional),
            _ => None,
        }
    }
}

/// The first bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The device's number, see [`DeviceKind`](super::DeviceKind). Kept as a number, so that a
    /// stream of an unknown device can still be shown.
    pub kind: u16,
    /// A reader whose schema is older than this version refuses the stream.
    pub reader_oldest: u16,
    /// Version of the schema that the stream was written with.
    pub version: u16,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put::<0, _, _>(&mut bytes, MAGIC);
        put::<8, _, _>(&mut bytes, FORMAT.to_le_bytes());
        put::<10, _, _>(&mut bytes, self.kind.to_le_bytes());
        put::<12, _, _>(&mut bytes, self.reader_oldest.to_le_bytes());
        put::<14, _, _>(&mut bytes, self.version.to_le_bytes());
        let checksum = crc32c(&take::<0, 28, _>(&bytes));
        put::<28, _, _>(&mut bytes, checksum.to_le_bytes());
        bytes
    }

    /// Refuses, in this order: what is no state stream, what is damaged, what is of another format.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, StateError> {
        let magic = take::<0, 8, _>(bytes);
        if magic != MAGIC {
            return Err(StateError::NotAState { found: magic });
        }
        let expected = crc32c(&take::<0, 28, _>(bytes));
        let found = header_checksum(bytes);
        if expected != found {
            return Err(StateError::HeaderDamaged { expected, found });
        }
        let format = u16::from_le_bytes(take::<8, 2, _>(bytes));
        if format != FORMAT {
            return Err(StateError::Format { found: format });
        }
        let reserved = take::<16, 12, _>(bytes);
        if reserved != [0; 12] {
            return Err(StateError::HeaderReserved { found: reserved });
        }
        Ok(Self {
            kind: u16::from_le_bytes(take::<10, 2, _>(bytes)),
            reader_oldest: u16::from_le_bytes(take::<12, 2, _>(bytes)),
            version: u16::from_le_bytes(take::<14, 2, _>(bytes)),
        })
    }
}

/// The checksum at the end of a header, which the first section header's continues.
pub(super) fn header_checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    u32::from_le_bytes(take::<28, 4, _>(bytes))
}

/// What stands before a section's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SectionHeader {
    pub(super) tag: Tag,
    pub(super) version: u16,
    pub(super) importance: Importance,
    pub(super) length: u64,
    pub(super) payload_checksum: u32,
}

impl SectionHeader {
    /// `previous` is the checksum at the end of the header before this one.
    pub(super) fn to_bytes(self, previous: u32) -> [u8; SECTION_HEADER_BYTES] {
        let mut bytes = [0; SECTION_HEADER_BYTES];
        put::<0, _, _>(&mut bytes, self.tag.0.to_le_bytes());
        put::<4, _, _>(&mut bytes, self.version.to_le_bytes());
        put::<6, _, _>(&mut bytes, self.importance.flags().to_le_bytes());
        put::<8, _, _>(&mut bytes, self.length.to_le_bytes());
        put::<16, _, _>(&mut bytes, self.payload_checksum.to_le_bytes());
        let checksum = crc32c_append(previous, &take::<0, 20, _>(&bytes));
        put::<20, _, _>(&mut bytes, checksum.to_le_bytes());
        bytes
    }

    /// `offset` is where these bytes stand in the stream.
    pub(super) fn from_bytes(
        bytes: &[u8; SECTION_HEADER_BYTES],
        previous: u32,
        offset: u64,
    ) -> Result<Self, StateError> {
        let expected = crc32c_append(previous, &take::<0, 20, _>(bytes));
        let found = section_header_checksum(bytes);
        if expected != found {
            return Err(StateError::SectionHeaderDamaged {
                offset,
                expected,
                found,
            });
        }
        let tag = Tag(u32::from_le_bytes(take::<0, 4, _>(bytes)));
        let flags = u16::from_le_bytes(take::<6, 2, _>(bytes));
        Ok(Self {
            tag,
            version: u16::from_le_bytes(take::<4, 2, _>(bytes)),
            importance: Importance::from_flags(flags).ok_or(StateError::SectionFlags {
                tag,
                offset,
                found: flags,
            })?,
            length: u64::from_le_bytes(take::<8, 8, _>(bytes)),
            payload_checksum: u32::from_le_bytes(take::<16, 4, _>(bytes)),
        })
    }
}

/// The checksum at the end of a section header, which the next one's continues.
pub(super) fn section_header_checksum(bytes: &[u8; SECTION_HEADER_BYTES]) -> u32 {
    u32::from_le_bytes(take::<20, 4, _>(bytes))
}

/// The payload of the section that ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Number of sections before it.
    pub(super) sections: u64,
    /// Length of the whole stream in bytes, this section included.
    pub(super) bytes: u64,
}

impl End {
    pub(super) const VERSION: u16 = 1;
    pub(super) const BYTES: usize = 16;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        put::<0, _, _>(&mut bytes, self.sections.to_le_bytes());
        put::<8, _, _>(&mut bytes, self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            sections: u64::from_le_bytes(take::<0, 8, _>(bytes)),
            bytes: u64::from_le_bytes(take::<8, 8, _>(bytes)),
        }
    }
}

/// The `N` bytes at offset `AT`, which lie inside or the program does not compile.
fn take<const AT: usize, const N: usize, const LENGTH: usize>(bytes: &[u8; LENGTH]) -> [u8; N] {
    const { assert!(AT + N <= LENGTH) };
    #[expect(
        clippy::indexing_slicing,
        reason = "checked at compile time, one line above"
    )]
    std::array::from_fn(|index| bytes[AT + index])
}

/// Puts `field` at offset `AT`, which lies inside or the program does not compile.
fn put<const AT: usize, const N: usize, const LENGTH: usize>(
    bytes: &mut [u8; LENGTH],
    field: [u8; N],
) {
    const { assert!(AT + N <= LENGTH) };
    bytes[AT..AT + N].copy_from_slice(&field);
}
