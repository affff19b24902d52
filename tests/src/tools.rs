//! Test programs and peers that come from the registry of crates: found, or built once below the target folder.
//!
//! Knows how to get them, not what they are for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::qemu::provision::{fs_peer_libraries, target_folder};

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

/// The virtio-fs daemon of the virtio-fs project, the peer of ours. [`virtiofsd`] and [`virtiofsd_as_released`] build it.
const VIRTIOFSD: Tool = Tool {
    name: "virtiofsd",
    version: "1.14.0",
};

/// virtiofsd without link-time optimization, which takes a third of the time to build: to see what it does.
pub fn virtiofsd() -> Result<PathBuf> {
    virtiofsd_with("quick", &[("CARGO_PROFILE_RELEASE_LTO", "off")])
}

/// virtiofsd as its authors build it: to see how fast it is.
pub fn virtiofsd_as_released() -> Result<PathBuf> {
    virtiofsd_with("released", &[])
}

fn virtiofsd_with(variant: &str, profile: &[(&str, &str)]) -> Result<PathBuf> {
    VIRTIOFSD.provide_as(&format!("-{variant}"), |command| {
        let libraries = fs_peer_libraries()?;
        command
            .env("LIBRARY_PATH", &libraries)
            .env("LIBSECCOMP_LIB_PATH", &libraries)
            .env("LIBSECCOMP_LINK_TYPE", "static")
            .envs(profile.iter().copied());
        Ok(())
    })
}

/// Checks licences, sources and bans of dependencies.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};

/// Builds programs for a fuzzer, and runs them.
pub const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
};

impl Tool {
    /// The program; built from the registry the first time, which takes minutes.
    pub fn provide(self) -> Result<PathBuf> {
        self.provide_as("", |_| Ok(()))
    }

    /// A variant, built as `adjust` says.
    fn provide_as(
        self,
        variant: &str,
        adjust: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = target_folder()?.join("tools");
        let root = folder.join(format!("{}-{}{variant}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if program.exists() {
            return Ok(program); // without waiting for whoever builds another one
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // One at a time: parallel tests may want the same one.
        let lock = File::create(folder.join("lock"))?;
        lock.lock().context("locking the folder of tools")?;
        if !program.exists() {
            self.build(&root, adjust)?;
        }
        Ok(program)
    }

    fn build(self, root: &Path, adjust: impl FnOnce(&mut Command) -> Result<()>) -> Result<()> {
        let Self { name, version } = self;
        eprintln!("tools: building {name} {version}, once; this takes some minutes");
        let mut command = Command::new("cargo");
        command
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
            .env_remove("RUSTFLAGS");
        adjust(&mut command)?;
        let status = command
            .status()
            .with_context(|| format!("starting cargo to build {name}"))?;
        if !status.success() {
            bail!("{name} {version} cannot be had from the registry of crates ({status})");
        }
        Ok(())
    }
}
