//! Test programs and peers that come from the registry of crates: found, or built once below the target folder.
//!
//! Knows how to get them, not what they are for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::qemu::provision::target_folder;

/// A program that is the only one of its crate.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Name of crate and program.
    pub name: &'static str,
    /// The version that results were compared with.
    pub version: &'static str,
}

/// Tests of POSIX file system semantics.
pub const PJDFSTEST: Tool = Tool {
    name: "pjdfstest",
    version: "0.2.2",
};

/// Random reads, writes, truncations and mappings of one file, checked against memory.
pub const FSX: Tool = Tool {
    name: "fsx",
    version: "0.3.2",
};

/// rust-vmm's daemon, the peer of ours in benchmarks.
pub const VHOST_DEVICE_SCSI: Tool = Tool {
    name: "vhost-device-scsi",
    version: "0.1.0",
};

/// Checks licences, sources and bans of dependencies.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};

impl Tool {
    /// The program; built from the registry the first time, which takes minutes.
    pub fn provide(self) -> Result<PathBuf> {
        let folder = target_folder()?.join("tools");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // One at a time: parallel tests may want the same one.
        let lock = File::create(folder.join("lock"))?;
        lock.lock().context("locking the folder of tools")?;
        let root = folder.join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if !program.exists() {
            self.build(&root)?;
        }
        Ok(program)
    }

    fn build(self, root: &Path) -> Result<()> {
        let Self { name, version } = self;
        eprintln!("tools: building {name} {version}, once; this takes some minutes");
        let status = Command::new("cargo")
            .args([
                "install",
                "--quiet",
                "--locked",
                "--version",
                version,
                "--root",
            ])
            .arg(root)
            .arg(name)
            // Cargo sets these for us, and they are not meant for another workspace.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .status()
            .with_context(|| format!("starting cargo to build {name}"))?;
        if !status.success() {
            bail!("{name} {version} cannot be had from the registry of crates ({status})");
        }
        Ok(())
    }
}
