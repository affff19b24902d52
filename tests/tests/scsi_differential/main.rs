//! Does another target answer as ours does? Random commands to tgtd and to ours, compared one by one.
//!
//! Status, sense key and codes, data and the images must be equal, or the difference must stand in `differences.rs` with its reason.
//! The seed is always the same, and with it every class of differences must come up, or it has no place in the table any more. Others can
//! be asked for, separated by commas, in the environment variable `SCSI_DIFFERENTIAL_SEEDS`.

mod commands;
mod differences;
mod pair;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use commands::Stream;
use differences::KNOWN;
use pair::{Case, Pair};
use tests::random::Random;

const COMMANDS: usize = 10_000;
/// One with which every class of differences comes up.
const SEED: u64 = 7;
/// Names other seeds.
const SEEDS: &str = "SCSI_DIFFERENTIAL_SEEDS";

/// The class of a case that differs.
fn class(case: &Case) -> Option<&'static str> {
    if !case.same_image && !writes(case.code()) {
        return None;
    }
    let known = KNOWN.iter().find(|difference| (difference.covers)(case))?;
    Some(known.name)
}

/// Only of these the images may be different afterwards.
fn writes(code: u8) -> bool {
    matches!(
        code,
        0x0a | 0x2a | 0x2e | 0x41 | 0x42 | 0x89 | 0x8a | 0x8b | 0x8e | 0x93 | 0xaa | 0xae
    )
}

/// Runs the stream of a seed; returns how often each class of differences came up.
fn compare(seed: u64) -> Result<BTreeMap<&'static str, usize>> {
    let mut random = Random::new(seed);
    let mut pair = Pair::start(&mut random)?;
    let mut stream = Stream { random };
    let mut classes = BTreeMap::new();
    let mut good = 0;
    for number in 0..COMMANDS {
        let (cdb, moves) = stream.next();
        let case = pair.command(cdb, moves)?;
        if !case.differs() {
            good += usize::from(case.ours.status == 0);
            continue;
        }
        let class = class(&case).with_context(|| format!("command {number}: {}", case.report()))?;
        *classes.entry(class).or_insert(0) += 1;
        pair.align()?;
    }
    println!(
        "seed {seed}: {good} of {COMMANDS} commands were done by both, differences: {classes:?}"
    );
    ensure!(good > COMMANDS / 4, "only {good} commands were done");
    Ok(classes)
}

#[test]
fn what_differs_from_tgtd_is_known() -> Result<()> {
    if let Ok(seeds) = std::env::var(SEEDS) {
        let mut all_known = true;
        for seed in seeds.split(',') {
            if let Err(error) = compare(seed.parse()?) {
                println!("seed {seed}: {error:#}");
                all_known = false;
            }
        }
        ensure!(all_known, "there are differences that are not known");
        return Ok(());
    }
    let classes = compare(SEED)?;
    for difference in KNOWN {
        ensure!(
            classes.contains_key(difference.name),
            "{} ({}) does not come up any more",
            difference.name,
            difference.why
        );
    }
    Ok(())
}
