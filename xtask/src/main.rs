//! `cargo xtask`: everything that is done with the workspace besides building it.
//!
//! Knows which command there is; each has a module of its own, and exit codes that it documents.

mod bench;
mod checks;
mod demo;
mod e2e;
mod fuzz;
mod peers;
mod qemu_module;
mod soak;
mod state;
mod table;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Compare the speed of a device with that of its peers
    #[command(subcommand)]
    Bench(bench::Command),
    /// Show that a running program does not notice it when its machine is saved, moved or mistreated
    Demo(demo::Options),
    /// Show that a guest with all devices at once does not notice what is done to its machine
    E2e(e2e::Options),
    /// Look for inputs that the file system device does not stand
    Fuzz(fuzz::Options),
    /// Build the module that gives QEMU device types whose state migrates
    QemuModule,
    /// Let file system programs work for minutes while their device is stopped, saved and moved, and look for differences
    Soak(soak::Options),
    /// Show or verify a saved device state
    #[command(subcommand)]
    State(state::Command),
    /// Run everything that CI runs
    Test,
    /// Check the rules of this workspace that neither rustc nor clippy knows
    Tidy,
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Bench(command) => bench::run(&command),
        Command::Demo(options) => Ok(demo::run(&options)),
        Command::E2e(options) => e2e::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::QemuModule => qemu_module::run(),
        Command::Soak(options) => soak::run(&options),
        Command::State(command) => state::run(&command),
        Command::Test => checks::run(),
        Command::Tidy => tidy::run(),
    }
}
