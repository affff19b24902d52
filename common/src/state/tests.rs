//! The stream's promises, asked of a schema that has every kind of section.

use std::io::{self, Read};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

const SESSION: Tag = Tag::new(*b"SESS");
const INODES: Tag = Tag::new(*b"INOD");
const PIXELS: Tag = Tag::new(*b"PIXL");
const HINT: Tag = Tag::new(*b"HINT");
const LOCKS: Tag = Tag::new(*b"LOCK");

/// Version 2 added the optional HINT, version 3 the critical LOCK.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    session: Session,
    inodes: Vec<Inode>,
    pixels: Vec<u8>,
    hint: u64,
    locks: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Session {
    features: u64,
    tag: String,
    minor: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Inode {
    nodeid: u64,
    name: Vec<u8>,
}

impl StateSchema for Sample {
    const KIND: DeviceKind = DeviceKind::Null;
    const VERSION: u16 = 3;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn reader_oldest(version: u16) -> u16 {
        if version == 2 { 1 } else { version }
    }

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self {
            session,
            inodes,
            pixels,
            hint,
            locks,
        } = self;
        out.section(SESSION, 1, Importance::Critical, session)?;
        out.table(INODES, 1, Importance::Critical, inodes)?;
        out.raw(PIXELS, 1, Importance::Critical, pixels)?;
        if out.version() >= 2 {
            out.section(HINT, 1, Importance::Optional, hint)?;
        }
        if out.version() >= 3 {
            out.table(LOCKS, 1, Importance::Critical, locks)?;
        }
        Ok(())
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut state = Self::default();
        let mut session = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (SESSION, 1) => session = Some(section.decode()?),
                (INODES, 1) => state.inodes.extend(section.decode_table::<Inode>()?),
                (PIXELS, 1) => state.pixels.extend_from_slice(section.bytes()),
                (HINT, 1) => state.hint = section.decode()?,
                (LOCKS, 1) => state.locks.extend(section.decode_table::<u32>()?),
                _ => input.unknown(&section)?,
            }
        }
        state.session = session.ok_or(StateError::MissingSection { tag: SESSION })?;
        Ok(state)
    }
}

/// The program before version 2: it knows neither HINT nor LOCK.
#[derive(Debug, Default, PartialEq)]
struct OldSample {
    session: Session,
    inodes: Vec<Inode>,
    pixels: Vec<u8>,
}

impl StateSchema for OldSample {
    const KIND: DeviceKind = DeviceKind::Null;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self {
            session,
            inodes,
            pixels,
        } = self;
        out.section(SESSION, 1, Importance::Critical, session)?;
        out.table(INODES, 1, Importance::Critical, inodes)?;
        out.raw(PIXELS, 1, Importance::Critical, pixels)
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut state = Self::default();
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (SESSION, 1) => state.session = section.decode()?,
                (INODES, 1) => state.inodes.extend(section.decode_table::<Inode>()?),
                (PIXELS, 1) => state.pixels.extend_from_slice(section.bytes()),
                _ => input.unknown(&section)?,
            }
        }
        Ok(state)
    }
}

fn sample() -> Sample {
    Sample {
        session: Session {
            features: 0x1_4000_0000,
            tag: "share".to_owned(),
            minor: Some(38),
        },
        inodes: vec![
            Inode {
                nodeid: 1,
                name: b"/".to_vec(),
            },
            Inode {
                nodeid: 7,
                name: b"caf\xe9".to_vec(),
            },
        ],
        pixels: vec![0xff, 0x80, 0x40, 0],
        hint: 11,
        locks: vec![3, 5],
    }
}

fn written<S: StateSchema>(state: &S, version: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let summary = write_state(state, version, &mut bytes).unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    bytes
}

fn read<S: StateSchema>(mut bytes: &[u8]) -> Result<S, StateError> {
    read_state(&mut bytes, &Limits::default())
}

/// A stream of the sample's kind with whatever sections `write` puts into it.
fn forged(write: impl FnOnce(&mut StateWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header {
        kind: DeviceKind::Null.as_u16(),
        reader_oldest: 1,
        version: 1,
    };
    let mut writer = StateWriter::begin(header, &mut bytes).unwrap();
    writer
        .section(SESSION, 1, Importance::Critical, &Session::default())
        .unwrap();
    write(&mut writer);
    writer.end().unwrap();
    bytes
}

/// A stream with one forged payload, sound in everything else.
fn forged_payload(tag: Tag, payload: &[u8]) -> Vec<u8> {
    forged(|writer| writer.piece(tag, 1, Importance::Critical, payload).unwrap())
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = written(&OldSample::default(), 1);
    assert_eq!(bytes[..8], *b"VHUSTATE");
    assert_eq!(bytes[8..16], [1, 0, 0xf0, 0xff, 1, 0, 1, 0]);
    assert_eq!(bytes[16..28], [0; 12]);
    assert_eq!(bytes[28..32], crc32c::crc32c(&bytes[..28]).to_le_bytes());
    // SESS, version 1, critical, 17 bytes: u64, string length u64, one byte for "no minor"
    assert_eq!(bytes[32..48], *b"SESS\x01\0\x01\0\x11\0\0\0\0\0\0\0");
    assert_eq!(bytes[48..52], crc32c::crc32c(&bytes[56..73]).to_le_bytes());
    let continued = crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[32..52]);
    assert_eq!(bytes[52..56], continued.to_le_bytes());
    assert_eq!(bytes[bytes.len() - 40..][..4], *b"ENDS");
    assert_eq!(bytes[bytes.len() - 16..][..8], 3_u64.to_le_bytes());
    assert_eq!(bytes[bytes.len() - 8..], (bytes.len() as u64).to_le_bytes());
}

#[test]
fn what_was_written_is_read_in_every_version() {
    let full = sample();
    assert_eq!(read::<Sample>(&written(&full, 3)).unwrap(), full);
    let without_locks = Sample {
        locks: Vec::new(),
        ..full.clone()
    };
    assert_eq!(read::<Sample>(&written(&full, 2)).unwrap(), without_locks);
    let oldest = Sample {
        hint: 0,
        ..without_locks
    };
    assert_eq!(read::<Sample>(&written(&full, 1)).unwrap(), oldest);
}

#[test]
fn an_older_program_reads_what_is_written_for_it() {
    let Sample {
        session,
        inodes,
        pixels,
        ..
    } = sample();
    let expected = OldSample {
        session,
        inodes,
        pixels,
    };
    assert_eq!(read::<OldSample>(&written(&sample(), 1)).unwrap(), expected);
    assert_eq!(read::<OldSample>(&written(&sample(), 2)).unwrap(), expected);
    assert_eq!(written(&sample(), 1), written(&expected, 1));
}

#[test]
fn an_older_program_refuses_what_it_would_lose() {
    let error = read::<OldSample>(&written(&sample(), 3)).unwrap_err();
    assert!(
        matches!(
            error,
            StateError::ReaderTooOld {
                needed: 3,
                newest: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Version);
}

#[test]
fn versions_outside_the_window_are_not_written() {
    for version in [0, 4, u16::MAX] {
        let error = write_state(&sample(), version, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, StateError::VersionNotWritten { asked, .. } if asked == version));
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = written(&sample(), 3);
    assert!(matches!(read::<Sample>(&[]), Err(StateError::Empty)));
    for length in 1..bytes.len() {
        let error = read::<Sample>(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, StateError::Truncated { offset, .. } if offset == length as u64),
            "cut at {length}: {error}"
        );
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let sound = written(&sample(), 3);
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = read::<Sample>(&bytes).unwrap_err();
        assert_eq!(error.fault(), Fault::Damaged, "bit {bit}: {error}");
    }
}

#[test]
fn a_dropped_moved_or_doubled_section_is_refused() {
    let bytes = written(&sample(), 3);
    let sections = inspect(&mut &*bytes, &Limits::default()).sections;
    let starts: Vec<usize> = sections
        .iter()
        .map(|section| usize::try_from(section.offset).unwrap())
        .chain([bytes.len() - 40])
        .collect();
    let (first, second, third) = (starts[0], starts[1], starts[2]);
    let dropped = [&bytes[..first], &bytes[second..]].concat();
    let swapped = [
        &bytes[..first],
        &bytes[second..third],
        &bytes[first..second],
        &bytes[third..],
    ]
    .concat();
    let doubled = [&bytes[..second], &bytes[first..]].concat();
    for damaged in [dropped, swapped, doubled] {
        let error = read::<Sample>(&damaged).unwrap_err();
        assert!(
            matches!(error, StateError::SectionHeaderDamaged { .. }),
            "{error}"
        );
    }
}

#[test]
fn nothing_follows_the_end() {
    let bytes = written(&sample(), 3);
    let end = bytes.len() as u64;
    let second_end = bytes[bytes.len() - 40..].to_vec();
    for trailing in [vec![0], second_end, bytes.clone()] {
        let error = read::<Sample>(&[bytes.clone(), trailing].concat()).unwrap_err();
        assert!(
            matches!(error, StateError::Trailing { offset } if offset == end),
            "{error}"
        );
    }
}

#[test]
fn an_end_that_does_not_fit_is_refused() {
    let end = |sections: u64, bytes: u64| [sections.to_le_bytes(), bytes.to_le_bytes()].concat();
    let prefix = 32 + 24 + 17;
    for (payload, version, wrong) in [
        (end(0, prefix + 40), 1, "number of sections"),
        (end(1, prefix + 41), 1, "length of the stream"),
        (end(1, prefix + 40), 2, "version of itself"),
        (vec![0; 15], 1, "length of itself"),
    ] {
        let bytes = forged(|writer| {
            writer
                .piece(Tag::END, version, Importance::Critical, &payload)
                .unwrap();
        });
        let error = read::<Sample>(&bytes).unwrap_err();
        assert!(
            matches!(error, StateError::End { what, .. } if what == wrong),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_critical_section_is_refused_by_name() {
    let tag = Tag::new(*b"QUUX");
    let bytes = forged(|writer| writer.section(tag, 9, Importance::Critical, &1_u8).unwrap());
    let error = read::<Sample>(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "critical section QUUX version 9 at byte 73 is not known"
    );
    let bytes = forged(|writer| {
        writer
            .section(HINT, 2, Importance::Critical, &1_u8)
            .unwrap();
    });
    let error = read::<Sample>(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "critical section HINT version 2 at byte 73 is not known"
    );
    assert_eq!(Tag::new([0, b'a', b'b', b'c']).to_string(), "0x63626100");
}

#[test]
fn an_unknown_optional_section_is_skipped() {
    let tag = Tag::new(*b"QUUX");
    let bytes = forged(|writer| writer.section(tag, 9, Importance::Optional, &1_u8).unwrap());
    assert_eq!(read::<Sample>(&bytes).unwrap(), Sample::default());
}

#[test]
fn a_missing_section_is_refused_by_name() {
    let bytes = written(&NoState::<{ DeviceKind::Null.as_u16() }>, 1);
    let error = read::<Sample>(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "section SESS is missing from the state stream"
    );
}

#[test]
fn a_stream_of_another_device_is_refused() {
    let bytes = written(&NoState::<{ DeviceKind::Fs.as_u16() }>, 1);
    let error = read::<Sample>(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the state stream belongs to fs, not to null"
    );
    assert_eq!(error.fault(), Fault::Device);
}

#[test]
fn a_header_from_elsewhere_is_refused() {
    let sound = Header {
        kind: 0xfff0,
        reader_oldest: 1,
        version: 1,
    }
    .to_bytes();
    let forge = |offset: usize, value: u8| {
        let mut bytes = sound;
        bytes[offset] = value;
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        read::<Sample>(&bytes).unwrap_err()
    };
    assert!(matches!(forge(0, b'v'), StateError::NotAState { .. }));
    assert!(matches!(forge(8, 2), StateError::Format { found: 2 }));
    assert!(matches!(
        forge(14, 0),
        StateError::VersionTooOld {
            found: 0,
            oldest: 1,
            ..
        }
    ));
    for reserved in 16..28 {
        assert!(matches!(
            forge(reserved, 1),
            StateError::HeaderReserved { .. }
        ));
    }
    let error = read::<Sample>(b"QEVM and more than thirty-one bytes").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"not a state stream: it begins with "QEVM and""#
    );
}

#[test]
fn unknown_section_flags_are_refused() {
    let header = Header {
        kind: 0xfff0,
        reader_oldest: 1,
        version: 1,
    }
    .to_bytes();
    let mut section = [0; 24];
    section[..4].copy_from_slice(b"SESS");
    section[6] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..28]), &section[..20]);
    section[20..].copy_from_slice(&checksum.to_le_bytes());
    let error = read::<Sample>(&[&header[..], &section].concat()).unwrap_err();
    assert!(
        matches!(
            error,
            StateError::SectionFlags {
                offset: 32,
                found: 2,
                ..
            }
        ),
        "{error}"
    );
}

/// Endless zeros after what was given, and a note of how much was asked for.
struct Endless<'a> {
    begin: &'a [u8],
    taken: u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = if self.begin.is_empty() {
            buffer.fill(0);
            buffer.len()
        } else {
            self.begin.read(buffer)?
        };
        self.taken += count as u64;
        Ok(count)
    }
}

#[test]
fn an_endless_stream_is_left_at_the_limit() {
    let limits = Limits {
        total_bytes_max: 3 << 20,
        section_bytes_max: 1 << 20,
    };
    let bytes = written(
        &Sample {
            pixels: vec![1; 5 << 20],
            ..sample()
        },
        3,
    );
    let mut endless = Endless {
        begin: &bytes,
        taken: 0,
    };
    let error = read_state::<Sample>(&mut endless, &limits).unwrap_err();
    assert!(
        matches!(error, StateError::StreamTooLong { limit } if limit == 3 << 20),
        "{error}"
    );
    assert!(endless.taken <= limits.total_bytes_max);
}

#[test]
fn a_section_over_the_limit_is_refused_before_it_is_read() {
    let header = Header {
        kind: 0xfff0,
        reader_oldest: 1,
        version: 1,
    }
    .to_bytes();
    let length = SECTION_BYTES_MAX + 1;
    let section = stream::SectionHeader {
        tag: SESSION,
        version: 1,
        importance: Importance::Critical,
        length,
        payload_checksum: 0,
    };
    let begin = [
        &header[..],
        &section.to_bytes(stream::header_checksum(&header)),
    ]
    .concat();
    let mut endless = Endless {
        begin: &begin,
        taken: 0,
    };
    let limits = Limits {
        section_bytes_max: u64::MAX,
        ..Limits::default()
    };
    let error = read_state::<Sample>(&mut endless, &limits).unwrap_err();
    assert!(
        matches!(error, StateError::SectionTooLong { offset: 32, .. }),
        "{error}"
    );
    assert_eq!(endless.taken, begin.len() as u64);
}

#[test]
fn a_claimed_length_is_not_allocated() {
    // A string and a vector that claim 2^62 bytes would end the process, if they were believed.
    for claim in [1_u64 << 62, u64::MAX] {
        let string = [&7_u64.to_le_bytes()[..], &claim.to_le_bytes()].concat();
        let error = read::<Sample>(&forged_payload(SESSION, &string)).unwrap_err();
        assert!(
            matches!(error, StateError::Payload { tag: SESSION, .. }),
            "{error}"
        );
        let vector = [
            &1_u32.to_le_bytes()[..],
            &7_u64.to_le_bytes(),
            &claim.to_le_bytes(),
        ]
        .concat();
        let error = read::<Sample>(&forged_payload(INODES, &vector)).unwrap_err();
        assert!(
            matches!(error, StateError::Payload { tag: INODES, .. }),
            "{error}"
        );
    }
    let table = [&u32::MAX.to_le_bytes()[..], &[0; 64]].concat();
    let error = read::<Sample>(&forged_payload(INODES, &table)).unwrap_err();
    assert!(matches!(
        error,
        StateError::TableItems {
            items: 0xffff_ffff,
            bytes: 64,
            ..
        }
    ));
}

#[test]
fn nothing_is_left_over_in_a_payload() {
    let session = [[0; 17].as_slice(), &[9, 9]].concat();
    let error = read::<Sample>(&forged_payload(SESSION, &session)).unwrap_err();
    assert!(
        matches!(error, StateError::PayloadTooLong { surplus: 2, .. }),
        "{error}"
    );
    let table = [&1_u32.to_le_bytes()[..], &[0; 16], &[1, 2, 3]].concat();
    let error = read::<Sample>(&forged_payload(INODES, &table)).unwrap_err();
    assert!(
        matches!(error, StateError::PayloadTooLong { surplus: 3, .. }),
        "{error}"
    );
}

#[test]
fn malformed_values_are_refused() {
    let not_an_option = [[0; 16].as_slice(), &[2]].concat();
    let not_utf8 = [&[0; 8][..], &1_u64.to_le_bytes(), &[0xff, 0]].concat();
    for payload in [not_an_option, not_utf8, Vec::new()] {
        let error = read::<Sample>(&forged_payload(SESSION, &payload)).unwrap_err();
        assert!(
            matches!(error, StateError::Payload { tag: SESSION, .. }),
            "{error}"
        );
    }
}

/// Not without bytes in memory, but in the stream.
#[derive(Serialize, Deserialize, Debug, Default, PartialEq)]
struct Skipped {
    #[serde(skip)]
    absent: u8,
}

#[test]
fn items_without_bytes_are_neither_written_nor_read() {
    let mut bytes = Vec::new();
    let header = Header {
        kind: 0xfff0,
        reader_oldest: 1,
        version: 1,
    };
    let mut writer = StateWriter::begin(header, &mut bytes).unwrap();
    let error = writer.table(INODES, 1, Importance::Critical, [Skipped::default()]);
    assert!(matches!(error, Err(StateError::EmptyItem { tag: INODES })));

    let bytes = forged_payload(INODES, &[&3_u32.to_le_bytes()[..], &[0; 8]].concat());
    let mut input = &*bytes;
    let mut reader = StateReader::open(&mut input, &Limits::default()).unwrap();
    reader.next_section().unwrap();
    let section = reader.next_section().unwrap().unwrap();
    let error = section.decode_table::<Skipped>().unwrap_err();
    assert!(
        matches!(error, StateError::EmptyItem { tag: INODES }),
        "{error}"
    );
}

#[test]
fn long_tables_and_opaque_data_are_cut_into_chunks() {
    let big = Inode {
        nodeid: 3,
        name: vec![5; 3 << 20],
    };
    let mut inodes = vec![
        Inode {
            nodeid: 2,
            name: vec![4; 1000]
        };
        2500
    ];
    inodes.push(big);
    let state = Sample {
        inodes,
        pixels: vec![6; (2 << 20) + 1],
        ..sample()
    };
    let bytes = written(&state, 3);
    assert_eq!(read::<Sample>(&bytes).unwrap(), state);
    let inspection = inspect(&mut &*bytes, &Limits::default());
    let lengths = |tag| -> Vec<u64> {
        let of_tag = inspection
            .sections
            .iter()
            .filter(|section| section.tag == tag);
        of_tag.map(|section| section.length).collect()
    };
    assert_eq!(lengths(PIXELS), [1 << 20, 1 << 20, 1]);
    let tables = lengths(INODES);
    let (alone, cut) = tables.split_last().unwrap();
    assert_eq!(*alone, (3 << 20) + 20);
    assert!(
        cut.len() >= 3 && cut.iter().all(|length| *length <= 1 << 20),
        "{tables:?}"
    );
}

#[test]
fn a_section_of_the_greatest_length_is_written_and_read() {
    let room = usize::try_from(SECTION_BYTES_MAX).unwrap();
    let session = Session {
        tag: "x".repeat(room - 17),
        ..Session::default()
    };
    let state = Sample {
        session,
        ..sample()
    };
    let bytes = written(&state, 3);
    let sections = inspect(&mut &*bytes, &Limits::default()).sections;
    assert_eq!(sections[0].length, SECTION_BYTES_MAX);
    assert!(read::<Sample>(&bytes).unwrap() == state);
}

#[test]
fn a_section_larger_than_any_reader_reads_is_not_written() {
    let session = Session {
        tag: "x".repeat(16 << 20),
        ..Session::default()
    };
    let error = write_state(
        &Sample {
            session,
            ..sample()
        },
        3,
        &mut io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            StateError::SectionTooLongToWrite { tag: SESSION, .. }
        ),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Host);
}

#[test]
fn opaque_data_comes_from_a_reader_as_well() {
    let write = |length: u64| {
        let mut bytes = Vec::new();
        let header = Header {
            kind: 0xfff0,
            reader_oldest: 1,
            version: 1,
        };
        let mut writer = StateWriter::begin(header, &mut bytes).unwrap();
        let mut source = io::repeat(7).take(1_500_000);
        writer.raw_from(PIXELS, 1, Importance::Critical, &mut source, length)?;
        writer.end()?;
        Ok::<_, StateError>(bytes)
    };
    let sections = inspect(&mut &*write(1_500_000).unwrap(), &Limits::default()).sections;
    assert_eq!(
        sections.iter().map(|section| section.length).sum::<u64>(),
        1_500_000
    );
    assert!(matches!(write(1_500_001), Err(StateError::Write { .. })));
}

#[test]
fn a_schema_that_stops_early_is_refused() {
    #[derive(Debug)]
    struct Hasty;
    impl StateSchema for Hasty {
        const KIND: DeviceKind = DeviceKind::Null;
        const VERSION: u16 = 3;
        const VERSION_OLDEST: u16 = 1;
        const SUPPORT: SchemaSupport = SchemaSupport::Savable;

        fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
            sample().write(out)
        }

        fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
            input.next_section().map(|_| Self)
        }
    }
    let error = read::<Hasty>(&written(&Hasty, 3)).unwrap_err();
    assert!(
        matches!(error, StateError::UnreadSection { tag: INODES, .. }),
        "{error}"
    );
}

#[test]
fn a_device_without_state_writes_a_header_and_an_end() {
    type Stateless = NoState<{ DeviceKind::Scsi.as_u16() }>;
    let bytes = written(&NoState::<8>, 1);
    assert_eq!(bytes.len(), HEADER_BYTES + SECTION_HEADER_BYTES + 16);
    assert_eq!(read::<Stateless>(&bytes).unwrap(), NoState);
}

#[test]
fn a_device_that_cannot_be_saved_loads_nothing() {
    type Unsavable = NotMigratable<{ DeviceKind::Null.as_u16() }>;
    assert_eq!(Unsavable::SUPPORT, SchemaSupport::NotMigratable);
    let header = Header {
        kind: 0xfff0,
        reader_oldest: 0,
        version: 0,
    };
    let mut bytes = Vec::new();
    StateWriter::begin(header, &mut bytes)
        .unwrap()
        .end()
        .unwrap();
    assert!(matches!(
        read::<Unsavable>(&bytes),
        Err(StateError::NotMigratable { .. })
    ));
}

#[test]
fn failures_of_the_host_are_the_hosts() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let bytes = written(&sample(), 3);
    let mut input = (&bytes[..50]).chain(Broken);
    let error = read_state::<Sample>(&mut input, &Limits::default()).unwrap_err();
    assert!(
        matches!(error, StateError::Read { offset: 50, .. }),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Host);
    let mut room = [0; 100];
    let error = write_state(&sample(), 3, &mut &mut room[..]).unwrap_err();
    assert!(matches!(error, StateError::Write { .. }), "{error}");
}

#[test]
fn an_inspection_goes_as_far_as_the_stream_is_sound() {
    let mut bytes = written(&sample(), 3);
    let whole = inspect(&mut &*bytes, &Limits::default());
    assert!(whole.problem.is_none());
    assert_eq!(whole.bytes, bytes.len() as u64);
    let tags: Vec<Tag> = whole.sections.iter().map(|section| section.tag).collect();
    assert_eq!(tags, [SESSION, INODES, PIXELS, HINT, LOCKS]);

    let third = usize::try_from(whole.sections[2].offset).unwrap();
    bytes[third + SECTION_HEADER_BYTES] ^= 1;
    let damaged = inspect(&mut &*bytes, &Limits::default());
    assert_eq!(damaged.header, whole.header);
    assert_eq!(damaged.sections, whole.sections[..2]);
    let offset = (third + SECTION_HEADER_BYTES) as u64;
    assert!(
        matches!(damaged.problem, Some(StateError::SectionDamaged { tag: PIXELS, offset: at, .. }) if at == offset)
    );
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let session =
        (any::<u64>(), ".{0,9}", any::<Option<u32>>()).prop_map(|(features, tag, minor)| Session {
            features,
            tag,
            minor,
        });
    let inode = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(nodeid, name)| Inode { nodeid, name });
    (
        session,
        prop::collection::vec(inode, 0..20),
        prop::collection::vec(any::<u8>(), 0..200),
        any::<u64>(),
        prop::collection::vec(any::<u32>(), 0..20),
    )
        .prop_map(|(session, inodes, pixels, hint, locks)| Sample {
            session,
            inodes,
            pixels,
            hint,
            locks,
        })
}

proptest! {
    #[test]
    fn any_state_makes_the_round_trip(state in any_sample()) {
        let bytes = written(&state, 3);
        let again = read::<Sample>(&bytes).unwrap();
        prop_assert_eq!(&again, &state);
        prop_assert_eq!(written(&again, 3), bytes);
    }

    #[test]
    fn no_payload_is_more_than_an_error(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        for tag in [SESSION, INODES, PIXELS, HINT, LOCKS] {
            drop(read::<Sample>(&forged_payload(tag, &payload)));
        }
    }

    #[test]
    fn no_stream_is_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read::<Sample>(&bytes).is_err());
    }
}
