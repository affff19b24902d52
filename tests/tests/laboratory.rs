//! Does a share behave where this machine cannot have it: on the file systems and the network file system of servers, with more open
//! files than this machine allows? In a guest that can.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;
use tests::laboratory::Experiment;
use tests::qemu::laboratory::Laboratory;

/// One after the other, in one guest: emulation leaves nothing for a second one.
#[test]
fn experiments_that_take_another_machine() -> Result<()> {
    let mut laboratory = Laboratory::boot(Path::new(env!("CARGO_BIN_EXE_laboratory")))?;
    let mut failed = Vec::new();
    for experiment in Experiment::value_variants() {
        match laboratory.run(*experiment) {
            Ok(told) => println!("{told}"),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    laboratory.quit()?;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
