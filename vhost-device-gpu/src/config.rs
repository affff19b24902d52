//! What the operator wants of the device. Plain values with their limits.
//!
//! Knows neither the command line (that is `args.rs`) nor sockets.

use std::path::PathBuf;

use crate::wire::SCANOUTS_MAX;

/// Default of `--max-hostmem`, as QEMU's `max_hostmem` is for its own device.
pub const HOST_BYTES_MAX: u64 = 256 << 20;

/// Which pixels a state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum StatePixels {
    /// All of them.
    Full,
    /// Those that are not in guest memory as well, which moves anyway.
    #[default]
    Delta,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Greatest number of bytes of host memory for resources, and the same again for what is on the screens.
    pub host_bytes_max: u64,
    /// Scanouts that there are at most, 1 to 16.
    pub outputs_max: usize,
    /// There is no display.
    pub headless: bool,
    /// `LOG_ALL` is offered, without which QEMU refuses to migrate.
    pub migratable: bool,
    /// Which pixels a state holds.
    pub state_pixels: StatePixels,
    /// Where pictures of the screens are put on SIGUSR1.
    pub screenshots: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host_bytes_max: HOST_BYTES_MAX,
            outputs_max: SCANOUTS_MAX,
            headless: false,
            migratable: false,
            state_pixels: StatePixels::default(),
            screenshots: None,
        }
    }
}
