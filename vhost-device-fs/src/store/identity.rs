//! What makes an inode of the host the one that the guest means. Knows no path.

use rustix::fs::{FileType, Statx, StatxFlags};

/// Type of an inode. The numbers are Linux' `S_IFMT` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device node.
    CharacterDevice,
    /// A block device node.
    BlockDevice,
}

impl FileKind {
    const ALL: [(Self, u32); 7] = [
        (Self::Regular, 0o100_000),
        (Self::Directory, 0o040_000),
        (Self::Symlink, 0o120_000),
        (Self::Fifo, 0o010_000),
        (Self::Socket, 0o140_000),
        (Self::CharacterDevice, 0o020_000),
        (Self::BlockDevice, 0o060_000),
    ];

    /// The type in a mode; `None` if its type bits are none that Linux knows.
    pub(crate) fn from_mode(mode: u32) -> Option<Self> {
        let bits = mode & 0o170_000;
        Self::ALL
            .into_iter()
            .find(|(_, value)| *value == bits)
            .map(|(kind, _)| kind)
    }

    /// The `S_IFMT` bits.
    pub(crate) fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::CharacterDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
        }
    }

    /// The type as a directory entry tells it (`DT_*`).
    pub(crate) fn directory_entry_type(file_type: FileType) -> u32 {
        match file_type {
            FileType::RegularFile => 8,
            FileType::Directory => 4,
            FileType::Symlink => 10,
            FileType::Fifo => 1,
            FileType::Socket => 12,
            FileType::CharacterDevice => 2,
            FileType::BlockDevice => 6,
            FileType::Unknown => 0,
        }
    }
}

/// An inode of the host, as long as the host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// Index in the [`MountTable`](super::MountTable).
    pub(crate) mount: u32,
    /// Inode number.
    pub(crate) ino: u64,
    /// When the inode was made, in nanoseconds since the epoch; tells apart two inodes that had the same number
    /// one after the other. 0 where the file system does not know, or does not keep it constant.
    pub(crate) birth_ns: u64,
}

/// What we ask `statx` for, always.
pub(crate) const STATX_WANTED: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID);

/// The time of birth that `stat` tells, in nanoseconds; 0 if it tells none.
pub(crate) fn birth_ns(stat: &Statx) -> u64 {
    if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return 0;
    }
    let seconds = u64::try_from(stat.stx_btime.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.stx_btime.tv_nsec.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_modes_agree() {
        for (kind, bits) in FileKind::ALL {
            assert_eq!(kind.mode_bits(), bits);
            assert_eq!(FileKind::from_mode(bits | 0o7777), Some(kind));
        }
        assert_eq!(FileKind::from_mode(0o644), None);
        assert_eq!(FileKind::from_mode(0o170_000), None);
    }
}
