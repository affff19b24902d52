//! The SCSI tests of libiscsi's iscsi-test-cu, each in a process and on daemons of its own, and what they say.
//!
//! The program's exit status is 0 if a test was skipped, or if its name matches nothing: the verdict is in what it prints. What it prints about the
//! device before the tests begin is no verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::gateway::{Finished, Gateway};
use crate::qemu::provision::Program;

/// Number of tests in the family SCSI of libiscsi 1.19.
pub const TESTS: usize = 215;

/// Turns a hang into a verdict. The longest test takes seconds.
const LIMIT: Duration = Duration::from_mins(2);

/// The line after which tests begin.
const BEGIN: &str = "CUnit - A unit testing framework";

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it was tried, and is as the standard says.
    Passed,
    /// Something in it was not tried, for these reasons.
    Skipped(Vec<String>),
    /// Something is not as the test wants it.
    Failed(Vec<String>),
    /// The test has not come to a verdict: the program crashed or hung, or the back-end did.
    Broken(String),
}

impl Verdict {
    fn new(finished: &Finished) -> Result<Self> {
        let Finished { status, output } = finished;
        if let Some(signal) = status.signal() {
            return Ok(Self::Broken(format!("signal {signal}")));
        }
        let (_, lines) = output
            .split_once(BEGIN)
            .with_context(|| format!("no test has begun, {status}\n{output}"))?;
        let numbers = summary(lines).with_context(|| format!("no summary\n{output}"))?;
        let [_, ran, passed, failed] = numbers;
        ensure!(ran == 1, "{ran} tests ran, not 1\n{output}");
        let lines_with = |mark: &str| {
            let mut lines: Vec<String> = lines
                .lines()
                .filter_map(|line| Some(line.trim().strip_prefix(mark)?.trim().to_owned()))
                .collect();
            lines.dedup();
            lines
        };
        let skipped = lines_with("[SKIPPED]");
        let failures = lines_with("[FAILED]");
        Ok(match (passed, failed) {
            (1, 0) if skipped.is_empty() => Self::Passed,
            (1, 0) => Self::Skipped(skipped),
            _ => Self::Failed(failures),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(formatter, "passed"),
            Self::Skipped(reasons) => write!(formatter, "skipped: {}", reasons.join("; ")),
            Self::Failed(reasons) => write!(formatter, "FAILED: {}", reasons.join("; ")),
            Self::Broken(reason) => write!(formatter, "BROKEN: {reason}"),
        }
    }
}

/// The line "tests" of the summary: how many there are, ran, passed and failed.
fn summary(output: &str) -> Option<[u32; 4]> {
    let line = output
        .lines()
        .find_map(|line| line.trim().strip_prefix("tests "))?;
    let numbers: Vec<u32> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .take(4)
        .collect();
    numbers.try_into().ok()
}

/// The names of all tests of the family SCSI.
pub fn names(iscsi_test_cu: &Program) -> Result<Vec<String>> {
    let output = iscsi_test_cu.command().arg("--list").output()?;
    let text = String::from_utf8(output.stdout)?;
    let is_test = |line: &&str| line.starts_with("SCSI.") && line.split('.').count() == 3;
    Ok(text.lines().filter(is_test).map(str::to_owned).collect())
}

/// Runs the test `name` on `devices`: device files or URLs, several paths to one unit.
pub fn run(
    iscsi_test_cu: &Program,
    name: &str,
    devices: &[String],
    gateway: &mut Gateway,
) -> Verdict {
    let mut command = iscsi_test_cu.command();
    command
        .args(["--dataloss", "--normal", "--test", name])
        .args(devices);
    gateway
        .run(&mut command, LIMIT)
        .and_then(|finished| Verdict::new(&finished))
        .unwrap_or_else(|error| Verdict::Broken(format!("{error:#}")))
}

/// Gives each of `names` to `judge`, some at a time.
pub fn run_all(
    names: &[String],
    judge: impl Fn(&str) -> Verdict + Sync,
) -> BTreeMap<String, Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = judge(name);
            let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            verdicts.insert(name.clone(), verdict);
        }
    };
    // Daemons die with the thread that started them, so a test must not change threads.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    verdicts
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    fn verdict(raw_status: i32, lines: &str, numbers: &str) -> Result<Verdict> {
        let output = format!(
            "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\n    [FAILED] INQUIRY\n\n     {BEGIN}\n\
             {lines}\nRun Summary:  Type  Total\n     suites  1  1  n/a  0  0\n      tests  {numbers}  0\n"
        );
        Verdict::new(&Finished {
            status: ExitStatus::from_raw(raw_status),
            output,
        })
    }

    #[test]
    fn verdicts_are_read_from_what_is_printed() {
        assert_eq!(verdict(0, "", "1 1 1 0").unwrap(), Verdict::Passed);
        let skipped = verdict(0, "    [SKIPPED] no\n    [SKIPPED] no\n", "1 1 1 0").unwrap();
        assert_eq!(skipped, Verdict::Skipped(vec!["no".to_owned()]));
        let failed = verdict(256, "    [SKIPPED] no\n    [FAILED] bad\n", "1 1 0 1").unwrap();
        assert_eq!(failed, Verdict::Failed(vec!["bad".to_owned()]));
        assert!(matches!(verdict(11, "", ""), Ok(Verdict::Broken(_))));
    }

    #[test]
    fn a_name_that_matches_nothing_and_a_start_that_fails_are_no_verdicts() {
        assert!(verdict(0, "", "0 0 0 0").is_err());
        assert!(verdict(0, "", "2 2 2 0").is_err());
        let output = "Failed to open SG_IO device".to_owned();
        let status = ExitStatus::from_raw(255 << 8);
        assert!(Verdict::new(&Finished { status, output }).is_err());
    }
}
