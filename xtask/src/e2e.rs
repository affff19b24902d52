//! `cargo xtask e2e`: a real Linux guest with all devices at once, and what is done to its machine.
//!
//! Ends with a row for each scenario. Knows how to tell about them; the tests crate has them. Exit codes: 0 all
//! passed, 1 one did not.

use std::process::ExitCode;
use std::time::Instant;

use ::tests::scenarios::{Scenario, Scene};
use anyhow::Result;
use clap::Args;

use crate::table::Table;

#[derive(Args)]
pub(crate) struct Options {
    /// Only this one; all by default
    #[arg(long, value_parser = parse)]
    scenario: Option<Scenario>,
}

fn parse(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|one| one.name() == name);
    found.ok_or_else(|| format!("one of {}", Scenario::ALL.map(Scenario::name).join(", ")))
}

/// Plays them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    println!("booting Linux with a share, a disk and a screen, and setting it to work");
    let mut scene = Scene::prepare()?;
    let mut table = Table::new(["scenario", "seconds", "downtime", "states", "result"]);
    let wanted = |one: &Scenario| options.scenario.is_none_or(|wanted| wanted == *one);
    let mut failure = None;
    for scenario in Scenario::ALL.into_iter().filter(wanted) {
        println!("{}", scenario.name());
        let began = Instant::now();
        let played = scene.play(scenario);
        let seconds = began.elapsed().as_secs().to_string();
        match played {
            Ok(cost) => {
                let downtime = cost.downtime.map(|time| format!("{time:?}"));
                let downtime = downtime.unwrap_or_default();
                let states = cost.to_string();
                table.row([scenario.name(), &seconds, &downtime, &states, "passed"]);
            }
            Err(error) => {
                table.row([scenario.name(), &seconds, "", "", "FAILED"]);
                failure = Some(error);
                break;
            }
        }
    }
    println!("\n{table}");
    if let Some(error) = failure {
        println!("FAILED: {error:#}");
        return Ok(ExitCode::FAILURE);
    }
    scene.end()?;
    println!("Every check passed, in the guest and on the host.");
    Ok(ExitCode::SUCCESS)
}
