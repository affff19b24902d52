//! What can be said of a stream without the device's schema, up to where it is damaged.
//!
//! Uses the very reader that loads states: there is no second parser.

use std::io::Read;

use super::error::StateError;
use super::reader::StateReader;
use super::stream::{Header, Importance, Limits, Tag};

/// A section, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionRecord {
    /// Its name.
    pub tag: Tag,
    /// Its version.
    pub version: u16,
    /// What a reader does that does not know it.
    pub importance: Importance,
    /// Where it begins, in bytes from the beginning of the stream.
    pub offset: u64,
    /// Length of its payload in bytes.
    pub length: u64,
}

/// What a stream holds, and what is wrong with it.
#[derive(Debug)]
pub struct Inspection {
    /// The header, if it is sound.
    pub header: Option<Header>,
    /// The sound sections, in order, without the one that ends the stream.
    pub sections: Vec<SectionRecord>,
    /// Length in bytes of what was read.
    pub bytes: u64,
    /// Why nothing was read after that; `None` if the stream is whole and sound.
    pub problem: Option<StateError>,
}

/// Reads a stream up to its end, or up to the first thing that is wrong with it.
pub fn inspect(input: &mut dyn Read, limits: &Limits) -> Inspection {
    let mut inspection = Inspection {
        header: None,
        sections: Vec::new(),
        bytes: 0,
        problem: None,
    };
    let mut reader = match StateReader::open(input, limits) {
        Ok(reader) => reader,
        Err(error) => {
            inspection.problem = Some(error);
            return inspection;
        }
    };
    inspection.header = Some(reader.header());
    inspection.problem = loop {
        match reader.next_section() {
            Ok(Some(section)) => inspection.sections.push(SectionRecord {
                tag: section.tag,
                version: section.version,
                importance: section.importance,
                offset: section.offset,
                length: section.bytes().len() as u64,
            }),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    inspection.bytes = reader.offset();
    inspection
}
