//! How a file is opened: what the guest asked for, and what the host is asked for. Knows no file.
//!
//! The guest's wish is kept in symbols of our own: it migrates, and the numbers of `O_*` differ between
//! architectures. [`host_flags`] is the only way from there to the host, for OPEN, CREATE and a loaded state alike.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::Config;
use crate::operations::FsResult;

/// What the guest asked for when it opened a file, without what only counts at that moment (`O_TRUNC`, `O_CREAT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestFlags(u32);

impl GuestFlags {
    /// Readable.
    pub(crate) const READ: Self = Self(1 << 0);
    /// Writable.
    pub(crate) const WRITE: Self = Self(1 << 1);
    /// `O_APPEND`.
    pub(crate) const APPEND: Self = Self(1 << 2);
    /// `O_NONBLOCK`.
    pub(crate) const NONBLOCK: Self = Self(1 << 3);
    /// `O_DSYNC`.
    pub(crate) const DATA_SYNC: Self = Self(1 << 4);
    /// `O_SYNC`.
    pub(crate) const SYNC: Self = Self(1 << 5);
    /// `O_DIRECT`.
    pub(crate) const DIRECT: Self = Self(1 << 6);
    /// `O_NOATIME`.
    pub(crate) const NO_ACCESS_TIME: Self = Self(1 << 7);
    const ALL: u32 = (1 << 8) - 1;

    const OPTIONS: [(Self, OFlags); 6] = [
        (Self::APPEND, OFlags::APPEND),
        (Self::NONBLOCK, OFlags::NONBLOCK),
        (Self::DATA_SYNC, OFlags::DSYNC),
        (Self::SYNC, OFlags::SYNC),
        (Self::DIRECT, OFlags::DIRECT),
        (Self::NO_ACCESS_TIME, OFlags::NOATIME),
    ];

    /// The symbols in `flags`, which are `O_*` of the guest's architecture, the same as ours. What has no symbol
    /// is without meaning for an open file. `EINVAL` without an access mode.
    pub(crate) fn from_guest(flags: u32) -> FsResult<Self> {
        let flags = OFlags::from_bits_retain(flags);
        let mut symbols = match flags.intersection(OFlags::RWMODE) {
            OFlags::RDONLY => Self::READ.0,
            OFlags::WRONLY => Self::WRITE.0,
            OFlags::RDWR => Self::READ.0 | Self::WRITE.0,
            _ => return Err(Errno::INVAL),
        };
        for (symbol, flag) in Self::OPTIONS {
            if flags.contains(flag) {
                symbols |= symbol.0;
            }
        }
        Ok(Self(symbols))
    }

    /// The symbols in a saved state; `None` if there are unknown ones, or no access mode.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        let known = bits & !Self::ALL == 0;
        (known && bits & (Self::READ.0 | Self::WRITE.0) != 0).then_some(Self(bits))
    }

    /// The symbols as they are saved.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Whether all symbols of `other` are there.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The flags to open a file with on the host. The caller adds `O_TRUNC` or `O_CREAT` if it must.
///
/// Never `O_APPEND`: with a write-back cache or a shared mapping the guest writes old pages at their offsets. What
/// is to be appended says so with each write. A guest that writes back reads what it writes only a part of, so it
/// needs more than `O_WRONLY`.
pub(crate) fn host_flags(guest: GuestFlags, writeback: bool, config: &Config) -> OFlags {
    let read = guest.contains(GuestFlags::READ) || writeback;
    let mut flags = match (read, guest.contains(GuestFlags::WRITE)) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    for (symbol, flag) in GuestFlags::OPTIONS {
        let wanted = match symbol {
            GuestFlags::APPEND => false,
            GuestFlags::DIRECT => config.allow_direct_io,
            GuestFlags::NO_ACCESS_TIME => config.preserve_noatime,
            _ => true,
        };
        if wanted && guest.contains(symbol) {
            flags |= flag;
        }
    }
    flags | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(guest: OFlags, writeback: bool, config: &Config) -> OFlags {
        host_flags(
            GuestFlags::from_guest(guest.bits()).unwrap(),
            writeback,
            config,
        )
    }

    #[test]
    fn the_host_never_appends_truncates_or_creates() {
        let config = Config::new("/");
        let guest = OFlags::RDWR | OFlags::APPEND | OFlags::TRUNC | OFlags::CREATE | OFlags::EXCL;
        for writeback in [false, true] {
            assert_eq!(
                host(guest, writeback, &config),
                OFlags::RDWR | OFlags::CLOEXEC
            );
        }
    }

    #[test]
    fn writing_back_needs_reading() {
        let config = Config::new("/");
        assert_eq!(
            host(OFlags::WRONLY, false, &config),
            OFlags::WRONLY | OFlags::CLOEXEC
        );
        assert_eq!(
            host(OFlags::WRONLY, true, &config),
            OFlags::RDWR | OFlags::CLOEXEC
        );
        assert_eq!(
            host(OFlags::RDONLY, true, &config),
            OFlags::RDONLY | OFlags::CLOEXEC
        );
    }

    #[test]
    fn direct_io_and_noatime_need_an_option() {
        let mut config = Config::new("/");
        let guest = OFlags::RDONLY | OFlags::DIRECT | OFlags::NOATIME;
        assert_eq!(
            host(guest, false, &config),
            OFlags::RDONLY | OFlags::CLOEXEC
        );
        config.allow_direct_io = true;
        config.preserve_noatime = true;
        assert_eq!(host(guest, false, &config), guest | OFlags::CLOEXEC);
    }

    #[test]
    fn symbols_travel_and_unknown_ones_do_not() {
        let guest = OFlags::RDWR | OFlags::SYNC | OFlags::DIRECT | OFlags::NONBLOCK;
        let flags = GuestFlags::from_guest(guest.bits()).unwrap();
        assert_eq!(GuestFlags::from_bits(flags.bits()), Some(flags));
        assert_eq!(GuestFlags::from_bits(0), None);
        assert_eq!(GuestFlags::from_bits(1 | 1 << 8), None);
        assert_eq!(GuestFlags::from_guest(3), Err(Errno::INVAL));
    }
}
