//! The state stream: how a device's state travels, and how a device describes its state.
//!
//! Knows nothing of devices, sockets and migration: it turns a [`StateSchema`] value into bytes and
//! back, and refuses bytes that are damaged, forged or of a version that is not read.
//!
//! # Format
//!
//! Everything is little-endian. The first 32 bytes keep this layout in every format, so that any
//! reader can tell what it has in its hands:
//!
//! ```text
//! header    0  magic "VHUSTATE"          section   0  tag, four ASCII letters
//!           8  format u16, now 1                   4  version u16
//!          10  device kind u16                     6  flags u16, bit 0: critical
//!          12  oldest reader u16                   8  length u64
//!          14  schema version u16                 16  crc32c of the payload
//!          16  flags u32, zero                    20  crc32c of bytes 0 to 19, continuing the
//!          20  reserved u64, zero                     checksum at the end of the header before
//!          28  crc32c of bytes 0 to 27            24  payload, `length` bytes
//! ```
//!
//! A stream is a header, sections, and the section `ENDS`, whose payload is the number of sections
//! before it (u64) and the length of the whole stream (u64). Nothing follows it.
//!
//! A length is believed only after its header's checksum was, and because each header's checksum
//! continues the one before, a section that was dropped, moved or taken from another stream is
//! found as well. Checksums find accidents. They are no defence against forgery: whatever passes
//! them is still checked by the schema, by [`Limits`] and by the device.
//!
//! A payload is opaque here ([`StateWriter::raw`], [`StateWriter::piece`]), or one value or a table of values in bincode's
//! fixed-width encoding ([`StateWriter::section`], [`StateWriter::table`]).

mod error;
#[cfg(feature = "test-kit")]
pub mod golden;
mod inspect;
mod kind;
mod reader;
#[cfg(feature = "test-kit")]
mod repaired;
mod schema;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Fault, StateError};
pub use inspect::{Inspection, SectionRecord, inspect};
pub use kind::{DeviceKind, UnknownDeviceKind};
pub use reader::{Section, StateReader, read_state};
#[cfg(feature = "test-kit")]
pub use repaired::repaired;
pub use schema::{NoState, NotMigratable, SchemaSupport, StateSchema};
pub use stream::{
    CHUNK_BYTES_MAX, FORMAT, HEADER_BYTES, Header, Importance, Limits, SECTION_BYTES_MAX,
    SECTION_HEADER_BYTES, Tag,
};
pub use writer::{StateWriter, WriteSummary, write_state};
