//! A guest with as many open files as a server may be asked for.
//!
//! Under emulation it would take minutes to open them one by one. So the guest opens a few, and on the way to another daemon its state
//! is made that of a guest that has opened them many times; from there on they are open files like all others.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::state::{Limits, StateSchema as _, read_state, write_state};
use rustix::process::{Resource, Rlimit, setrlimit};
use vhost_device_fs::state::{FsState, HandleV1};

use super::step;
use crate::daemon_runner::Daemon;
use crate::fuse_client::{Client, ROOT};
use crate::guest::Manner;

/// Open files.
const OPEN: usize = 100_000;
/// Files; each is open many times, with a descriptor for each time.
const FILES: usize = 500;
/// Descriptors that a daemon may have: half of them are for what the guest has open.
const DESCRIPTORS: u64 = 250_000;
/// Longest time that a daemon may take for them, on a machine that is emulated beside other work.
const LIMIT: Duration = Duration::from_mins(5);
/// Every which open file is read.
const STEP: usize = 99;

pub(super) fn run() -> Result<()> {
    allow()?;
    let share = tempfile::tempdir()?;
    let source = daemon(share.path())?;
    let mut client = Client::boot(source.connect()?)?;
    client.init(u64::MAX)?;
    for number in 0..FILES {
        let name = number.to_string();
        fs::write(share.path().join(&name), &name)?;
        let nodeid = client.lookup(ROOT, &name)?.nodeid;
        client.open(nodeid, 0)?;
    }
    let destination = daemon(share.path())?;
    let mut frontend = destination.connect()?;
    frontend.set_limit(LIMIT)?;
    let mut handles = Vec::new();
    step("opening them", || {
        client
            .machine()
            .migrate_with(frontend, Manner::QEMU, |state| {
                handles = multiply(state)?;
                Ok(())
            })
            .with_context(|| destination.log().unwrap_or_default())
    })?;
    report(&destination)?;
    let state = step("saving them", || client.machine().snapshot())?;
    println!("{} bytes of state", state.len());
    ensure!(decode(&state)?.handles == handles, "others are open");
    step("reading some", || {
        // The files have nodeids one after the other.
        let first = client.lookup(ROOT, "0")?.nodeid;
        for handle in handles.iter().step_by(STEP) {
            let content = client.read(handle.nodeid, handle.handle, 0, 100)?;
            let number = (handle.nodeid - first).to_string();
            ensure!(content == number.as_bytes(), "{handle:?}: {content:?}");
        }
        Ok(())
    })
}

/// Raises what keeps programs of this machine from having so many.
fn allow() -> Result<()> {
    // A small machine may have fewer in all.
    fs::write("/proc/sys/fs/file-max", "1000000")?;
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

fn daemon(share: &Path) -> Result<Daemon> {
    let share = share.to_str().context("plain names")?;
    let descriptors = format!("--rlimit-nofile={DESCRIPTORS}");
    let options = [
        "--num-request-queues=1",
        &descriptors,
        "--shared-dir",
        share,
    ];
    Daemon::start("vhost-device-fs", options)
}

fn decode(bytes: &[u8]) -> Result<FsState> {
    Ok(read_state(&mut &*bytes, &Limits::default())?)
}

/// Makes each open file one of many of the same file. Returns all of them.
fn multiply(bytes: &mut Vec<u8>) -> Result<Vec<HandleV1>> {
    let mut state = decode(bytes)?;
    let opened = std::mem::take(&mut state.handles);
    ensure!(opened.len() == FILES, "{} are open", opened.len());
    let first = opened.first().context("none is open")?.handle;
    let numbers = first..first + u64::try_from(OPEN)?;
    state.share.next_handle = numbers.end;
    state.handles = numbers
        .zip(opened.iter().cycle())
        .map(|(handle, file)| HandleV1 {
            handle,
            ..file.clone()
        })
        .collect();
    bytes.clear();
    write_state(&state, FsState::VERSION, bytes)?;
    Ok(state.handles)
}

/// Tells how much memory it has, and sees that it has a descriptor for each open file.
fn report(daemon: &Daemon) -> Result<()> {
    let path = format!("/proc/{}/fd", daemon.id().as_raw_nonzero());
    let descriptors = fs::read_dir(path)?.count();
    let memory = daemon.resident_kib()?;
    println!("{descriptors} descriptors, {memory} KiB of memory");
    ensure!(descriptors > OPEN, "{descriptors} descriptors");
    Ok(())
}
