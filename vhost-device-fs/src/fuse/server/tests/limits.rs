//! What one request can ask for, at most.

use super::*;

/// A file that is open, with so many bytes in it that nobody has written.
fn sparse(guest: &mut Guest, name: &str, size: u64) -> (u64, u64) {
    let (entry, open) = guest.create(name);
    fs::File::options()
        .write(true)
        .open(guest.path(name))
        .and_then(|file| file.set_len(size))
        .unwrap();
    (entry.nodeid, open.handle)
}

#[test]
fn one_read_gives_sixteen_mebibytes_at_most() {
    const MOST: u32 = 16 << 20;
    let mut guest = Guest::new();
    let (nodeid, handle) = sparse(&mut guest, "f", 32 << 20);
    let room = [OutHeader::SIZE, 17 << 20];
    let mut read = |size| {
        let read = ReadIn {
            handle,
            size,
            ..ReadIn::default()
        };
        guest
            .ask_with_room(Opcode::Read, nodeid, &bytes(&read), &room)
            .map(|data| data.len())
    };
    assert_eq!(read(MOST), Ok(16 << 20));
    assert_eq!(read(MOST + 1), Err(Errno::INVAL));
}

#[test]
fn one_write_takes_what_was_agreed_on_at_most() {
    const MOST: u32 = 1 << 20;
    let mut guest = Guest::new();
    let (nodeid, handle) = sparse(&mut guest, "f", 0);
    for (size, expected) in [(MOST, Ok(8)), (MOST + 1, Err(Errno::INVAL))] {
        let write = WriteIn {
            handle,
            size,
            ..WriteIn::default()
        };
        let data = vec![7; usize::try_from(size).unwrap()];
        let body = [bytes(&write), data].concat();
        let answer = guest.ask(Opcode::Write, nodeid, &body);
        assert_eq!(answer.map(|reply| reply.len()), expected);
        assert_eq!(
            fs::metadata(guest.path("f")).unwrap().len(),
            u64::from(MOST)
        );
    }
}

#[test]
fn one_copy_copies_a_part_of_what_is_too_long() {
    const MOST: u64 = 64 << 20;
    let mut guest = Guest::new();
    let (nodeid, from) = sparse(&mut guest, "from", MOST + 4096);
    let (_, to) = sparse(&mut guest, "to", 0);
    let copy = CopyFileRangeIn {
        handle_in: from,
        handle_out: to,
        len: MOST + 4096,
        ..CopyFileRangeIn::default()
    };
    let reply = guest
        .ask(Opcode::CopyFileRange, nodeid, &bytes(&copy))
        .unwrap();
    let copied: WriteOut = parse(&reply);
    assert!((1..=MOST).contains(&copied.size.into()), "{}", copied.size);
}

#[test]
fn one_list_of_names_is_a_mebibyte_at_most() {
    let mut guest = Guest::new();
    for number in 0..4_000 {
        let name = format!("{number:0>255}");
        fs::File::create(guest.path(&name)).unwrap();
    }
    let handle = guest.open_root();
    let read = ReadIn {
        handle,
        size: 4 << 20,
        ..ReadIn::default()
    };
    let room = [OutHeader::SIZE, 4 << 20];
    let reply = guest.ask_with_room(Opcode::ReadDir, ROOT_NODEID, &bytes(&read), &room);
    let names = reply.unwrap();
    assert!(
        (1_000_000..=1 << 20).contains(&names.len()),
        "{}",
        names.len()
    );
}

#[test]
fn one_request_forgets_so_many_nodes_at_most() {
    const MOST: usize = 1 << 18;
    let mut guest = Guest::new();
    fs::write(guest.path("f"), "").unwrap();
    for (before, is_known) in [(MOST, true), (MOST - 1, false)] {
        let nodeid = guest.lookup(b"f").unwrap().nodeid;
        // The last one of the list is of the file.
        let mut list = vec![
            bytes(&ForgetOne {
                nodeid: u64::MAX,
                nlookup: 1,
            });
            before
        ];
        list.push(bytes(&ForgetOne { nodeid, nlookup: 9 }));
        let batch = BatchForgetIn {
            count: u32::try_from(list.len()).unwrap(),
            ..BatchForgetIn::default()
        };
        let body = [bytes(&batch), list.concat()].concat();
        let header = guest.header(Opcode::BatchForget.number(), 0, body.len());
        guest.serve(&[&header, &body], &[]);
        let attributes = guest.ask(Opcode::GetAttr, nodeid, &bytes(&GetAttrIn::default()));
        assert_eq!(attributes.is_ok(), is_known, "{before} before it");
    }
}
