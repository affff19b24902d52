//! `cargo xtask soak`: file system programs of others at work for minutes, on a share whose device is stopped, suspended, saved and
//! moved at random times.
//!
//! Ends with a table. Knows how to tell about it; the tests crate does it. Exit codes: 0 no difference to the bare file system,
//! 1 there was one, or something broke.

use std::process::ExitCode;
use std::time::Duration;

use ::tests::random::Random;
use ::tests::soak::{self, Effort, Event, Program, Report, Where};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::table::Table;

#[derive(Args)]
pub(crate) struct Options {
    /// For how long in each place; every program has its turn at least once
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,

    /// Where the programs run
    #[arg(
        long = "where",
        value_enum,
        default_value = "both",
        value_name = "WHERE"
    )]
    places: Places,

    /// What is random comes from it, but for the time that things take; one is made and told if it is not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Places {
    /// On this host, through its kernel's FUSE client (needs root)
    Bridge,
    /// In a Linux guest under QEMU
    Guest,
    /// One after the other
    Both,
}

impl Places {
    fn all(self) -> &'static [Where] {
        match self {
            Self::Bridge => &[Where::Bridge],
            Self::Guest => &[Where::Guest],
            Self::Both => &[Where::Bridge, Where::Guest],
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(Random::seed_of_the_time);
    println!("seed {seed}");
    let mut reports = Vec::new();
    for &at in options.places.all() {
        let choices = soak::Options {
            at,
            time: Duration::from_mins(options.minutes),
            seed,
            effort: Effort::long(at),
        };
        let report = soak::run(&choices, |round| println!("{round}"));
        let report = report.with_context(|| at.name())?;
        for difference in &report.differences {
            println!("{}: {difference}", at.name());
        }
        reports.push((at, report));
    }
    println!("\n{}", table(&reports));
    let failed = reports
        .iter()
        .any(|(_, report)| !report.differences.is_empty());
    Ok(ExitCode::from(u8::from(failed)))
}

/// A row for each count, a column for each place.
fn table(reports: &[(Where, Report)]) -> Table<3> {
    let mut table = Table::new(["", Where::Bridge.name(), Where::Guest.name()]);
    let mut row = |name: &str, count: &dyn Fn(&Report) -> String| {
        let cell = |at| {
            let found = reports.iter().find(|(place, _)| *place == at);
            found.map(|(_, report)| count(report)).unwrap_or_default()
        };
        table.row([name, &cell(Where::Bridge), &cell(Where::Guest)]);
    };
    for program in Program::ALL {
        let rounds = |report: &Report| report.rounds.get(&program).unwrap_or(&0).to_string();
        row(&format!("rounds of {program}"), &rounds);
    }
    for event in Event::ALL {
        row(&event.to_string(), &|report| {
            report.count(event).to_string()
        });
    }
    row("requests in flight at these", &|report| {
        report
            .in_flight
            .map_or_else(|| "?".to_owned(), |count| count.to_string())
    });
    row("differences", &|report| {
        report.differences.len().to_string()
    });
    table
}
