//! Chains as no driver should make them, and cursors over those that are sound.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;

use vm_memory::GuestAddress;

use super::*;
use crate::Placement;
use crate::protocol::test_ring::{FREE, INDIRECT, NEXT, REGION_BYTES, SIZE, TestRing, WRITE};
use crate::protocol::vring::Popped;

const OUTSIDE: u64 = 2 * REGION_BYTES;

fn read_all(request: &Request) -> Vec<u8> {
    let mut reader = request.reader();
    let mut bytes = vec![0; reader.remaining()];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(reader.remaining(), 0);
    bytes
}

#[test]
fn a_chain_is_read_and_written_in_its_own_order() {
    let ring = TestRing::new();
    ring.write(FREE, b"second");
    ring.write(FREE + 0x100, b"first ");
    let request = ring
        .chain(&[
            (FREE + 0x100, 6, NEXT, 3),
            (0, 0, 0, 0),
            (FREE + 0x200, 2, WRITE | NEXT, 4),
            (FREE, 6, NEXT, 2),
            (FREE + 0x300, 4, WRITE, 0),
        ])
        .unwrap();
    assert_eq!(read_all(&request), b"first second");
    let mut writer = request.writer();
    assert_eq!(writer.remaining(), 6);
    writer.write_all(b"answer").unwrap();
    assert_eq!((writer.remaining(), writer.written()), (0, 6));
    assert_eq!(ring.read(FREE + 0x200, 2), b"an");
    assert_eq!(ring.read(FREE + 0x300, 4), b"swer");
}

#[test]
fn an_indirect_table_is_the_rest_of_the_chain() {
    let ring = TestRing::new();
    ring.write(FREE, b"direct indirect");
    let table = FREE + 0x1000;
    ring.describe_at(
        table,
        &[(FREE + 7, 8, NEXT, 1), (FREE + 0x100, 1, WRITE, 0)],
    );
    let request = ring
        .chain(&[(FREE, 7, NEXT, 1), (table, 32, INDIRECT, 0)])
        .unwrap();
    assert_eq!(read_all(&request), b"direct indirect");
    assert_eq!(request.writer().remaining(), 1);
}

#[test]
fn what_is_wrong_with_a_chain_is_told_apart() {
    let table = FREE + 0x1000;
    let broken = |descriptors| ChainError::BreaksOff {
        head: 0,
        descriptors,
    };
    let empty = ChainError::Empty { head: 0 };
    let outside = |address, len| ChainError::OutsideMemory {
        head: 0,
        address,
        len,
    };
    let cases = [
        ("to itself", vec![(FREE, 1, NEXT, 0)], broken(SIZE.into())),
        (
            "in a circle",
            vec![(FREE, 1, NEXT, 1), (FREE, 1, NEXT, 0)],
            broken(SIZE.into()),
        ),
        ("to no descriptor", vec![(FREE, 1, NEXT, SIZE)], broken(1)),
        (
            "readable after writable",
            vec![(FREE, 1, WRITE | NEXT, 1), (FREE, 1, 0, 0)],
            ChainError::Order { head: 0 },
        ),
        ("outside", vec![(OUTSIDE, 1, 0, 0)], outside(OUTSIDE, 1)),
        (
            "over the end",
            vec![(OUTSIDE - 1, 2, WRITE, 0)],
            outside(OUTSIDE - 1, 2),
        ),
        (
            "over the end of all addresses",
            vec![(u64::MAX, 2, 0, 0)],
            outside(u64::MAX, 2),
        ),
        ("no table", vec![(OUTSIDE, 16, INDIRECT, 0)], empty),
        ("a table of nothing", vec![(table, 0, INDIRECT, 0)], empty),
        ("half a descriptor", vec![(table, 24, INDIRECT, 0)], empty),
        (
            "a table that breaks off",
            vec![(FREE, 1, NEXT, 1), (table, 16, INDIRECT, 0)],
            broken(2),
        ),
        (
            "too large a table",
            vec![(table, 16 * 0x1_0000, INDIRECT, 0)],
            empty,
        ),
    ];
    for (name, descriptors, expected) in cases {
        let ring = TestRing::new();
        ring.describe_at(table, &[(FREE, 1, NEXT, 1)]);
        assert_eq!(ring.chain(&descriptors).unwrap_err(), expected, "{name}");
    }
}

#[test]
fn a_table_in_a_table_is_refused() {
    let ring = TestRing::new();
    let table = FREE + 0x1000;
    ring.describe_at(table, &[(FREE, 1, NEXT, 1), (table, 16, INDIRECT, 0)]);
    let error = ring.chain(&[(table, 32, INDIRECT, 0)]).unwrap_err();
    let expected = ChainError::BreaksOff {
        head: 0,
        descriptors: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_head_that_does_not_exist_is_refused() {
    let ring = TestRing::new();
    ring.offer(SIZE);
    ring.offer(0);
    for _ in 0..2 {
        assert!(matches!(ring.pop(), Popped::Nothing(_)), "served");
    }
}

/// virtio 1.3, 2.7.5.2: not longer than 2^32 bytes in total.
#[test]
fn a_chain_of_more_than_4_gib_is_refused() {
    const LEN: u32 = 0x8000_0000;
    let ring = TestRing::in_memory(&[(GuestAddress(0), LEN as usize)]);
    let error = ring
        .chain(&[(0, LEN, NEXT, 1), (0, LEN, 0, 0)])
        .unwrap_err();
    let expected = ChainError::BreaksOff {
        head: 0,
        descriptors: 1,
    };
    assert_eq!(error, expected);
    let request = ring
        .chain(&[(0, LEN, NEXT, 1), (0, LEN - 1, 0, 0)])
        .unwrap();
    assert_eq!(request.reader().remaining(), u32::MAX as usize);
}

/// Legal, if strange: they hold nothing, so it does not matter where they are.
#[test]
fn buffers_of_no_bytes_are_passed_over() {
    let ring = TestRing::new();
    ring.write(FREE, b"ab");
    let request = ring
        .chain(&[
            (OUTSIDE, 0, NEXT, 1),
            (FREE, 1, NEXT, 2),
            (FREE, 0, NEXT, 3),
            (FREE + 1, 1, NEXT, 4),
            (FREE, 0, NEXT, 5),
            (OUTSIDE, 0, WRITE | NEXT, 6),
            (FREE + 8, 1, WRITE, 0),
        ])
        .unwrap();
    assert_eq!(read_all(&request), b"ab");
    let mut writer = request.writer();
    writer.write_all(b"c").unwrap();
    assert_eq!(writer.remaining(), 0);
    assert_eq!(ring.read(FREE + 8, 1), b"c");
    let nothing = ring.chain(&[(FREE, 0, 0, 0)]).unwrap();
    assert_eq!(nothing.reader().remaining(), 0);
    assert_eq!(read_all(&nothing), b"");
}

#[test]
fn a_buffer_may_span_two_adjacent_regions() {
    let ring = TestRing::new();
    let start = REGION_BYTES - 3;
    ring.write(start, b"abcdef");
    let request = ring
        .chain(&[(start, 6, NEXT, 1), (start, 6, WRITE, 0)])
        .unwrap();
    assert_eq!(read_all(&request), b"abcdef");
    let mut reader = request.reader();
    reader.skip(2).unwrap();
    let mut rest = [0; 4];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"cdef");
    request.writer().write_all(b"ghijkl").unwrap();
    assert_eq!(ring.read(start, 6), b"ghijkl");
}

#[test]
fn buffers_of_one_byte_each_are_as_good_as_one() {
    let ring = TestRing::new();
    ring.write(FREE, &0x1234_5678_u32.to_le_bytes());
    let bytes: Vec<_> = (0_u16..8)
        .map(|index| {
            let flags = if index < 4 { NEXT } else { WRITE | NEXT };
            let last = if index == 7 { WRITE } else { flags };
            (FREE + u64::from(index), 1, last, index + 1)
        })
        .collect();
    let request = ring.chain(&bytes).unwrap();
    assert_eq!(request.reader().read_object::<u32>(), Ok(0x1234_5678));
    request.writer().write_object(&0x9abc_def0_u32).unwrap();
    assert_eq!(ring.read(FREE + 4, 4), 0x9abc_def0_u32.to_le_bytes());
}

#[test]
fn too_little_is_told_and_nothing_is_moved() {
    let ring = TestRing::new();
    ring.write(FREE, b"abc");
    let request = ring
        .chain(&[(FREE, 3, NEXT, 1), (FREE + 8, 2, WRITE, 0)])
        .unwrap();
    let mut reader = request.reader();
    let short = CursorError::RequestTooShort {
        available: 3,
        wanted: 4,
    };
    assert_eq!(reader.read_object::<u32>(), Err(short));
    assert_eq!(reader.skip(4), Err(short));
    assert_eq!(reader.remaining(), 3);
    let mut writer = request.writer();
    let small = CursorError::ReplyTooSmall {
        available: 2,
        wanted: 3,
    };
    assert_eq!(writer.write_all(b"xyz"), Err(small));
    assert_eq!((writer.remaining(), writer.written()), (2, 0));
    assert_eq!(ring.read(FREE + 8, 2), [0; 2]);
    assert_eq!(
        writer.split_at(3).map(drop),
        Err(CursorError::ReplyTooSmall {
            available: 2,
            wanted: 3
        })
    );
}

#[test]
fn a_split_writer_keeps_the_halves_apart() {
    let ring = TestRing::new();
    let request = ring
        .chain(&[(FREE, 5, WRITE | NEXT, 1), (FREE + 0x10, 5, WRITE, 0)])
        .unwrap();
    for at in 0..=10 {
        ring.write(FREE, &[0; 0x20]);
        let (mut head, mut tail) = request.writer().split_at(at).unwrap();
        assert_eq!((head.remaining(), tail.remaining()), (at, 10 - at));
        tail.write_all(&vec![b't'; 10 - at]).unwrap();
        assert!(head.write_all(&vec![b'h'; at + 1]).is_err(), "overrun");
        head.write_all(&vec![b'h'; at]).unwrap();
        let written = [ring.read(FREE, 5), ring.read(FREE + 0x10, 5)].concat();
        let expected = [vec![b'h'; at], vec![b't'; 10 - at]].concat();
        assert_eq!(written, expected);
    }
}

#[test]
fn a_clone_of_a_reader_looks_ahead() {
    let ring = TestRing::new();
    ring.write(FREE, b"ab");
    let request = ring.chain(&[(FREE, 2, 0, 0)]).unwrap();
    let reader = request.reader();
    let mut ahead = reader.clone();
    assert_eq!(ahead.read_object::<u8>(), Ok(b'a'));
    assert_eq!((ahead.remaining(), reader.remaining()), (1, 2));
}

#[test]
fn files_are_read_and_written_without_a_copy_and_cursors_follow() {
    let ring = TestRing::new();
    let start = REGION_BYTES - 4;
    ring.write(start, b"12345678");
    let request = ring
        .chain(&[
            (start, 8, NEXT, 1),
            (start, 3, WRITE | NEXT, 2),
            (start + 3, 5, WRITE, 0),
        ])
        .unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut reader = request.reader();
    reader.skip(1).unwrap();
    let at = Placement::At(2);
    assert_eq!(reader.write_to_file(file.as_fd(), at, 5).unwrap(), 5);
    assert_eq!(reader.remaining(), 2);
    let append = Placement::Append;
    assert_eq!(reader.write_to_file(file.as_fd(), append, 100).unwrap(), 2);
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"\0\x0023456\x37\x38");

    file.rewind().unwrap();
    file.write_all(b"abcdefghi").unwrap();
    let mut writer = request.writer();
    assert_eq!(writer.read_from_file(file.as_fd(), 5, 100).unwrap(), 4);
    assert_eq!((writer.remaining(), writer.written()), (4, 4));
    assert_eq!(writer.read_from_file(file.as_fd(), 9, 4).unwrap(), 0, "EOF");
    assert_eq!(writer.read_from_file(file.as_fd(), 0, 4).unwrap(), 4);
    assert_eq!(ring.read(start, 8), b"fghiabcd");
}
