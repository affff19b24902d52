//! What a process costs its host: processor time, and system calls.
//!
//! System calls are counted by perf where the kernel lets it (a counter, which slows nothing down), by strace otherwise. Knows nothing
//! of what the process does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long strace may take to get hold of a process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Processor time that a process has used, its kernel threads included, in seconds.
pub(super) fn processor_seconds(id: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero()))?;
    // The name may contain anything, closing brackets too.
    let (_, fields) = stat.rsplit_once(") ").context("reading /proc/PID/stat")?;
    let ticks = fields
        .split(' ')
        .skip(11) // utime and stime, fields 14 and 15 of proc(5)
        .take(2)
        .map(str::parse::<u32>)
        .sum::<Result<u32, _>>()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(f64::from(ticks) / f64::from(per_second))
}

/// Who counts system calls on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    Perf,
    Strace,
}

impl Counter {
    /// The better one that works; `None` if none does.
    pub(super) fn find() -> Option<Self> {
        let perf = Command::new("perf")
            .args(["stat", "-e", "raw_syscalls:sys_enter", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if perf.is_ok_and(|status| status.success()) {
            return Some(Self::Perf);
        }
        let strace = Command::new("strace")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        strace
            .is_ok_and(|status| status.success())
            .then_some(Self::Strace)
    }

    /// System calls of a process during `act`, and what that returned.
    pub(super) fn count<R>(self, id: Pid, act: impl FnOnce() -> Result<R>) -> Result<(u64, R)> {
        match self {
            Self::Perf => by_perf(id, act),
            Self::Strace => by_strace(id, act),
        }
    }
}

/// perf counts as long as a command runs: `cat`, whose first answer says that counting has begun, and which ends with its input.
fn by_perf<R>(id: Pid, act: impl FnOnce() -> Result<R>) -> Result<(u64, R)> {
    let mut child = Command::new("perf")
        .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(id.as_raw_nonzero().to_string())
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting perf")?;
    let mut input = child.stdin.take().context("perf without input")?;
    let output = child.stdout.take().context("perf without output")?;
    input.write_all(b"begun\n")?;
    BufReader::new(output).read_line(&mut String::new())?;
    let result = act();
    drop(input);
    let report = report(child)?;
    let count = report.split(',').next().map(|count| count.trim().parse());
    match count {
        Some(Ok(count)) => Ok((count, result?)),
        _ => bail!("perf says {report}"),
    }
}

fn report(mut child: Child) -> Result<String> {
    let mut report = String::new();
    let mut errors = child.stderr.take().context("a child without messages")?;
    errors.read_to_string(&mut report)?;
    child.wait()?;
    Ok(report)
}

fn by_strace<R>(id: Pid, act: impl FnOnce() -> Result<R>) -> Result<(u64, R)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("messages");
    let mut child = Command::new("strace")
        .args(["-c", "-f", "-U", "calls,name", "-o"])
        .arg(folder.path().join("counts"))
        .arg("-p")
        .arg(id.as_raw_nonzero().to_string())
        .stderr(File::create(&path)?)
        .spawn()
        .context("starting strace")?;
    let attached = wait_for(&path, "attached");
    let result = attached.and_then(|()| act());
    kill_process(Pid::from_child(&child), Signal::INT)?;
    child.wait()?;
    let counts = fs::read_to_string(folder.path().join("counts"))?;
    let total = counts
        .lines()
        .find(|line| line.trim_end().ends_with("total"))
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("strace says {counts}"))?;
    Ok((total.parse()?, result?))
}

fn wait_for(path: &Path, word: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(path)?.contains(word) {
        ensure!(Instant::now() < end, "strace does not get hold of it");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
