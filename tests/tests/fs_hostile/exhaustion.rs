//! A guest that takes all there is: descriptors, inodes, memory, space.

use std::fs;

use anyhow::{Result, ensure};
use tests::fuse_client::{Client, ROOT, encode};
use vhost_device_fs::fuse::abi::{CreateIn, FileLock, LkIn, Opcode, SetAttrIn, setattr};

use crate::rig::{Rig, empty, name, refused};

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

/// The least that the daemon starts with: 512 for itself, 64 for the guest.
const FEW: &[&str] = &["--rlimit-nofile", "576"];

/// Descriptors that the daemon has.
fn descriptors(rig: &Rig) -> Result<usize> {
    let path = format!("/proc/{}/fd", rig.daemon.id().as_raw_nonzero());
    Ok(fs::read_dir(path)?.count())
}

/// Calls `take` until it is refused, and says how often that was.
fn exhaust(
    client: &mut Client,
    mut take: impl FnMut(&mut Client, usize) -> Result<Option<i32>>,
) -> Result<usize> {
    for count in 0..10_000 {
        if let Some(errno) = take(client, count)? {
            ensure!(errno == libc::ENFILE, "error number {errno}");
            return Ok(count);
        }
    }
    anyhow::bail!("there seems to be no end")
}

#[test]
fn open_files_end_before_the_descriptors_do() -> Result<()> {
    let mut rig = Rig::start(FEW, |share| {
        fs::create_dir(share.join("d"))?;
        Ok(fs::write(share.join("f"), "x")?)
    })?;
    let before = descriptors(&rig)?;
    let file = rig.client.lookup(ROOT, "f")?.nodeid;
    for round in 0..3 {
        let mut handles = Vec::new();
        let count = exhaust(&mut rig.client, |client, number| {
            let opened = match number % 3 {
                0 => client.open(file, READ_WRITE),
                1 => client.open_dir(ROOT),
                _ => client
                    .create(ROOT, format!("new-{round}-{number}"), READ_WRITE, 0o600)
                    .map(|(_, open)| open),
            };
            match opened {
                Ok(open) => {
                    handles.push(open.handle);
                    Ok(None)
                }
                error => refused(error).map(Some),
            }
        })?;
        ensure!((16..=64).contains(&count), "{count} files could be opened");
        let taken = descriptors(&rig)? - before;
        ensure!(taken <= 64, "{taken} descriptors are taken");
        // What was refused did not happen.
        let refused_name = format!("new-{round}-refused");
        ensure!(
            refused(rig.client.create(ROOT, &refused_name, READ_WRITE, 0o600))? == libc::ENFILE
        );
        ensure!(!rig.path(&refused_name).exists());
        // All that needs no open file is served.
        rig.client.get_attr(ROOT, None)?;
        rig.client.lookup(ROOT, "d")?;
        rig.client.mk_dir(ROOT, format!("made-{round}"), 0o755)?;
        ensure!(rig.path(&format!("made-{round}")).exists());
        rig.client.symlink(ROOT, format!("link-{round}"), "x")?;
        rig.client.rename(
            (ROOT, &format!("link-{round}")),
            (ROOT, &format!("moved-{round}")),
            0,
        )?;
        ensure!(rig.client.stat_fs(ROOT)?.bsize > 0);
        // And the front-end is: it brings descriptors of its own.
        let bases = rig.client.machine().stop()?;
        rig.client.machine().start(&bases)?;
        for handle in handles {
            rig.client.release(file, handle)?;
        }
        let open = rig.client.open(file, 0)?;
        ensure!(rig.client.read(file, open.handle, 0, 10)? == b"x");
        rig.client.release(file, open.handle)?;
    }
    rig.survived()
}

#[test]
fn owners_of_locks_end_before_the_descriptors_do() -> Result<()> {
    let options = [FEW, &["--remote-posix-locks"]].concat();
    let mut rig = Rig::start(&options, empty)?;
    let before = descriptors(&rig)?;
    let (file, open) = rig.client.create(ROOT, "f", READ_WRITE, 0o600)?;
    let lock = |owner: usize, kind: i32| {
        let byte = owner as u64;
        encode(&LkIn {
            handle: open.handle,
            owner: byte,
            lock: FileLock {
                start: byte,
                end: byte,
                kind: kind.cast_unsigned(),
                pid: 0,
            },
            ..LkIn::default()
        })
    };
    let count = exhaust(&mut rig.client, |client, owner| {
        match client.call(Opcode::SetLk, file.nodeid, &lock(owner, libc::F_WRLCK)) {
            Ok(_) => Ok(None),
            error => refused(error).map(Some),
        }
    })?;
    ensure!(count >= 16, "{count} owners only");
    let taken = descriptors(&rig)? - before;
    ensure!(taken <= 64, "{taken} descriptors are taken");
    // Somebody else's turn, when one has given its lock back.
    let client = &mut rig.client;
    client.call(Opcode::SetLk, file.nodeid, &lock(3, libc::F_UNLCK))?;
    client.call(Opcode::SetLk, file.nodeid, &lock(9_999, libc::F_WRLCK))?;
    client.release(file.nodeid, open.handle)?;
    ensure!(descriptors(&rig)? < before + 16, "they went with the file");
    rig.survived()
}

#[test]
fn files_without_a_name_end_before_the_descriptors_do() -> Result<()> {
    let mut rig = Rig::start(FEW, empty)?;
    let before = descriptors(&rig)?;
    let mut nodes = Vec::new();
    // Each is known to the guest and has no name left: only a descriptor leads to it.
    for number in 0..300 {
        let made = rig
            .client
            .mk_nod(ROOT, format!("f{number}"), libc::S_IFREG | 0o600, 0)?;
        nodes.push(made.nodeid);
        rig.client.unlink(ROOT, format!("f{number}"))?;
    }
    let create = CreateIn {
        flags: READ_WRITE,
        mode: libc::S_IFREG | 0o600,
        ..CreateIn::default()
    };
    let body = [encode(&create), name("x")].concat();
    for _ in 0..300 {
        match rig.client.call(Opcode::TmpFile, ROOT, &body) {
            Ok(_) => {}
            error => ensure!(refused(error)? == libc::ENFILE),
        }
    }
    let taken = descriptors(&rig)? - before;
    ensure!(taken <= 64, "{taken} descriptors are taken");
    let mut reachable = 0;
    for nodeid in &nodes {
        match rig.client.get_attr(*nodeid, None) {
            Ok(_) => reachable += 1,
            error => ensure!(refused(error)? == libc::ESTALE),
        }
    }
    ensure!(reachable >= 16, "{reachable}");
    for nodeid in nodes {
        rig.client.forget(nodeid, 1)?;
    }
    let (file, open) = rig.client.create(ROOT, "f", READ_WRITE, 0o600)?;
    rig.client.unlink(ROOT, "f")?;
    rig.client.release(file.nodeid, open.handle)?;
    ensure!(rig.client.get_attr(file.nodeid, None).is_ok());
    rig.survived()
}

#[test]
fn a_file_that_is_too_large_for_the_daemon_is_an_error_of_the_guest() -> Result<()> {
    let mut rig = Rig::start(&[] as &[&str], empty)?;
    // As LimitFSIZE= of a service would: beyond it the host sends a signal that kills.
    let limit = rustix::process::Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    let process = Some(rig.daemon.id());
    rustix::process::prlimit(process, rustix::process::Resource::Fsize, limit)?;
    let client = &mut rig.client;
    let (file, open) = client.create(ROOT, "f", READ_WRITE, 0o600)?;
    ensure!(client.write(file.nodeid, open.handle, 0, b"x")? == 1);
    ensure!(refused(client.write(file.nodeid, open.handle, 1 << 20, b"x"))? == libc::EFBIG);
    let change = SetAttrIn {
        valid: setattr::SIZE,
        size: 1 << 21,
        ..SetAttrIn::default()
    };
    ensure!(refused(client.set_attr(file.nodeid, &change))? == libc::EFBIG);
    rig.survived()
}
