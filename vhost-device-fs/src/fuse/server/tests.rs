//! Requests as bytes against a directory of the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::abi::*;
use super::super::session::SessionOptions;
use super::*;
use crate::operations::ROOT_NODEID;

mod limits;

/// Room for any reply.
const ROOM: &[usize] = &[OutHeader::SIZE, 1 << 20];

/// In place of the reply of a request that waits; no reply is as short.
const WAITS: &[u8] = b"waits";
/// From so many bytes on, data is worth another thread.
const LONG: usize = 128 << 10;

/// A guest that sends bytes and looks at bytes.
struct Guest {
    directory: Arc<TempDir>,
    config: Config,
    file_system: Arc<FileSystem>,
    buffers: Buffers,
    unique: u64,
}

type Outcome = Result<Vec<u8>, Errno>;

impl Guest {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut guest = Self::without_session(configure);
        guest.init().unwrap();
        guest
    }

    fn without_session(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = Arc::new(TempDir::new().unwrap());
        let mut config = Config::new(directory.path());
        configure(&mut config);
        Self {
            file_system: Arc::new(FileSystem::new(&config).unwrap()),
            directory,
            config,
            buffers: Buffers::default(),
            unique: 0,
        }
    }

    /// The same guest on another ring.
    fn on_another_ring(&self) -> Self {
        Self {
            directory: Arc::clone(&self.directory),
            config: self.config.clone(),
            file_system: Arc::clone(&self.file_system),
            buffers: Buffers::default(),
            unique: 0,
        }
    }

    fn init(&mut self) -> Outcome {
        let asked = InitIn {
            major: 7,
            minor: 45,
            max_readahead: 4096,
            flags: u32::MAX,
        };
        let extension = InitInExtension {
            flags2: u32::MAX,
            ..InitInExtension::default()
        };
        self.ask(Opcode::Init, 0, &bytes(&(asked, extension)))
    }

    fn session(&self) -> Option<SessionOptions> {
        self.file_system.session()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Serves a request that may be anything; returns what is in the reply buffers.
    fn serve(&mut self, readable: &[&[u8]], writable: &[usize]) -> Vec<u8> {
        let request = Request::in_memory(readable, writable);
        let server = Server {
            config: &self.config,
            file_system: &self.file_system,
            may_wait: true,
        };
        match server.serve(&request, &mut self.buffers, &mut |_, _| false) {
            Served::Answered(written) => request.written(usize::try_from(written).unwrap()),
            Served::Waits | Served::Left => WAITS.to_vec(),
        }
    }

    fn header(&mut self, opcode: u32, nodeid: u64, body_len: usize) -> Vec<u8> {
        self.unique += 1;
        bytes(&InHeader {
            len: u32::try_from(InHeader::SIZE + body_len).unwrap(),
            opcode,
            unique: self.unique,
            nodeid,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: 1,
            ..InHeader::default()
        })
    }

    /// Sends a sound request and takes its reply apart.
    fn ask_with_room(
        &mut self,
        opcode: Opcode,
        nodeid: u64,
        body: &[u8],
        room: &[usize],
    ) -> Outcome {
        let header = self.header(opcode.number(), nodeid, body.len());
        let reply = self.serve(&[&header, body], room);
        outcome(&reply, self.unique)
    }

    fn ask(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Outcome {
        self.ask_with_room(opcode, nodeid, body, ROOM)
    }

    fn lookup(&mut self, name: &[u8]) -> Result<EntryOut, Errno> {
        let body = [name, b"\0"].concat();
        self.ask(Opcode::Lookup, ROOT_NODEID, &body)
            .map(|reply| parse(&reply))
    }

    fn create(&mut self, name: &str) -> (EntryOut, OpenOut) {
        let create = CreateIn {
            flags: libc::O_RDWR.cast_unsigned(),
            mode: libc::S_IFREG | 0o640,
            ..CreateIn::default()
        };
        let body = [&bytes(&create), name.as_bytes(), b"\0"].concat();
        parse(&self.ask(Opcode::Create, ROOT_NODEID, &body).unwrap())
    }

    fn open_root(&mut self) -> u64 {
        let body = bytes(&OpenIn::default());
        let open: OpenOut = parse(&self.ask(Opcode::OpenDir, ROOT_NODEID, &body).unwrap());
        open.handle
    }
}

fn bytes(structure: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    structure.append(&mut bytes);
    bytes
}

fn parse<T: Wire>(reply: &[u8]) -> T {
    assert_eq!(reply.len(), T::SIZE);
    T::take(&mut &*reply).unwrap()
}

/// Checks the header of a reply, and tells the body or the error.
fn outcome(reply: &[u8], unique: u64) -> Outcome {
    let mut rest = reply;
    let header = OutHeader::take(&mut rest).expect("no reply");
    assert_eq!(usize::try_from(header.len).unwrap(), reply.len());
    assert_eq!(header.unique, unique);
    if header.error == 0 {
        return Ok(rest.to_vec());
    }
    assert!((-4095..0).contains(&header.error), "{}", header.error);
    assert!(rest.is_empty());
    Err(Errno::from_raw_os_error(-header.error))
}

fn read_in(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    bytes(&ReadIn {
        handle,
        offset,
        size,
        ..ReadIn::default()
    })
}

#[test]
fn nothing_but_init_is_served_without_a_session() {
    let mut guest = Guest::without_session(|_| {});
    for opcode in Opcode::ALL {
        if *opcode == Opcode::Init || operation(*opcode).is_none() {
            continue;
        }
        assert_eq!(
            guest.ask(*opcode, ROOT_NODEID, &[0; 128]),
            Err(Errno::IO),
            "{opcode:?}"
        );
    }
    assert!(guest.init().is_ok());
    assert!(guest.ask(Opcode::GetAttr, ROOT_NODEID, &[0; 16]).is_ok());
    assert_eq!(guest.ask(Opcode::Destroy, 0, &[]), Ok(Vec::new()));
    assert_eq!(
        guest.ask(Opcode::GetAttr, ROOT_NODEID, &[0; 16]),
        Err(Errno::IO)
    );
}

#[test]
fn a_second_init_begins_anew() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    let known = guest.lookup(b"file").unwrap().nodeid;
    assert!(guest.ask(Opcode::GetAttr, known, &[0; 16]).is_ok());
    assert!(guest.init().is_ok());
    assert!(guest.session().is_some());
    assert!(guest.ask(Opcode::GetAttr, known, &[0; 16]).is_err());
}

#[test]
fn an_init_that_is_refused_leaves_the_session_as_it_was() {
    let mut guest = Guest::new();
    let before = guest.session();
    let old = bytes(&InitIn {
        major: 7,
        minor: 8,
        ..InitIn::default()
    });
    assert_eq!(guest.ask(Opcode::Init, 0, &old), Err(Errno::PROTO));
    assert_eq!(guest.session(), before);
}

#[test]
fn a_file_is_created_written_and_read() {
    let mut guest = Guest::new();
    let (entry, open) = guest.create("file");
    assert_eq!(entry.attr.mode, libc::S_IFREG | 0o640);

    let data = vec![7; 10_000];
    let write = WriteIn {
        handle: open.handle,
        offset: 5,
        size: 10_000,
        ..WriteIn::default()
    };
    let header = guest.header(
        Opcode::Write.number(),
        entry.nodeid,
        WriteIn::SIZE + data.len(),
    );
    let (first, second) = data.split_at(4096);
    let reply = guest.serve(&[&header, &bytes(&write), first, second], ROOM);
    let written: WriteOut = parse(&outcome(&reply, guest.unique).unwrap());
    assert_eq!(written.size, 10_000);

    let expected = [&[0; 5][..], &data].concat();
    assert_eq!(fs::read(guest.path("file")).unwrap(), expected);

    let read = read_in(open.handle, 0, 12_000);
    let room = [7, 9, 4096, 8192];
    assert_eq!(
        guest.ask_with_room(Opcode::Read, entry.nodeid, &read, &room),
        Ok(expected)
    );
    let beyond = read_in(open.handle, 1 << 40, 100);
    assert_eq!(
        guest.ask(Opcode::Read, entry.nodeid, &beyond),
        Ok(Vec::new())
    );
}

#[test]
fn an_append_goes_to_the_end() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "12345").unwrap();
    let (entry, open) = guest.create("file");
    let write = WriteIn {
        handle: open.handle,
        size: 3,
        flags: libc::O_APPEND.cast_unsigned(),
        ..WriteIn::default()
    };
    guest
        .ask(
            Opcode::Write,
            entry.nodeid,
            &[&bytes(&write), &b"678"[..]].concat(),
        )
        .unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"12345678");
}

#[test]
fn attributes_are_those_of_the_file() {
    let mut guest = Guest::with(|config| config.cache = crate::config::Cache::Auto);
    fs::write(guest.path("file"), "data").unwrap();
    let entry = guest.lookup(b"file").unwrap();
    let host = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((entry.entry_valid, entry.attr_valid), (1, 1));
    assert_eq!((entry.attr.size, entry.attr.mode), (4, host.mode()));
    assert_eq!(entry.attr.mtime, host.mtime().cast_unsigned());
    assert_eq!(i64::from(entry.attr.mtime_nsec), host.mtime_nsec());

    let set = SetAttrIn {
        valid: setattr::SIZE | setattr::MODE | setattr::MTIME,
        size: 2,
        mode: 0o600,
        mtime: (-5_i64).cast_unsigned(),
        mtime_nsec: 7,
        ..SetAttrIn::default()
    };
    let changed: AttrOut = parse(
        &guest
            .ask(Opcode::SetAttr, entry.nodeid, &bytes(&set))
            .unwrap(),
    );
    let host = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((host.size(), host.mode() & 0o7777), (2, 0o600));
    assert_eq!((host.mtime(), host.mtime_nsec()), (-5, 7));
    assert_eq!((changed.attr.size, changed.attr.mtime), (2, set.mtime));
}

#[test]
fn what_is_not_offered_is_not_there() {
    let mut guest = Guest::new();
    for opcode in [
        Opcode::GetLk,
        Opcode::SetLk,
        Opcode::SetLkW,
        Opcode::Ioctl,
        Opcode::Poll,
        Opcode::Interrupt,
    ] {
        assert_eq!(
            guest.ask(opcode, ROOT_NODEID, &[0; 64]),
            Err(Errno::NOSYS),
            "{opcode:?}"
        );
    }
    for number in [0, 7, 54, 4096, u32::MAX] {
        let header = guest.header(number, ROOT_NODEID, 0);
        let reply = guest.serve(&[&header], ROOM);
        assert_eq!(outcome(&reply, guest.unique), Err(Errno::NOSYS));
    }
}

#[test]
fn a_request_that_is_not_all_there_is_refused() {
    let mut guest = Guest::new();
    let header = guest.header(Opcode::GetAttr.number(), ROOT_NODEID, GetAttrIn::SIZE);
    assert!(
        guest.serve(&[&header[..39]], ROOM).is_empty(),
        "nobody to answer"
    );
    let reply = guest.serve(&[&header, &[0; 15]], ROOM);
    assert_eq!(outcome(&reply, guest.unique), Err(Errno::INVAL));
    for len in [0, 39, u32::MAX] {
        let mut header = header.clone();
        header[..4].copy_from_slice(&len.to_le_bytes());
        let reply = guest.serve(&[&header, &[0; 64]], ROOM);
        assert_eq!(outcome(&reply, guest.unique), Err(Errno::INVAL), "{len}");
    }
    let reply = guest.serve(&[&header, &[0; 64]], ROOM);
    assert!(
        outcome(&reply, guest.unique).is_ok(),
        "more than the request is no error"
    );
}

#[test]
fn a_body_of_any_size_is_refused_without_being_copied() {
    let mut guest = Guest::new();
    let body = vec![b'x'; BODY_BYTES_MAX + 1];
    assert_eq!(
        guest.ask(Opcode::Lookup, ROOT_NODEID, &body),
        Err(Errno::TOOBIG)
    );
    assert!(guest.buffers.body.capacity() <= BODY_BYTES_MAX);
}

#[test]
fn a_reply_that_does_not_fit_is_an_error_and_nothing_was_done() {
    let mut guest = Guest::new();
    let body = [
        &bytes(&MkDirIn {
            mode: 0o755,
            umask: 0,
        }),
        &b"new\0"[..],
    ]
    .concat();
    for room in 0..OutHeader::SIZE {
        let header = guest.header(Opcode::MkDir.number(), ROOT_NODEID, body.len());
        assert!(guest.serve(&[&header, &body], &[room]).is_empty());
    }
    for room in [OutHeader::SIZE, OutHeader::SIZE + EntryOut::SIZE - 1] {
        assert_eq!(
            guest.ask_with_room(Opcode::MkDir, ROOT_NODEID, &body, &[room]),
            Err(Errno::INVAL)
        );
    }
    assert!(!guest.path("new").exists());
    assert!(
        guest
            .ask_with_room(
                Opcode::MkDir,
                ROOT_NODEID,
                &body,
                &[OutHeader::SIZE, EntryOut::SIZE]
            )
            .is_ok()
    );
    assert!(guest.path("new").is_dir());
}

#[test]
fn data_is_never_cut_short() {
    let mut guest = Guest::new();
    let (entry, open) = guest.create("file");
    fs::write(guest.path("file"), [1; 100]).unwrap();
    let read = read_in(open.handle, 0, 100);
    let asked = guest.ask_with_room(Opcode::Read, entry.nodeid, &read, &[OutHeader::SIZE + 99]);
    assert_eq!(asked, Err(Errno::INVAL));
    let asked = guest.ask_with_room(Opcode::Read, entry.nodeid, &read, &[OutHeader::SIZE + 100]);
    assert_eq!(asked, Ok(vec![1; 100]));

    let write = WriteIn {
        handle: open.handle,
        size: 100,
        ..WriteIn::default()
    };
    let body = [&bytes(&write), &[2; 99][..]].concat();
    assert_eq!(
        guest.ask(Opcode::Write, entry.nodeid, &body),
        Err(Errno::INVAL)
    );
    assert_eq!(fs::read(guest.path("file")).unwrap(), [1; 100]);

    std::os::unix::fs::symlink("a target", guest.path("link")).unwrap();
    let link = guest.lookup(b"link").unwrap();
    let asked = guest.ask_with_room(Opcode::ReadLink, link.nodeid, &[], &[OutHeader::SIZE + 7]);
    assert_eq!(asked, Err(Errno::RANGE));
    let asked = guest.ask_with_room(Opcode::ReadLink, link.nodeid, &[], &[OutHeader::SIZE + 8]);
    assert_eq!(asked, Ok(b"a target".to_vec()));
}

#[test]
fn what_is_forgotten_is_forgotten_without_a_reply() {
    let mut guest = Guest::new();
    for name in ["a", "b", "c"] {
        fs::write(guest.path(name), "").unwrap();
    }
    let nodes = [b"a", b"b", b"c"].map(|name| guest.lookup(name).unwrap().nodeid);
    let header = guest.header(Opcode::Forget.number(), nodes[0], ForgetIn::SIZE);
    assert!(
        guest
            .serve(&[&header, &bytes(&ForgetIn { nlookup: 1 })], ROOM)
            .is_empty()
    );
    assert!(guest.ask(Opcode::GetAttr, nodes[0], &[0; 16]).is_err());

    // The count promises more than is there.
    let batch = BatchForgetIn {
        count: u32::MAX,
        padding: 0,
    };
    let ones =
        [nodes[1], nodes[2], u64::MAX].map(|nodeid| bytes(&ForgetOne { nodeid, nlookup: 1 }));
    let body = [bytes(&batch), ones.concat()].concat();
    let header = guest.header(Opcode::BatchForget.number(), 0, body.len());
    assert!(guest.serve(&[&header, &body], &[]).is_empty());
    for nodeid in [nodes[1], nodes[2]] {
        assert!(guest.ask(Opcode::GetAttr, nodeid, &[0; 16]).is_err());
    }
}

/// Takes a READDIR reply apart.
fn entries(mut reply: &[u8], plus: bool) -> Vec<(String, DirEnt, EntryOut)> {
    let mut entries = Vec::new();
    while !reply.is_empty() {
        let whole = reply;
        let entry = if plus {
            EntryOut::take(&mut reply).unwrap()
        } else {
            EntryOut::default()
        };
        let name = DirEnt::take(&mut reply).unwrap();
        let len = usize::try_from(name.namelen).unwrap();
        let text = String::from_utf8(reply[..len].to_vec()).unwrap();
        let used = whole.len() - reply.len() + len;
        reply = &whole[used.next_multiple_of(8)..];
        entries.push((text, name, entry));
    }
    entries
}

#[test]
fn a_directory_is_read_in_pieces() {
    let mut guest = Guest::new();
    let mut expected: Vec<String> = (0..50).map(|number| "n".repeat(number + 1)).collect();
    for name in &expected {
        fs::write(guest.path(name), "").unwrap();
    }
    expected.extend([".".into(), "..".into()]);
    expected.sort();
    for (opcode, plus) in [(Opcode::ReadDir, false), (Opcode::ReadDirPlus, true)] {
        let handle = guest.open_root();
        let mut seen = Vec::new();
        let mut offset = 0;
        loop {
            let reply = guest
                .ask(opcode, ROOT_NODEID, &read_in(handle, offset, 1000))
                .unwrap();
            assert!(reply.len() <= 1000);
            let piece = entries(&reply, plus);
            let Some((_, last, _)) = piece.last() else {
                break;
            };
            offset = last.offset;
            seen.extend(piece);
        }
        for (name, dirent, entry) in &seen {
            if plus && !name.starts_with('.') {
                assert_eq!(dirent.ino, entry.attr.ino);
                assert_eq!(guest.lookup(name.as_bytes()).unwrap().nodeid, entry.nodeid);
            } else {
                assert_eq!(entry.nodeid, 0);
            }
        }
        let mut names: Vec<_> = seen.into_iter().map(|(name, ..)| name).collect();
        names.sort();
        assert_eq!(names, expected);
    }
}

#[test]
fn a_buffer_too_small_for_any_name_is_not_the_end_of_the_directory() {
    let mut guest = Guest::new();
    let handle = guest.open_root();
    for (opcode, smallest) in [(Opcode::ReadDir, 32), (Opcode::ReadDirPlus, 160)] {
        let asked = guest.ask(opcode, ROOT_NODEID, &read_in(handle, 0, smallest - 1));
        assert_eq!(asked, Err(Errno::INVAL));
        let asked = guest
            .ask(opcode, ROOT_NODEID, &read_in(handle, 0, smallest))
            .unwrap();
        assert_eq!(asked.len(), usize::try_from(smallest).unwrap());
    }
}

#[test]
fn attributes_of_files_are_passed_through() {
    let mut guest = Guest::with(|config| config.xattr = true);
    fs::write(guest.path("file"), "").unwrap();
    let nodeid = guest.lookup(b"file").unwrap().nodeid;
    let set = SetXattrIn { size: 5, flags: 0 };
    let body = [&bytes(&set), &b"user.name\0value"[..]].concat();
    assert_eq!(guest.ask(Opcode::SetXattr, nodeid, &body), Ok(Vec::new()));
    let get = |size| {
        [
            &bytes(&GetXattrIn { size, padding: 0 }),
            &b"user.name\0"[..],
        ]
        .concat()
    };
    assert_eq!(
        guest.ask(Opcode::GetXattr, nodeid, &get(100)),
        Ok(b"value".to_vec())
    );
    let size: GetXattrOut = parse(&guest.ask(Opcode::GetXattr, nodeid, &get(0)).unwrap());
    assert_eq!(size.size, 5);
    assert_eq!(
        guest.ask(Opcode::GetXattr, nodeid, &get(4)),
        Err(Errno::RANGE)
    );
    assert_eq!(
        guest.ask(Opcode::RemoveXattr, nodeid, b"user.name\0"),
        Ok(Vec::new())
    );
    assert_eq!(
        guest.ask(Opcode::GetXattr, nodeid, &get(100)),
        Err(Errno::NODATA)
    );
}

#[test]
fn larger_operations_can_be_left_and_nothing_is_done_then() {
    let mut guest = Guest::new();
    let (entry, open) = guest.create("file");
    let mut asked = |opcode: Opcode, body: &[u8], room: usize| {
        let header = guest.header(opcode.number(), entry.nodeid, body.len());
        let request = Request::in_memory(&[&header, body], &[OutHeader::SIZE, room]);
        let server = Server {
            config: &guest.config,
            file_system: &guest.file_system,
            may_wait: true,
        };
        let mut efforts = Vec::new();
        let mut leave = |effort, nodeid| {
            assert_eq!(nodeid, entry.nodeid);
            efforts.push(effort);
            true
        };
        let served = server.serve(&request, &mut guest.buffers, &mut leave);
        assert_eq!(served == Served::Left, !efforts.is_empty());
        efforts
    };
    let fsync = bytes(&FsyncIn {
        handle: open.handle,
        ..FsyncIn::default()
    });
    assert_eq!(asked(Opcode::Fsync, &fsync, 0), [Effort::Waits]);
    let mut write = |size: usize| {
        let write = WriteIn {
            handle: open.handle,
            size: u32::try_from(size).unwrap(),
            ..WriteIn::default()
        };
        asked(Opcode::Write, &[bytes(&write), vec![1; size]].concat(), 8)
    };
    assert_eq!(write(LONG), [Effort::Writes]);
    assert_eq!(write(LONG - 1), []);
    let mut read = |size: usize| {
        let read = read_in(open.handle, 0, u32::try_from(size).unwrap());
        asked(Opcode::Read, &read, size)
    };
    assert_eq!(read(LONG), [Effort::Copies]);
    assert_eq!(read(LONG - 1), []);
    let path = guest.path("file");
    let written = fs::metadata(path).unwrap().len();
    assert_eq!(written, LONG as u64 - 1);
}

/// Four rings make, find, rename, list, remove and forget the same few names. Whatever wins, each reply is sound, and
/// in the end nothing is left that keeps the share from being used.
#[test]
fn rings_do_not_disturb_each_other() {
    const ROUNDS: usize = 300;
    let mut guest = Guest::new();
    let rings: Vec<_> = (0..4_usize)
        .map(|ring| {
            let mut guest = guest.on_another_ring();
            std::thread::spawn(move || {
                let mut lookups = Vec::new();
                for round in 0..ROUNDS {
                    let name = format!("name{}", (round + ring) % 3);
                    let other = format!("name{}", (round + 1) % 3);
                    let name = [name.as_bytes(), b"\0"].concat();
                    let names = [&name, other.as_bytes(), b"\0"].concat();
                    let make = bytes(&MkNodIn {
                        mode: libc::S_IFREG | 0o600,
                        ..MkNodIn::default()
                    });
                    let rename = bytes(&RenameIn {
                        new_parent: ROOT_NODEID,
                    });
                    let requests = [
                        (Opcode::MkNod, [&make, name.as_slice()].concat()),
                        (Opcode::Lookup, name.clone()),
                        (Opcode::Rename, [&rename, names.as_slice()].concat()),
                        (Opcode::Unlink, name.clone()),
                    ];
                    for (opcode, body) in requests {
                        if let Ok(reply) = guest.ask(opcode, ROOT_NODEID, &body)
                            && !reply.is_empty()
                        {
                            lookups.push(parse::<EntryOut>(&reply).nodeid);
                        }
                    }
                    let handle = guest.open_root();
                    let read = read_in(handle, 0, 4096);
                    let listed = guest.ask(Opcode::ReadDirPlus, ROOT_NODEID, &read).unwrap();
                    let listed = entries(&listed, true).into_iter();
                    let listed = listed.map(|(_, _, entry)| entry.nodeid);
                    lookups.extend(listed.filter(|nodeid| *nodeid != 0));
                    for nodeid in lookups.drain(..) {
                        let header = guest.header(Opcode::Forget.number(), nodeid, ForgetIn::SIZE);
                        let forget = bytes(&ForgetIn { nlookup: 1 });
                        assert!(guest.serve(&[&header, &forget], &[]).is_empty());
                    }
                }
            })
        })
        .collect();
    for ring in rings {
        ring.join().unwrap();
    }
    let handle = guest.open_root();
    let read = read_in(handle, 0, 4096);
    let left = guest.ask(Opcode::ReadDir, ROOT_NODEID, &read).unwrap();
    for (name, ..) in entries(&left, false) {
        if !name.starts_with('.') {
            guest.lookup(name.as_bytes()).unwrap();
        }
    }
}

/// Words that mean something somewhere: small numbers, handles, flags, modes, and the ends of ranges.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..4_u32,
        1 => Just(libc::S_IFREG | 0o644),
        1 => Just(libc::O_RDWR.cast_unsigned()),
        1 => Just(4096),
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"a\0".to_vec()),
        Just(b"b\0".to_vec()),
        Just(b"..\0".to_vec()),
        Just(b"a/b\0".to_vec()),
        Just(b"user.x\0".to_vec()),
        Just(b"\0".to_vec()),
        prop::collection::vec(any::<u8>(), 0..300),
    ]
}

#[derive(Clone, Debug)]
struct Anything {
    opcode: u32,
    nodeid: u64,
    body: Vec<u8>,
    split: usize,
    room: usize,
}

fn anything() -> impl Strategy<Value = Anything> {
    let body = (
        prop::collection::vec(word(), 0..24),
        prop::collection::vec(name(), 0..3),
    );
    let room = prop_oneof![0..200_usize, Just(1 << 16)];
    (0..56_u32, 0..5_u64, body, any::<usize>(), room).prop_map(
        |(opcode, nodeid, (words, names), split, room)| {
            let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            body.extend(names.concat());
            Anything {
                opcode,
                nodeid,
                split: split % (body.len() + 1),
                body,
                room,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A sequence of requests of which each may be anything: every one gets a sound reply or, where none is expected
    /// or none fits, no reply; and the daemon serves the next one.
    #[test]
    fn whatever_the_guest_sends(requests in prop::collection::vec(anything(), 1..60)) {
        let mut guest = Guest::with(|config| config.xattr = true);
        for Anything { opcode, nodeid, body, split, room } in requests {
            if opcode == Opcode::Fallocate.number() {
                continue; // a number of these would fill the disk
            }
            let header = guest.header(opcode, nodeid, body.len());
            let (first, second) = body.split_at(split);
            let reply = guest.serve(&[&header[..20], &header[20..], first, second], &[room / 2, room - room / 2]);
            prop_assert!(reply.len() <= room);
            if !reply.is_empty() {
                let _sound = outcome(&reply, guest.unique);
            }
            prop_assert!(guest.buffers.reply.len() <= 2 << 20);
            if guest.session().is_none() {
                guest.init().unwrap();
            }
        }
        prop_assert!(guest.ask(Opcode::GetAttr, ROOT_NODEID, &[0; 16]).is_ok());
    }
}

#[test]
fn statx_tells_the_time_of_birth_too() {
    let mut guest = Guest::new();
    let (entry, open) = guest.create("file");
    let metadata = fs::metadata(guest.path("file")).unwrap();
    let born = metadata
        .created()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    for getattr_flags in [0, GETATTR_HANDLE] {
        let asked = StatxIn {
            getattr_flags,
            handle: open.handle,
            sx_mask: statx::BTIME,
            ..StatxIn::default()
        };
        let reply = guest
            .ask(Opcode::Statx, entry.nodeid, &bytes(&asked))
            .unwrap();
        let StatxOut { stat, .. } = parse(&reply);
        assert_eq!(stat.mask, statx::BASIC_STATS | statx::BTIME);
        let time = (
            u64::try_from(stat.btime.seconds).unwrap(),
            stat.btime.nanoseconds,
        );
        assert_eq!(time, (born.as_secs(), born.subsec_nanos()));
        assert_eq!(u32::from(stat.mode), metadata.mode());
        assert_eq!(
            (stat.ino, stat.nlink, stat.size, stat.rdev_major),
            (metadata.ino(), 1, 0, 0)
        );
    }
    let stale = StatxIn {
        getattr_flags: GETATTR_HANDLE,
        handle: 99,
        ..StatxIn::default()
    };
    let refused = guest.ask(Opcode::Statx, entry.nodeid, &bytes(&stale));
    assert_eq!(refused, Err(Errno::BADF));
    assert_eq!(
        guest.ask(Opcode::Statx, entry.nodeid, &[]),
        Err(Errno::INVAL)
    );
}

#[test]
fn a_name_of_nothing_is_an_entry_without_nodeid_if_it_may_be_remembered() {
    let mut guest = Guest::new();
    assert_eq!(guest.lookup(b"nothing"), Err(Errno::NOENT));
    let mut guest = Guest::with(|config| {
        config.negative_timeout = Some(std::time::Duration::from_millis(2_500));
    });
    let expected = EntryOut {
        entry_valid: 2,
        entry_valid_nsec: 500_000_000,
        ..EntryOut::default()
    };
    assert_eq!(guest.lookup(b"nothing"), Ok(expected));
    assert_eq!(guest.lookup(&[b'x'; 300]), Err(Errno::NAMETOOLONG));
}

#[test]
fn an_open_file_says_what_the_guest_may_leave_out() {
    use crate::config::Cache;
    for (cache, direct) in [(Cache::Never, true), (Cache::Auto, false)] {
        let mut guest = Guest::with(|config| config.cache = cache);
        let local = guest.file_system.tables().mounts.closes_silently(0);
        let (_, open) = guest.create("file");
        let parallel = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
        let expected = if direct { parallel } else { 0 };
        assert_eq!(open.open_flags & parallel, expected, "{cache:?}");
        assert_eq!(open.open_flags & fopen::NOFLUSH != 0, local);
    }
}
