//! `cargo xtask test`: everything that has to hold before a change goes in; `.ci/run` calls it.
//!
//! Runs all steps, also after one has failed, and lists them with their results at the end. Knows
//! which steps there are, not what is in them.
//!
//! Exit codes: 0 all passed, 1 at least one failed.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use ::tests::tools::CARGO_DENY;
use anyhow::{Context as _, Result};

use crate::table::Table;

/// Cargo's arguments for each step.
const STEPS: [(&str, &[&str]); 7] = [
    ("rules of the workspace", &["xtask", "tidy"]),
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "documentation",
        &["doc", "--workspace", "--no-deps", "--locked"],
    ),
    (
        DEPENDENCIES,
        &[
            "deny",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ],
    ),
    // Before the tests: end-to-end tests start the daemons.
    (
        "programs",
        &["build", "--workspace", "--bins", "--examples", "--locked"],
    ),
    (
        "tests",
        &[
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--config",
            WATCHED,
        ],
    ),
];

/// The step that needs a program that cargo does not bring along.
const DEPENDENCIES: &str = "dependencies";

/// A test program that does not end is ended with all that it has started, and has failed: the others still run, and libtest has
/// said which of its tests took long. The slowest takes six minutes on a busy machine, and some more where it has to fetch and build its tools first.
const WATCHED: &str =
    "target.'cfg(unix)'.runner=['timeout', '--verbose', '--kill-after=10', '25m']";

/// Runs every step.
pub(crate) fn run() -> Result<ExitCode> {
    let mut table = Table::new(["step", "seconds", "result"]);
    let mut failed = false;
    for (name, arguments) in STEPS {
        println!("\n=== {name}: cargo {}", arguments.join(" "));
        let began = Instant::now();
        let result = match command(name, arguments) {
            Ok(mut command) => {
                let status = command.status().context("starting cargo")?;
                failed |= !status.success();
                if status.success() { "passed" } else { "FAILED" }.to_owned()
            }
            Err(error) => format!("skipped: {error:#}"),
        };
        let seconds = began.elapsed().as_secs();
        table.row([name, &seconds.to_string(), &result]);
    }
    println!("\n{table}");
    Ok(ExitCode::from(u8::from(failed)))
}

/// An error means that the step cannot be run on this machine.
fn command(name: &str, arguments: &[&str]) -> Result<Command> {
    let program = if name == DEPENDENCIES {
        CARGO_DENY.provide()?
    } else {
        env::var_os("CARGO")
            .unwrap_or_else(|| "cargo".into())
            .into()
    };
    let mut command = Command::new(program);
    command.args(arguments).env("RUSTDOCFLAGS", "-D warnings");
    Ok(command)
}
