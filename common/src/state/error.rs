//! Why a state could not be written or read.
//!
//! Every offset is in bytes from the beginning of the stream.

use std::io;

use super::kind::DeviceKind;
use super::stream::{FORMAT, Tag};

/// Where the fault lies, in the coarse terms that an operator or an exit code needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The stream is not a whole, sound state stream.
    Damaged,
    /// The stream may be sound, but is of a format or version that is not read or written here.
    Version,
    /// The stream belongs to another device.
    Device,
    /// This host: reading or writing failed, or the device cannot be saved.
    Host,
}

/// Why a state could not be written or read. See [`StateError::fault`] for who is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The channel was closed before its first byte.
    #[error("the state stream is empty: its writer sent nothing at all")]
    Empty,
    /// The first eight bytes are not a state stream's.
    #[error("not a state stream: it begins with {:?}", .found.escape_ascii().to_string())]
    NotAState {
        /// What was found.
        found: [u8; 8],
    },
    /// The stream ends too early.
    #[error("the state stream ends at byte {offset}, {missing} bytes too early")]
    Truncated {
        /// Its length.
        offset: u64,
        /// How much more had to come, at least.
        missing: u64,
    },
    /// The header's checksum is wrong.
    #[error(
        "the state stream's header (bytes 0 to 31) is damaged: checksum {expected:#010x} expected, {found:#010x} found"
    )]
    HeaderDamaged {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum beside them.
        found: u32,
    },
    /// The framing itself is of another format.
    #[error("the state stream is of format {found}, this program reads format {FORMAT}")]
    Format {
        /// The stream's format.
        found: u16,
    },
    /// Bytes of the header that must be zero are not.
    #[error("state stream: bytes 16 to 27 must be zero, found {found:02x?}")]
    HeaderReserved {
        /// What was found.
        found: [u8; 12],
    },
    /// The stream belongs to another device.
    #[error(
        "the state stream belongs to {}, not to {expected}",
        DeviceKind::from_u16(*.found)
            .map_or_else(|| format!("an unknown device ({found:#06x})"), |kind| kind.to_string())
    )]
    Device {
        /// The device that reads.
        expected: DeviceKind,
        /// The device that the stream names.
        found: u16,
    },
    /// The stream says that this program is too old for it.
    #[error(
        "the state stream needs a program that knows version {needed} of the {kind} state, this one knows {newest}"
    )]
    ReaderTooOld {
        /// The device.
        kind: DeviceKind,
        /// The oldest version that the stream admits.
        needed: u16,
        /// The newest version known here.
        newest: u16,
    },
    /// The stream is older than what is still read.
    #[error(
        "the state stream is of version {found} of the {kind} state, versions {oldest} to {newest} are read"
    )]
    VersionTooOld {
        /// The device.
        kind: DeviceKind,
        /// The stream's version.
        found: u16,
        /// The oldest version known here.
        oldest: u16,
        /// The newest version known here.
        newest: u16,
    },
    /// We were told to write a version that we do not write.
    #[error(
        "version {asked} of the {kind} state cannot be written, versions {oldest} to {newest} can"
    )]
    VersionNotWritten {
        /// The device.
        kind: DeviceKind,
        /// What was asked for.
        asked: u16,
        /// The oldest version known here.
        oldest: u16,
        /// The newest version known here.
        newest: u16,
    },
    /// We were told to write a version that is too old for what there is to write.
    #[error("version {asked} of the {kind} state cannot hold {what}, version {since} can")]
    NotInVersion {
        /// The device.
        kind: DeviceKind,
        /// What was asked for.
        asked: u16,
        /// What would be lost.
        what: &'static str,
        /// The oldest version that has it.
        since: u16,
    },
    /// The device's state cannot be saved at all, thus no stream of it can be sound.
    #[error("the {kind} device has state that cannot be saved")]
    NotMigratable {
        /// The device.
        kind: DeviceKind,
    },
    /// A section header's checksum is wrong: it is damaged, or a section before it is missing.
    #[error(
        "the section header at byte {offset} is damaged or out of place: checksum {expected:#010x} expected, {found:#010x} found"
    )]
    SectionHeaderDamaged {
        /// Where it begins.
        offset: u64,
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum beside them.
        found: u32,
    },
    /// A section has flags that do not exist.
    #[error("section {tag} at byte {offset} has unknown flags {found:#06x}")]
    SectionFlags {
        /// The section.
        tag: Tag,
        /// Where it begins.
        offset: u64,
        /// Its flags.
        found: u16,
    },
    /// A section is larger than what is read.
    #[error("section {tag} at byte {offset} claims {length} bytes, the limit is {limit}")]
    SectionTooLong {
        /// The section.
        tag: Tag,
        /// Where it begins.
        offset: u64,
        /// The claimed length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The stream is larger than what is read.
    #[error("the state stream goes on past the limit of {limit} bytes")]
    StreamTooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// A payload's checksum is wrong.
    #[error(
        "the payload of section {tag} at byte {offset} is damaged: checksum {expected:#010x} expected, {found:#010x} found"
    )]
    SectionDamaged {
        /// The section.
        tag: Tag,
        /// Where its payload begins.
        offset: u64,
        /// The checksum in the section header.
        expected: u32,
        /// The checksum of the payload.
        found: u32,
    },
    /// A payload does not decode.
    #[error("the payload of section {tag} at byte {offset} is malformed")]
    Payload {
        /// The section.
        tag: Tag,
        /// Where its payload begins.
        offset: u64,
        /// What the codec says, or the device.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A payload is longer than what it decodes to.
    #[error("{surplus} bytes too many in the payload of section {tag} at byte {offset}")]
    PayloadTooLong {
        /// The section.
        tag: Tag,
        /// Where its payload begins.
        offset: u64,
        /// Number of bytes left over.
        surplus: u64,
    },
    /// A table claims more items than its payload can hold.
    #[error("the table in section {tag} at byte {offset} claims {items} items in {bytes} bytes")]
    TableItems {
        /// The section.
        tag: Tag,
        /// Where its payload begins.
        offset: u64,
        /// Number of items claimed.
        items: u64,
        /// Length of what follows in bytes.
        bytes: u64,
    },
    /// A table has more items than there can be of their kind.
    #[error(
        "the table in section {tag} at byte {offset} makes {items} items, and {items_max} are the most"
    )]
    TableTooLong {
        /// The section.
        tag: Tag,
        /// Where its payload begins.
        offset: u64,
        /// Number of items so far, with those of this section.
        items: usize,
        /// Most items.
        items_max: usize,
    },
    /// An item of a table has no bytes, so that any number of them would fit into nothing.
    #[error("an item of the table in section {tag} has no bytes")]
    EmptyItem {
        /// The section.
        tag: Tag,
    },
    /// A critical section is not known, or not in this version.
    #[error("critical section {tag} version {version} at byte {offset} is not known")]
    UnknownSection {
        /// The section.
        tag: Tag,
        /// Its version.
        version: u16,
        /// Where it begins.
        offset: u64,
    },
    /// A section that must be there is not.
    #[error("section {tag} is missing from the state stream")]
    MissingSection {
        /// The section.
        tag: Tag,
    },
    /// A section that may be there once is there twice.
    #[error("section {tag} at byte {offset} is there for the second time")]
    RepeatedSection {
        /// The section.
        tag: Tag,
        /// Where it begins.
        offset: u64,
    },
    /// The schema stopped reading before the end.
    #[error("section {tag} at byte {offset} was not read")]
    UnreadSection {
        /// The section.
        tag: Tag,
        /// Where it begins.
        offset: u64,
    },
    /// The end section does not fit the stream that it ends.
    #[error("the end section at byte {offset} gives {found} as the {what}, {expected} expected")]
    End {
        /// Where it begins.
        offset: u64,
        /// Which of its fields.
        what: &'static str,
        /// What was read.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// Something follows the end section.
    #[error("the state stream goes on after its end at byte {offset}")]
    Trailing {
        /// Where the stream should have ended.
        offset: u64,
    },
    /// A payload cannot be encoded, or is larger than what any reader reads.
    #[error("section {tag} cannot be written")]
    Encode {
        /// The section.
        tag: Tag,
        /// What the codec says.
        #[source]
        source: Box<bincode::error::EncodeError>,
    },
    /// A payload is larger than what any reader reads.
    #[error("section {tag} cannot be written: its {length} bytes are more than {limit}")]
    SectionTooLongToWrite {
        /// The section.
        tag: Tag,
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The host failed to give us the stream.
    #[error("reading the state stream failed at byte {offset}")]
    Read {
        /// How far we came.
        offset: u64,
        /// What the host says.
        #[source]
        source: io::Error,
    },
    /// The host failed to take the stream.
    #[error("writing the state stream failed at byte {offset}")]
    Write {
        /// How far we came.
        offset: u64,
        /// What the host says.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// Where the fault lies.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Empty
            | Self::NotAState { .. }
            | Self::Truncated { .. }
            | Self::HeaderDamaged { .. }
            | Self::HeaderReserved { .. }
            | Self::SectionHeaderDamaged { .. }
            | Self::SectionFlags { .. }
            | Self::SectionTooLong { .. }
            | Self::StreamTooLong { .. }
            | Self::SectionDamaged { .. }
            | Self::Payload { .. }
            | Self::PayloadTooLong { .. }
            | Self::TableItems { .. }
            | Self::TableTooLong { .. }
            | Self::EmptyItem { .. }
            | Self::MissingSection { .. }
            | Self::RepeatedSection { .. }
            | Self::UnreadSection { .. }
            | Self::End { .. }
            | Self::Trailing { .. } => Fault::Damaged,
            Self::Format { .. }
            | Self::ReaderTooOld { .. }
            | Self::VersionTooOld { .. }
            | Self::VersionNotWritten { .. }
            | Self::NotInVersion { .. }
            | Self::UnknownSection { .. } => Fault::Version,
            Self::Device { .. } => Fault::Device,
            Self::NotMigratable { .. }
            | Self::Encode { .. }
            | Self::SectionTooLongToWrite { .. }
            | Self::Read { .. }
            | Self::Write { .. } => Fault::Host,
        }
    }
}
