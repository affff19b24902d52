//! Experiments that take what the machine of the tests may lack: file systems, a network file system's server, a service manager,
//! privilege.
//!
//! They run in a guest that has it, as native programs there, with a daemon of its own each; `tests/src/bin/laboratory.rs` is started there by
//! [`qemu::laboratory`](crate::qemu::laboratory). Knows nothing of how the guest came to be.

mod disks;
mod many;
mod nfs;
mod restarts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::qemu::provision::Tree;

/// What can be tried.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Experiment {
    /// A share on ext4, XFS and Btrfs, moved between them.
    Disks,
    /// A share on NFS, with the server beside it.
    Nfs,
    /// As many open files as a server may have.
    Many,
    /// A share whose daemon is restarted by systemd.
    Restarts,
}

/// Folders of programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Make file systems and serve them.
    pub of_storage: Tree,
    /// systemd.
    pub of_services: Tree,
}

impl Experiment {
    /// Does it.
    pub fn run(self, tools: &Tools) -> Result<()> {
        match self {
            Self::Disks => disks::run(&tools.of_storage),
            Self::Nfs => nfs::run(&tools.of_storage),
            Self::Many => many::run(),
            Self::Restarts => restarts::run(&tools.of_services),
        }
    }

    /// How it is called on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disks => "disks",
            Self::Nfs => "nfs",
            Self::Many => "many",
            Self::Restarts => "restarts",
        }
    }
}

/// A file of zeros that is a disk, with a file system made by `make` and mounted.
fn disk(tools: &Tree, make: &str, arguments: &[&str], mountpoint: &str) -> Result<PathBuf> {
    let image = PathBuf::from(format!("{mountpoint}.image"));
    fs::File::create(&image)?.set_len(320 << 20)?;
    let mut command = tools.program(make)?.command();
    succeed(command.args(arguments).arg(&image))?;
    mount_image(&image, mountpoint)?;
    Ok(image)
}

/// Mounts what is in a file.
fn mount_image(image: &Path, mountpoint: &str) -> Result<()> {
    fs::create_dir_all(mountpoint)?;
    succeed(
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(mountpoint),
    )?;
    Ok(())
}

/// ext4 at `mountpoint`. Returns the file that it is in.
fn ext4(tools: &Tree, mountpoint: &str) -> Result<PathBuf> {
    // The guest has the memory for a journal, and no time to write its zeros.
    let arguments = ["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
    disk(tools, "sbin/mkfs.ext4", &arguments, mountpoint)
}

/// Runs a program to its end, which has to be a good one.
fn succeed(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Does one thing, and tells how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = std::time::Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    println!("{what}: {} ms", began.elapsed().as_millis());
    Ok(done)
}
