//! Inodes without a name: how they are found, and what of them travels.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom, Statx};
use rustix::io::Errno;

use crate::passthrough::{Handle, ProcPath, Tables, Target, stat_descriptor};
use crate::state::{ExtentV1, OrphanV1, TimeV1, XattrV1};
use crate::store::{FileKind, Record};
use crate::xattr_map::XattrMap;

/// An inode cannot be taken along.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OrphanError {
    /// It has names on the host, and the guest has told us none of them.
    #[error(
        "host: nodeid {nodeid} has {names} names left that the guest never used, so a destination cannot find it"
    )]
    UnknownNames {
        /// The guest's name for it.
        nodeid: u64,
        /// Number of names.
        names: u32,
    },
    /// The unlinked files are too large together.
    #[error(
        "host: nodeid {nodeid} is unlinked and its data and attributes do not fit into what is left of --migration-orphan-bytes-max ({left} bytes)"
    )]
    TooLarge {
        /// The guest's name for it.
        nodeid: u64,
        /// Bytes that are left for it.
        left: u64,
    },
    /// The host refused something.
    #[error("host: nodeid {nodeid} is unlinked and cannot be read")]
    Host {
        /// The guest's name for it.
        nodeid: u64,
        /// Why.
        #[source]
        source: Errno,
    },
    /// What the guest wrote could not be put on stable storage.
    #[error("host: what the guest wrote cannot be synced")]
    Sync(#[source] Errno),
}

/// A way to an orphan.
pub(super) enum Way<'a> {
    Pinned(Arc<OwnedFd>),
    Open(BorrowedFd<'a>),
}

impl Way<'_> {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pinned(descriptor) => descriptor.as_fd(),
            Self::Open(descriptor) => *descriptor,
        }
    }
}

/// A way to the inode, if it is one that has lost its last name, through the guest or behind our back.
pub(super) fn find<'a>(
    tables: &Tables,
    record: &Record,
    handle: Option<&'a Handle>,
) -> Result<Option<Way<'a>>, OrphanError> {
    let nodeid = record.nodeid;
    let names = |descriptor| {
        names_left(tables, record, descriptor)
            .map_err(|source| OrphanError::Host { nodeid, source })
    };
    if let (true, Some(pinned)) = (record.locations.is_empty(), &record.pinned) {
        let names = names(pinned.as_fd())?;
        // Directories count their names differently on each file system; they have one or none.
        if names > 0 && record.kind != FileKind::Directory {
            return Err(OrphanError::UnknownNames { nodeid, names });
        }
        return Ok(Some(Way::Pinned(Arc::clone(pinned))));
    }
    match handle.map(|handle| &handle.target) {
        Some(Target::File(file)) if names(file.as_fd())? == 0 => Ok(Some(Way::Open(file.as_fd()))),
        Some(Target::Directory(directory)) if record.locations.is_empty() => {
            Ok(Some(Way::Open(directory.descriptor())))
        }
        Some(Target::File(_) | Target::Directory(_) | Target::Lost) | None
            if record.locations.is_empty() =>
        {
            // Without a way: nothing was left to pin it with.
            Err(OrphanError::Host {
                nodeid,
                source: Errno::STALE,
            })
        }
        _ => Ok(None),
    }
}

/// How many names the inode has. Not counted is the one that an NFS client gives to what is removed and still in use, and takes
/// away when we close it; unless the guest uses that name.
fn names_left(tables: &Tables, record: &Record, descriptor: BorrowedFd<'_>) -> Result<u32, Errno> {
    let stat = stat_descriptor(descriptor)?;
    let names = stat.stx_nlink;
    if names == 0 || !tables.mounts.is_nfs(record.identity.mount) {
        return Ok(names);
    }
    let name = tables.host.file_name(descriptor)?;
    let is_known = record.locations.iter().any(|known| *known.name == *name);
    let is_removed = is_name_of_the_removed(&name, stat.stx_ino) && !is_known;
    Ok(names - u32::from(is_removed))
}

/// Whether it is what an NFS client calls an inode that is removed (`nfs_sillyrename` of Linux): `.nfs`, the inode's number in 16 digits, a
/// counter in 8. A name that a user has given may well begin like that.
fn is_name_of_the_removed(name: &[u8], ino: u64) -> bool {
    let digits = b"0123456789abcdef";
    name.strip_prefix(format!(".nfs{ino:016x}").as_bytes())
        .is_some_and(|counter| {
            counter.len() == 8 && counter.iter().all(|byte| digits.contains(byte))
        })
}

/// Orphans, and their data.
pub(super) struct Captured {
    pub(super) orphans: Vec<OrphanV1>,
    pub(super) data: Vec<u8>,
    /// Size of the names and values of all extended attributes, in bytes.
    xattr_bytes: u64,
    bytes_max: u64,
}

impl Captured {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            orphans: Vec::new(),
            data: Vec::new(),
            xattr_bytes: 0,
            bytes_max,
        }
    }

    /// Takes along what `descriptor` refers to; nothing of it on an error.
    pub(super) fn take(
        &mut self,
        tables: &Tables,
        record: &Record,
        descriptor: BorrowedFd<'_>,
        with_xattrs: bool,
    ) -> Result<(), OrphanError> {
        let nodeid = record.nodeid;
        let before = (self.data.len(), self.xattr_bytes);
        let taken = self.take_parts(tables, record, descriptor, with_xattrs);
        if let Ok(Some(orphan)) = taken {
            self.orphans.push(orphan);
            return Ok(());
        }
        self.data.truncate(before.0);
        self.xattr_bytes = before.1;
        let left = self.left();
        Err(match taken {
            Err(source) => OrphanError::Host { nodeid, source },
            Ok(_) => OrphanError::TooLarge { nodeid, left },
        })
    }

    fn left(&self) -> u64 {
        let taken = self.xattr_bytes + self.data.len() as u64;
        self.bytes_max.saturating_sub(taken)
    }

    /// `None` if there is not enough room.
    fn take_parts(
        &mut self,
        tables: &Tables,
        record: &Record,
        descriptor: BorrowedFd<'_>,
        with_xattrs: bool,
    ) -> Result<Option<OrphanV1>, Errno> {
        let stat = stat_descriptor(descriptor)?;
        let mut size = 0;
        let mut extents = Vec::new();
        match record.kind {
            FileKind::Regular => {
                size = stat.stx_size;
                let file = tables.host.reopen_unnoticed(descriptor, OFlags::empty())?;
                match self.take_data(&file, size)? {
                    Some(found) => extents = found,
                    None => return Ok(None),
                }
            }
            FileKind::Symlink => {
                let target = rustix::fs::readlinkat(descriptor, c"", Vec::new())?.into_bytes();
                size = target.len() as u64;
                if size > self.left() {
                    return Ok(None);
                }
                extents.push(ExtentV1 {
                    offset: 0,
                    length: size,
                });
                self.data.extend_from_slice(&target);
            }
            FileKind::Directory
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharacterDevice
            | FileKind::BlockDevice => {}
        }
        let xattrs = if with_xattrs {
            self.take_xattrs(descriptor, tables.host.config.xattr_map.as_ref())?
        } else {
            Some(Vec::new())
        };
        Ok(xattrs.map(|xattrs| orphan(record.nodeid, &stat, size, extents, xattrs)))
    }

    /// Those that the guest sees: the others are this host's business. `None` if there is not enough room.
    fn take_xattrs(
        &mut self,
        descriptor: BorrowedFd<'_>,
        map: Option<&XattrMap>,
    ) -> Result<Option<Vec<XattrV1>>, Errno> {
        let path = ProcPath::new(descriptor);
        let mut names = Vec::with_capacity(65_536);
        rustix::fs::listxattr(path.as_c_str(), rustix::buffer::spare_capacity(&mut names))?;
        let mut xattrs = Vec::new();
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && map.is_none_or(|map| map.to_guest(name).is_some()))
        {
            let mut value = Vec::with_capacity(65_536);
            rustix::fs::getxattr(
                path.as_c_str(),
                name,
                rustix::buffer::spare_capacity(&mut value),
            )?;
            value.shrink_to_fit();
            let bytes = (name.len() + value.len()) as u64;
            if bytes > self.left() {
                return Ok(None);
            }
            self.xattr_bytes += bytes;
            xattrs.push(XattrV1 {
                name: name.to_vec(),
                value,
            });
        }
        Ok(Some(xattrs))
    }

    fn take_data(&mut self, file: &OwnedFd, size: u64) -> Result<Option<Vec<ExtentV1>>, Errno> {
        let mut extents = Vec::new();
        let mut position = 0;
        while position < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
                Ok(start) => start.min(size),
                Err(Errno::NXIO) => break, // Nothing but a hole until the end.
                Err(errno) => return Err(errno),
            };
            let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
            if end <= start {
                break;
            }
            if end - start > self.left() {
                return Ok(None);
            }
            let length = self.read_extent(file, start, end)?;
            if length > 0 {
                extents.push(ExtentV1 {
                    offset: start,
                    length,
                });
            }
            position = end;
        }
        Ok(Some(extents))
    }

    /// Reads from `start` to `end`; less if the file is being cut off on the host.
    fn read_extent(&mut self, file: &OwnedFd, start: u64, end: u64) -> Result<u64, Errno> {
        let mut chunk = vec![0; 1 << 20];
        let mut position = start;
        while position < end {
            let wanted =
                usize::try_from(end - position).map_or(chunk.len(), |w| w.min(chunk.len()));
            let target = chunk.get_mut(..wanted).unwrap_or_default();
            let read = rustix::io::pread(file, &mut *target, position)?;
            if read == 0 {
                break;
            }
            self.data.extend(target.iter().take(read));
            position += read as u64;
        }
        Ok(position - start)
    }
}

fn orphan(
    nodeid: u64,
    stat: &Statx,
    size: u64,
    extents: Vec<ExtentV1>,
    xattrs: Vec<XattrV1>,
) -> OrphanV1 {
    let time = |time: rustix::fs::StatxTimestamp| TimeV1 {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    };
    OrphanV1 {
        nodeid,
        mode: stat.stx_mode.into(),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: crate::passthrough::kernel_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        size,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        xattrs,
        extents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_name_that_a_client_makes_is_one_of_the_removed() {
        let is = |name: &str| is_name_of_the_removed(name.as_bytes(), 0x2_0045);
        assert!(is(".nfs000000000002004500000001"));
        assert!(is(".nfs0000000000020045deadbeef"));
        for name in [
            "",
            ".nfs",
            ".nfs-notes",
            "nfs000000000002004500000001",
            ".nfs000000000002004600000001",
            ".nfs00000000000200450000001",
            ".nfs0000000000020045000000012",
            ".nfs0000000000020045DEADBEEF",
            ".nfs00000000000200450000000g",
            ".nfs0000000000020045+0000001",
        ] {
            assert!(!is(name), "{name}");
        }
        assert!(is_name_of_the_removed(
            b".nfsffffffffffffffff00000001",
            u64::MAX
        ));
    }
}
