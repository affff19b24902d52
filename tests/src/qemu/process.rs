//! Child processes that die with us, however we die, and whose standard error is kept in a file.
//!
//! Knows nothing of QEMU.
#![expect(
    unsafe_code,
    reason = "CommandExt::pre_exec is the only way to ask for a death signal before exec"
)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// How often a condition without a notification of its own is looked at again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running child. It is killed when this is dropped, and by the kernel when we are killed.
///
/// The kernel ties the child to the *thread* that started it: start it from the thread that uses it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard output and error go to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        Self::start_with_input(name, command, log, Stdio::null())
    }

    /// [`start`](Self::start), with a standard input.
    pub fn start_with_input(
        name: &str,
        command: &mut Command,
        log: &Path,
        input: Stdio,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let parent = rustix::process::getpid();
        command
            .stdin(input)
            .stdout(output.try_clone()?)
            .stderr(output);
        // SAFETY: the closure runs between fork and exec and calls nothing but prctl and getppid,
        // which are async-signal-safe; it touches no memory but its own copy of `parent`.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The file that holds what the child printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id, as long as it has not been waited for.
    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The exit status, if the child has ended.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills the child and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until the child ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} is still running after {deadline:?}", self.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn die_with(parent: Pid) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above: then nobody would send the signal.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::NotConnected.into())
    }
}

/// The last `lines` lines of a file, or the reason why it cannot be read: for failure reports.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            let kept = all.iter().skip(all.len().saturating_sub(lines));
            kept.flat_map(|line| ["    ", line, "\n"]).collect()
        }
        Err(error) => format!("    ({}: {error})\n", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let process = Process::start("sleep", Command::new("sleep").arg("600"), &log).unwrap();
        let id = process.id();
        drop(process);
        assert!(rustix::process::test_kill_process(id).is_err());
    }

    #[test]
    fn output_and_status_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut process = Process::start("sh", &mut command, &log).unwrap();
        let status = process.wait(Duration::from_mins(1)).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(tail(&log, 1), "    two\n");
        assert_eq!(tail(&log, 9), "    one\n    two\n");
    }
}
