//! The configuration of the device, validated. Of the command line it knows only how its choices are spelled.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use common::sandbox::IdMaps;

use crate::translation::Translations;
use crate::xattr_map::XattrMap;

/// Greatest length of a mount tag in bytes (virtio 1.3, 5.11.4).
pub const TAG_BYTES_MAX: usize = 36;
/// Greatest number of request rings; with the high-priority ring they are the 64 that a device can have.
pub const REQUEST_RINGS_MAX: u16 = 63;

/// How long, in microseconds, a ring is looked at for more unless the operator says otherwise: what QEMU's I/O threads take.
pub const BUSY_POLL_US: u16 = 32;
/// The longest that may be asked for.
pub const BUSY_POLL_US_MAX: i64 = 10_000;

/// What may be cached in the guest, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    /// Data until the file is opened again, metadata for a second.
    #[default]
    Auto,
    /// Everything, for a day: nobody else changes the share.
    Always,
    /// Nothing.
    Never,
    /// Metadata for a day, no data.
    Metadata,
}

impl Cache {
    /// For how long the guest may trust a name and attributes without asking again.
    pub fn timeout(self) -> Duration {
        match self {
            Self::Auto => Duration::from_secs(1),
            Self::Always | Self::Metadata => Duration::from_hours(24),
            Self::Never => Duration::ZERO,
        }
    }
}

/// What becomes of a migration when an inode or handle cannot be carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MigrationOnError {
    /// The migration fails.
    #[default]
    Abort,
    /// The migration goes on, and the guest sees an error on that inode or handle.
    GuestError,
}

/// Whether guest and device agree on something that not every guest can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Negotiation {
    /// No.
    #[default]
    Never,
    /// If it can.
    Auto,
    /// It must: mounting fails in a guest that cannot.
    Always,
}

/// How the device is to behave. Built by `args.rs` from a command line, or by hand in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches of the operator's"
)]
pub struct Config {
    /// The directory that the guest sees as its root.
    pub shared_dir: PathBuf,
    /// Mount tag in the config space; `None`: the front-end has one of its own.
    pub tag: Option<String>,
    /// Number of request rings, beside the high-priority ring.
    pub request_rings: u16,
    /// Longest time that a request ring is looked at for more before its thread sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// What the guest may cache.
    pub cache: Cache,
    /// For how long the guest may trust that there is nothing of a name; `None` leaves it to `cache`.
    pub negative_timeout: Option<Duration>,
    /// The guest may hold back writes.
    pub writeback: bool,
    /// READDIRPLUS is offered.
    pub readdirplus: bool,
    /// Extended attributes are passed through.
    pub xattr: bool,
    /// Whether the guest labels what it creates (`FUSE_SECURITY_CTX`); needs `xattr`.
    pub security_label: Negotiation,
    /// Whether the guest heeds POSIX ACLs, and the host inherits them (`FUSE_POSIX_ACL`); needs `xattr`.
    pub posix_acl: Negotiation,
    /// Other names for extended attributes on the host; needs `xattr`.
    pub xattr_map: Option<XattrMap>,
    /// Other ids for users and groups on the host.
    pub translations: Translations,
    /// Users and groups of the user namespace that the daemon is to run in, if there are any.
    pub id_maps: IdMaps,
    /// Nothing on the share may be changed.
    pub readonly: bool,
    /// `O_DIRECT` of the guest reaches the host's files.
    pub allow_direct_io: bool,
    /// Files opened for direct I/O may be mapped in the guest.
    pub allow_mmap: bool,
    /// Mount points below the share are shown as such.
    pub announce_submounts: bool,
    /// `O_NOATIME` of the guest reaches the host's files.
    pub preserve_noatime: bool,
    /// Set-user-id and set-group-id bits are removed by us, not by the guest.
    pub killpriv_v2: bool,
    /// Locks of fcntl(2) are seen by others who use the share.
    pub remote_posix_locks: bool,
    /// Locks of flock(2) are, too.
    pub remote_flock: bool,
    /// Greatest number of the host's descriptors that the device keeps open.
    pub descriptors_max: u32,
    /// What becomes of a migration when something cannot be carried over.
    pub migration_on_error: MigrationOnError,
    /// Greatest number of bytes of unlinked but open files, with their extended attributes, that travel with the state, in total.
    pub orphan_bytes_max: u64,
}

impl Config {
    /// Greatest number of descriptors that the guest holds by handles and by inodes without a name: a half of all. The
    /// other half is a cache.
    pub(crate) fn descriptors_held_max(&self) -> u32 {
        self.descriptors_max.div_ceil(2)
    }

    /// For how long the guest may trust that there is nothing of a name. By default only where nobody else makes names.
    pub(crate) fn negative_timeout(&self) -> Duration {
        match (self.negative_timeout, self.cache) {
            (Some(timeout), _) => timeout,
            (None, Cache::Always) => self.cache.timeout(),
            (None, Cache::Auto | Cache::Metadata | Cache::Never) => Duration::ZERO,
        }
    }

    /// The defaults for a shared directory.
    pub fn new(shared_dir: impl Into<PathBuf>) -> Self {
        Self {
            shared_dir: shared_dir.into(),
            tag: None,
            request_rings: 16,
            busy_poll: Duration::from_micros(u64::from(BUSY_POLL_US)),
            cache: Cache::default(),
            negative_timeout: None,
            writeback: false,
            readdirplus: true,
            xattr: false,
            security_label: Negotiation::default(),
            posix_acl: Negotiation::default(),
            xattr_map: None,
            translations: Translations::default(),
            id_maps: IdMaps::default(),
            readonly: false,
            allow_direct_io: false,
            allow_mmap: false,
            announce_submounts: true,
            preserve_noatime: false,
            killpriv_v2: false,
            remote_posix_locks: false,
            remote_flock: false,
            descriptors_max: 1 << 16,
            migration_on_error: MigrationOnError::default(),
            orphan_bytes_max: 64 << 20,
        }
    }
}
