//! What the operator wants of the device: logical units, rings, workers. Plain values with their limits.
//!
//! Knows neither the command line (that is `args.rs`) nor files.

use std::path::PathBuf;
use std::time::Duration;

/// Rings that are no request rings: control and event (virtio 1.3, 5.6.2).
pub const OTHER_RINGS: u16 = 2;
/// Greatest number of request rings: 64 rings in all.
pub const REQUEST_RINGS_MAX: u16 = 62;
/// Greatest logical unit number (virtio 1.3, 5.6.6.1).
pub const LUN_MAX: u16 = 16383;

/// A logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches of the operator's"
)]
pub struct UnitConfig {
    /// Image file or block device.
    pub path: PathBuf,
    /// Logical unit number.
    pub lun: u16,
    /// Unit serial number, 1 to 36 printable ASCII characters; part of the unit's identity, equal on a migration's both ends.
    pub serial: String,
    /// World wide name (NAA, 8 bytes); derived from the serial number if it is not given.
    pub wwn: Option<u64>,
    /// Refuses writes.
    pub readonly: bool,
    /// Bytes of a logical block: 512 or 4096.
    pub block_size: u32,
    /// Revolutions per minute; 1 for a medium that does not rotate, 0 if that is not to be said (SBC-4, table 238).
    pub rotation_rate: u16,
    /// Thin provisioning: UNMAP and WRITE SAME with UNMAP punch holes.
    pub thin: bool,
    /// Bypasses the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Takes a lock on the image, so that no other process of ours and no QEMU uses it at the same time.
    pub lock: bool,
    /// Whether there is a volatile write cache at first (WCE); the guest may change it.
    pub write_cache: bool,
    /// T10 vendor identification, at most 8 characters.
    pub vendor: String,
    /// Product identification, at most 16 characters.
    pub product: String,
    /// A store beside the image for reservations: shared with other daemons, or to keep them over a restart.
    pub reservations: Option<PathBuf>,
}

impl UnitConfig {
    /// A unit with defaults; the serial number comes from the unit number.
    pub fn new(path: impl Into<PathBuf>, lun: u16) -> Self {
        Self {
            path: path.into(),
            lun,
            serial: format!("VHOST-SCSI-{lun:05}"),
            wwn: None,
            readonly: false,
            block_size: 512,
            rotation_rate: 1,
            thin: true,
            direct: false,
            lock: true,
            write_cache: true,
            vendor: "VHOST".to_owned(),
            product: "SCSI DISK".to_owned(),
            reservations: None,
        }
    }
}

/// Who does the I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// `io_uring` where the host allows it, threads otherwise.
    #[default]
    Auto,
    /// `io_uring`, or an error at start.
    IoUring,
    /// Threads.
    Threads,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Logical units at start, at least none; no two with the same number.
    pub units: Vec<UnitConfig>,
    /// Target number, 0 to 255, under which the units are found.
    pub target: u8,
    /// Request rings to offer, 1 to [`REQUEST_RINGS_MAX`].
    pub request_rings: u16,
    /// Threads that serve the rings; each owns a group of request rings.
    pub workers: u16,
    /// Who does the I/O.
    pub engine: Engine,
    /// Threads for what `io_uring` does not do, and for everything without it.
    pub threads: u16,
    /// How long a worker looks for more before it sleeps; zero for not at all.
    pub busy_poll: Duration,
    /// How long suspension waits for what was written to become durable.
    pub sync_limit: Duration,
    /// Name of the initiator (the VM), for reservations; the same on a migration's both ends.
    pub initiator: String,
    /// Refuses to be migrated by a front-end that does not carry the state (`LOG_ALL` is not offered).
    pub require_state: bool,
    /// Where the running daemon takes commands.
    pub control_socket: Option<PathBuf>,
}

impl Config {
    /// A device with these units, and defaults.
    pub fn new(units: Vec<UnitConfig>) -> Self {
        Self {
            units,
            target: 0,
            request_rings: REQUEST_RINGS_MAX,
            workers: 2,
            engine: Engine::Auto,
            threads: 4,
            busy_poll: Duration::ZERO,
            sync_limit: Duration::from_secs(5),
            initiator: "iqn.2026-01.org.vhost-device:guest".to_owned(),
            require_state: false,
            control_socket: None,
        }
    }
}
