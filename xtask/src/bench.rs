//! `cargo xtask bench`: how fast a device is beside its peers, on this machine, now.
//!
//! Everything is measured in turns within one run, so that what else the machine does hits all alike; only ratios of medians mean
//! something elsewhere. A benchmark is no test: nothing here passes or fails.
//!
//! The load generator must not be the slowest part, so an unoptimized xtask runs the optimized one.

mod cost;
mod downtime;
mod fio;
mod fs;
mod gpu;
mod migrate;
mod peers;
mod report;
mod scsi;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use tempfile::TempDir;
use tests::qemu::provision::target_folder;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Migrations of a whole guest: without devices of ours, and with ours
    Downtime(downtime::Options),
    /// virtio-fs: ours, virtiofsd as it comes and at its best, and the bare system calls
    Fs(fs::Options),
    /// virtio-gpu: ours, QEMU's vhost-user-gpu, and memcpy
    Gpu,
    /// What the layers of the sandbox cost the system calls of the virtio-fs daemon
    Layers(fs::layers::Options),
    /// What a guest knows of a virtio-fs share, saved and loaded: ours, and virtiofsd in both of its modes
    Migrate(migrate::Options),
    /// virtio-scsi: ours, rust-vmm's vhost-device-scsi, qemu-storage-daemon (vhost-user-blk), and fio on the bare file
    Scsi(scsi::Options),
}

/// Measures, and prints a table.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        return optimized();
    }
    match command {
        Command::Downtime(options) => downtime::run(options)?,
        Command::Fs(options) => fs::run(options)?,
        Command::Gpu => gpu::run()?,
        Command::Layers(options) => fs::layers::run(options)?,
        Command::Migrate(options) => migrate::run(options)?,
        Command::Scsi(options) => scsi::run(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder for this run only, in `parent` or below the target folder.
fn folder_in(parent: Option<&Path>) -> Result<TempDir> {
    let parent = match parent {
        Some(parent) => parent.to_owned(),
        None => target_folder()?,
    };
    Ok(tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(parent)?)
}

/// The same command by an optimized xtask.
fn optimized() -> Result<ExitCode> {
    eprintln!("bench: building with optimization; this takes minutes the first time");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(env::args_os().skip(1))
        .status()
        .context("starting cargo")?;
    let code = status.code().or(status.signal()).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
