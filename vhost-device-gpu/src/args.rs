//! The command line, and the [`Config`] that it means.
//!
//! Knows options, not sockets.

use std::path::PathBuf;

use clap::Parser;
use common::args::DaemonArgs;
use common::sandbox::ConfinementArgs;

use crate::config::{Config, HOST_BYTES_MAX, StatePixels};
use crate::wire::SCANOUTS_MAX;

/// What a state has besides pixels, in bytes: backings, tiles, and room to spare.
const STATE_REST_BYTES: u64 = 64 << 20;

/// Greatest `--max-hostmem`: sixteen screens of the largest size, four times. More is a slip of the pen, and would let a guest take all of the host.
const HOST_BYTES_LIMIT: u64 = 64 << 30;

/// A command line that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Pictures cannot go there.
    #[error("--screenshot-dir {}: there is no such directory", .0.display())]
    NoDirectory(PathBuf),
}

/// A 2D graphics adapter behind QEMU's vhost-user-gpu display protocol, whose picture survives when the guest moves.
#[derive(Debug, Parser)]
#[command(name = "vhost-device-gpu", version)]
pub struct GpuArgs {
    /// What all daemons share.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// What it gives up.
    #[command(flatten)]
    pub confinement: ConfinementArgs,

    /// Lets QEMU migrate the guest. Only for a front-end that carries the device's state: QEMU's own vhost-user-gpu does
    /// not, and would lose the screen without a word
    #[arg(long)]
    pub migratable: bool,

    /// Host memory that the guest may use for resources, in bytes; what is on the screens may take as much again; at most 64 GiB
    #[arg(long, value_name = "BYTES", default_value_t = HOST_BYTES_MAX,
        value_parser = clap::value_parser!(u64).range(..=HOST_BYTES_LIMIT))]
    pub max_hostmem: u64,

    /// Greatest number of scanouts. QEMU decides how many the guest sees
    #[arg(long, value_name = "NUMBER", default_value_t = 16,
        value_parser = clap::value_parser!(u8).range(1..=16))]
    pub max_outputs: u8,

    /// Has no display: the front-end's display socket is not used, and the guest sees one monitor of 1280 by 800
    #[arg(long)]
    pub headless: bool,

    /// On SIGUSR1, writes a picture of each screen into this directory, as scanout-0.png and so on
    #[arg(long, value_name = "DIRECTORY")]
    pub screenshot_dir: Option<PathBuf>,

    /// Pixels that a saved state holds: all, or those that are not in guest memory as well
    #[arg(long, value_enum, value_name = "PIXELS", default_value_t)]
    pub state_pixels: StatePixels,
}

const _: () = assert!(SCANOUTS_MAX == 16);

impl GpuArgs {
    /// The options of all daemons. A state may be as large as the guest can make one, unless the operator says otherwise.
    pub fn daemon(&self) -> DaemonArgs {
        let mut daemon = self.daemon.clone();
        let most = self
            .max_hostmem
            .saturating_mul(2)
            .saturating_add(STATE_REST_BYTES);
        daemon.state_max_bytes.get_or_insert(most);
        daemon
    }
}

impl TryFrom<&GpuArgs> for Config {
    type Error = ArgsError;

    fn try_from(args: &GpuArgs) -> Result<Self, ArgsError> {
        if let Some(directory) = args.screenshot_dir.as_ref().filter(|path| !path.is_dir()) {
            return Err(ArgsError::NoDirectory(directory.clone()));
        }
        Ok(Self {
            host_bytes_max: args.max_hostmem,
            outputs_max: usize::from(args.max_outputs),
            headless: args.headless,
            migratable: args.migratable,
            state_pixels: args.state_pixels,
            screenshots: args.screenshot_dir.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Config, String> {
        let args = GpuArgs::try_parse_from([&["vhost-device-gpu"], words].concat())
            .map_err(|error| error.to_string())?;
        Config::try_from(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn options_become_what_they_mean() {
        assert_eq!(parse(&[]), Ok(Config::default()));
        let directory = std::env::temp_dir();
        let config = parse(&[
            "--migratable",
            "--max-hostmem=77",
            "--max-outputs=2",
            "--headless",
            "--state-pixels=full",
            "--screenshot-dir",
            directory.to_str().unwrap(),
        ]);
        let expected = Config {
            host_bytes_max: 77,
            outputs_max: 2,
            headless: true,
            migratable: true,
            state_pixels: StatePixels::Full,
            screenshots: Some(directory),
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            &["--max-outputs=0"][..],
            &["--max-outputs=17"],
            &["--max-hostmem=68719476737"],
            &["--state-pixels=some"],
            &["--headless", "--headless"],
            &["--screenshot-dir=/nowhere"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_state_may_be_as_large_as_the_guest_makes_it() {
        let daemon = |words: &[&str]| {
            let args = [&["vhost-device-gpu", "--max-hostmem=1000"], words].concat();
            GpuArgs::try_parse_from(args).unwrap().daemon()
        };
        assert_eq!(daemon(&[]).state_max_bytes, Some(2000 + (64 << 20)));
        assert_eq!(daemon(&["--state-max-bytes=5"]).state_max_bytes, Some(5));
    }
}
