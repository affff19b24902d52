//! `cargo xtask qemu-module`: builds our module for QEMU (`qemu/`) for the QEMU that would run a guest.
//!
//! Knows how to tell about it; the tests crate knows how to do it, for its own sake. Exit codes: 0 built,
//! and loaded by that QEMU once; 1 it was not, or refused by it.

use std::process::ExitCode;

use ::tests::qemu::provision::{provision, stateful_module};
use anyhow::Result;

/// Builds it.
pub(crate) fn run() -> Result<ExitCode> {
    let provision = provision()?;
    let module = stateful_module(&provision)?;
    let command = provision.qemu.clone().with_preloaded(&module).command();
    println!("built for   {}", provision.qemu_version);
    println!("module      {}", module.display());
    // In the form of a shell: the environment first.
    println!("run it with {command:?}");
    Ok(ExitCode::SUCCESS)
}
