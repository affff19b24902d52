//! File I/O from and to slices, over real files and pipes.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;

use vm_memory::bitmap::{AtomicBitmap, Bitmap as _};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions};

use super::*;

/// More than three calls' worth of buffers that cannot be joined.
const PIECES: usize = 3 * BUFFERS_MAX + 7;
/// Distance of two buffers, and their length.
const STRIDE: usize = 0x1000;
const LEN: usize = 5;

type Memory = GuestMemoryMmap<AtomicBitmap>;

fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), PIECES * STRIDE)]).unwrap()
}

fn slices(memory: &Memory) -> impl Iterator<Item = VolatileSlice<'_, impl BitmapSlice>> + Clone {
    (0..PIECES).map(move |piece| {
        let start = GuestAddress((piece * STRIDE) as u64);
        memory
            .get_slices(start, LEN, Permissions::No)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
    })
}

fn read_piece(memory: &Memory, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    memory
        .read_slice(&mut bytes, GuestAddress((piece * STRIDE) as u64))
        .unwrap();
    bytes
}

fn marks(memory: &Memory) -> &AtomicBitmap {
    use vm_memory::GuestMemoryBackend as _;
    let region = memory.iter().next().unwrap();
    let mapping: &MmapRegion<AtomicBitmap> = region;
    mapping.bitmap()
}

fn is_marked(memory: &Memory, piece: usize) -> bool {
    marks(memory).dirty_at(piece * STRIDE)
}

fn content() -> Vec<u8> {
    (0..PIECES * LEN)
        .map(|at| at.to_le_bytes()[0] | 1)
        .collect()
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn more_buffers_than_one_call_takes_are_all_read() {
    let (memory, content) = (memory(), content());
    let file = file(&[b"head".as_slice(), &content, b"tail"].concat());
    let read = read_at(file.as_fd(), 4, Waiting::Allowed, slices(&memory)).unwrap();
    assert_eq!(read, content.len());
    for (piece, expected) in content.chunks(LEN).enumerate() {
        assert_eq!(read_piece(&memory, piece), expected, "buffer {piece}");
        assert!(is_marked(&memory, piece), "buffer {piece}");
    }
}

#[test]
fn a_short_read_ends_the_transfer_and_marks_what_was_read() {
    let (memory, content) = (memory(), content());
    // In the middle of a buffer of the second call.
    let len = (BUFFERS_MAX + 3) * LEN + 2;
    let file = file(&content[..len]);
    assert_eq!(
        read_at(file.as_fd(), 0, Waiting::Allowed, slices(&memory)).unwrap(),
        len
    );
    let last = len / LEN;
    assert_eq!(read_piece(&memory, last)[..2], content[last * LEN..len]);
    assert_eq!(read_piece(&memory, last)[2..], [0; 3]);
    for piece in 0..PIECES {
        assert_eq!(is_marked(&memory, piece), piece <= last, "buffer {piece}");
    }
}

#[test]
fn at_the_end_of_the_file_nothing_is_read_or_marked() {
    let memory = memory();
    let file = file(b"abc");
    for offset in [3, 4, i64::MAX.cast_unsigned() - (PIECES * LEN) as u64] {
        assert_eq!(
            read_at(file.as_fd(), offset, Waiting::Allowed, slices(&memory)).unwrap(),
            0
        );
    }
    assert!((0..PIECES).all(|piece| !is_marked(&memory, piece)));
}

#[test]
fn a_failed_read_marks_nothing() {
    let memory = memory();
    let directory = File::open("/").unwrap();
    let error = read_at(directory.as_fd(), 0, Waiting::Allowed, slices(&memory)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
    assert!((0..PIECES).all(|piece| !is_marked(&memory, piece)));
}

#[test]
fn an_offset_that_no_file_has_is_an_error() {
    let memory = memory();
    let file = file(b"abc");
    for offset in [u64::MAX, i64::MAX.cast_unsigned() + 1] {
        let error = read_at(file.as_fd(), offset, Waiting::Allowed, slices(&memory)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        let error = write_at(file.as_fd(), Placement::At(offset), slices(&memory)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
    }
}

fn filled() -> (Memory, Vec<u8>) {
    let (memory, content) = (memory(), content());
    for (piece, bytes) in content.chunks(LEN).enumerate() {
        let start = GuestAddress((piece * STRIDE) as u64);
        memory.write_slice(bytes, start).unwrap();
    }
    marks(&memory).reset();
    (memory, content)
}

#[test]
fn more_buffers_than_one_call_takes_are_all_written_and_none_is_marked() {
    let (memory, content) = filled();
    let mut file = file(b"0123456789");
    let written = write_at(file.as_fd(), Placement::At(4), slices(&memory)).unwrap();
    assert_eq!(written, content.len());
    let mut found = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut found).unwrap();
    assert_eq!(found, [b"0123".as_slice(), &content].concat());
    assert!((0..PIECES).all(|piece| !is_marked(&memory, piece)));
}

#[test]
fn appended_is_what_goes_to_the_end_whoever_else_writes() {
    let (memory, content) = filled();
    let mut file = file(b"0123456789");
    file.rewind().unwrap();
    let written = write_at(file.as_fd(), Placement::Append, slices(&memory)).unwrap();
    assert_eq!(written, content.len());
    let mut found = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut found).unwrap();
    assert_eq!(found, [b"0123456789".as_slice(), &content].concat());
}

/// A full disk in the middle: what was written counts, and the error comes with the next attempt.
#[test]
fn a_write_that_fails_after_some_bytes_is_a_short_write() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let (memory, _) = filled();
    let file = memfd_create("full", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let first_call = BUFFERS_MAX * LEN;
    ftruncate(&file, first_call as u64).unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    let start = Placement::At(0);
    let written = write_at(file.as_fd(), start, slices(&memory)).unwrap();
    assert_eq!(written, first_call);
    let end = Placement::At(first_call as u64);
    let error = write_at(file.as_fd(), end, slices(&memory)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn no_buffers_are_no_call() {
    let closed = File::open("/").unwrap(); // reading it would fail
    let none = std::iter::empty::<VolatileSlice<'_, ()>>;
    assert_eq!(
        read_at(closed.as_fd(), 0, Waiting::Allowed, none()).unwrap(),
        0
    );
    let append = Placement::Append;
    assert_eq!(write_at(closed.as_fd(), append, none()).unwrap(), 0);
}

#[test]
fn buffers_that_follow_each_other_in_memory_are_one_vector() {
    let mut batch = Batch::new();
    let base = std::ptr::without_provenance_mut::<libc::c_void>(0x1000);
    assert!(batch.push(base, 0x10));
    assert!(batch.push(base.wrapping_byte_add(0x10), 0x20));
    assert!(batch.push(base.wrapping_byte_add(0x31), 1));
    assert_eq!((batch.count, batch.bytes), (2, 0x31));
    for at in 2..BUFFERS_MAX {
        assert!(batch.push(base.wrapping_byte_add(0x100 * at), 1));
    }
    assert!(!batch.push(base, 1), "full");
    let next = base.wrapping_byte_add(0x100 * (BUFFERS_MAX - 1) + 1);
    assert!(batch.push(next, 1), "full, but this needs no vector");
}

#[test]
fn vectors_cover_the_buffers_and_join_neighbours() {
    let memory = memory();
    let mut vectors = IoVectors::default();
    vectors.fill(slices(&memory));
    let bytes: usize = vectors.as_slice().iter().map(|vector| vector.iov_len).sum();
    assert_eq!(
        bytes,
        slices(&memory).map(|slice| slice.len()).sum::<usize>()
    );
    vectors.fill(slices(&memory).take(1).chain(slices(&memory).take(1)));
    assert_eq!(
        vectors.as_slice().len(),
        2,
        "the same buffer twice is not one"
    );
}
