//! What does the file system daemon answer to a guest that no kernel keeps in order?

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::Result;
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Answer, Caller, Client, ROOT, Ticket, encode};
use vhost_device_fs::fuse::abi::{InHeader, MAJOR_VERSION, Opcode, ReadIn};
use vhost_device_fs::fuse::wire::Wire;

fn boot(share: &Path) -> Result<(Daemon, Client)> {
    let share = share.to_str().expect("a temporary folder has a plain name");
    let daemon = Daemon::start("vhost-device-fs", ["--shared-dir", share])?;
    let mut client = Client::boot(daemon.connect()?)?;
    assert_eq!(client.init(0)?.major, MAJOR_VERSION);
    Ok((daemon, client))
}

fn errno<T: std::fmt::Debug>(answer: Answer<T>) -> Option<i32> {
    answer.expect_err("a request that cannot succeed").errno()
}

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

#[test]
fn requests_are_answered_by_the_protocol() -> Result<()> {
    let share = tempfile::tempdir()?;
    let (_daemon, mut client) = boot(share.path())?;

    let (entry, open) = client.create(ROOT, "file", READ_WRITE, 0o640)?;
    assert_eq!(
        (entry.attr.mode, entry.attr.size),
        (libc::S_IFREG | 0o640, 0)
    );
    let data: Vec<u8> = (0..200_000_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    assert_eq!(client.write(entry.nodeid, open.handle, 5, &data)?, 200_000);
    assert_eq!(client.read(entry.nodeid, open.handle, 5, 200_000)?, data);
    assert_eq!(client.read(entry.nodeid, open.handle, 200_005, 10)?, b"");
    assert_eq!(
        client.get_attr(entry.nodeid, Some(open.handle))?.size,
        200_005
    );
    client.fsync(entry.nodeid, open.handle)?;
    client.flush(entry.nodeid, open.handle)?;

    let folder = client.mk_dir(ROOT, "folder", 0o755)?;
    client.link(entry.nodeid, folder.nodeid, "link")?;
    client.rename((ROOT, "file"), (folder.nodeid, "renamed"), 0)?;
    assert_eq!(errno(client.lookup(ROOT, "file")), Some(libc::ENOENT));
    assert_eq!(client.walk("folder/renamed")?.nodeid, entry.nodeid);
    let symlink = client.symlink(ROOT, "symlink", "folder/link")?;
    assert_eq!(client.read_link(symlink.nodeid)?, b"folder/link");

    let opened = client.open_dir(folder.nodeid)?;
    let mut names: Vec<_> = client
        .read_dir(folder.nodeid, opened.handle, 0, 4096)?
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(names, ["link", "renamed"]);
    client.release_dir(folder.nodeid, opened.handle)?;

    client.unlink(folder.nodeid, "link")?;
    client.unlink(folder.nodeid, "renamed")?;
    client.rm_dir(ROOT, "folder")?;
    // The file is open, and lives on without a name.
    assert_eq!(client.read(entry.nodeid, open.handle, 5, 10)?, data[..10]);
    client.release(entry.nodeid, open.handle)?;
    client.batch_forget(&[(entry.nodeid, 3), (folder.nodeid, 2)])?;
    assert_eq!(fs::read_dir(share.path())?.count(), 1);
    Ok(())
}

#[test]
fn several_requests_are_in_flight_and_answered_once_each() -> Result<()> {
    let share = tempfile::tempdir()?;
    for number in 0..50 {
        fs::write(share.path().join(number.to_string()), vec![number; 1000])?;
    }
    let (_daemon, mut client) = boot(share.path())?;
    let tickets: Vec<_> = (0..50_u8)
        .map(|number| client.send(Opcode::Lookup, ROOT, format!("{number}\0").as_bytes()))
        .collect::<Result<_>>()?;
    let free = client.machine().memory().free_bytes();
    for ticket in tickets.into_iter().rev() {
        assert_eq!(client.wait(ticket)?.len(), 128);
    }
    assert!(client.machine().memory().free_bytes() > free);
    Ok(())
}

#[test]
fn a_guest_that_lies_gets_errors_and_the_daemon_lives() -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join("file"), "text")?;
    let (mut daemon, mut client) = boot(share.path())?;
    let file = client.lookup(ROOT, "file")?;

    for nodeid in [0, file.nodeid + 1, file.nodeid ^ (1 << 63), u64::MAX] {
        assert!(
            errno(client.get_attr(nodeid, None)).is_some(),
            "nodeid {nodeid:#x}"
        );
        assert!(
            errno(client.open(nodeid, 0)).is_some(),
            "nodeid {nodeid:#x}"
        );
    }
    for handle in [1, 1 << 40, u64::MAX] {
        assert!(
            errno(client.read(file.nodeid, handle, 0, 10)).is_some(),
            "handle {handle}"
        );
    }
    for name in ["..", ".", "a/b", "", "/etc/passwd", "../../etc/passwd"] {
        assert!(errno(client.lookup(ROOT, name)).is_some(), "name {name:?}");
        assert!(
            errno(client.mk_dir(ROOT, name, 0o755)).is_some(),
            "name {name:?}"
        );
    }
    client.forget(file.nodeid, u64::MAX)?;
    client.forget(u64::MAX, 1)?;
    client.forget(ROOT, u64::MAX)?;
    assert_eq!(
        client.get_attr(ROOT, None)?.mode & libc::S_IFMT,
        libc::S_IFDIR
    );

    // Whether the caller may is the guest's kernel's to decide; that it owns what it makes is not.
    client.set_caller(Caller {
        uid: 12345,
        gid: 12346,
    });
    let folder = client.mk_dir(ROOT, "folder", 0o755)?;
    assert_eq!((folder.attr.uid, folder.attr.gid), (12345, 12346));
    client.set_caller(Caller::ROOT);

    // Requests that are no requests, of every length up to two headers, on either ring.
    for ring in [0, 1] {
        for size in 1..2 * InHeader::SIZE {
            let ticket = client.send_raw(ring, &vec![0xa5; size], 64)?;
            client.wait_raw(ticket)?;
        }
    }
    assert!(client.lookup(ROOT, "file").is_ok());
    assert_eq!(daemon.status()?, None);
    Ok(())
}

/// A long read that others wait behind is carried out by another thread than the ring's, if there is a processor for it.
#[test]
fn long_reads_in_flight_are_answered_each_with_its_own_data() -> Result<()> {
    const READS: u8 = 24;
    const BYTES: u32 = 512 << 10;
    let share = tempfile::tempdir()?;
    let pieces: Vec<_> = (0..READS).map(|number| vec![number; 512 << 10]).collect();
    fs::write(share.path().join("file"), pieces.concat())?;
    let (daemon, mut client) = boot(share.path())?;
    let file = client.lookup(ROOT, "file")?;
    let open = client.open(file.nodeid, 0)?;
    let send = |client: &mut Client| -> Result<Vec<_>> {
        let read = |number: u8| ReadIn {
            handle: open.handle,
            offset: u64::from(number) * u64::from(BYTES),
            size: BYTES,
            ..ReadIn::default()
        };
        (0..READS)
            .map(|number| client.send(Opcode::Read, file.nodeid, &encode(&read(number))))
            .collect()
    };
    let check = |client: &mut Client, tickets: Vec<Ticket>| -> Result<()> {
        for (piece, ticket) in pieces.iter().zip(tickets) {
            assert!(client.wait(ticket)? == *piece, "piece {}", piece[0]);
        }
        Ok(())
    };
    let tickets = send(&mut client)?;
    check(&mut client, tickets)?;
    if available_parallelism()?.get() > 1 {
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.id().as_raw_nonzero()))?;
        let names = threads.map(|thread| fs::read_to_string(thread?.path().join("comm")));
        let names = names.collect::<std::io::Result<Vec<_>>>()?;
        let copies = |name: &String| name.starts_with("fs-copier");
        assert!(names.iter().any(copies), "{names:?}");
    }
    // Stopped in between: what is in flight is ended, the rest stays on the ring until the guest goes on.
    let tickets = send(&mut client)?;
    let bases = client.machine().stop()?;
    let answered = tickets.iter().map(|ticket| client.is_answered(ticket));
    let before = answered.collect::<Result<Vec<_>>>()?;
    let answered = tickets.iter().map(|ticket| client.is_answered(ticket));
    assert_eq!(answered.collect::<Result<Vec<_>>>()?, before);
    client.machine().start(&bases)?;
    check(&mut client, tickets)
}
