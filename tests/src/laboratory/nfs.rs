//! A share on NFS, whose server is the same machine.
//!
//! Knows the kernel's server and client of NFS, and their tools; not what a guest may expect of a share wherever it is: see
//! [`places`](crate::places).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use common::frontend::FrontendError;
use rustix::mount::{MountFlags, mount};
use vhost_device_fs::fuse::abi::{FsyncIn, Opcode};

use super::{ext4, step, succeed};
use crate::daemon_runner::Daemon;
use crate::fuse_client::{Client, ROOT, encode};
use crate::guest::Manner;
use crate::places::{Kind, move_between, move_to};
use crate::qemu::provision::Tree;

/// What the server has.
const EXPORT: &str = "/run/export";
/// Two mounts of it, which know nothing of each other, as on two hosts.
const ONE: &str = "/run/nfs-one";
const OTHER: &str = "/run/nfs-other";
/// A disk.
const DISK: &str = "/run/disk";

pub(super) fn run(tools: &Tree) -> Result<()> {
    step("starting a server", || serve(tools))?;
    step("to another daemon on the same mount", || {
        move_between(Kind::At(ONE), None)
    })?;
    step("to another mount", to_another_mount)?;
    step("to a copy on a disk", || {
        move_between(Kind::At(ONE), Some(Kind::At(DISK)))
    })?;
    step("from a disk to a copy", || {
        move_between(Kind::At(DISK), Some(Kind::At(ONE)))
    })?;
    step("synced when handed over", synced_when_handed_over)?;
    step("changed on the way", changed_on_the_way)?;
    step("removed while open", removed_while_open)?;
    step("renamed as if it were removed", renamed_as_if_removed)?;
    step("a server that hangs", a_server_that_hangs)
}

/// A disk, a server of another disk, and two mounts of that.
fn serve(tools: &Tree) -> Result<()> {
    ext4(tools, DISK)?;
    ext4(tools, EXPORT)?;
    mount("none", "/proc/fs/nfsd", "nfsd", MountFlags::empty(), None)?;
    fs::create_dir_all("/var/lib/nfs/v4recovery")?;
    for file in ["etab", "rmtab"] {
        fs::write(format!("/var/lib/nfs/{file}"), "")?;
    }
    // Delegations are for clients, and the two mounts are one client: they would not be called back.
    fs::write("/proc/sys/fs/leases-enable", "0")?;
    for (program, arguments) in [
        (
            "exportfs",
            "-i -o rw,async,no_root_squash,no_subtree_check,fsid=0 127.0.0.1:/run/export",
        ),
        ("rpc.mountd", "-N 3"),
        ("rpc.nfsd", "-N 3 4"),
    ] {
        let mut command = tools.program(&format!("usr/sbin/{program}"))?.command();
        succeed(command.args(arguments.split(' ')))?;
    }
    // There was no server before, so nobody has anything to claim.
    fs::write("/proc/fs/nfsd/v4_end_grace", "Y")?;
    for mountpoint in [ONE, OTHER] {
        fs::create_dir_all(mountpoint)?;
        mount(
            "127.0.0.1:/",
            mountpoint,
            "nfs4",
            MountFlags::empty(),
            c"addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2,nosharecache",
        )
        .with_context(|| format!("mounting {mountpoint}"))?;
    }
    Ok(())
}

/// A folder of the export with nothing in it, seen through both mounts.
struct Shared {
    folder: tempfile::TempDir,
    other: PathBuf,
}

impl Shared {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir_in(ONE)?;
        let name = folder.path().strip_prefix(ONE)?;
        let other = Path::new(OTHER).join(name);
        Ok(Self { folder, other })
    }

    fn one(&self) -> &Path {
        self.folder.path()
    }

    /// As the server sees it.
    fn on_server(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().strip_prefix(ONE)?;
        Ok(Path::new(EXPORT).join(folder).join(name))
    }
}

fn to_another_mount() -> Result<()> {
    let shared = Shared::new()?;
    move_to(shared.one(), |_| Ok(shared.other.clone()))
}

fn daemon(share: &Path) -> Result<Daemon> {
    let share = share.to_str().context("plain names")?;
    // Time enough for a server that works.
    let options = [
        "--num-request-queues=1",
        "--suspend-timeout-ms=3000",
        "--shared-dir",
        share,
    ];
    Daemon::start("vhost-device-fs", options)
}

/// What the guest wrote is at the server before its state is complete, whoever asks.
fn synced_when_handed_over() -> Result<()> {
    const RDWR: u32 = 2;
    let shared = Shared::new()?;
    let daemon = daemon(shared.one())?;
    let mut client = Client::begin(daemon.connect()?, u64::MAX)?;
    let (entry, opened) = client.create(ROOT, "file", RDWR, 0o644)?;
    client.write(entry.nodeid, opened.handle, 0, b"written")?;
    let server = shared.on_server("file")?;
    // A server that has it at once would prove nothing below.
    ensure!(fs::read(&server)?.is_empty(), "NFS does not cache writes");
    client.machine().snapshot()?;
    ensure!(fs::read(&server)? == b"written");
    ensure!(fs::read(shared.other.join("file"))? == b"written");
    client.release(entry.nodeid, opened.handle)?;
    Ok(())
}

/// Files are renamed, replaced and removed at the server while the guest is on the way.
fn changed_on_the_way() -> Result<()> {
    let shared = Shared::new()?;
    let server = shared.on_server("folder")?;
    fs::create_dir(&server)?;
    let names = ["kept", "renamed", "replaced", "removed"];
    for name in names {
        fs::write(server.join(name), name)?;
    }
    let source = daemon(shared.one())?;
    let mut client = Client::begin(source.connect()?, u64::MAX)?;
    let folder = client.lookup(ROOT, "folder")?.nodeid;
    let nodes = names.map(|name| client.lookup(folder, name));
    let destination = daemon(&shared.other)?;
    let frontend = destination.connect()?;
    let between = |_: &mut Vec<u8>| {
        fs::rename(server.join("renamed"), server.join("elsewhere"))?;
        fs::write(server.join("new"), "another")?;
        fs::rename(server.join("new"), server.join("replaced"))?;
        Ok(fs::remove_file(server.join("removed"))?)
    };
    client
        .machine()
        .migrate_with(frontend, Manner::QEMU, between)
        .with_context(|| destination.log().unwrap_or_default())?;
    for (name, node) in names.iter().zip(nodes) {
        let answer = client.get_attr(node?.nodeid, None);
        let expected = (*name != "kept").then_some(libc::ESTALE);
        let errno = answer.err().and_then(|error| error.errno());
        ensure!(errno == expected, "{name}: {errno:?}");
    }
    // What has the name now is another file, for the guest, too.
    let found = client.lookup(folder, "replaced")?.nodeid;
    let handle = client.open(found, 0)?.handle;
    ensure!(client.read(found, handle, 0, 100)? == b"another");
    Ok(())
}

/// A directory that the guest removed and has open: NFS has none without a name, so it cannot be made anew. The guest goes on where it
/// is, and moves when it is done with it.
fn removed_while_open() -> Result<()> {
    let shared = Shared::new()?;
    let source = daemon(shared.one())?;
    let mut client = Client::begin(source.connect()?, u64::MAX)?;
    let folder = client.mk_dir(ROOT, "folder", 0o755)?.nodeid;
    let handle = client.open_dir(folder)?.handle;
    client.rm_dir(ROOT, "folder")?;
    let move_on = |client: &mut Client| {
        let destination = daemon(&shared.other)?;
        let frontend = destination.connect()?;
        client.machine().migrate_to(frontend, Manner::QEMU)?;
        anyhow::Ok(destination)
    };
    ensure!(move_on(&mut client).is_err(), "NFS has become better");
    client.release_dir(folder, handle)?;
    client.forget(folder, 1)?;
    let _destination = move_on(&mut client)?;
    client.get_attr(ROOT, None)?;
    Ok(())
}

/// A file that somebody gives a name which begins like those of removed files is not removed: what the guest writes to it is in it
/// wherever the guest goes on, or the guest is told that it cannot be.
fn renamed_as_if_removed() -> Result<()> {
    const RDWR: u32 = 2;
    for name in [".nfs-notes", ".nfs000000000000000100000001"] {
        let shared = Shared::new()?;
        let source = daemon(shared.one())?;
        let mut client = Client::begin(source.connect()?, u64::MAX)?;
        let (entry, opened) = client.create(ROOT, "file", RDWR, 0o644)?;
        client.write(entry.nodeid, opened.handle, 0, b"first")?;
        fs::rename(shared.one().join("file"), shared.one().join(name))?;
        let destination = daemon(&shared.other)?;
        let frontend = destination.connect()?;
        let moved = client.machine().migrate_to(frontend, Manner::QEMU);
        let written = client
            .write(entry.nodeid, opened.handle, 0, b"later")
            .and_then(|_| client.fsync(entry.nodeid, opened.handle));
        let text = fs::read(shared.on_server(name)?)?;
        ensure!(
            written.is_err() || text == b"later",
            "{name}: {moved:?}, then {written:?}, and there is {:?}",
            text.escape_ascii().to_string()
        );
    }
    Ok(())
}

/// A request that the server does not finish keeps the device from being suspended, and nothing else: it goes on, and moves when the
/// server does its work again.
fn a_server_that_hangs() -> Result<()> {
    const RDWR: u32 = 2;
    let shared = Shared::new()?;
    let source = daemon(shared.one())?;
    let mut client = Client::begin(source.connect()?, u64::MAX)?;
    let (entry, opened) = client.create(ROOT, "file", RDWR, 0o644)?;
    client.write(entry.nodeid, opened.handle, 0, b"written")?;
    let frozen = Frozen::new()?;
    let fsync = FsyncIn {
        handle: opened.handle,
        ..FsyncIn::default()
    };
    let ticket = client.send(Opcode::Fsync, entry.nodeid, &encode(&fsync))?;
    let suspended = client.machine().frontend().suspend();
    ensure!(
        matches!(suspended, Err(FrontendError::Refused { .. })),
        "{suspended:?}"
    );
    ensure!(!client.is_answered(&ticket)?, "the server does not hang");
    drop(frozen);
    client.wait(ticket)?;
    let destination = daemon(&shared.other)?;
    let frontend = destination.connect()?;
    client.machine().migrate_to(frontend, Manner::QEMU)?;
    ensure!(client.read(entry.nodeid, opened.handle, 0, 100)? == b"written");
    Ok(())
}

/// The server's disk does nothing until this is dropped.
struct Frozen;

impl Frozen {
    fn new() -> Result<Self> {
        succeed(Command::new("fsfreeze").args(["--freeze", EXPORT]))?;
        Ok(Self)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // What hangs then fails the experiment.
        let _thawed = Command::new("fsfreeze")
            .args(["--unfreeze", EXPORT])
            .status();
    }
}
