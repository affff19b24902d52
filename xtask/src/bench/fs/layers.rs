//! `cargo xtask bench layers`: what the layers of the file system daemon's sandbox cost its system calls.
//!
//! The bare operations of `bench fs`, by processes that have confined themselves as the daemon does, in turns. Processor time and not
//! time is measured, for these are tenths of a microsecond.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use common::sandbox::{Action, ConfinementArgs, confine};
use tests::load::fs::{self, LISTED_FILES, Operation};
use vhost_device_fs::sandbox::policy;

use super::limits::Program;
use crate::table::Table;

/// What is done, in the order of the table. Files are removed after they were made.
const OPERATIONS: [(&str, Operation); 8] = [
    ("lookup", Operation::Lookup),
    ("getattr", Operation::GetAttr),
    ("open, close", Operation::OpenClose),
    ("create, close", Operation::Create),
    ("unlink", Operation::Unlink),
    ("list", Operation::List),
    ("4k read", Operation::RandomRead),
    ("4k write", Operation::RandomWrite),
];
/// How long each of them is done in a turn.
const TURN: Duration = Duration::from_millis(50);

#[derive(Args)]
pub(crate) struct Options {
    /// Turns of each process
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Folder for the share, on the file system in question [default: below the target folder]
    #[arg(long)]
    folder: Option<PathBuf>,

    /// What a process of this benchmark does: one turn behind these layers, on the share in the folder
    #[arg(long, hide = true, requires = "folder")]
    behind: Option<Layers>,
}

/// Which layers a process is behind.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layers {
    None,
    Landlock,
    Seccomp,
    Both,
}

/// Measures, and prints a table.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let (Some(layers), Some(share)) = (options.behind, &options.folder) {
        return turn(layers, share);
    }
    let folder = super::super::folder_in(options.folder.as_deref())?;
    fs::make(folder.path())?;
    let all = [
        Layers::None,
        Layers::Landlock,
        Layers::Seccomp,
        Layers::Both,
    ];
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..options.rounds {
        for (layers, samples) in all.iter().zip(&mut samples) {
            samples.push(turn_behind(*layers, folder.path())?);
        }
    }
    let mut table = Table::new(["CPU us each", "bare", "Landlock", "seccomp", "both"]);
    for (index, (name, operation)) in OPERATIONS.iter().enumerate() {
        let median = |samples: &Vec<Vec<f64>>| {
            let mut values: Vec<f64> = samples
                .iter()
                .filter_map(|turn| turn.get(index))
                .copied()
                .collect();
            values.sort_by(f64::total_cmp);
            let value = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
            format!("{value:.3}")
        };
        let [bare, landlock, seccomp, both] = samples.each_ref().map(median);
        let name = if *operation == Operation::List {
            format!("{name} {LISTED_FILES}")
        } else {
            (*name).to_owned()
        };
        table.row([&name, &bare, &landlock, &seccomp, &both]);
    }
    println!("{table}");
    Ok(())
}

/// A turn of another process, for there is no way back.
fn turn_behind(layers: Layers, share: &Path) -> Result<Vec<f64>> {
    let name = layers
        .to_possible_value()
        .context("layers without a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["bench", "layers", "--behind", name.get_name(), "--folder"])
        .arg(share)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "behind {layers:?}: {} {errors}",
        output.status
    );
    let numbers = String::from_utf8(output.stdout)?;
    Ok(numbers.lines().map(str::parse).collect::<Result<_, _>>()?)
}

/// Processor time of each operation, in microseconds, line by line.
fn turn(layers: Layers, share: &Path) -> Result<()> {
    let (landlock, seccomp) = match layers {
        Layers::None => (false, None),
        Layers::Landlock => (true, Some(Action::None)),
        Layers::Seccomp => (false, Some(Action::Kill)),
        Layers::Both => (true, Some(Action::Kill)),
    };
    let mut program = Program::new(share)?;
    // What is found out once, such as the way to the clock, is no business of a daemon that serves.
    program.sample(Operation::GetAttr, TURN)?;
    if let Some(seccomp) = seccomp {
        let mut policy = policy(share, false);
        if !landlock {
            policy.paths = None;
        }
        let args = ConfinementArgs {
            seccomp,
            ..ConfinementArgs::default()
        };
        confine(&policy, &args, "none")?;
    }
    for (_, operation) in OPERATIONS {
        println!("{}", program.sample(operation, TURN)?.cpu_us);
    }
    Ok(())
}
