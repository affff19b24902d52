//! Regions: their layout, byte by byte, and what is no region.

#![expect(
    clippy::host_endian_bytes,
    reason = "the region is in the byte order of the machine that both processes run on"
)]

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pread, pwrite};

use super::*;

/// 16 bytes, and 16 for each of 8 descriptors, rounded up to 64.
const PART: u64 = 192;
/// Both parts.
const BOTH: usize = 384;

fn regions() -> Regions {
    Regions::new(3, 1024)
}

fn shape(rings: u16, ring_size: u16) -> Inflight {
    Inflight {
        rings,
        ring_size,
        ..Inflight::default()
    }
}

fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn told(size: u64, file_offset: u64) -> Inflight {
    Inflight {
        size,
        file_offset,
        ..shape(2, 8)
    }
}

#[test]
fn the_layout_is_that_of_the_specification() {
    let regions = regions();
    let (made, file) = regions.create(shape(2, 8)).unwrap();
    assert_eq!(made, told(2 * PART, 0));
    let part = regions.part(1).unwrap();
    assert!(part.is_new());
    part.begin(0x1122);
    part.set_last_head(0x0304);
    part.mark(2);
    part.set_previous(2, 0x0506);
    part.set_number(2, 0x0708_090a_0b0c_0d0e);
    let mut bytes = [0; BOTH];
    pread(&file, &mut bytes, 0).unwrap();
    let mut expected = [0; BOTH];
    let start = BOTH / 2;
    for (at, value) in [(8, 1_u16), (10, 8), (12, 0x0304), (14, 0x1122)] {
        expected[start + at..start + at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    let entry = start + 16 + 2 * 16;
    expected[entry] = 1;
    expected[entry + 6..entry + 8].copy_from_slice(&0x0506_u16.to_ne_bytes());
    expected[entry + 8..entry + 16].copy_from_slice(&0x0708_090a_0b0c_0d0e_u64.to_ne_bytes());
    assert_eq!(bytes, expected);
    part.unmark(2);
    assert_eq!((part.is_marked(2), part.previous(2)), (false, 0x0506));
}

#[test]
fn heads_beyond_the_part_are_neither_read_nor_written() {
    let regions = regions();
    let (_, file) = regions.create(shape(2, 8)).unwrap();
    let part = regions.part(0).unwrap();
    for head in [8, 9, 12, u16::MAX] {
        part.mark(head);
        part.set_number(head, 7);
        part.set_previous(head, 7);
        assert_eq!((part.is_marked(head), part.number(head)), (false, 0));
    }
    let mut bytes = [0; BOTH];
    pread(&file, &mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; BOTH]);
    assert!(regions.part(2).is_none());
    assert!(regions.part(usize::MAX).is_none());
}

#[test]
fn the_next_process_sees_what_stands_in_a_region() {
    let first = regions();
    let (made, file) = first.create(shape(3, 1024)).unwrap();
    assert!(first.are_used());
    first.part(2).unwrap().mark(1023);
    let second = regions();
    assert!(!second.are_used());
    second.adopt(made, file.try_clone().unwrap()).unwrap();
    assert!(second.part(2).unwrap().is_marked(1023));
    // Somewhere in a file, of another back-end's making.
    let file = memfd(0x3000);
    let placed = told(0x2000, 0x1000);
    second.adopt(placed, file.try_clone().unwrap()).unwrap();
    second.part(0).unwrap().begin(0);
    let mut version = [0; 2];
    pread(&file, &mut version, 0x1008).unwrap();
    assert_eq!(u16::from_ne_bytes(version), 1);
}

/// A file that shrinks is a SIGBUS at the next request.
#[test]
fn a_file_in_use_cannot_shrink() {
    let regions = regions();
    let (_, ours) = regions.create(shape(2, 8)).unwrap();
    let theirs = memfd(2 * PART);
    regions
        .adopt(told(2 * PART, 0), theirs.try_clone().unwrap())
        .unwrap();
    for file in [&ours, &theirs] {
        assert_eq!(ftruncate(file, 0), Err(Errno::PERM));
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&theirs, hole, 0, 2 * PART).unwrap();
    regions.part(1).unwrap().mark(7);
    assert!(regions.part(1).unwrap().is_marked(7));
}

#[test]
fn what_is_no_region_is_refused_and_the_one_in_use_stays() {
    let regions = regions();
    regions.create(shape(2, 8)).unwrap();
    regions.part(0).unwrap().mark(3);
    let sizes = [
        (told(2 * PART - 1, 0), 2 * PART),
        (told(2 * PART, 0), 2 * PART - 1),
        (told(2 * PART, 4096), 4096 + PART),
        (told(2 * PART, u64::MAX), 2 * PART),
        (told(0, 0), 0),
    ];
    for (told, len) in sizes {
        let error = regions.adopt(told, memfd(len)).unwrap_err();
        assert!(matches!(error, InflightError::Size { .. }), "{error}");
    }
    let error = regions
        .adopt(told(2 * PART, 64), memfd(0x3000))
        .unwrap_err();
    assert!(matches!(error, InflightError::Map(_)), "{error}");
    for wrong in [
        shape(0, 8),
        shape(4, 8),
        shape(2, 0),
        shape(2, 1025),
        shape(u16::MAX, u16::MAX),
    ] {
        let error = regions.create(wrong).unwrap_err();
        assert!(matches!(error, InflightError::Shape { .. }), "{error}");
        let whole = Inflight {
            size: u64::MAX,
            ..wrong
        };
        assert!(regions.adopt(whole, memfd(0x1000)).is_err());
    }
    assert!(regions.part(0).unwrap().is_marked(3));
}

#[test]
fn files_that_could_shrink_or_run_out_are_refused() {
    let unsealable = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&unsealable, 0x1000).unwrap();
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(0x1000).unwrap();
    let null = File::open("/dev/null").unwrap();
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    let mut files = vec![unsealable, on_disk.into(), null.into(), pipe];
    // Needs no huge page to be there.
    files.extend(memfd_create(
        "test",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB,
    ));
    for file in files {
        let error = regions().adopt(told(2 * PART, 0), file).unwrap_err();
        assert!(matches!(error, InflightError::File(_)), "{error}");
    }
    let sealed = memfd(0x1000);
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let error = regions().adopt(told(2 * PART, 0), sealed).unwrap_err();
    assert!(matches!(error, InflightError::Map(_)), "{error}");
}

#[test]
fn a_region_of_another_version_is_refused() {
    for (at, bytes) in [(8, &[2_u8, 0][..]), (0, &[1]), (PART + 8, &[0xff, 0xff])] {
        let file = memfd(0x1000);
        pwrite(file.as_fd(), bytes, at).unwrap();
        let error = regions().adopt(told(2 * PART, 0), file).unwrap_err();
        assert!(matches!(error, InflightError::Version { .. }), "{error}");
    }
}
