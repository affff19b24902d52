//! How long a device took for each part of a migration, from what its daemons logged.
//!
//! Knows the lines that `common` logs, for whichever device.

use anyhow::{Context, Result};

/// One move of one device. Times are in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Size of the state in bytes.
    pub bytes: u64,
    /// SAVE: to collect the state and to write it.
    pub save: u64,
    /// LOAD: to read the state and to decode it.
    pub load: u64,
    /// CHECK: to check the state and to take it over.
    pub check: u64,
    /// What was done before the guest went on.
    pub resume: u64,
}

impl Phases {
    /// The last move, by the log of the daemon that it came from and the log of the one that it went to.
    pub fn of(source: &str, destination: &str) -> Result<Self> {
        let phases = Self::parse(source, destination);
        phases.with_context(|| format!("no whole move in the logs\n{source}\n{destination}"))
    }

    fn parse(source: &str, destination: &str) -> Option<Self> {
        let save = last(source, "save")?;
        Some(Self {
            bytes: field(save, "bytes")?,
            save: field(save, "total_ms")?,
            load: field(last(destination, "receive")?, "ms")?,
            check: field(last(destination, "load")?, "apply_ms")?,
            // The first one: a guest may have been stopped and continued since.
            resume: field(of_phase(destination, "resume").next()?, "ms")?,
        })
    }
}

/// The lines about a phase that went well.
fn of_phase<'a>(log: &'a str, phase: &str) -> impl DoubleEndedIterator<Item = &'a str> {
    let begin = format!("state phase={phase} result=ok ");
    log.lines()
        .filter_map(move |line| Some(line.split_once(&begin)?.1))
}

fn last<'a>(log: &'a str, phase: &str) -> Option<&'a str> {
    of_phase(log, phase).next_back()
}

fn field(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split(' ');
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_tell_how_long_each_part_took() {
        let saved = "[INFO] state phase=save result=ok bytes=1 sections=7 collect_ms=1 total_ms=2\n\
                     [INFO] state phase=save result=ok bytes=815 sections=7 collect_ms=1 total_ms=3\n";
        let loaded = "[INFO] state phase=receive result=ok ms=4\n[INFO] state phase=load result=ok apply_ms=5\n\
                      [INFO] state phase=resume result=ok ms=6\n[INFO] state phase=resume result=ok ms=0\n";
        let expected = Phases {
            bytes: 815,
            save: 3,
            load: 4,
            check: 5,
            resume: 6,
        };
        assert_eq!(Phases::parse(saved, loaded), Some(expected));
        assert_eq!(Phases::parse(loaded, saved), None);
        assert_eq!(Phases::parse("", loaded), None);
    }
}
