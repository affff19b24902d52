//! The short form of `cargo xtask soak`: the same programs and the same events, once each, on the bridge and in a guest.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::random::Random;
use tests::soak::{self, Effort, Event, Options, Where};

fn soak(at: Where) -> Result<()> {
    let options = Options {
        at,
        time: Duration::ZERO,
        seed: Random::seed_of_the_time(),
        effort: Effort::short(at),
    };
    println!("{}: seed {}", at.name(), options.seed);
    let report = soak::run(&options, |round| println!("{round}"))?;
    println!("{:?}", report.events);
    let differences = report.differences.join("\n");
    ensure!(differences.is_empty(), "{differences}");
    let events: u32 = Event::ALL.map(|event| report.count(event)).iter().sum();
    ensure!(report.rounds.len() == 3 && events >= 3, "{report:?}");
    Ok(())
}

#[test]
fn programs_through_the_bridge_find_no_difference() -> Result<()> {
    soak(Where::Bridge)
}

#[test]
fn programs_in_a_guest_find_no_difference() -> Result<()> {
    soak(Where::Guest)
}
