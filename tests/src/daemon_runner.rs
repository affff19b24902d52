//! A daemon of ours as a child process: built if need be, started on a socket of its own, watched.
//!
//! Knows the conventions that all daemons share (readiness line, `--socket-path`, SIGTERM), and no device.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::frontend::Frontend;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::qemu::process::{POLL_INTERVAL, Process, tail};

/// What a daemon says when its socket can be connected to; Kata waits for the same words.
pub const READY: &str = "Waiting for vhost-user socket connection";

/// Turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A running daemon. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    program: PathBuf,
    arguments: Vec<OsString>,
    socket: PathBuf,
    /// How often it was started again.
    restarts: u32,
    /// Holds the socket and the logs.
    folder: TempDir,
}

impl Daemon {
    /// Starts the daemon `program` of this workspace (package and binary have the same name) with
    /// `--socket-path` and `arguments`, and waits until it is ready.
    pub fn start<A: AsRef<OsStr>>(
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::start_at(&built(program)?, arguments)
    }

    /// Starts the daemon at `path`.
    pub fn start_at<A: AsRef<OsStr>>(
        path: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("daemon-").tempdir()?;
        let socket = folder.path().join("socket");
        let arguments: Vec<OsString> = [OsStr::new("--socket-path"), socket.as_os_str()]
            .into_iter()
            .map(OsStr::to_owned)
            .chain(arguments.into_iter().map(|one| one.as_ref().to_owned()))
            .collect();
        let log = folder.path().join("log");
        let mut daemon = Self {
            process: spawn(path, &arguments, &log)?,
            program: path.to_owned(),
            arguments,
            socket,
            restarts: 0,
            folder,
        };
        daemon.wait_until_ready().with_context(|| daemon.report())?;
        Ok(daemon)
    }

    /// Starts it again after it has ended, as a service manager does: on the same socket, with a log of its own.
    pub fn restart(&mut self) -> Result<()> {
        self.restarts += 1;
        let log = self.folder.path().join(format!("log-{}", self.restarts));
        self.process = spawn(&self.program, &self.arguments, &log)?;
        self.wait_until_ready().with_context(|| self.report())
    }

    /// Leaves its folder behind, with its log and its socket.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A front-end for it, with nothing said yet.
    pub fn connect(&self) -> Result<Frontend> {
        Ok(Frontend::connect(&self.socket)?)
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.process.log())?).into_owned())
    }

    /// The file that it logs to.
    pub fn log_path(&self) -> &Path {
        self.process.log()
    }

    /// The id of the process that serves, for a look into /proc: the one that was started, or the one that it has
    /// started inside a sandbox.
    pub fn id(&self) -> Pid {
        let outside = self.process.id();
        let path = format!("/proc/{0}/task/{0}/children", outside.as_raw_nonzero());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let inside = children.split_whitespace().next();
        inside
            .and_then(|id| Pid::from_raw(id.parse().ok()?))
            .unwrap_or(outside)
    }

    /// Memory of its own that is resident, in KiB: what it has allocated, and not what it shares with a guest.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id().as_raw_nonzero());
        let status = std::fs::read_to_string(path)?;
        let anonymous = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
        Ok(anonymous.map_or(Ok(0), |number| number.trim().parse())?)
    }

    /// Asks it to end, as service managers do.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(self.process.id(), Signal::TERM)?)
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait(DEADLINE)
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.status()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.log()?.contains(READY) {
            if let Some(status) = self.status()? {
                bail!("it ended at once: {status}");
            }
            ensure!(Instant::now() < end, "it does not say that it is ready");
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn report(&self) -> String {
        format!(
            "starting {}; its log ends with\n{}",
            self.program.display(),
            tail(self.process.log(), 20)
        )
    }
}

fn spawn(program: &Path, arguments: &[OsString], log: &Path) -> Result<Process> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    Process::start(&name, Command::new(program).args(arguments), log)
}

/// The daemon `program` of this workspace, from the same build as this test.
pub fn built(program: &str) -> Result<PathBuf> {
    build(program, "--bin", program)
}

/// The example `name` of `package`, from the same build as this test.
pub fn example(package: &str, name: &str) -> Result<PathBuf> {
    build(package, "--example", name)
}

/// The library `package`, to be preloaded, from the same build as this test.
pub fn library(package: &str) -> Result<PathBuf> {
    build(package, "--lib", package)
}

/// Under cargo the program is brought up to date first: a test of one package does not build the programs
/// of another. Once in each process: some start a hundred daemons.
fn build(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{package} {kind} {name}");
    if let Some(path) = built.get(&key) {
        return Ok(path.clone());
    }
    let path = bring_up_to_date(package, kind, name)?;
    built.insert(key, path.clone());
    Ok(path)
}

fn bring_up_to_date(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/TEST for tests, target/PROFILE/PROGRAM for programs.
    let folder = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("a test without a folder")?;
    let path = match kind {
        "--example" => folder.join("examples").join(name),
        "--lib" => folder.join(format!("lib{name}.so")),
        _ => folder.join(name),
    };
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let target = folder
            .parent()
            .context("a profile without a target folder")?;
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--package", package, kind])
            .args((kind != "--lib").then_some(name))
            .args(["--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .context("running cargo")?;
        ensure!(
            output.status.success(),
            "building {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    ensure!(
        path.exists(),
        "{} does not exist: build it first",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_and_ends_when_asked() {
        let share = tempfile::tempdir().unwrap();
        let share = share.path().to_str().unwrap();
        let mut daemon = Daemon::start("vhost-device-fs", ["--shared-dir", share]).unwrap();
        daemon.connect().unwrap().features().unwrap();
        // One guest per process: it ends when the front-end has gone.
        assert!(daemon.wait().unwrap().success());

        let mut daemon = Daemon::start("vhost-device-fs", ["--shared-dir", share]).unwrap();
        assert_eq!(daemon.status().unwrap(), None);
        daemon.terminate().unwrap();
        assert!(daemon.wait().unwrap().success());
        assert!(daemon.log().unwrap().contains(READY));
    }

    #[test]
    fn a_daemon_that_does_not_start_is_an_error_with_its_reason() {
        let error = Daemon::start("vhost-device-fs", ["--no-such-option"]).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("--no-such-option") && error.contains("ended at once"),
            "{error}"
        );
    }
}
