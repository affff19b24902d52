//! The program of `src/bin/guest_workload.rs`: compiled for guests, run on this host, and understood.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::qemu::process::{Process, tail};
use crate::qemu::provision::{run, target_folder};

/// How many files it keeps open and writes to.
pub const STREAMS: u64 = 5;

/// How many more files it reads.
pub const STEADY_FILES: u64 = 50;

/// The program, compiled statically: a guest has no libraries. Kept while its source is the same.
pub fn program() -> Result<PathBuf> {
    let source = include_str!("bin/guest_workload.rs");
    let folder = target_folder()?.join("guest_workload");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock().context("locking the guest workload")?;
    let (program, copy) = (folder.join("guest_workload"), folder.join("compiled.rs"));
    if program.exists() && fs::read_to_string(&copy).is_ok_and(|known| known == source) {
        return Ok(program);
    }
    let fresh = folder.join("guest_workload.rs");
    fs::write(&fresh, source)?;
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(compiler)
        .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&program)
        .arg(&fresh))
    .context("compiling the guest workload")?;
    fs::rename(&fresh, &copy)?;
    Ok(program)
}

/// How many records it has written to each file, from its answer to a question.
pub fn records(answer: &str) -> Result<u64> {
    let words = answer.trim().split(' ');
    let mut records = words.filter_map(|word| word.strip_prefix("records="));
    let records = records.next().and_then(|count| count.parse().ok());
    records.with_context(|| format!("the workload answers {answer:?}"))
}

/// Checks the files of a workload that has stopped: `folder` as it was told to `serve`, or the same
/// folder from the other side of a share.
pub fn check(folder: &Path) -> Result<u64> {
    let mut command = Command::new(program()?);
    let answer = run(command.arg("check").arg(folder));
    records(&answer.context("the workload's files")?)
}

/// The program, running on this host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Workload {
    process: Process,
    program: PathBuf,
    socket: PathBuf,
}

impl Workload {
    /// Starts it on `folder`, which it creates. `scratch` is for its socket and its log.
    pub fn start(folder: &Path, scratch: &Path) -> Result<Self> {
        let program = program()?;
        let socket = scratch.join("workload.socket");
        let mut command = Command::new(&program);
        command.arg("serve").arg(folder).arg(&socket);
        let log = scratch.join("workload.log");
        let process = Process::start("guest_workload", &mut command, &log)?;
        Ok(Self {
            process,
            program,
            socket,
        })
    }

    /// Lets it read everything back; how many records it has written to each file.
    pub fn verify(&mut self) -> Result<u64> {
        self.ask("verify")
    }

    /// As [`verify`](Self::verify), and ends it.
    pub fn stop(mut self) -> Result<u64> {
        let records = self.ask("stop")?;
        let status = self.process.wait(crate::daemon_runner::DEADLINE)?;
        ensure!(status.success(), "the workload ended with {status}");
        Ok(records)
    }

    fn ask(&mut self, question: &str) -> Result<u64> {
        let mut command = Command::new(&self.program);
        let answer = run(command.arg("ask").arg(&self.socket).arg(question));
        records(&answer.with_context(|| tail(self.process.log(), 20))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_on_a_bare_file_system() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("work");
        let mut workload = Workload::start(&folder, scratch.path()).unwrap();
        let first = workload.verify().unwrap();
        let last = workload.stop().unwrap();
        assert!(last >= first);
        assert_eq!(check(&folder).unwrap(), last);
        fs::write(folder.join("append"), "damage").unwrap();
        assert!(check(&folder).is_err());
    }
}
