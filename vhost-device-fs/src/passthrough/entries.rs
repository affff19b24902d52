//! Names that are found and names that are made: LOOKUP, FORGET, MKNOD, MKDIR, SYMLINK, LINK.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Statx};

use super::FileSystem;
use super::attributes::host_device;
use super::host::{self, ProcPath};
use super::tables::Tables;
use crate::operations::{Caller, Entry, Extensions, FsResult};
use crate::store::{FileKind, Location, Name, Sighting};

/// A directory that was found once for all the names that are looked up in it.
#[derive(Debug)]
pub struct Folder<'a> {
    file_system: &'a FileSystem,
    tables: Arc<Tables>,
    descriptor: Arc<OwnedFd>,
    nodeid: u64,
}

impl Folder<'_> {
    /// Like [`FileSystem::lookup`].
    pub fn look_up(&self, name: &[u8]) -> FsResult<Entry> {
        let name = Name::new(name)?;
        let _names = self.tables.names.keep(self.nodeid, name);
        let directory = self.descriptor.as_fd();
        self.file_system
            .enter(&self.tables, directory, self.nodeid, name)
    }
}

/// `FUSE_ATTR_SUBMOUNT`.
const ATTRIBUTE_SUBMOUNT: u32 = 1;

impl FileSystem {
    /// Finds `name` in `parent`. The guest holds one more lookup of what it finds.
    pub fn lookup(&self, _caller: &Caller, parent: u64, name: &[u8]) -> FsResult<Entry> {
        let tables = self.tables();
        let name = Name::new(name)?;
        let directory = tables.resolve(parent)?;
        let _names = tables.names.keep(parent, name);
        self.enter(&tables, directory.as_fd(), parent, name)
    }

    /// The directory `nodeid`, for several lookups in it.
    pub fn folder(&self, nodeid: u64) -> FsResult<Folder<'_>> {
        let tables = self.tables();
        Ok(Folder {
            file_system: self,
            descriptor: tables.resolve(nodeid)?,
            nodeid,
            tables,
        })
    }

    /// The guest gives up `count` lookups of `nodeid`.
    pub fn forget(&self, nodeid: u64, count: u64) {
        self.tables().nodes.forget(nodeid, count);
    }

    /// Makes a regular file, a pipe, a socket or a device node.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of one FUSE request"
    )]
    pub fn make_node(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions<'_>,
    ) -> FsResult<Entry> {
        let kind = FileType::from_raw_mode(mode);
        let device = host_device(rdev);
        let what = (parent, name, mode, umask, extensions);
        self.make(caller, what, |directory, name, permissions| {
            rustix::fs::mknodat(directory, name.bytes(), kind, permissions, device)
        })
    }

    /// Makes a directory.
    pub fn make_directory(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        extensions: Extensions<'_>,
    ) -> FsResult<Entry> {
        let what = (parent, name, mode, umask, extensions);
        self.make(caller, what, |directory, name, permissions| {
            rustix::fs::mkdirat(directory, name.bytes(), permissions)
        })
    }

    /// Makes a symbolic link. Its target is the guest's text: nothing here ever follows it.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
        extensions: Extensions<'_>,
    ) -> FsResult<Entry> {
        let what = (parent, name, 0o777, 0, extensions);
        self.make(caller, what, |directory, name, _| {
            rustix::fs::symlinkat(target, directory, name.bytes())
        })
    }

    /// Gives the inode `nodeid` another name.
    pub fn link(&self, nodeid: u64, new_parent: u64, new_name: &[u8]) -> FsResult<Entry> {
        self.host.writable()?;
        let tables = self.tables();
        let name = Name::new(new_name)?;
        let inode = tables.resolve(nodeid)?;
        let directory = tables.resolve(new_parent)?;
        let _names = tables.names.keep(new_parent, name);
        let _changing = self.changing();
        // By way of /proc, because AT_EMPTY_PATH needs a privilege that we may not have.
        rustix::fs::linkat(
            CWD,
            ProcPath::new(inode.as_fd()).as_c_str(),
            &directory,
            name.bytes(),
            AtFlags::SYMLINK_FOLLOW,
        )?;
        self.enter(&tables, directory.as_fd(), new_parent, name)
    }

    /// Makes something by `work`, as the caller, and enters it: where, its name, mode and mask, and what comes with it.
    fn make(
        &self,
        caller: &Caller,
        (parent, name, mode, umask, extensions): (u64, &[u8], u32, u32, Extensions<'_>),
        work: impl FnOnce(BorrowedFd<'_>, Name<'_>, Mode) -> FsResult<()>,
    ) -> FsResult<Entry> {
        self.host.writable()?;
        let tables = self.tables();
        let name = Name::new(name)?;
        let directory = tables.resolve(parent)?;
        let _names = tables.names.keep(parent, name);
        let _changing = self.changing();
        self.creating(caller, mode, umask, |permissions| {
            work(directory.as_fd(), name, permissions)
        })?;
        // Without a label no descriptor is needed, so there is none to run out of when it is too late.
        if extensions.security_context.is_some()
            && let Err(errno) = host::open_path(directory.as_fd(), name)
                .and_then(|made| self.label(made.as_fd(), extensions))
        {
            // Nothing may exist without the label that the guest's policy wants on it.
            let (sighting, _) = tables.see_name(directory.as_fd(), name)?;
            let is_directory = sighting.kind == FileKind::Directory;
            let flags = if is_directory {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            rustix::fs::unlinkat(&directory, name.bytes(), flags)?;
            return Err(errno);
        }
        self.enter(&tables, directory.as_fd(), parent, name)
    }

    /// Enters `name` in `directory`, as it is on the host, into what the guest knows.
    pub(super) fn enter(
        &self,
        tables: &Tables,
        directory: BorrowedFd<'_>,
        parent: u64,
        name: Name<'_>,
    ) -> FsResult<Entry> {
        let (sighting, stat) = tables.see_name(directory, name)?;
        self.entry(tables, sighting, &stat, Some((parent, name)))
    }

    /// Enters what was just made or opened as `name` in `parent`.
    pub(super) fn enter_descriptor(
        &self,
        tables: &Tables,
        descriptor: &OwnedFd,
        parent: u64,
        name: Name<'_>,
    ) -> FsResult<Entry> {
        let (sighting, stat) = tables.see_descriptor(descriptor.as_fd())?;
        self.entry(tables, sighting, &stat, Some((parent, name)))
    }

    /// The guest holds one more lookup of what was seen.
    pub(super) fn entry(
        &self,
        tables: &Tables,
        sighting: Sighting,
        stat: &Statx,
        place: Option<(u64, Name<'_>)>,
    ) -> FsResult<Entry> {
        let is_submount = match place {
            Some((parent, _)) if sighting.kind == FileKind::Directory => {
                self.host.config.announce_submounts
                    && self.session().is_some_and(|session| session.submounts())
                    && tables.nodes.traits(parent)?.mount != sighting.identity.mount
            }
            _ => false,
        };
        let again =
            place.and_then(|(parent, name)| tables.nodes.found_again(sighting, parent, name));
        let known = if let Some(known) = again {
            known
        } else {
            let location = place.map(|(parent, name)| Location::new(parent, name));
            tables.nodes.found(sighting, location)?
        };
        Ok(Entry {
            nodeid: known.nodeid,
            generation: 0, // A nodeid is never given twice.
            attributes: self.attributes(stat, known.ino_shown),
            attribute_flags: if is_submount { ATTRIBUTE_SUBMOUNT } else { 0 },
        })
    }
}
