//! What programs are told to do in a round, and how it is judged.
//!
//! Knows neither where they run nor what happens meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::bare::Bare;
use super::place::{Ran, quoted};
use super::programs::{Commands, DBENCH_LOAD, PJDFSTEST_CONFIGURATION, Toolbox};
use super::{Where, trees};
use crate::pjdfstest::{Verdicts, verdicts, worse};
use crate::random::Random;

/// Stressors of stress-ng's class "filesystem", with options that keep them from taking much longer than they are told to. Left out:
/// those that use no file of the folder they are given (`bind-mount`, `binderfs`, `dup`, `eventfd`, `fstat`, `ioprio`, `procfs`), and
/// `getdent`, which walks through `/tmp` and others of the host: it waits for ever on a mount there that does not answer.
const STRESSORS: [Stressor; 40] = [
    ("access", ""),
    ("chattr", ""),
    ("chdir", "--chdir-dirs 128"),
    ("chmod", ""),
    ("chown", ""),
    ("copy-file", "--copy-file-bytes 8M"),
    ("dentry", "--dentries 256"),
    ("dir", "--dir-dirs 256"),
    ("dirdeep", "--dirdeep-inodes 256"),
    ("dirmany", ""),
    ("dnotify", ""),
    ("fallocate", "--fallocate-bytes 8M"),
    ("fanotify", ""),
    ("fcntl", ""),
    ("fiemap", "--fiemap-bytes 4M"),
    ("file-ioctl", ""),
    ("filename", ""),
    ("flock", ""),
    ("fpunch", ""),
    ("fsize", ""),
    ("handle", ""),
    ("hdd", "--hdd-bytes 8M"),
    ("inode-flags", ""),
    ("inotify", ""),
    ("io", ""),
    ("iomix", "--iomix-bytes 2M"),
    ("lease", ""),
    ("link", ""),
    ("locka", ""),
    ("lockf", ""),
    ("lockofd", ""),
    ("mknod", ""),
    ("open", ""),
    ("rename", ""),
    ("symlink", ""),
    ("sync-file", "--sync-file-bytes 4M"),
    ("touch", ""),
    ("utime", ""),
    ("verity", ""),
    ("xattr", ""),
];

/// Its name, and its options.
type Stressor = (&'static str, &'static str);

/// How long a stressor works, in seconds.
const STRESSOR_SECONDS: u32 = 2;

/// What dbench says when it has come to the end of its load.
const DBENCH_END: &str = "file table full for ";

/// What it says of the first semaphore of a machine, because its number is 0; it goes on.
const DBENCH_NO_COMPLAINT: &str = "failed to create barrier semaphore";

/// A program of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// 398 cases of POSIX semantics.
    Pjdfstest,
    /// Random operations on one file, compared with memory.
    Fsx,
    /// Stressors that check what they do.
    StressNg,
    /// The load of an office's file server.
    Dbench,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fsx, Self::StressNg, Self::Dbench, Self::Pjdfstest];
}

impl fmt::Display for Program {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str(match self {
            Self::Pjdfstest => "pjdfstest",
            Self::Fsx => "fsx",
            Self::StressNg => "stress-ng",
            Self::Dbench => "dbench",
        })
    }
}

/// How much a program does in a round.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Operations of fsx.
    pub fsx_operations: u32,
    /// How many of stress-ng's stressors.
    pub stressors: usize,
    /// Lines of dbench's load, of which there are 458,344.
    pub dbench_lines: usize,
    /// Whether pjdfstest has its turn.
    pub pjdfstest: bool,
}

impl Effort {
    /// Of rounds that take about as long as those of the others; guests are slow without KVM.
    pub fn long(at: Where) -> Self {
        match at {
            Where::Bridge => Self {
                fsx_operations: 5_000,
                stressors: 6,
                dbench_lines: 20_000,
                pjdfstest: true,
            },
            Where::Guest => Self {
                fsx_operations: 2_000,
                stressors: 4,
                dbench_lines: 1_500,
                pjdfstest: true,
            },
        }
    }

    /// Of a test among many.
    pub fn short(at: Where) -> Self {
        match at {
            Where::Bridge => Self {
                fsx_operations: 2_000,
                stressors: 3,
                dbench_lines: 1_500,
                pjdfstest: false,
            },
            Where::Guest => Self {
                fsx_operations: 300,
                stressors: 2,
                dbench_lines: 500,
                pjdfstest: false,
            },
        }
    }

    /// Whether a program has its turn.
    pub(super) fn includes(self, program: Program) -> bool {
        program != Program::Pjdfstest || self.pjdfstest
    }
}

/// What a program does in one round.
#[derive(Debug)]
pub(super) enum Work {
    Pjdfstest,
    Fsx { operations: u32, seed: u32 },
    StressNg(Vec<Stressor>),
    Dbench,
}

/// What is chosen for each round.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Stressors that have not had their turn since the last time that all had.
    left: Vec<Stressor>,
}

impl Choice {
    pub(super) fn work(&mut self, program: Program, effort: Effort, random: &mut Random) -> Work {
        match program {
            Program::Pjdfstest => Work::Pjdfstest,
            Program::Dbench => Work::Dbench,
            Program::Fsx => Work::Fsx {
                operations: effort.fsx_operations,
                seed: random.word(),
            },
            Program::StressNg => {
                let chosen = (0..effort.stressors).map(|_| {
                    if self.left.is_empty() {
                        self.left.extend(STRESSORS);
                    }
                    self.left.swap_remove(random.below(self.left.len()))
                });
                Work::StressNg(chosen.collect())
            }
        }
    }
}

impl Work {
    /// The shell's part of it, in `folder`.
    pub(super) fn script(&self, programs: &Commands, folder: &str) -> String {
        let place = quoted(folder);
        match self {
            Self::Pjdfstest => format!(
                "{} -c {} -p {place}",
                programs.line(Program::Pjdfstest),
                programs.file(PJDFSTEST_CONFIGURATION)
            ),
            Self::Fsx { operations, seed } => format!(
                "{} -N {operations} -S {seed} {}",
                programs.line(Program::Fsx),
                quoted(&format!("{folder}/file"))
            ),
            Self::Dbench => format!(
                "{} --directory={place} --loadfile={} --timelimit=3600 --skip-cleanup 1; status=$?; sync; exit $status",
                programs.line(Program::Dbench),
                programs.file(DBENCH_LOAD)
            ),
            Self::StressNg(stressors) => {
                let stress = programs.line(Program::StressNg);
                let line = |(name, options): &Stressor| {
                    format!(
                        "{stress} --{name} 1 {options} --timeout {STRESSOR_SECONDS}s --verify --temp-path {place}; echo \"stressor {name} $?\"\n"
                    )
                };
                stressors.iter().map(line).collect()
            }
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pjdfstest => write!(output, "pjdfstest"),
            Self::Dbench => write!(output, "dbench"),
            Self::Fsx { operations, seed } => {
                write!(output, "fsx, {operations} operations, seed {seed}")
            }
            Self::StressNg(stressors) => {
                let names: Vec<_> = stressors.iter().map(|(name, _)| *name).collect();
                write!(output, "stress-ng: {}", names.join(" "))
            }
        }
    }
}

/// Compares with the bare file system.
#[derive(Debug)]
pub(super) struct Judge {
    bare: Bare,
    pjdfstest: Option<Verdicts>,
    dbench: Option<TempDir>,
}

impl Judge {
    pub(super) fn new(toolbox: &Toolbox) -> Result<Self> {
        Ok(Self {
            bare: Bare::new(toolbox)?,
            pjdfstest: None,
            dbench: None,
        })
    }

    /// What is worse than on the bare file system; `folder` is what the work has left on the host.
    pub(super) fn differences(
        &mut self,
        work: &Work,
        ran: &Ran,
        folder: &Path,
    ) -> Result<Vec<String>> {
        match work {
            Work::Pjdfstest => self.pjdfstest(work, ran),
            Work::Dbench => self.dbench(work, ran, folder),
            Work::StressNg(stressors) => self.stress_ng(stressors, ran),
            // It compares with memory itself.
            Work::Fsx { .. } => {
                let fine = ran.status == Some(0) && ran.output.contains("All operations completed");
                let found = format!("{work}: status {:?}\n{}", ran.status, ran.output);
                Ok(if fine { Vec::new() } else { vec![found] })
            }
        }
    }

    fn pjdfstest(&mut self, work: &Work, ran: &Ran) -> Result<Vec<String>> {
        if self.pjdfstest.is_none() {
            let (bare, _folder) = self.bare.run(work)?;
            let bare = verdicts(&bare.output).context("pjdfstest on the bare file system")?;
            self.pjdfstest = Some(bare);
        }
        let bare = self.pjdfstest.as_ref().context("it was just set")?;
        Ok(worse(bare, &verdicts(&ran.output)?))
    }

    fn dbench(&mut self, work: &Work, ran: &Ran, folder: &Path) -> Result<Vec<String>> {
        if self.dbench.is_none() {
            let (bare, folder) = self.bare.run(work)?;
            let fault = dbench_fault(&bare);
            ensure!(fault.is_none(), "on the bare file system: {fault:?}");
            self.dbench = Some(folder);
        }
        let bare = self.dbench.as_ref().context("it was just set")?;
        let mut found = trees::differences(bare.path(), folder)?;
        found.extend(dbench_fault(ran));
        Ok(found
            .into_iter()
            .map(|one| format!("dbench: {one}"))
            .collect())
    }

    fn stress_ng(&self, stressors: &[Stressor], ran: &Ran) -> Result<Vec<String>> {
        let ours = stressor_statuses(&ran.output);
        let mut found = Vec::new();
        for stressor in stressors {
            let name = stressor.0;
            let status = ours.get(name).copied();
            if status == Some(0) {
                continue;
            }
            // Only who fails here has to be looked at there.
            let (bare, _folder) = self.bare.run(&Work::StressNg(vec![*stressor]))?;
            if stressor_statuses(&bare.output).get(name) == Some(&0) {
                found.push(format!(
                    "stress-ng: {name}: status {status:?}\n{}",
                    ran.output
                ));
            }
        }
        Ok(found)
    }
}

/// The status of each stressor, by its name.
fn stressor_statuses(output: &str) -> BTreeMap<&str, i32> {
    let status = |line: &'_ str| -> Option<(usize, i32)> {
        let (before, status) = line.rsplit_once(' ')?;
        Some((before.len(), status.parse().ok()?))
    };
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("stressor "));
    lines
        .filter_map(|line| status(line).and_then(|(end, status)| Some((line.get(..end)?, status))))
        .collect()
}

/// What is wrong with a run of dbench, if anything is. It should end because its load does, and say nothing before.
fn dbench_fault(ran: &Ran) -> Option<String> {
    let complaints = ["failed", "expected", "not found", "Unknown", "ERROR"];
    let mut lines = ran.output.lines().filter(|line| {
        let complains = complaints.iter().any(|word| line.contains(word));
        complains
            && !line.starts_with("Child failed with status 1")
            && !line.starts_with(DBENCH_NO_COMPLAINT)
    });
    let ended = ran.output.lines().any(|line| {
        line.strip_prefix(DBENCH_END)
            .is_some_and(|file| file.ends_with("/clients/client0/end"))
    });
    match lines.next() {
        Some(line) => Some(line.to_owned()),
        None if ended => None,
        None => Some(format!("no end, status {:?}\n{}", ran.status, ran.output)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(output: &str) -> Ran {
        Ran {
            status: Some(1),
            output: output.to_owned(),
        }
    }

    #[test]
    fn a_run_of_dbench_must_come_to_its_end_without_complaint() {
        let end = "releasing clients\nfile table full for /x/clients/client0/end\nChild failed with status 1\n";
        assert_eq!(dbench_fault(&ran(end)), None);
        let first = format!("failed to create barrier semaphore \n{end}");
        assert_eq!(dbench_fault(&ran(&first)), None);
        assert!(dbench_fault(&ran("releasing clients\n")).is_some());
        let early = "file table full for /x/clients/client0/other\nChild failed with status 1\n";
        assert!(dbench_fault(&ran(early)).is_some());
        let complaint = format!("[7] write failed on handle 9 (Input/output error)\n{end}");
        assert!(dbench_fault(&ran(&complaint)).is_some());
    }

    #[test]
    fn every_stressor_has_its_turn() {
        let (mut choice, mut random) = (Choice::default(), Random::new(1));
        let effort = Effort::long(Where::Bridge);
        let mut names = Vec::new();
        for _ in 0..STRESSORS.len().div_ceil(effort.stressors) {
            let work = choice.work(Program::StressNg, effort, &mut random);
            let Work::StressNg(stressors) = work else {
                panic!("{work}");
            };
            names.extend(stressors);
        }
        // The last round begins to deal them anew.
        names.truncate(STRESSORS.len());
        names.sort_unstable();
        assert_eq!(names, STRESSORS);
    }

    #[test]
    fn statuses_of_stressors_are_read() {
        let output = "stress-ng: info\nstressor link 0\nstressor sync-file 2\nstressor broken\n";
        let statuses = stressor_statuses(output);
        assert_eq!(statuses, BTreeMap::from([("link", 0), ("sync-file", 2)]));
    }
}
