//! The host's mounts that were seen below the share, numbered. Knows nothing of what is on them.
//!
//! The number, not the host's device or mount id, is what inodes carry and what migrates: both ids mean nothing on
//! another host.

use std::sync::{PoisonError, RwLock};

use rustix::fs::{Statx, StatxFlags};

use super::Identity;
use super::identity::birth_ns;
use crate::operations::FsResult;

/// A mount of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Device number of the file system, in `makedev` form.
    pub(crate) device: u64,
    /// Id of the mount; 0 where the kernel does not tell.
    pub(crate) id: u64,
    /// Type of the file system (`f_type` of `statfs`).
    pub(crate) file_system: u64,
    /// Whether it is one of [`LOCAL`].
    pub(crate) is_local: bool,
}

impl Mount {
    /// The mount that `stat` was taken on, which is of type `file_system`.
    pub(crate) fn new(stat: &Statx, file_system: u64) -> Self {
        Self {
            device: device(stat),
            id: mount_id(stat),
            file_system,
            is_local: LOCAL.contains(&file_system),
        }
    }
}

/// File systems (magic numbers of linux/magic.h) on disks or memory of this host: the time of birth is stored with the inode
/// and never changes while it lives, and nothing happens to data when a file is closed. Not among them are overlayfs, where
/// a file is born again when it is copied up, and those of a network, which may tell of an error at last when it is closed.
const LOCAL: [u64; 6] = [
    0xef53,      // ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
];

/// Magic number of NFS, of all its versions.
const NFS: u64 = 0x6969;

/// The mounts, by number. Number 0 is the one of the shared directory.
#[derive(Debug, Default)]
pub(crate) struct MountTable {
    mounts: RwLock<Vec<Mount>>,
}

impl MountTable {
    /// The identity of the inode that `stat` describes. `file_system` is asked for the type of a file system on a
    /// mount that is new.
    pub(crate) fn identify(
        &self,
        stat: &Statx,
        file_system: impl FnOnce() -> FsResult<u64>,
    ) -> FsResult<Identity> {
        let (index, mount) = match self.find(stat) {
            Some(found) => found,
            None => self.add(Mount::new(stat, file_system()?)),
        };
        Ok(Identity {
            mount: index,
            ino: stat.stx_ino,
            birth_ns: if mount.is_local { birth_ns(stat) } else { 0 },
        })
    }

    fn find(&self, stat: &Statx) -> Option<(u32, Mount)> {
        let (device, mount_id) = (device(stat), mount_id(stat));
        let mounts = self.mounts.read().unwrap_or_else(PoisonError::into_inner);
        (0..)
            .zip(mounts.iter())
            .find(|(_, mount)| mount.device == device && mount.id == mount_id)
            .map(|(index, mount)| (index, *mount))
    }

    /// Numbers `mount`, unless it has a number already.
    pub(crate) fn add(&self, mount: Mount) -> (u32, Mount) {
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        let known = (0..)
            .zip(mounts.iter())
            .find(|(_, known)| known.device == mount.device && known.id == mount.id)
            .map(|(index, known)| (index, *known));
        known.unwrap_or_else(|| {
            let index = u32::try_from(mounts.len()).unwrap_or(u32::MAX);
            mounts.push(mount);
            (index, mount)
        })
    }

    /// Whether closing a file on a mount does nothing to its data and has no error to tell.
    pub(crate) fn closes_silently(&self, mount: u32) -> bool {
        self.get(mount).is_some_and(|mount| mount.is_local)
    }

    /// Whether an NFS client is what serves a mount.
    pub(crate) fn is_nfs(&self, mount: u32) -> bool {
        self.get(mount)
            .is_some_and(|mount| mount.file_system == NFS)
    }

    fn get(&self, mount: u32) -> Option<Mount> {
        let mounts = self.mounts.read().unwrap_or_else(PoisonError::into_inner);
        mounts.get(usize::try_from(mount).ok()?).copied()
    }

    /// All mounts, in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Mount> {
        self.mounts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The device number in `stat`.
pub(crate) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn mount_id(stat: &Statx) -> u64 {
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        0
    } else {
        stat.stx_mnt_id
    }
}
