//! `cargo xtask bench downtime`: how much longer a guest stands still in a migration because its devices are ours.
//!
//! Three guests move in turns: one without such devices, one with QEMU's own, and one with ours, which are given much to carry: a 4K
//! screen with a picture, a share of which the guest knows 100,000 inodes, and four disks. Knows turns and numbers;
//! [`machine`] knows the guests.

mod machine;

use std::fs::{self, File};
use std::path::Path;

use ::tests::qemu::whole_machine::MODULES;
use ::tests::qemu::{Rig, Start, migration};
use anyhow::{Context as _, Result};
use clap::Args;

use self::machine::{Kind, Machine};
use crate::demo::size;
use crate::table::Table;

/// Inodes are in folders of this many files.
const FILES_PER_FOLDER: u32 = 1000;

/// Size of a disk in bytes.
const DISK_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct Options {
    /// Migrations of each guest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Files that the guest has looked at, in thousands
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    kilofiles: u32,
}

/// What one kind of guest has shown, in milliseconds.
#[derive(Default)]
struct Seen {
    downtime: Vec<u64>,
    silence: Vec<u64>,
    /// Of each device: state in bytes, SAVE, LOAD, CHECK, resume.
    devices: Vec<(&'static str, [Vec<u64>; 6])>,
}

/// Measures, and prints two tables.
pub(super) fn run(options: &Options) -> Result<()> {
    let rig = Rig::prepare_with(&MODULES)?.with_stateful_devices()?;
    let share = rig.path("share");
    fill(&share, options.kilofiles).context("filling the share")?;
    let mut machines = Vec::new();
    for kind in Kind::ALL {
        for disk in 0..machine::DISKS {
            File::create_new(kind.disk(&rig, disk))?.set_len(DISK_BYTES)?;
        }
        eprintln!("bench: booting {}", kind.name());
        let mut machine = Machine::start(&rig, kind, "0", Start::Boot)?;
        machine.begin(options.kilofiles)?;
        machines.push((kind, machine, Seen::default()));
    }
    for round in 1..=options.rounds {
        eprintln!("bench: round {round} of {}", options.rounds);
        machines = machines
            .into_iter()
            .map(|(kind, machine, seen)| {
                let (machine, seen) = turn(&rig, kind, machine, seen, round)
                    .with_context(|| format!("round {round}, {}", kind.name()))?;
                Ok((kind, machine, seen))
            })
            .collect::<Result<_>>()?;
    }
    let mut results = Vec::new();
    for (kind, mut machine, seen) in machines {
        machine.check()?;
        machine.quit()?;
        results.push((kind, seen));
    }
    print(&results);
    Ok(())
}

/// Folders with thousands of files.
fn fill(share: &Path, thousands: u32) -> Result<()> {
    for folder in 0..thousands {
        let folder = share.join(format!("{folder:03}"));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES_PER_FOLDER {
            File::create_new(folder.join(file.to_string()))?;
        }
    }
    Ok(())
}

/// One move of one guest.
fn turn(
    rig: &Rig,
    kind: Kind,
    mut source: Machine,
    mut seen: Seen,
    round: u32,
) -> Result<(Machine, Seen)> {
    let mut destination = Machine::start(rig, kind, &round.to_string(), Start::Incoming)?;
    let socket = rig.path("migration");
    // Of the turn before; most of the time QEMU has removed it.
    let _ = fs::remove_file(&socket);
    let outcome = migration::live(&mut source.vm, &mut destination.vm, &socket)?;
    let transfer = outcome.completed()?;
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis());
    seen.downtime.push(milliseconds(transfer.downtime)?);
    seen.silence.push(milliseconds(transfer.silence)?);
    for (name, cost) in source.costs(&destination)? {
        let index = seen.devices.iter().position(|(known, _)| *known == name);
        let index = index.unwrap_or(seen.devices.len());
        if index == seen.devices.len() {
            seen.devices.push((name, Default::default()));
        }
        let numbers = cost.numbers();
        let columns = seen.devices.get_mut(index).into_iter();
        for (column, number) in columns.flat_map(|(_, columns)| columns).zip(numbers) {
            column.push(number);
        }
    }
    source.quit()?;
    Ok((destination, seen))
}

fn print(results: &[(Kind, Seen)]) {
    let mut table = Table::new([
        "guest",
        "QEMU's downtime, median",
        "STOP to RESUME, median",
        "least",
        "all, in ms",
    ]);
    let mut devices = Table::new([
        "device: median (least), in ms",
        "state",
        "SAVE",
        "transfer",
        "CHECK",
        "LOAD",
        "resume",
        "together",
    ]);
    for (kind, seen) in results {
        table.row([
            kind.name(),
            &median(&seen.downtime).to_string(),
            &median(&seen.silence).to_string(),
            &least(&seen.silence).to_string(),
            &all(&seen.silence),
        ]);
        for (name, columns) in &seen.devices {
            let [bytes, times @ ..] = columns;
            let each = times
                .each_ref()
                .map(|column| both(median(column), least(column)));
            let sum = |one: fn(&[u64]) -> u64| times.iter().map(|column| one(column)).sum();
            let together = both(sum(median), sum(least));
            let [save, transfer, check, load, resume] = each.each_ref();
            devices.row([
                name,
                &size(median(bytes)),
                save,
                transfer,
                check,
                load,
                resume,
                &together,
            ]);
        }
    }
    println!("{table}\n{devices}");
    print_difference(results);
}

/// On a machine that does other work the least is nearer to the truth than the median.
fn print_difference(results: &[(Kind, Seen)]) {
    for (what, one) in [("medians", median as fn(&[u64]) -> u64), ("least", least)] {
        let [none, emulated, ours] = Kind::ALL.map(|kind| {
            let seen = results.iter().find(|(other, _)| *other == kind);
            seen.map_or(0, |(_, seen)| one(&seen.silence))
        });
        let difference = |other: u64| i128::from(ours) - i128::from(other);
        println!(
            "STOP to RESUME, difference of {what}: {:+} ms to no such devices, {:+} ms to QEMU's own",
            difference(none),
            difference(emulated)
        );
    }
}

fn both(median: u64, least: u64) -> String {
    format!("{median} ({least})")
}

fn least(numbers: &[u64]) -> u64 {
    numbers.iter().copied().min().unwrap_or(0)
}

fn median(numbers: &[u64]) -> u64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

fn all(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(" ")
}
