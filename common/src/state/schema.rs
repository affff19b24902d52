//! How a device describes its state, and the codec of section payloads.
//!
//! Knows what a value looks like as bytes, not where in a stream the bytes stand.
//!
//! # Rules for a state that is written to a stream
//!
//! Plain data of fixed width: no `usize`, no hash maps (their order is not theirs), nothing recursive,
//! and no element of a collection without bytes (`()` or an empty struct): a nine-byte payload could
//! claim 2^64 of them. Once released, a struct's encoding never changes: a new section version or a
//! new tag takes its place, and the reader keeps the old one.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::error::{DecodeError, EncodeError};
use serde::{Deserialize, Serialize};

use super::error::StateError;
use super::kind::DeviceKind;
use super::reader::StateReader;
use super::stream::SECTION_BYTES_MAX;
use super::writer::StateWriter;

/// Whether there can be a stream of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaSupport {
    /// There can.
    Savable,
    /// There cannot: the device has state that nobody can save yet.
    NotMigratable,
}

/// The state of a device as a value, and how it is laid out in sections.
///
/// `write` and `read` move bytes and nothing else. Whether a state makes sense is for the device to
/// say, in its `check`.
pub trait StateSchema: Sized + Send + 'static {
    /// The device.
    const KIND: DeviceKind;
    /// The version written by default, and the newest that is read.
    const VERSION: u16;
    /// The oldest version that is read, and that can be written.
    const VERSION_OLDEST: u16;
    /// Whether there can be a stream of this state.
    const SUPPORT: SchemaSupport;

    /// The oldest reader that understands what `write` writes for `version`. An older one would lose
    /// something; it refuses the stream. Less than `version` only where a version added nothing but
    /// [`Optional`](super::Importance::Optional) sections, and critical ones that are not there unless they are needed: an
    /// older reader refuses those by their name.
    fn reader_oldest(version: u16) -> u16 {
        version
    }

    /// Writes all sections, in the version that [`StateWriter::version`] names.
    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError>;

    /// Reads all sections until there is no next one. What it does not know, in tag or in version,
    /// goes to [`StateReader::unknown`].
    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError>;
}

/// The state of a device that has none: `NoState<{ DeviceKind::Null.as_u16() }>`. Its stream is a
/// header and an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoState<const KIND: u16>;

impl<const NUMBER: u16> StateSchema for NoState<NUMBER> {
    const KIND: DeviceKind = kind_of(NUMBER);
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, _out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self = self; // has no field, thus no section
        Ok(())
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        while let Some(section) = input.next_section()? {
            input.unknown(&section)?;
        }
        Ok(Self)
    }
}

/// The state of a device that cannot be saved. There is no value of this type, so a device can
/// neither save nor load one by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMigratable<const KIND: u16> {}

impl<const NUMBER: u16> StateSchema for NotMigratable<NUMBER> {
    const KIND: DeviceKind = kind_of(NUMBER);
    const VERSION: u16 = 0;
    const VERSION_OLDEST: u16 = 0;
    const SUPPORT: SchemaSupport = SchemaSupport::NotMigratable;

    fn write(&self, _out: &mut StateWriter<'_>) -> Result<(), StateError> {
        match *self {}
    }

    fn read(_input: &mut StateReader<'_>) -> Result<Self, StateError> {
        Err(StateError::NotMigratable { kind: Self::KIND })
    }
}

/// A wrong number does not compile.
const fn kind_of(number: u16) -> DeviceKind {
    DeviceKind::from_u16(number).expect("the number of a DeviceKind")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "16 MiB fit into every usize that we run on"
)]
const LIMIT: usize = SECTION_BYTES_MAX as usize;

/// Little-endian and of fixed width, so that a value has one encoding only. The limit is part of the
/// type: without it a string that claims 2^62 bytes ends the process.
const CODEC: Configuration<LittleEndian, Fixint, Limit<LIMIT>> =
    bincode::config::legacy().with_limit::<LIMIT>();

/// Appends the encoding of `value` to `bytes`.
pub(super) fn encode<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
    bincode::serde::encode_into_std_write(value, bytes, CODEC).map(drop)
}

/// The value at the beginning of `bytes`, which it may borrow from, and how many bytes it took.
pub(super) fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<(T, usize), DecodeError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the callers check how much was consumed"
    )]
    bincode::serde::borrow_decode_from_slice(bytes, CODEC)
}
