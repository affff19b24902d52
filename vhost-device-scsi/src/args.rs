//! The command line, and the [`Config`] that it means.
//!
//! Knows options, not files. Images without `--lun` are those of rust-vmm's daemon of the same name: they become the logical units 0,
//! 1, 2 and so on. clap refuses an option that is given twice, `--lun` apart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use common::args::DaemonArgs;
use common::sandbox::ConfinementArgs;

use crate::config::{Config, Engine, LUN_MAX, REQUEST_RINGS_MAX, UnitConfig};

mod unit;

pub use unit::{UnitError, UnitOptions};

/// Longest time, in microseconds, that a worker may look for more.
const BUSY_POLL_US_MAX: i64 = 10_000;
/// Greatest number of threads for what blocks.
const THREADS_MAX: i64 = 256;

/// A command line that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// One unit does not make sense.
    #[error("--lun {description}")]
    Unit {
        /// What was given.
        description: String,
        /// Why.
        #[source]
        source: UnitError,
    },
    /// An image without `--lun`.
    #[error("{}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnitError,
    },
    /// Two units have the same number.
    #[error("there are two logical units {0}")]
    LunTwice(u16),
    /// A guest would take the two for one, with two paths to it.
    #[error("logical units {first} and {second} both have the {what} {value}")]
    Twins {
        /// Number of one.
        first: u16,
        /// Number of the other.
        second: u16,
        /// What is the same.
        what: &'static str,
        /// Its value.
        value: String,
    },
}

/// A SCSI target whose logical units are image files or block devices, and that loses nothing when the guest moves.
#[derive(Debug, Parser)]
#[command(
    name = "vhost-device-scsi",
    version,
    after_help = "`vhost-device-scsi ctl --help` tells how to add, remove, resize and show logical units of a daemon that runs."
)]
pub struct ScsiArgs {
    /// What all daemons share.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// What it gives up.
    #[command(flatten)]
    pub confinement: ConfinementArgs,

    /// Request rings to offer; the front-end uses as many as it was told to
    #[arg(long, value_name = "NUMBER", default_value_t = REQUEST_RINGS_MAX,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(REQUEST_RINGS_MAX)))]
    pub num_queues: u16,

    /// Threads that serve the rings
    #[arg(long, value_name = "NUMBER", default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(REQUEST_RINGS_MAX)))]
    pub workers: u16,

    /// Who does the I/O
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t)]
    pub engine: Engine,

    /// Threads for I/O that `io_uring` does not do
    #[arg(long, value_name = "NUMBER", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    pub threads: u16,

    /// How long, in microseconds, a worker looks for more requests before it sleeps
    #[arg(long, value_name = "US", default_value_t = 0,
        value_parser = clap::value_parser!(u16).range(0..=BUSY_POLL_US_MAX))]
    pub busy_poll_us: u16,

    /// Name of the guest for reservations: an iSCSI name, or sas: and 16 hexadecimal digits. The same on both ends of a
    /// migration, and another one for each guest that shares a disk [default: one for all guests]
    #[arg(long, value_name = "NAME")]
    pub initiator: Option<String>,

    /// Does not let a front-end migrate the guest that would not carry the device's state, as QEMU would not
    #[arg(long)]
    pub require_state: bool,

    /// Takes commands of `vhost-device-scsi ctl` on a new UNIX socket at this path
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,

    /// Target number under which the guest finds the logical units
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub target: u8,

    /// A logical unit, as KEY=VALUE,...: path, lun (the lowest free number), serial, wwn (16 hexadecimal digits), readonly (off),
    /// block-size (512), rotation-rate (1: does not rotate), thin (on), direct (off), lock (on), write-cache (on), vendor, product,
    /// reservations (path of a store for them). A key alone means on; two commas are one within a value
    #[arg(long, value_name = "KEY=VALUE,...", action = ArgAction::Append)]
    pub lun: Vec<String>,

    /// Opens every IMAGE read-only
    #[arg(long)]
    pub read_only: bool,

    /// No effect: a medium that does not rotate is the default
    #[arg(long)]
    pub solid_state: bool,

    /// Images that become logical units with the lowest free numbers, and defaults
    #[arg(value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
}

impl TryFrom<&ScsiArgs> for Config {
    type Error = ArgsError;

    fn try_from(args: &ScsiArgs) -> Result<Self, ArgsError> {
        let defaults = Self::new(units(args)?);
        Ok(Self {
            target: args.target,
            request_rings: args.num_queues,
            workers: args.workers,
            engine: args.engine,
            threads: args.threads,
            busy_poll: Duration::from_micros(u64::from(args.busy_poll_us)),
            sync_limit: args.daemon.options().suspend_limit,
            initiator: args.initiator.clone().unwrap_or(defaults.initiator),
            require_state: args.require_state,
            control_socket: args.control_socket.clone(),
            units: defaults.units,
        })
    }
}

/// All units, in the order of their numbers. Numbers that were given come first; the others get what they leave, in the order of
/// the command line, `--lun` before images.
fn units(args: &ScsiArgs) -> Result<Vec<UnitConfig>, ArgsError> {
    let mut described = Vec::new();
    for description in &args.lun {
        let in_description = |source| ArgsError::Unit {
            description: description.clone(),
            source,
        };
        let options: UnitOptions = description.parse().map_err(in_description)?;
        described.push((options, description));
    }
    // Stable: what has no number stays in its order.
    described.sort_by_key(|(options, _)| options.lun.is_none());
    let mut units = BTreeMap::new();
    // None below is free: numbers that were given came first.
    let mut free_from = 0;
    for (options, description) in described {
        let in_description = |source| ArgsError::Unit {
            description: description.clone(),
            source,
        };
        let unit = options
            .config(lowest_free(free_from, |lun| units.contains_key(&lun)))
            .map_err(in_description)?;
        let lun = unit.lun;
        if options.lun.is_none() {
            free_from = lun;
        }
        if units.insert(lun, unit).is_some() {
            return Err(ArgsError::LunTwice(lun));
        }
    }
    for path in &args.images {
        let options = UnitOptions {
            path: Some(path.clone()),
            readonly: Some(args.read_only),
            ..UnitOptions::default()
        };
        let unit = options.config(lowest_free(free_from, |lun| units.contains_key(&lun)));
        let path = path.clone();
        let unit = unit.map_err(|source| ArgsError::Image { path, source })?;
        free_from = unit.lun;
        units.insert(unit.lun, unit);
    }
    let units: Vec<UnitConfig> = units.into_values().collect();
    refuse_twins(&units)?;
    Ok(units)
}

/// The lowest number, `from` or greater, that is not taken.
pub fn lowest_free(from: u16, is_taken: impl Fn(u16) -> bool) -> Option<u16> {
    (from..=LUN_MAX).find(|lun| !is_taken(*lun))
}

fn refuse_twins(units: &[UnitConfig]) -> Result<(), ArgsError> {
    let mut serials = BTreeMap::new();
    let mut names = BTreeMap::new();
    for unit in units {
        let twins = |first, what, value| ArgsError::Twins {
            first,
            second: unit.lun,
            what,
            value,
        };
        if let Some(first) = serials.insert(&unit.serial, unit.lun) {
            return Err(twins(first, "serial number", unit.serial.clone()));
        }
        if let Some(wwn) = unit.wwn
            && let Some(first) = names.insert(wwn, unit.lun)
        {
            return Err(twins(first, "world wide name", format!("{wwn:016x}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
