//! Inodes without a name, made anew on this host. Nothing of them is left when they are closed.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::operations::FsResult;
use crate::passthrough::{Host, ProcPath, Tables, host_device, open_path};
use crate::state::{FsState, OrphanV1, TimeV1};
use crate::store::{FileKind, Identity, Name};

/// Every file of an NFS has one, which says what its mode says until somebody changes it. Other file systems have none to compare
/// with, and copies of named files lose it there, too.
const NFS_ACL: &[u8] = b"system.nfs4_acl";

/// The orphans of a state, each with its part of the data.
pub(super) struct Data<'a> {
    orphans: std::slice::Iter<'a, OrphanV1>,
    rest: &'a [u8],
}

impl<'a> Data<'a> {
    pub(super) fn of(state: &'a FsState) -> Self {
        Self {
            orphans: state.orphans.iter(),
            rest: &state.orphan_data,
        }
    }
}

impl<'a> Iterator for Data<'a> {
    type Item = (u64, (&'a OrphanV1, &'a [u8]));

    fn next(&mut self) -> Option<Self::Item> {
        let orphan = self.orphans.next()?;
        let bytes: u64 = orphan.extents.iter().map(|extent| extent.length).sum();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let (data, rest) = self
            .rest
            .split_at_checked(bytes)
            .unwrap_or((self.rest, &[]));
        self.rest = rest;
        Some((orphan.nodeid, (orphan, data)))
    }
}

/// Makes an orphan. Returns the only way to it.
pub(super) fn recreate(
    tables: &Tables,
    orphan: &OrphanV1,
    data: &[u8],
) -> FsResult<(Arc<OwnedFd>, Identity)> {
    let host = &tables.host;
    host.writable()?;
    let kind = FileKind::from_mode(orphan.mode).ok_or(Errno::INVAL)?;
    let root = host.root.as_fd();
    let mode = Mode::from_raw_mode(0o600);
    let descriptor = match kind {
        FileKind::Regular => {
            let file = nameless_file(host, orphan.nodeid)?;
            fill(&file, orphan, data)?;
            host.reopen(file.as_fd(), OFlags::PATH)?
        }
        FileKind::Directory => nameless(host, orphan.nodeid, |name| {
            rustix::fs::mkdirat(root, name.bytes(), mode)
        })?,
        FileKind::Symlink => nameless(host, orphan.nodeid, |name| {
            rustix::fs::symlinkat(data, root, name.bytes())
        })?,
        FileKind::Fifo | FileKind::Socket | FileKind::CharacterDevice | FileKind::BlockDevice => {
            nameless(host, orphan.nodeid, |name| {
                let kind = FileType::from_raw_mode(kind.mode_bits());
                rustix::fs::mknodat(root, name.bytes(), kind, mode, host_device(orphan.rdev))
            })?
        }
    };
    set_attributes(descriptor.as_fd(), orphan)?;
    let (sighting, _) = tables.see_descriptor(descriptor.as_fd())?;
    Ok((Arc::new(descriptor), sighting.identity))
}

/// A regular file that never has a name, or at most for a moment where the file system has no such files.
fn nameless_file(host: &Host, nodeid: u64) -> FsResult<OwnedFd> {
    let mode = Mode::from_raw_mode(0o600);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let path = ProcPath::new(host.root.as_fd());
    match rustix::fs::openat(CWD, path.as_c_str(), flags, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let descriptor = nameless(host, nodeid, |name| {
                rustix::fs::mknodat(&host.root, name.bytes(), FileType::RegularFile, mode, 0)
            })?;
            host.reopen(descriptor.as_fd(), OFlags::RDWR)
        }
        result => result,
    }
}

/// Makes something by `make`, opens it and takes its name away again.
fn nameless(
    host: &Host,
    nodeid: u64,
    make: impl Fn(Name<'_>) -> FsResult<()>,
) -> FsResult<OwnedFd> {
    let process = rustix::process::getpid().as_raw_nonzero();
    let text = format!(".vhost-device-fs-{process}-{nodeid}");
    let name = Name::new(text.as_bytes())?;
    make(name)?;
    let opened = open_path(host.root.as_fd(), name);
    rustix::fs::unlinkat(&host.root, name.bytes(), AtFlags::empty())
        .or_else(|_| rustix::fs::unlinkat(&host.root, name.bytes(), AtFlags::REMOVEDIR))?;
    opened
}

fn fill(file: &OwnedFd, orphan: &OrphanV1, data: &[u8]) -> FsResult<()> {
    let mut rest = data;
    for extent in &orphan.extents {
        let length = usize::try_from(extent.length).map_err(|_| Errno::FBIG)?;
        let (mut now, later) = rest.split_at_checked(length).ok_or(Errno::INVAL)?;
        rest = later;
        let mut offset = extent.offset;
        while !now.is_empty() {
            let written = rustix::io::pwrite(file, now, offset)?;
            offset += written as u64;
            now = now.get(written..).unwrap_or_default();
        }
    }
    rustix::fs::ftruncate(file, orphan.size)
}

/// Takes away what the place where an orphan was made anew has given to it.
fn remove_inherited_acls(path: &CStr) -> FsResult<()> {
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        match rustix::fs::removexattr(path, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn set_attributes(descriptor: BorrowedFd<'_>, orphan: &OrphanV1) -> FsResult<()> {
    let OrphanV1 {
        nodeid: _,
        mode,
        uid,
        gid,
        rdev: _, // made with it
        size: _,
        atime,
        mtime,
        xattrs,
        extents: _,
    } = orphan;
    let path = ProcPath::new(descriptor);
    let path = path.as_c_str();
    remove_inherited_acls(path)?;
    let owner = Some(Uid::from_raw(*uid));
    let group = Some(Gid::from_raw(*gid));
    rustix::fs::chownat(descriptor, c"", owner, group, AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(*mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    }
    for xattr in xattrs {
        let name = xattr.name.as_slice();
        match rustix::fs::setxattr(path, name, &xattr.value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) if name == NFS_ACL => {}
            result => result?,
        }
    }
    let time = |time: &TimeV1| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time(atime),
        last_modification: time(mtime),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())
}
