//! The bare file system: programs run on it, undisturbed, to have something to compare with.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::place::Ran;
use super::programs::{Commands, Toolbox};
use super::work::Work;

/// A folder of the same file system that shares are on.
#[derive(Debug)]
pub(super) struct Bare {
    programs: Commands,
}

impl Bare {
    pub(super) fn new(toolbox: &Toolbox) -> Result<Self> {
        Ok(Self {
            programs: toolbox.on_host()?,
        })
    }

    /// How the work ends here, and the folder that it leaves.
    pub(super) fn run(&self, work: &Work) -> Result<(Ran, TempDir)> {
        let folder = tempfile::tempdir()?;
        let script = work.script(&self.programs, path(folder.path())?);
        let output = Command::new("sh").arg("-c").arg(&script).output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let ran = Ran {
            status: output.status.code(),
            output: text,
        };
        Ok((ran, folder))
    }
}

/// A path for scripts.
pub(super) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a folder without a plain name")
}
