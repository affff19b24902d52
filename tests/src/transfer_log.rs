//! What daemons log about the states that they move: lines of `key=value`.
//!
//! Knows the words that all of our daemons use, and no device.

use anyhow::{Context, Result};

use crate::daemon_runner::Daemon;
use crate::fs_daemon::{SavedState, saved_state_in};

/// What moving one device's state cost, as the two daemons tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateCost {
    /// The source's part: SAVE.
    pub saved: SavedState,
    /// The schema version that was written. Daemons before this was logged do not tell.
    pub version: Option<u64>,
    /// The destination's part; none if the state went to a file.
    pub loaded: Option<LoadedState>,
}

/// What a daemon logged about a state that it loaded, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedState {
    /// From the request to the end of the stream.
    pub transfer: u64,
    /// Looking whether the state fits. Daemons before this was logged tell the sum only, as `load`.
    pub check: Option<u64>,
    /// Making it the device's.
    pub load: u64,
    /// What was done before the guest went on. None if it has not gone on yet, or the daemon is from before this was logged.
    pub resume: Option<u64>,
}

impl StateCost {
    /// What `source` has saved the last time.
    pub fn saved(source: &Daemon) -> Result<Self> {
        Self::saved_in(&source.log()?)
    }

    /// What `source` has saved the last time, and `destination` has loaded.
    pub fn moved(source: &Daemon, destination: &Daemon) -> Result<Self> {
        Self::moved_in(&source.log()?, &destination.log()?)
    }

    /// The same of daemons that may be gone, by their logs.
    pub fn moved_in(source: &str, destination: &str) -> Result<Self> {
        let loaded = LoadedState::last(destination);
        let loaded =
            loaded.with_context(|| format!("the daemon has loaded no state\n{destination}"))?;
        Ok(Self {
            loaded: Some(loaded),
            ..Self::saved_in(source)?
        })
    }

    /// Bytes of the state, and milliseconds of SAVE, the transfer, CHECK, LOAD and what came before the guest went on; 0 for what was not told.
    pub fn numbers(&self) -> [u64; 6] {
        let SavedState {
            bytes,
            milliseconds,
            ..
        } = self.saved;
        let loaded = self.loaded.map_or([0; 4], |loaded| {
            let [check, resume] = [loaded.check, loaded.resume].map(Option::unwrap_or_default);
            [loaded.transfer, check, loaded.load, resume]
        });
        let [transfer, check, load, resume] = loaded;
        [bytes, milliseconds, transfer, check, load, resume]
    }

    fn saved_in(log: &str) -> Result<Self> {
        Ok(Self {
            saved: saved_state_in(log)?,
            version: Fields::last(log, "save").and_then(|fields| fields.get("version")),
            loaded: None,
        })
    }
}

impl LoadedState {
    fn last(log: &str) -> Option<Self> {
        let received = Fields::last(log, "receive")?;
        let loaded = Fields::last(log, "load")?;
        Some(Self {
            transfer: received.get("ms")?,
            check: loaded.get("check_ms"),
            load: loaded.get("load_ms").or_else(|| loaded.get("apply_ms"))?,
            // The first one: a guest may have been stopped and continued since.
            resume: Fields::all(log, "resume")
                .next()
                .and_then(|fields| fields.get("ms")),
        })
    }
}

/// The words of one line.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    /// Of the last line about this phase of a transfer that went well.
    fn last(log: &'a str, phase: &str) -> Option<Self> {
        Self::all(log, phase).next_back()
    }

    fn all(log: &'a str, phase: &str) -> impl DoubleEndedIterator<Item = Self> {
        let words = format!("state phase={phase} result=ok ");
        let lines = log.lines();
        lines.filter_map(move |line| Some(Self(line.split_once(&words)?.1)))
    }

    fn get(&self, name: &str) -> Option<u64> {
        let mut words = self.0.split(' ');
        words
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_is_told() {
        let log = "state phase=receive result=ok ms=9\nstate phase=load result=ok check_ms=9 load_ms=9 apply_ms=18\n\
                   [INFO] state phase=receive result=ok ms=1\n[INFO] state phase=load result=ok check_ms=2 load_ms=3 apply_ms=5\n\
                   [INFO] state phase=resume result=ok ms=6\n[INFO] state phase=resume result=ok ms=0";
        let expected = LoadedState {
            transfer: 1,
            check: Some(2),
            load: 3,
            resume: Some(6),
        };
        assert_eq!(LoadedState::last(log), Some(expected));
        let older = "state phase=receive result=ok ms=1\nstate phase=load result=ok apply_ms=5";
        let loaded = LoadedState::last(older).unwrap();
        assert_eq!((loaded.check, loaded.load, loaded.resume), (None, 5, None));
        assert_eq!(
            LoadedState::last("state phase=receive result=ok ms=1"),
            None
        );
    }
}
