//! The options that all daemons share, spelled as virtiofsd and vhost-user.rst, "Backend program conventions", spell them.
//!
//! Knows no device. An option that is given twice is refused by clap: a later one must not override an earlier one that
//! matters for security (GHSA-rr59-xxvx-96qr).

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use log::LevelFilter;

use crate::protocol::{Options, SaveChannel, TransferOptions};
use crate::state::Limits;

/// Options of every daemon.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Listen on a new UNIX socket at this path.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Use this inherited descriptor: a listening socket, or a connected one.
    #[arg(long, value_name = "FDNUM")]
    pub fd: Option<RawFd>,

    /// Let members of this group connect to the socket at --socket-path.
    #[arg(long, value_name = "GROUP", requires = "socket_path")]
    pub socket_group: Option<String>,

    /// Print what this program can do as JSON, and exit. All other options are ignored.
    #[arg(long)]
    pub print_capabilities: bool,

    /// How much to log on standard error. The environment variable `RUST_LOG` overrides it.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    pub log_level: Level,

    /// Serve one front-end after another, keeping the device, instead of exiting when the first one leaves.
    #[arg(long)]
    pub persistent: bool,

    /// On SIGTERM, leave the connection and the device's state in the service manager's store of descriptors; when started,
    /// go on with what an earlier daemon has left there.
    #[arg(long)]
    pub handover: bool,

    /// Longest time, in milliseconds, that SUSPEND waits for requests in flight.
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub suspend_timeout_ms: u64,

    /// Longest time, in milliseconds, that a state transfer may make no progress.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub state_timeout_ms: u64,

    /// Greatest size, in bytes, of a state that is loaded.
    #[arg(long, value_name = "BYTES")]
    pub state_max_bytes: Option<u64>,

    /// Which descriptor a state is saved through.
    #[arg(long, value_name = "CHANNEL", value_enum, default_value_t = StateChannel::Offered)]
    pub state_channel: StateChannel,

    /// Save states in this version of the schema, for a destination that is older.
    #[arg(long, value_name = "VERSION")]
    pub state_version: Option<u16>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Failures only.
    Error,
    /// Also what is suspicious.
    Warn,
    /// Also one line for each event an operator cares about.
    Info,
    /// Also what helps to find a defect.
    Debug,
    /// Everything.
    Trace,
    /// Nothing.
    Off,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
            Level::Off => Self::Off,
        }
    }
}

/// Which descriptor a state is saved through.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StateChannel {
    /// The one the front-end offers.
    Offered,
    /// A sealed memfd, handed back to the front-end.
    Memfd,
}

impl DaemonArgs {
    /// The limits that `protocol` works with.
    pub fn options(&self) -> Options {
        let defaults = Limits::default();
        Options {
            suspend_limit: Duration::from_millis(self.suspend_timeout_ms),
            transfer: TransferOptions {
                save_channel: match self.state_channel {
                    StateChannel::Offered => SaveChannel::Offered,
                    StateChannel::Memfd => SaveChannel::Memfd,
                },
                limits: Limits {
                    total_bytes_max: self.state_max_bytes.unwrap_or(defaults.total_bytes_max),
                    ..defaults
                },
                write_version: self.state_version,
                patience: Duration::from_millis(self.state_timeout_ms),
            },
        }
    }
}
