//! A virtual machine with a file system daemon, and the workload that runs on it.
//!
//! The steps that end-to-end tests and the demo are made of. Knows the daemon by its command line
//! and its log only.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::provision::run;
use super::rig::{Rig, WORKLOAD};
use super::vm::{BOOT_DEADLINE, Config, Start, Vm};
use crate::daemon_runner::Daemon;

/// Names the share in the guest.
const TAG: &str = "share";

/// Where the guest's workload keeps its files, and the same folder seen in the share.
const GUEST_FOLDER: &str = "/mnt/work";
const SHARE_FOLDER: &str = "work";

/// The guest workload's socket; not on the share.
const SOCKET: &str = "/tmp/workload.socket";

/// What the daemon logged about a state that it saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedState {
    /// Size of the state.
    pub bytes: u64,
    /// Sections in it.
    pub sections: u64,
    /// Time that it took to collect and write it.
    pub milliseconds: u64,
}

/// A VM and the daemon of its only device.
#[derive(Debug)]
pub struct FsMachine {
    /// The machine.
    pub vm: Vm,
    /// The daemon; it ends by itself when QEMU does.
    pub daemon: Daemon,
}

impl FsMachine {
    /// Starts a daemon for the folder `share`, and a machine with it.
    pub fn start(rig: &Rig, name: &str, start: Start, share: &Path) -> Result<Self> {
        let daemon = start_daemon(share)?;
        let config = Config::new(name, start)
            .with_fs(TAG, &daemon.socket().display().to_string())
            .with_log(daemon.log_path());
        let vm = Vm::start(rig, config)?;
        Ok(Self { vm, daemon })
    }

    /// Waits for the guest, mounts the share and starts the workload on it.
    pub fn start_workload(&mut self) -> Result<()> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        self.vm.run(&format!("mount -t virtiofs {TAG} /mnt"))?;
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
        let words = answer.trim().split(' ');
        let mut records = words.filter_map(|word| word.strip_prefix("records="));
        let records = records.next().and_then(|count| count.parse().ok());
        records.with_context(|| format!("the workload answers {answer:?}"))
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

    /// What the daemon logged about the last state that it saved.
    pub fn saved_state(&self) -> Result<SavedState> {
        let log = self.daemon.log()?;
        let line = log.lines().rev().find_map(saved_state);
        line.with_context(|| format!("no saved state in the log\n{}", self.vm.report()))
    }
}

/// Checks the workload's files where they really are. The workload must have stopped.
pub fn check_share(rig: &Rig, share: &Path) -> Result<()> {
    let mut command = Command::new(rig.provision.cache.join("guest_workload"));
    command.arg("check").arg(share.join(SHARE_FOLDER));
    run(&mut command).context("the share as the host sees it")?;
    Ok(())
}

/// Reads `state phase=save result=ok bytes=1 sections=2 collect_ms=3 total_ms=4`.
fn saved_state(line: &str) -> Option<SavedState> {
    let (_, fields) = line.split_once("state phase=save result=ok ")?;
    let field = |name: &str| {
        let mut words = fields.split(' ');
        words
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?
            .parse()
            .ok()
    };
    Some(SavedState {
        bytes: field("bytes")?,
        sections: field("sections")?,
        milliseconds: field("total_ms")?,
    })
}

/// The daemon that is built with us, or the one that `VHOST_DEVICE_FS` names: another release.
fn start_daemon(share: &Path) -> Result<Daemon> {
    let share = share.as_os_str();
    let arguments = ["--shared-dir".as_ref(), share].into_iter();
    let arguments = arguments.chain(["--cache", "auto", "--sandbox", "none"].map(OsStr::new));
    match std::env::var_os("VHOST_DEVICE_FS") {
        Some(program) => Daemon::start_at(Path::new(&program), arguments),
        None => Daemon::start("vhost-device-fs", arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_log_tells_the_size_of_the_state() {
        let line = "[INFO] state phase=save result=ok bytes=815 sections=7 collect_ms=1 total_ms=2";
        let expected = SavedState {
            bytes: 815,
            sections: 7,
            milliseconds: 2,
        };
        assert_eq!(saved_state(line), Some(expected));
        assert_eq!(saved_state("state phase=receive result=ok ms=1"), None);
    }
}
