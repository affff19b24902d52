//! Files that are shorter than the message says.

use std::fs::File;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;

const PAGE: u64 = 0x1000;

fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn region(size: u64, file_offset: u64) -> MemoryRegion {
    MemoryRegion {
        guest_address: 0,
        size,
        user_address: 0,
        file_offset,
    }
}

fn message(request: Request, body: Vec<u8>, files: Vec<OwnedFd>) -> Message {
    Message {
        files,
        ..Message::new(request, body)
    }
}

/// The messages that map `size` bytes from `offset` on, of a file of `len` bytes.
fn mapping(size: u64, offset: u64, len: u64) -> [Message; 3] {
    let log = DirtyLog {
        size,
        file_offset: offset,
    };
    let whole = region(PAGE, 0);
    let table = MemoryRegion::encode_table(&[whole, region(size, offset)]);
    [
        message(Request::SET_MEM_TABLE, table, vec![memfd(PAGE), memfd(len)]),
        message(
            Request::ADD_MEM_REG,
            region(size, offset).encode_single(),
            vec![memfd(len)],
        ),
        message(Request::SET_LOG_BASE, log.encode(), vec![memfd(len)]),
    ]
}

#[test]
fn a_file_that_holds_what_is_mapped_is_let_through() {
    for message in mapping(PAGE, PAGE, 2 * PAGE) {
        check(&message).unwrap();
    }
}

#[test]
fn a_file_that_ends_before_is_refused() {
    let cases = [
        (PAGE, PAGE, 2 * PAGE - 1),
        (PAGE, 0, 0),
        (1, u64::MAX, PAGE),
        (u64::MAX, u64::MAX, PAGE),
    ];
    for (size, offset, len) in cases {
        for message in mapping(size, offset, len) {
            let request = message.request;
            let Err(TrustError::ShortFile { wanted, found, .. }) = check(&message) else {
                panic!("{request} of {size} bytes at {offset} let through");
            };
            assert_eq!((wanted, found), (end(offset, size), len));
        }
    }
}

/// The stock handler knows what a message must look like.
#[test]
fn the_form_of_a_message_is_not_judged_here() {
    let short = region(PAGE, 0).encode_single()[..39].to_vec();
    let table = MemoryRegion::encode_table(&[region(PAGE, 0); 2]);
    for message in [
        message(Request::ADD_MEM_REG, short, vec![memfd(0)]),
        message(Request::SET_MEM_TABLE, table[..8].to_vec(), vec![memfd(0)]),
        message(Request::SET_MEM_TABLE, vec![0xff; 8], vec![memfd(0)]),
        message(Request::SET_MEM_TABLE, table, vec![]),
        message(Request::SET_LOG_BASE, vec![], vec![memfd(0)]),
        message(Request::GET_FEATURES, vec![0xff; 64], vec![memfd(0)]),
    ] {
        check(&message).unwrap();
    }
}

/// A device node cannot be mapped past its end, or not at all: the stock handler finds out.
#[test]
fn what_has_no_length_is_not_measured() {
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let body = region(PAGE, 0).encode_single();
    check(&message(Request::ADD_MEM_REG, body, vec![null])).unwrap();
}
