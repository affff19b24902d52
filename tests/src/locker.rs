//! The program of `src/bin/guest_locker.rs`, compiled for guests.

use std::path::PathBuf;

use anyhow::Result;

use crate::guest_program;

/// The program.
pub fn program() -> Result<PathBuf> {
    guest_program::compiled("guest_locker", include_str!("bin/guest_locker.rs"))
}
