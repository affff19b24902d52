//! A share behind the bridge, and the daemons that serve it one after the other.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::daemon_runner::Daemon;
use crate::guest::Manner;

/// See the [module](self).
#[derive(Debug)]
pub struct Share {
    /// The mount.
    pub bridge: Bridge,
    daemon: Daemon,
    options: Vec<String>,
    mountpoint: TempDir,
    folder: TempDir,
}

impl Share {
    /// A new share, mounted; the daemons have these options.
    pub fn new(options: &[&str]) -> Result<Self> {
        let (folder, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let daemon = start(folder.path(), &options)?;
        Ok(Self {
            bridge: Bridge::mount(daemon.connect()?, mountpoint.path())?,
            daemon,
            options,
            mountpoint,
            folder,
        })
    }

    /// In the guest.
    pub fn at(&self, name: &str) -> PathBuf {
        self.mountpoint.path().join(name)
    }

    /// On the host.
    pub fn on_host(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another daemon goes on.
    pub fn migrate(&mut self) -> Result<()> {
        self.migrate_as(Manner::QEMU)
    }

    /// Another daemon goes on, in some manner.
    pub fn migrate_as(&mut self, manner: Manner) -> Result<()> {
        let options = self.options.clone();
        let share = self.folder.path().to_owned();
        self.migrate_onto(&share, &options, manner)
    }

    /// Another daemon goes on, on another folder and with other options. If that fails, the one before does.
    pub fn migrate_onto(&mut self, share: &Path, options: &[String], manner: Manner) -> Result<()> {
        let destination = start(share, options)?;
        self.bridge.migrate_to(destination.connect()?, manner)?;
        self.daemon = destination;
        Ok(())
    }

    /// The options of the daemons.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// What the daemon of this moment has logged.
    pub fn log(&self) -> Result<String> {
        self.daemon.log()
    }

    /// A second guest's daemon.
    pub fn another_daemon(&self) -> Result<Daemon> {
        start(self.folder.path(), &self.options)
    }

    /// How many requests `work` makes.
    pub fn requests(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<u64> {
        let before = self.bridge.traffic()?.answered;
        work(self)?;
        Ok(self.bridge.traffic()?.answered - before)
    }
}

fn start(share: &Path, options: &[String]) -> Result<Daemon> {
    let share = share.to_str().context("a plain name")?;
    let mut line = vec!["--shared-dir", share];
    line.extend(options.iter().map(String::as_str));
    Daemon::start("vhost-device-fs", line)
}
