//! Does the device stand all that a fuzzer has found worth keeping, and the released states?
//!
//! The inputs are in `vhost-device-fs/fuzz/corpus`; `cargo xtask fuzz` looks for more. Needs root, to mount a file system in memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::fs_fuzz::arena::Arena;
use tests::fs_fuzz::{requests, states};

/// The files in a folder of the crate of the device.
fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let device = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vhost-device-fs");
    let folder = device.join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension() != Some("txt".as_ref()));
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

fn replay(files: Vec<PathBuf>, run: fn(&Arena, &[u8]) -> Result<()>) -> Result<()> {
    let arena = Arena::new()?;
    for file in files {
        run(&arena, &fs::read(&file)?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[test]
fn requests_that_a_fuzzer_found() -> Result<()> {
    replay(files("fuzz/corpus/requests")?, requests::run)
}

#[test]
fn states_that_a_fuzzer_found() -> Result<()> {
    replay(files("fuzz/corpus/states")?, states::run)
}

#[test]
fn released_states() -> Result<()> {
    for version in ["golden/v1", "golden/v2"] {
        replay(files(version)?, states::run)?;
    }
    Ok(())
}
