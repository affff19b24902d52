//! Programs for guests, which have no libraries: compiled statically from one file of Rust.
//!
//! Knows no program.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::qemu::provision::{run, target_folder};

/// The program `name`, made from `source`. Kept while its source is the same.
pub fn compiled(name: &str, source: &str) -> Result<PathBuf> {
    let folder = target_folder()?.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock().with_context(|| format!("locking {name}"))?;
    let (program, copy) = (folder.join(name), folder.join("compiled.rs"));
    if program.exists() && fs::read_to_string(&copy).is_ok_and(|known| known == source) {
        return Ok(program);
    }
    let fresh = folder.join(format!("{name}.rs"));
    fs::write(&fresh, source)?;
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(compiler)
        .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&program)
        .arg(&fresh))
    .with_context(|| format!("compiling {name}"))?;
    fs::rename(&fresh, &copy)?;
    Ok(program)
}
