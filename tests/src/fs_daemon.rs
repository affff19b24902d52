//! The file system daemon: how it is started, and what its log tells.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result};

use crate::daemon_runner::Daemon;

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

/// Starts the daemon that is built with us, or the one that `VHOST_DEVICE_FS` names: another release.
pub fn start(share: &Path, cache: &str) -> Result<Daemon> {
    let arguments = arguments(share, cache);
    match std::env::var_os("VHOST_DEVICE_FS") {
        Some(program) => Daemon::start_at(Path::new(&program), arguments),
        None => Daemon::start("vhost-device-fs", arguments),
    }
}

/// Its command line.
pub fn arguments(share: &Path, cache: &str) -> Vec<OsString> {
    let words = [
        OsStr::new("--shared-dir"),
        share.as_os_str(),
        "--cache".as_ref(),
        cache.as_ref(),
    ];
    words.map(OsStr::to_owned).into()
}

/// What `daemon` logged about the last state that it saved.
pub fn saved_state(daemon: &Daemon) -> Result<SavedState> {
    saved_state_in(&daemon.log()?)
}

/// The same of a daemon that may be gone, by its log.
pub fn saved_state_in(log: &str) -> Result<SavedState> {
    let line = log.lines().rev().find_map(parse);
    line.with_context(|| format!("the daemon has saved no state\n{log}"))
}

/// Reads `state phase=save result=ok version=1 bytes=1 sections=2 collect_ms=3 total_ms=4`.
fn parse(line: &str) -> Option<SavedState> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_size_of_a_state() {
        let line = "[INFO] state phase=save result=ok version=1 bytes=815 sections=7 collect_ms=1 total_ms=2";
        let expected = SavedState {
            bytes: 815,
            sections: 7,
            milliseconds: 2,
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("state phase=receive result=ok ms=1"), None);
    }
}
