//! Where programs run while things happen to their file system.
//!
//! Knows that a place runs a line of shell; knows neither programs nor devices.

use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::programs::Commands;
use crate::random::Random;

/// Turns a hang into a failure: a round takes a minute on a busy machine.
const DEADLINE: Duration = Duration::from_mins(10);

/// How often it is asked whether a program has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// All rings are stopped, and started again.
    Stop,
    /// SUSPEND, and RESUME.
    Suspend,
    /// Another daemon goes on.
    Migration,
    /// The state is saved; the device goes on where it was.
    Snapshot,
    /// The state is saved, its machine ended, and another one goes on from it.
    Restore,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Stop,
        Self::Suspend,
        Self::Migration,
        Self::Snapshot,
        Self::Restore,
    ];
}

impl fmt::Display for Event {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str(match self {
            Self::Stop => "stops",
            Self::Suspend => "suspends",
            Self::Migration => "migrations",
            Self::Snapshot => "snapshots",
            Self::Restore => "restores",
        })
    }
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    /// Its exit status; none if a signal ended it.
    pub(super) status: Option<i32>,
    /// What it printed.
    pub(super) output: String,
}

/// A folder of the share.
#[derive(Debug)]
pub(super) struct Folder {
    /// As programs see it.
    pub(super) inside: String,
    /// The same on the host.
    pub(super) on_host: PathBuf,
}

/// See the [module](self).
pub(super) trait Place {
    /// How programs are called here.
    fn programs(&self) -> &Commands;
    /// A new, empty folder.
    fn new_folder(&mut self, name: &str) -> Result<Folder>;
    /// Removes it with all that is in it, from inside.
    fn remove_folder(&mut self, folder: &Folder) -> Result<()>;
    /// Starts a line of shell, and does not wait for it.
    fn start(&mut self, script: &str) -> Result<()>;
    /// How it ended, if it has.
    fn ended(&mut self) -> Result<Option<Ran>>;
    /// Something happens to the device.
    fn disturb(&mut self, random: &mut Random) -> Result<Event>;
    /// How long nothing happens then.
    fn interval(&self, random: &mut Random) -> Duration;
    /// What is logged about the place, for whoever looks for the cause of a failure.
    fn log(&self) -> String;
    /// Ends it in an orderly way. Returns how many requests were in flight at all events, if it is known.
    fn finish(self: Box<Self>) -> Result<Option<usize>>;
}

/// Runs a line of shell to its end. Each time that `happens` is called it returns when it wants to be called again.
pub(super) fn run(
    place: &mut dyn Place,
    script: &str,
    mut happens: impl FnMut(&mut dyn Place) -> Result<Duration>,
) -> Result<Ran> {
    place.start(script)?;
    let end = Instant::now() + DEADLINE;
    let mut next = Instant::now();
    loop {
        if let Some(ran) = place.ended()? {
            return Ok(ran);
        }
        let now = Instant::now();
        ensure!(now < end, "no end within {DEADLINE:?}: {script}");
        if now >= next {
            let interval = happens(place)?;
            next = Instant::now() + interval;
        } else {
            thread::sleep(LOOK_AGAIN.min(next - now));
        }
    }
}

/// `word` as the shell reads it.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
