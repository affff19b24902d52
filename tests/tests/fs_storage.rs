//! While the host's storage is at work for some requests, are others on the same ring answered? And is none of the former lost, or suspended?

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Client, ROOT, Ticket, encode};
use tests::guest::Manner;
use tests::stoppable_storage::StoppableStorage;
use vhost_device_fs::fuse::abi::{FsyncIn, GetAttrIn, Opcode};

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_secs(20);
/// As many as are waited for beside the ring.
const WAITING: usize = 8;

/// A share with a file, and a folder whose storage can hang.
struct Share {
    // Dropped first: it is mounted in the other one.
    storage: StoppableStorage,
    folder: TempDir,
}

impl Share {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("quick"), "quick")?;
        let storage = StoppableStorage::new_in(folder.path())?;
        storage.file("slow", 0)?;
        Ok(Self { storage, folder })
    }

    fn start(&self) -> Result<Daemon> {
        let folder = self.folder.path().to_str().context("plain names")?;
        let arguments = ["--shared-dir", folder, "--suspend-timeout-ms=300"];
        Daemon::start("vhost-device-fs", arguments)
    }

    /// The bodies of FSYNC for the slow file, and its nodeid.
    fn open(&self, client: &mut Client) -> Result<(u64, Vec<u8>)> {
        let name = self
            .storage
            .path()
            .file_name()
            .and_then(|name| name.to_str());
        let folder = client.lookup(ROOT, name.context("a name")?)?;
        let file = client.lookup(folder.nodeid, "slow")?;
        let handle = client.open(file.nodeid, 2)?.handle;
        let fsync = FsyncIn {
            handle,
            ..FsyncIn::default()
        };
        Ok((file.nodeid, encode(&fsync)))
    }
}

#[test]
fn others_are_served_while_storage_hangs() -> Result<()> {
    let share = Share::new()?;
    let source = share.start()?;
    let mut client = Client::begin(source.connect()?, 0)?;
    let quick = client.lookup(ROOT, "quick")?.nodeid;
    let (nodeid, fsync) = share.open(&mut client)?;
    share.storage.hang()?;
    let hanging: Vec<Ticket> = (0..WAITING)
        .map(|_| client.send(Opcode::Fsync, nodeid, &fsync))
        .collect::<Result<_>>()?;
    let mut answered = 0;
    let end = Instant::now() + DEADLINE;
    let attributes = client.send(Opcode::GetAttr, quick, &encode(&GetAttrIn::default()))?;
    while !client.is_answered(&attributes)? {
        ensure!(Instant::now() < end, "the ring waits for storage");
        thread::sleep(Duration::from_millis(1));
    }
    client.wait(attributes)?;
    for ticket in &hanging {
        answered += usize::from(client.is_answered(ticket)?);
    }
    ensure!(answered == 0, "{answered} of those that hang are answered");
    // What is on its way is waited for, and so long it is not suspended.
    ensure!(client.machine().frontend().suspend().is_err());
    share.storage.release()?;
    client.machine().suspend_at_last()?;
    client.machine().frontend().resume()?;
    for ticket in hanging {
        client.wait(ticket)?;
    }
    // On its way when the device moves.
    let last = client.send(Opcode::Fsync, nodeid, &fsync)?;
    let destination = share.start()?;
    let frontend = destination.connect()?;
    client.machine().migrate_to(frontend, Manner::QEMU)?;
    client.wait(last)?;
    client.call(Opcode::Fsync, nodeid, &fsync)?;
    Ok(())
}

/// What fails does so for itself, and nothing is left of what outlives its front-end.
#[test]
fn what_hangs_when_the_front_end_leaves_is_nobody_elses() -> Result<()> {
    let share = Share::new()?;
    let folder = share.folder.path().to_str().context("plain names")?;
    let arguments = ["--shared-dir", folder, "--persistent"];
    let daemon = Daemon::start("vhost-device-fs", arguments)?;
    let mut client = Client::begin(daemon.connect()?, 0)?;
    let (nodeid, fsync) = share.open(&mut client)?;
    share.storage.hang()?;
    let _lost = client.send(Opcode::Fsync, nodeid, &fsync)?;
    thread::sleep(Duration::from_millis(100));
    drop(client);
    let mut client = Client::boot(daemon.connect()?)?;
    // The one that hangs is another guest's, and keeps none of this one's waiting.
    client.init(0)?;
    let quick = client.lookup(ROOT, "quick")?;
    client.call(
        Opcode::GetAttr,
        quick.nodeid,
        &encode(&GetAttrIn::default()),
    )?;
    share.storage.release()?;
    let (nodeid, mut fsync) = share.open(&mut client)?;
    client.call(Opcode::Fsync, nodeid, &fsync)?;
    // A handle that nobody has.
    fsync.splice(..8, u64::MAX.to_le_bytes());
    let error = client.call(Opcode::Fsync, nodeid, &fsync).unwrap_err();
    ensure!(error.errno() == Some(libc::EBADF), "{error}");
    Ok(())
}
