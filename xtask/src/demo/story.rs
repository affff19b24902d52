//! What the demo has done so far: told as it happens, and as a table at the end.

use std::fmt;
use std::time::Duration;

use ::tests::fs_daemon::SavedState;
use ::tests::qemu::Transfer;
use ::tests::workload::{STEADY_FILES, STREAMS};

use crate::table::Table;

/// The rows of the table.
pub(crate) struct Story {
    table: Table<5>,
    steps: u32,
}

/// One row. Columns that make no sense for a step stay empty.
#[derive(Default)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) step: String,
    /// What was saved of the devices, in words.
    pub(crate) state: String,
    /// How long it took.
    pub(crate) time: Option<Duration>,
    /// How long the guest did not run.
    pub(crate) downtime: Option<Duration>,
    /// What was found to be right.
    pub(crate) check: String,
}

impl Row {
    /// A row with the measurements of a migration.
    pub(crate) fn migration(step: &str, transfer: Transfer, state: SavedState) -> Self {
        Self {
            step: step.to_owned(),
            state: saved(state),
            time: Some(transfer.total),
            downtime: Some(transfer.silence),
            check: String::new(),
        }
    }

    /// The same row, with the outcome of its check.
    pub(crate) fn checked(self, check: String) -> Self {
        Self { check, ..self }
    }
}

impl Story {
    /// Nothing has happened.
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(["what was done", "state", "time", "downtime", "checked"]),
            steps: 0,
        }
    }

    /// Says what is about to happen.
    pub(crate) fn begin(&mut self, text: &str) {
        self.steps += 1;
        println!("{:2}. {text}", self.steps);
    }

    /// Adds what has happened.
    pub(crate) fn add(&mut self, row: &Row) {
        println!("      {}", row.check);
        let duration = |time: Option<Duration>| {
            time.map_or_else(String::new, |time| format!("{} ms", time.as_millis()))
        };
        let (time, downtime) = (duration(row.time), duration(row.downtime));
        self.table
            .row([&row.step, &row.state, &time, &downtime, &row.check]);
    }
}

impl fmt::Display for Story {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(output, "{}", self.table)
    }
}

/// What a successful verification of the workload means.
pub(super) fn intact(records: u64) -> String {
    format!(
        "{records} records in each of {STREAMS} open files, {STEADY_FILES} more files, all intact"
    )
}

/// A state for people.
pub(super) fn saved(state: SavedState) -> String {
    format!("{} in {} sections", size(state.bytes), state.sections)
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_leaves_a_few_digits() {
        assert_eq!(size(815), "815 B");
        assert_eq!(size(20 << 10), "20 KiB");
        assert_eq!(size(300 << 20), "300 MiB");
    }

    #[test]
    fn what_was_not_measured_stays_empty() {
        let mut story = Story::new();
        story.add(&Row {
            step: "rested".to_owned(),
            time: Some(Duration::from_micros(1_900)),
            ..Row::default()
        });
        let text = story.to_string();
        assert!(
            text.lines()
                .last()
                .unwrap()
                .split_whitespace()
                .eq(["rested", "1", "ms"])
        );
    }
}
