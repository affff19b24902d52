//! Attributes: GETATTR, SETATTR, ACCESS, READLINK, STATFS.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::FileSystem;
use super::handle::Handle;
use super::host::{self, ProcPath};
use super::tables::Tables;
use crate::operations::{Attributes, Caller, FsResult, SetAttributes, SetTime, Statfs};
use crate::store::FileKind;

/// A way to an inode: what the guest has open, or else its nodeid. The first works even if the last name is gone.
enum Way {
    Open(Arc<Handle>),
    Path(Arc<OwnedFd>),
}

impl Way {
    fn new(tables: &Tables, nodeid: u64, handle: Option<u64>) -> FsResult<Self> {
        let Some(handle) = handle else {
            return tables.resolve(nodeid).map(Self::Path);
        };
        let handle = tables.handles.get(handle)?;
        if handle.nodeid != nodeid {
            return Err(Errno::BADF);
        }
        Ok(Self::Open(handle))
    }

    fn descriptor(&self) -> FsResult<BorrowedFd<'_>> {
        match self {
            Self::Open(handle) => handle.descriptor(),
            Self::Path(descriptor) => Ok(descriptor.as_fd()),
        }
    }
}

impl FileSystem {
    /// The attributes of an inode.
    pub fn get_attributes(&self, nodeid: u64, handle: Option<u64>) -> FsResult<Attributes> {
        let tables = self.tables();
        let traits = tables.nodes.traits(nodeid)?;
        let way = Way::new(&tables, nodeid, handle)?;
        let stat = host::stat_descriptor(way.descriptor()?)?;
        Ok(self.attributes(&stat, traits.ino_shown))
    }

    /// Changes attributes, and returns them as they are then.
    pub fn set_attributes(
        &self,
        _caller: &Caller,
        nodeid: u64,
        wanted: &SetAttributes,
    ) -> FsResult<Attributes> {
        self.host.writable()?;
        let tables = self.tables();
        let traits = tables.nodes.traits(nodeid)?;
        let way = Way::new(&tables, nodeid, wanted.handle)?;
        let descriptor = way.descriptor()?;
        let _changing = self.changing();
        if wanted.uid.is_some() || wanted.gid.is_some() {
            if traits.kind == FileKind::Regular {
                self.drop_remapped_capabilities(descriptor)?;
            }
            self.change_owner(descriptor, wanted)?;
        }
        let path = ProcPath::new(descriptor);
        if let Some(mode) = wanted.mode {
            // After the owner: a change of owner takes bits away that are wanted here.
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::chmodat(CWD, path.as_c_str(), mode, AtFlags::empty())?;
        }
        if let Some(size) = wanted.size {
            self.credentials
                .removing_privileges(wanted.kill_suidgid, || {
                    self.truncate(&way, traits.kind, size)
                })?;
        }
        if wanted.atime.is_some() || wanted.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(wanted.atime),
                last_modification: timespec(wanted.mtime),
            };
            rustix::fs::utimensat(CWD, path.as_c_str(), &times, AtFlags::empty())?;
        }
        let stat = host::stat_descriptor(descriptor)?;
        Ok(self.attributes(&stat, traits.ino_shown))
    }

    fn truncate(&self, way: &Way, kind: FileKind, size: u64) -> FsResult<()> {
        if kind == FileKind::Regular {
            self.drop_remapped_capabilities(way.descriptor()?)?;
        }
        match (way, kind) {
            (Way::Open(handle), FileKind::Regular) => rustix::fs::ftruncate(handle.file()?, size),
            (Way::Path(descriptor), FileKind::Regular) => {
                let file = self.host.reopen(descriptor.as_fd(), OFlags::WRONLY)?;
                rustix::fs::ftruncate(file, size)
            }
            (_, FileKind::Directory) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn change_owner(&self, descriptor: BorrowedFd<'_>, wanted: &SetAttributes) -> FsResult<()> {
        // To the system call this number means "leave as it is".
        if wanted.uid == Some(u32::MAX) || wanted.gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        let translations = &self.host.config.translations;
        let uid = wanted.uid.map(|uid| translations.users.to_host(uid));
        let gid = wanted.gid.map(|gid| translations.groups.to_host(gid));
        rustix::fs::chownat(
            descriptor,
            c"",
            uid.transpose()?.map(Uid::from_raw),
            gid.transpose()?.map(Gid::from_raw),
            AtFlags::EMPTY_PATH,
        )
    }

    /// What `stat` says, with the inode number and the owner that the guest knows.
    pub(super) fn attributes(&self, stat: &Statx, ino_shown: u64) -> Attributes {
        let translations = &self.host.config.translations;
        Attributes {
            uid: translations.users.to_guest(stat.stx_uid),
            gid: translations.groups.to_guest(stat.stx_gid),
            ..attributes(stat, ino_shown)
        }
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, nodeid: u64) -> FsResult<Vec<u8>> {
        let tables = self.tables();
        let link = tables.resolve(nodeid)?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Whether the caller may use an inode as `mask` (`R_OK`, `W_OK`, `X_OK`) says.
    pub fn access(&self, caller: &Caller, nodeid: u64, mask: u32) -> FsResult<()> {
        let attributes = self.get_attributes(nodeid, None)?;
        let mask = Access::from_bits_retain(mask & 7);
        if mask.contains(Access::WRITE_OK) && self.host.config.readonly {
            return Err(Errno::ROFS);
        }
        let mode = attributes.mode;
        if caller.uid == 0 {
            // Root may do all but execute what nobody may execute.
            let nobody_may = mode & 0o170_111 == FileKind::Regular.mode_bits();
            return if mask.contains(Access::EXEC_OK) && nobody_may {
                Err(Errno::ACCESS)
            } else {
                Ok(())
            };
        }
        let in_group =
            caller.gid == attributes.gid || caller.supplementary_group == Some(attributes.gid);
        let granted = if caller.uid == attributes.uid {
            mode >> 6
        } else if in_group {
            mode >> 3
        } else {
            mode
        };
        if Access::from_bits_retain(granted & 7).contains(mask) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    /// The file system that an inode is on.
    pub fn statfs(&self, nodeid: u64) -> FsResult<Statfs> {
        let tables = self.tables();
        let found = rustix::fs::fstatvfs(tables.resolve(nodeid)?)?;
        let saturated = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Statfs {
            blocks: found.f_blocks,
            bfree: found.f_bfree,
            bavail: found.f_bavail,
            files: found.f_files,
            ffree: found.f_ffree,
            bsize: saturated(found.f_bsize),
            namelen: saturated(found.f_namemax),
            frsize: saturated(found.f_frsize),
        })
    }
}

/// What `stat` says, with the inode number that the guest knows, and the owner as the host does.
fn attributes(stat: &Statx, ino_shown: u64) -> Attributes {
    Attributes {
        ino: ino_shown,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: (stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec),
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        birth: (stat.stx_mask & StatxFlags::BTIME.bits() != 0)
            .then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: kernel_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
    }
}

fn timespec(wanted: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match wanted {
        None => (0, UTIME_OMIT),
        Some(SetTime::Now) => (0, UTIME_NOW),
        // More is for the host to refuse; it must only not become one of the two above.
        Some(SetTime::At(seconds, nanoseconds)) => (seconds, nanoseconds.min(1_000_000_000).into()),
    };
    Timespec { tv_sec, tv_nsec }
}

/// A device number in the kernel's 32-bit form: 12 bits of major between 12 and 8 bits of minor.
pub(crate) fn kernel_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// A device number in the form that the host's calls take, from the kernel's 32-bit form.
pub(crate) fn host_device(device: u32) -> u64 {
    rustix::fs::makedev(
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}
