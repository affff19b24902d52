//! The program of `src/bin/guest_workload.rs`: compiled for guests, run on this host, and understood.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest_program;
use crate::qemu::process::{Process, tail};
use crate::qemu::provision::run;

/// How many files it keeps open and writes to.
pub const STREAMS: u64 = 5;

/// How many more files it reads.
pub const STEADY_FILES: u64 = 50;

/// The program, compiled for guests.
pub fn program() -> Result<PathBuf> {
    guest_program::compiled("guest_workload", include_str!("bin/guest_workload.rs"))
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
    use std::fs;

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
