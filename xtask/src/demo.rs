//! `cargo xtask demo`: a program works on our file system while its machine is stopped, saved,
//! moved and mistreated, and notices nothing.
//!
//! Builds the daemon, tells one of two stories, and ends with a table of what was done, what it
//! cost and what was checked. Exit codes: 0 every check passed, 1 one did not.

mod in_qemu;
mod story;

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use story::Story;

/// Tells the story.
pub(crate) fn run() -> Result<ExitCode> {
    build()?;
    let mut story = Story::new();
    let told = in_qemu::tell(&mut story);
    println!("\n{story}");
    match told {
        Ok(()) => {
            println!("Every check passed.");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn build() -> Result<()> {
    println!("Building vhost-device-fs.");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = [
        "build",
        "--quiet",
        "--locked",
        "--package",
        "vhost-device-fs",
    ];
    let status = Command::new(cargo).args(build).status();
    let status = status.context("starting cargo")?;
    ensure!(status.success(), "vhost-device-fs does not build");
    Ok(())
}
