//! A guest that knows very many files, or has very many open: what it costs the daemon, and whether all of it moves.
//!
//! A hundred thousand inodes, and as many open files as the host allows, in the daemon as it is built with us;
//! `cargo xtask bench migrate` has a million inodes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Client, ROOT};
use tests::guest::Manner;
use tests::guest::machine::PROTOCOL_FEATURES;
use tests::many_files;

const MANY: u32 = 100_000;
/// Memory for each known inode, in bytes: a million of them in 256 MiB.
const BYTES_PER_INODE_MAX: u64 = (256 << 20) / 1_000_000;
/// Few descriptors.
const FEW: &[&str] = &["--rlimit-nofile", "1024"];

fn daemon(share: &Path, options: &[&str]) -> Result<Daemon> {
    let share = share.to_str().context("a temporary folder is text")?;
    let options = ["--shared-dir", share]
        .into_iter()
        .chain(options.iter().copied());
    Daemon::start("vhost-device-fs", options)
}

/// A guest that has just booted, and its daemon.
fn boot(share: &Path, options: &[&str]) -> Result<(Daemon, Client)> {
    let daemon = daemon(share, options)?;
    let mut client = Client::boot(daemon.connect()?)?;
    client.init(u64::MAX)?;
    Ok((daemon, client))
}

/// Descriptors that the daemon has.
fn descriptors(daemon: &Daemon) -> Result<usize> {
    let path = format!("/proc/{}/fd", daemon.id().as_raw_nonzero());
    Ok(fs::read_dir(path)?.count())
}

/// Whether what has grown since `before` is within what so many inodes may take.
fn ensure_small(daemon: &Daemon, before: u64, what: &str) -> Result<()> {
    let grown = daemon.resident_kib()?.saturating_sub(before) * 1024;
    let per_inode = grown / u64::from(MANY);
    println!("{what}: {per_inode} bytes for each inode");
    ensure!(
        per_inode <= BYTES_PER_INODE_MAX,
        "{what}: {per_inode} bytes for each inode, of {BYTES_PER_INODE_MAX}"
    );
    let open = descriptors(daemon)?;
    ensure!(open < 1_024, "{what}: {open} descriptors");
    Ok(())
}

#[test]
fn a_hundred_thousand_inodes_need_few_descriptors_and_little_memory_and_move() -> Result<()> {
    let share = TempDir::new()?;
    many_files::make(share.path(), MANY)?;
    let (source, mut client) = boot(share.path(), FEW)?;
    let before = source.resident_kib()?;
    let files = many_files::look_up(&mut client, MANY)?;
    ensure_small(&source, before, "looked up")?;
    // Those whose descriptors are long closed are found again.
    for nodeid in files.iter().step_by(1_000) {
        client.get_attr(*nodeid, None)?;
    }
    let destination = daemon(share.path(), FEW)?;
    let before = destination.resident_kib()?;
    let frontend = destination.connect()?;
    let moved = client.machine().migrate_to(frontend, Manner::QEMU)?;
    println!("{} bytes of state, {moved:?}", moved.state_size);
    ensure_small(&destination, before, "loaded")?;
    for nodeid in files.iter().step_by(1_000) {
        client.get_attr(*nodeid, None)?;
    }
    // The guest gives back what it held, and then nothing is known any more.
    let all: Vec<_> = files.iter().map(|nodeid| (*nodeid, 1)).collect();
    for some in all.chunks(10_000) {
        client.batch_forget(some)?;
    }
    for nodeid in files.iter().step_by(1_000) {
        let errno = client.get_attr(*nodeid, None).err();
        let errno = errno.and_then(|error| error.errno());
        ensure!(errno == Some(libc::ESTALE), "{errno:?}");
    }
    Ok(())
}

#[test]
fn as_many_open_files_as_the_host_allows_move() -> Result<()> {
    let share = TempDir::new()?;
    fs::write(share.path().join("file"), "content")?;
    let (_source, mut client) = boot(share.path(), &[])?;
    let file = client.lookup(ROOT, "file")?.nodeid;
    let mut handles = Vec::new();
    while handles.len() < MANY as usize {
        match client.open(file, 0) {
            Ok(opened) => handles.push(opened.handle),
            Err(error) if error.errno() == Some(libc::ENFILE) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{} open files", handles.len());
    ensure!(handles.len() > 1_024, "more than the daemon below may have");
    // Refused where there is no room for them, and the guest goes on.
    let state = client.machine().snapshot()?;
    let small = daemon(share.path(), FEW)?;
    let mut frontend = small.connect()?;
    frontend.negotiate(PROTOCOL_FEATURES)?;
    ensure!(frontend.load(&mut state.as_slice()).is_err());
    let told = format!("the state has {} open files", handles.len());
    ensure!(small.log()?.contains(&told), "{}", small.log()?);

    let destination = daemon(share.path(), &[])?;
    let frontend = destination.connect()?;
    client.machine().migrate_to(frontend, Manner::QEMU)?;
    ensure!(descriptors(&destination)? > handles.len());
    for handle in handles.iter().step_by(100) {
        ensure!(client.read(file, *handle, 0, 100)? == b"content");
        client.release(file, *handle)?;
    }
    Ok(())
}
