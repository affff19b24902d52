//! The program of `src/bin/guest_reserver.rs`, compiled for guests.

use std::path::PathBuf;

use anyhow::Result;

use crate::guest_program;

/// The program.
pub fn program() -> Result<PathBuf> {
    guest_program::compiled("guest_reserver", include_str!("bin/guest_reserver.rs"))
}
