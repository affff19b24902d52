//! A virtual machine with a file system daemon, and the workload that runs on it.
//!
//! The steps that end-to-end tests and the demo are made of.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};

use super::rig::{Rig, WORKLOAD};
use super::vm::{BOOT_DEADLINE, Config, Start, Vm};
use crate::daemon_runner::Daemon;
use crate::service_manager::Service;
use crate::{fs_daemon, workload};

/// Names the share in the guest.
const TAG: &str = "share";

/// Where the guest's workload keeps its files, and the same folder seen in the share.
const GUEST_FOLDER: &str = "/mnt/work";
const SHARE_FOLDER: &str = "work";

/// The guest workload's socket; not on the share.
const SOCKET: &str = "/tmp/workload.socket";

/// Who serves the device of a machine, and ends by itself when QEMU does.
pub trait Serves: Debug {
    /// Where it listens.
    fn socket(&self) -> PathBuf;
    /// Where it logs.
    fn log_path(&self) -> PathBuf;
    /// Waits until it ends by itself.
    fn wait(&mut self) -> Result<ExitStatus>;
}

impl Serves for Daemon {
    fn socket(&self) -> PathBuf {
        self.socket().to_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.log_path().to_owned()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        self.wait()
    }
}

impl Serves for Service {
    fn socket(&self) -> PathBuf {
        self.socket()
    }

    fn log_path(&self) -> PathBuf {
        self.log_path().to_owned()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        self.wait()
    }
}

/// A VM and the daemon of its only device.
#[derive(Debug)]
pub struct FsMachine<D = Daemon> {
    /// The machine.
    pub vm: Vm,
    /// The daemon; it ends by itself when QEMU does.
    pub daemon: D,
}

impl FsMachine {
    /// Starts a daemon for the folder `share`, and a machine with it.
    pub fn start(rig: &Rig, name: &str, start: Start, share: &Path) -> Result<Self> {
        let daemon = fs_daemon::start(share, "auto")?;
        Self::start_on(rig, name, start, daemon)
    }
}

impl<D: Serves> FsMachine<D> {
    /// Starts a machine on a daemon with options of its own.
    pub fn start_on(rig: &Rig, name: &str, start: Start, daemon: D) -> Result<Self> {
        let config = Config::new(name, start)
            .with_fs(TAG, &daemon.socket().display().to_string())
            .with_log(daemon.log_path());
        let vm = Vm::start(rig, config)?;
        Ok(Self { vm, daemon })
    }

    /// Waits for the guest, and mounts the share at `/mnt`.
    pub fn mount(&mut self) -> Result<()> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        self.vm.run(&format!("mount -t virtiofs {TAG} /mnt"))?;
        Ok(())
    }

    /// Waits for the guest, mounts the share and starts the workload on it.
    pub fn start_workload(&mut self) -> Result<()> {
        self.mount()?;
        self.vm.run(&format!(
            "{WORKLOAD} serve {GUEST_FOLDER} {SOCKET} </dev/null >/tmp/workload.log 2>&1 &"
        ))?;
        self.verify()?;
        Ok(())
    }

    /// Lets the workload read everything back, from the host and not from the guest's cache.
    /// Returns how many records it has written to each file.
    pub fn verify(&mut self) -> Result<u64> {
        self.vm.run("sync; echo 3 >/proc/sys/vm/drop_caches")?;
        self.ask("verify")
    }

    /// As [`verify`](Self::verify), and ends the workload. Nothing may keep the share busy then.
    pub fn stop_workload(&mut self) -> Result<u64> {
        let records = self.ask("stop")?;
        // The answer comes before the program's end, and so before its files are closed.
        self.vm.run("wait; umount /mnt")?;
        Ok(records)
    }

    fn ask(&mut self, question: &str) -> Result<u64> {
        let answer = self
            .vm
            .run(&format!("{WORKLOAD} ask {SOCKET} {question}"))?;
        workload::records(&answer)
    }

    /// Ends QEMU; the daemon has to follow by itself, with success.
    pub fn quit(mut self) -> Result<()> {
        let report = self.vm.report();
        self.vm.quit()?;
        let status = self.daemon.wait().with_context(|| report.clone())?;
        if !status.success() {
            bail!("vhost-device-fs ended with {status}\n{report}");
        }
        Ok(())
    }
}

/// Checks the workload's files where they really are. The workload must have stopped.
pub fn check_share(share: &Path) -> Result<u64> {
    let records = workload::check(&share.join(SHARE_FOLDER));
    records.context("the share as the host sees it")
}
