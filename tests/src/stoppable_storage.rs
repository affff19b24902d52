//! Storage that hangs when a test wants it to: a folder that a file system daemon serves through the kernel's FUSE client, and a
//! daemon that is stopped by a signal.
//!
//! Knows no device that uses it. Needs root and `/dev/fuse`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::daemon_runner::Daemon;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(1);

/// See the [module](self). Whatever hangs when it is dropped gets an error.
#[derive(Debug)]
pub struct StoppableStorage {
    // Dropped first: the mount goes away with it, and all that hangs ends.
    _bridge: Bridge,
    daemon: Daemon,
    share: TempDir,
    mountpoint: TempDir,
}

impl StoppableStorage {
    /// An empty folder. Nothing of it is kept in the page cache.
    pub fn new() -> Result<Self> {
        Self::at(tempfile::tempdir()?)
    }

    /// Likewise, at a folder of a name that nobody has yet, in `folder`.
    pub fn new_in(folder: &Path) -> Result<Self> {
        Self::at(tempfile::tempdir_in(folder)?)
    }

    fn at(mountpoint: TempDir) -> Result<Self> {
        let share = tempfile::tempdir()?;
        let shared = share.path().display().to_string();
        let daemon = Daemon::start(
            "vhost-device-fs",
            ["--shared-dir", &shared, "--cache", "never"],
        )?;
        let bridge = Bridge::mount(daemon.connect()?, mountpoint.path())?;
        Ok(Self {
            _bridge: bridge,
            daemon,
            share,
            mountpoint,
        })
    }

    /// A file of zeros in it, as those see it whose I/O can be made to hang.
    pub fn file(&self, name: &str, size: u64) -> Result<PathBuf> {
        std::fs::File::create(self.beneath(name))?.set_len(size)?;
        Ok(self.mountpoint.path().join(name))
    }

    /// The same file, beneath all that can hang.
    pub fn beneath(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    /// The folder beneath all that can hang.
    pub fn shared(&self) -> &Path {
        self.share.path()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// From now on nothing ends.
    pub fn hang(&self) -> Result<()> {
        kill_process(self.daemon.id(), Signal::STOP)?;
        // Until one of its threads has seen the signal, all of them go on.
        let began = Instant::now();
        while !self.is_stopped()? {
            ensure!(began.elapsed() < DEADLINE, "the daemon does not stop");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether all threads of the daemon are stopped (state T in proc(5)).
    fn is_stopped(&self) -> Result<bool> {
        let tasks = format!("/proc/{}/task", self.daemon.id().as_raw_nonzero());
        for task in std::fs::read_dir(tasks)? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            if !state.is_some_and(|state| state.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on where it hung.
    pub fn release(&self) -> Result<()> {
        Ok(kill_process(self.daemon.id(), Signal::CONT)?)
    }
}
