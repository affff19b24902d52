//! Does serving a request allocate? Not for LOOKUP, GETATTR, READ, WRITE and READDIRPLUS, of which a busy guest sends a hundred
//! thousand a second.

#![expect(
    clippy::unwrap_used,
    reason = "in the helpers of a test, as in the test itself"
)]

use common::counting_allocator::{CountingAllocator, allocations_of};
use common::request::Request;
use tempfile::TempDir;
use vhost_device_fs::config::Config;
use vhost_device_fs::fuse::abi::{
    CreateIn, EntryOut, GETATTR_HANDLE, GetAttrIn, InHeader, InitIn, Opcode, OpenIn, OpenOut,
    OutHeader, ReadIn, WriteIn,
};
use vhost_device_fs::fuse::wire::Wire;
use vhost_device_fs::fuse::{Buffers, Served, Server};
use vhost_device_fs::operations::ROOT_NODEID;
use vhost_device_fs::passthrough::FileSystem;

const ROOM: &[usize] = &[OutHeader::SIZE, 8192];

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn bytes(structure: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    structure.append(&mut bytes);
    bytes
}

fn request(opcode: Opcode, nodeid: u64, body: &[u8]) -> Request {
    let header = InHeader {
        len: u32::try_from(InHeader::SIZE + body.len()).unwrap(),
        opcode: opcode.number(),
        unique: 1,
        nodeid,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..InHeader::default()
    };
    Request::in_memory(&[&bytes(&header), body], ROOM)
}

/// Serves it, and returns the reply behind its header.
fn serve(server: Server<'_>, buffers: &mut Buffers, request: &Request) -> Vec<u8> {
    let written = match server.serve(request, buffers, &mut |_, _| false) {
        Served::Answered(written) => written,
        Served::Waits | Served::Left => 0,
    };
    let reply = request.written(usize::try_from(written).unwrap());
    let mut rest = reply.as_slice();
    assert_eq!(OutHeader::take(&mut rest).unwrap().error, 0);
    rest.to_vec()
}

#[test]
fn requests_of_the_hot_path_allocate_nothing() {
    let directory = TempDir::new().unwrap();
    let config = Config::new(directory.path());
    let file_system = FileSystem::new(&config).unwrap();
    let server = Server {
        config: &config,
        file_system: &file_system,
        may_wait: true,
    };
    let mut buffers = Buffers::default();
    let init = InitIn {
        major: 7,
        minor: 45,
        ..InitIn::default()
    };
    serve(
        server,
        &mut buffers,
        &request(Opcode::Init, 0, &bytes(&init)),
    );
    let create = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | 0o600,
        ..CreateIn::default()
    };
    let body = [&bytes(&create), &b"file\0"[..]].concat();
    let created = serve(
        server,
        &mut buffers,
        &request(Opcode::Create, ROOT_NODEID, &body),
    );
    let (entry, open) = <(EntryOut, OpenOut)>::take(&mut created.as_slice()).unwrap();

    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub/deep"), "").unwrap();
    let sub = request(Opcode::Lookup, ROOT_NODEID, b"sub\0");
    let sub = EntryOut::take(&mut serve(server, &mut buffers, &sub).as_slice()).unwrap();

    let read = bytes(&ReadIn {
        handle: open.handle,
        size: 4096,
        ..ReadIn::default()
    });
    let write = bytes(&WriteIn {
        handle: open.handle,
        size: 4096,
        ..WriteIn::default()
    });
    let with_handle = bytes(&GetAttrIn {
        flags: GETATTR_HANDLE,
        handle: open.handle,
        ..GetAttrIn::default()
    });
    let open_directory = bytes(&OpenIn::default());
    let open_directory = request(Opcode::OpenDir, ROOT_NODEID, &open_directory);
    let directory = serve(server, &mut buffers, &open_directory);
    let listing = bytes(&ReadIn {
        handle: OpenOut::take(&mut directory.as_slice()).unwrap().handle,
        size: 4096,
        ..ReadIn::default()
    });
    let requests = [
        (
            "WRITE",
            request(
                Opcode::Write,
                entry.nodeid,
                &[&write, &[7; 4096][..]].concat(),
            ),
        ),
        ("READ", request(Opcode::Read, entry.nodeid, &read)),
        (
            "GETATTR",
            request(Opcode::GetAttr, entry.nodeid, &bytes(&GetAttrIn::default())),
        ),
        (
            "GETATTR of a handle",
            request(Opcode::GetAttr, entry.nodeid, &with_handle),
        ),
        ("LOOKUP", request(Opcode::Lookup, ROOT_NODEID, b"file\0")),
        (
            "LOOKUP of a directory",
            request(Opcode::Lookup, ROOT_NODEID, b"sub\0"),
        ),
        (
            "LOOKUP below it",
            request(Opcode::Lookup, sub.nodeid, b"deep\0"),
        ),
        (
            "READDIRPLUS",
            request(Opcode::ReadDirPlus, ROOT_NODEID, &listing),
        ),
    ];
    for (name, request) in &requests {
        serve(server, &mut buffers, request);
        let allocations = allocations_of(|| {
            for _ in 0..100 {
                let served = server.serve(request, &mut buffers, &mut |_, _| false);
                assert!(matches!(served, Served::Answered(16..)));
            }
        });
        assert_eq!(allocations, 0, "allocations in 100 {name}");
    }
}
