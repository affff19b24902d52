//! A guest, a share, and a daemon of either maker between them.
//!
//! Knows how each daemon is started, and how the guest is moved to another one; does not know what is asked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use common::protocol::messages::{DirtyLog, feature};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tempfile::TempDir;
use tests::daemon_runner::{DEADLINE, Daemon, built};
use tests::fuse_client::{Answer, Client, encode};
use tests::guest::machine::Manner;
use tests::qemu::process::POLL_INTERVAL;
use tests::tools;
use vhost_device_fs::fuse::abi::{InitOut, MAJOR_VERSION, Opcode, WriteIn, init};

/// What a recent guest can do, and what makes a difference here.
pub(crate) const GUEST: u64 = init::BIG_WRITES
    | init::MAX_PAGES
    | init::WRITEBACK_CACHE
    | init::DO_READDIRPLUS
    | init::POSIX_ACL
    | init::DONT_MASK
    | init::SETXATTR_EXT
    | init::SECURITY_CTX
    | init::CREATE_SUPP_GROUP
    | init::SUBMOUNTS
    | init::HANDLE_KILLPRIV_V2
    | init::DIRECT_IO_ALLOW_MMAP;

/// Bytes of a dirty log that covers all memory of a guest.
const LOG_BYTES: u64 = 1 << 20;

/// Who made a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Ours,
    /// virtiofsd 1.14.
    Peer,
}

/// A device in use.
pub(crate) struct Device {
    maker: Maker,
    options: Vec<String>,
    share: PathBuf,
    pub(crate) client: Client,
    pub(crate) daemon: Daemon,
    /// What was agreed on with the guest.
    session: InitOut,
}

impl Device {
    /// Shares `share` with a guest that has just booted.
    pub(crate) fn boot(maker: Maker, share: &Path, options: &[&str]) -> Result<Self> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let daemon = start(maker, share, &options)?;
        let mut client = Client::boot(daemon.connect()?)?;
        let session = client.init(GUEST)?;
        ensure!(session.major == MAJOR_VERSION, "{session:?}");
        Ok(Self {
            maker,
            options,
            share: share.to_owned(),
            client,
            daemon,
            session,
        })
    }

    /// Moves it to another daemon for the same share.
    pub(crate) fn migrate(&mut self) -> Result<()> {
        self.migrate_with(|| Ok(()))
    }

    /// The same, and something happens between SAVE and LOAD.
    pub(crate) fn migrate_with(&mut self, between: impl FnOnce() -> Result<()>) -> Result<()> {
        let next = start(self.maker, &self.share, &self.options)?;
        let moved = self
            .client
            .machine()
            .migrate_with(next.connect()?, Manner::QEMU, |_state| between());
        moved.with_context(|| {
            let [from, to] = [&self.daemon, &next].map(|daemon| daemon.log().unwrap_or_default());
            format!("source:\n{from}\ndestination:\n{to}")
        })?;
        self.daemon = next;
        Ok(())
    }

    /// Moves it to a daemon for another share, which has the same content.
    pub(crate) fn migrate_to_share(&mut self, share: &Path) -> Result<()> {
        share.clone_into(&mut self.share);
        self.migrate()
    }

    /// What a front-end does at the begin of a live migration: memory is logged from now on.
    pub(crate) fn begin_to_migrate(&mut self) -> Result<()> {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, LOG_BYTES)?;
        let log = DirtyLog {
            size: LOG_BYTES,
            file_offset: 0,
        };
        self.client.machine().frontend().set_log(log, &file)?;
        self.set_logging(true)
    }

    /// What a front-end does when a migration was cancelled.
    pub(crate) fn cancel(&mut self) -> Result<()> {
        self.set_logging(false)
    }

    fn set_logging(&mut self, on: bool) -> Result<()> {
        let machine = self.client.machine();
        let logging = if on { feature::LOG_ALL } else { 0 };
        let features = machine.features() | logging;
        Ok(machine.frontend().set_features(features)?)
    }

    /// SETXATTR in the form that was agreed on.
    pub(crate) fn set_xattr(&mut self, nodeid: u64, name: &str, value: &[u8]) -> Answer<()> {
        let size = u32::try_from(value.len()).context("too long a value")?;
        let flags = u64::from(self.session.flags) | u64::from(self.session.flags2) << 32;
        let mut body = [size.to_le_bytes(), [0; 4]].concat();
        if flags & init::SETXATTR_EXT != 0 {
            body.extend([0; 8]);
        }
        body.extend([name.as_bytes(), b"\0", value].concat());
        let ticket = self.client.send(Opcode::SetXattr, nodeid, &body)?;
        while !self.client.is_answered(&ticket)? {
            let ended = self.daemon.status()?;
            if let Some(status) = ended {
                return Err(anyhow!("the daemon has ended: {status}").into());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.client.wait(ticket).map(|_empty| ())
    }

    /// WRITE of what the guest held back in its page cache.
    pub(crate) fn write_back(
        &mut self,
        nodeid: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Answer<()> {
        let arguments = WriteIn {
            handle,
            offset,
            size: u32::try_from(data.len()).context("too much data")?,
            write_flags: vhost_device_fs::fuse::abi::WRITE_CACHE,
            ..WriteIn::default()
        };
        let body = [&encode(&arguments), data].concat();
        self.client
            .call(Opcode::Write, nodeid, &body)
            .map(|_written| ())
    }

    /// Waits until the daemon has nothing more to do, by its own processor time; for work in the background.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        let path = format!("/proc/{}/stat", self.daemon.id().as_raw_nonzero());
        let end = Instant::now() + DEADLINE;
        let mut before = None;
        loop {
            let text = fs::read_to_string(&path)?;
            let fields = text.rsplit(')').next().unwrap_or_default();
            let used: Vec<&str> = fields.split_whitespace().skip(11).take(2).collect();
            let used = used.join(" ");
            if before.as_ref() == Some(&used) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the daemon is never idle");
            before = Some(used);
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    }
}

fn start(maker: Maker, share: &Path, options: &[String]) -> Result<Daemon> {
    let (program, fixed): (_, &[&str]) = match maker {
        Maker::Ours => (built("vhost-device-fs")?, &[]),
        Maker::Peer => (tools::virtiofsd()?, &["--seccomp=none", "--log-level=info"]),
    };
    let share = format!("--shared-dir={}", share.display());
    let arguments = [share.as_str(), "--sandbox=none"].into_iter();
    let arguments = arguments.chain(fixed.iter().copied());
    Daemon::start_at(
        &program,
        arguments.chain(options.iter().map(String::as_str)),
    )
}

/// A folder on a file system in memory, of another type than the one that temporary files are on.
pub(crate) fn folder_in_memory() -> Result<TempDir> {
    let folder =
        tempfile::tempdir_in("/dev/shm").context("/dev/shm has no file system in memory")?;
    let tmpfs = rustix::fs::statfs(folder.path())?.f_type;
    let other = rustix::fs::statfs(std::env::temp_dir())?.f_type;
    ensure!(tmpfs != other, "temporary files are in memory, too");
    Ok(folder)
}

/// The host's kernel forgets what it does not need about files, as it does when memory is short.
pub(crate) fn forget_files_on_host() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping the host's dentries takes root")
}
