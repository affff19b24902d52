//! virtio-gpu: ours beside QEMU's own vhost-user-gpu and beside memcpy, in turns; and how large a state is, and how long it keeps a screen.
//!
//! Knows screens and numbers; the display and the driver are those of the tests.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use ::tests::gpu::speed::Screen;
use ::tests::gpu::start_daemon;
use ::tests::qemu::process::{POLL_INTERVAL, Process};
use ::tests::qemu::provision::gpu_peer;
use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;

use crate::table::Table;

/// Turns of each measurement.
const TURNS: usize = 9;

/// For a peer to listen.
const DEADLINE: Duration = Duration::from_mins(1);

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Copying of as many bytes, in seconds.
fn copy(source: &[u8], target: &mut [u8]) -> f64 {
    let begin = Instant::now();
    black_box(&mut *target).copy_from_slice(black_box(source));
    begin.elapsed().as_secs_f64()
}

fn peer(folder: &Path) -> Result<(Process, Frontend)> {
    let socket = folder.join("peer");
    // Most of the time there is none.
    let _ = std::fs::remove_file(&socket);
    let mut command = gpu_peer()?.command();
    command.arg("-s").arg(&socket);
    let process = Process::start("vhost-user-gpu", &mut command, &folder.join("log"))?;
    let end = Instant::now() + DEADLINE;
    while !socket.exists() {
        ensure!(
            Instant::now() < end,
            "QEMU's vhost-user-gpu does not listen"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok((process, Frontend::connect(&socket)?))
}

/// One thing to measure.
type Measurement = fn(&mut Screen) -> Result<f64>;

fn speed(table: &mut Table<6>, name: &str, width: u32, height: u32, folder: &Path) -> Result<()> {
    let bytes = width * height * 4;
    let (source, mut target) = (vec![1; bytes as usize], vec![0; bytes as usize]);
    let daemon = start_daemon::<&str>([])?;
    let mut ours = Screen::new(daemon.connect()?, width, height)?;
    let (_peer, frontend) = peer(folder)?;
    let mut theirs = Screen::new(frontend, width, height).context("QEMU's vhost-user-gpu")?;
    let measurements: [(&str, Measurement); 3] = [
        ("transfer", Screen::seconds_per_transfer),
        ("flush, answered", Screen::seconds_per_flush),
        ("transfer and flush, seen", Screen::seconds_until_seen),
    ];
    for (what, measure) in measurements {
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            let turn = [
                measure(&mut ours)?,
                measure(&mut theirs)?,
                copy(&source, &mut target),
            ];
            for (column, seconds) in columns.iter_mut().zip(turn) {
                column.push(seconds);
            }
        }
        let [ours, theirs, memcpy] = columns.map(|column| f64::from(bytes) / median(column) / 1e9);
        table.row([
            name,
            what,
            &format!("{ours:.2}"),
            &format!("{theirs:.2} ({:.2}x)", ours / theirs),
            &format!("{memcpy:.2}"),
            &format!("{:.0} %", 100.0 * ours / memcpy),
        ]);
    }
    Ok(())
}

/// Size of the state and time without the device, with the screen drawn and transferred.
fn state(table: &mut Table<6>, name: &str, width: u32, height: u32) -> Result<()> {
    for pixels in ["full", "delta"] {
        let arguments = ["--state-pixels", pixels];
        let mut daemon = start_daemon(arguments)?;
        let mut screen = Screen::new(daemon.connect()?, width, height)?;
        screen.seconds_until_seen()?;
        let (mut size, mut times) = (0, [Vec::new(), Vec::new(), Vec::new()]);
        for _ in 0..TURNS {
            let destination = start_daemon(arguments)?;
            let moved = screen.migrate_to(destination.connect()?)?;
            size = moved.state_size;
            let parts = [moved.saving, moved.loading, moved.downtime];
            for (times, part) in times.iter_mut().zip(parts) {
                times.push(part.as_secs_f64() * 1e3);
            }
            daemon = destination;
        }
        let [saving, loading, all] = times.map(|times| format!("{:.1}", median(times)));
        table.row([name, pixels, &size.to_string(), &saving, &loading, &all]);
        drop(daemon);
    }
    Ok(())
}

/// Measures, and prints two tables.
pub(super) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut speeds = Table::new([
        "screen",
        "what, in GB/s",
        "ours",
        "QEMU's",
        "memcpy",
        "of memcpy",
    ]);
    let mut states = Table::new([
        "screen",
        "pixels",
        "bytes of state",
        "SAVE in ms",
        "LOAD and start",
        "silent for",
    ]);
    for (name, width, height) in [("1080p", 1920, 1080), ("4K", 3840, 2160)] {
        speed(&mut speeds, name, width, height, folder.path())?;
        state(&mut states, name, width, height)?;
    }
    println!("{speeds}\n{states}");
    Ok(())
}
