//! Streams with sound framing, whatever is in them: for tests that look for what lies behind the checksums. Behind the cargo feature
//! `test-kit`.

use super::error::StateError;
use super::stream::{HEADER_BYTES, Header, Importance, SECTION_HEADER_BYTES, Tag};
use super::writer::StateWriter;

/// What is believed of a length: no section is longer.
const LENGTH_BYTES: usize = 3;

/// The stream that `bytes` would be if its magic, lengths, checksums and end were right. One that is sound stays what it is.
///
/// Tags, versions and payloads are taken as they are. A section that says it is longer than what is left ends there. An error is one
/// that a writer of the state would have got, too.
pub fn repaired(bytes: &[u8]) -> Result<Vec<u8>, StateError> {
    let (header, mut rest) = front::<HEADER_BYTES>(bytes);
    let header = Header {
        kind: short(&header, 10),
        reader_oldest: short(&header, 12),
        version: short(&header, 14),
    };
    let mut stream = Vec::new();
    let mut writer = StateWriter::begin(header, &mut stream)?;
    while !rest.is_empty() {
        let (header, after) = front::<SECTION_HEADER_BYTES>(rest);
        let ([letters, ..], _) = header.as_chunks::<4>() else {
            break;
        };
        let tag = Tag::new(*letters);
        if tag == Tag::END {
            break;
        }
        let importance = if short(&header, 6) & 1 == 0 {
            Importance::Optional
        } else {
            Importance::Critical
        };
        let claimed = (0..LENGTH_BYTES).rev().fold(0, |length, index| {
            length << 8 | usize::from(header.get(8 + index).copied().unwrap_or_default())
        });
        let (payload, after) = after.split_at(claimed.min(after.len()));
        writer.piece(tag, short(&header, 4), importance, payload)?;
        rest = after;
    }
    writer.end()?;
    Ok(stream)
}

/// The first `N` bytes, with zeros for those that are missing, and what follows them.
fn front<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (there, rest) = bytes.split_at(N.min(bytes.len()));
    let mut array = [0; N];
    for (byte, of_bytes) in array.iter_mut().zip(there) {
        *byte = *of_bytes;
    }
    (array, rest)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    u16::from_le_bytes(two.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DeviceKind, Limits, NoState, inspect, write_state};
    use super::*;

    #[test]
    fn a_sound_stream_stays_what_it_is() {
        let mut stream = Vec::new();
        let state: NoState<{ DeviceKind::Null.as_u16() }> = NoState;
        write_state(&state, 1, &mut stream).unwrap();
        assert_eq!(repaired(&stream).unwrap(), stream);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_framed(bytes: Vec<u8>) {
            let stream = repaired(&bytes).unwrap();
            let problem = inspect(&mut stream.as_slice(), &Limits::default()).problem;
            prop_assert!(problem.is_none(), "{problem:?}");
            prop_assert_eq!(repaired(&stream).unwrap(), stream);
        }
    }
}
