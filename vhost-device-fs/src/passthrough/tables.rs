//! From nodeids to files: the tables of what the guest knows, and the walk that finds it again on the host.
//!
//! Replaced as a whole when the guest goes, and when a state is loaded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, Statx};
use rustix::io::Errno;

use super::budget::{Budget, Reserved};
use super::handle::Handle;
use super::host::{self, Host};
use super::lock_table::LockTable;
use super::name_locks::NameLocks;
use crate::operations::{FsResult, ROOT_NODEID};
use crate::store::{
    FileKind, HandleTable, Identity, Location, MountTable, Name, NodeStore, Sighting, View,
};

/// Directories that a path may lead through. Far more than any real path has; less than forever, should names that
/// were moved around on the host seem to lead in a circle.
const DEPTH_MAX: usize = 1 << 16;

/// What the guest knows, and where it is on the host.
#[derive(Debug)]
pub(crate) struct Tables {
    /// The way to the host.
    pub(crate) host: Arc<Host>,
    /// The mounts that inodes are on.
    pub(crate) mounts: MountTable,
    /// The inodes.
    pub(crate) nodes: NodeStore,
    /// Open files and directories.
    pub(crate) handles: HandleTable<Handle>,
    /// The guest's locks that others see.
    pub(crate) locks: LockTable,
    /// Locks on names in directories.
    pub(crate) names: NameLocks,
    /// Of descriptors that the guest holds by handles, by inodes without a name, and by locks.
    budget: Budget,
}

impl Tables {
    /// Tables that know the root only, and give `next_handle` as the first handle.
    pub(crate) fn new(host: &Arc<Host>, next_handle: u64) -> FsResult<Self> {
        let mounts = MountTable::default();
        let root = Arc::clone(&host.root);
        let stat = host::stat_descriptor(root.as_fd())?;
        let identity = mounts.identify(&stat, || host::file_system_type(root.as_fd()))?;
        let sighting = sighting(identity, &stat)?;
        let held_max = host.config.descriptors_held_max();
        let cached_max = host.config.descriptors_max - held_max;
        Ok(Self {
            host: Arc::clone(host),
            mounts,
            nodes: NodeStore::new(sighting, root, cached_max),
            handles: HandleTable::new(next_handle),
            locks: LockTable::default(),
            // One of the pinned ones is the root's, which is not the guest's doing.
            budget: Budget::new(usize::try_from(held_max).map_or(usize::MAX, |max| max + 1)),
            names: NameLocks::default(),
        })
    }

    /// Reserves room for `count` more descriptors that the guest holds, until they are in these tables; `ENFILE` if there is
    /// none. The process needs some for itself whatever the guest does: for its sockets, the front-end's rings and a migration.
    pub(crate) fn reserve_descriptors(&self, count: usize) -> FsResult<Reserved<'_>> {
        self.budget.reserve(count, || {
            self.handles.len() + self.nodes.pinned() + self.locks.descriptors()
        })
    }

    /// A descriptor (`O_PATH`) of the inode that `nodeid` means: one at hand, or one opened by its names.
    ///
    /// `ESTALE` if the guest does not know the nodeid, or if no name leads to that very inode any more; `EIO` if
    /// it was lost in a migration.
    pub(crate) fn resolve(&self, nodeid: u64) -> FsResult<Arc<OwnedFd>> {
        if let Some(descriptor) = self.nodes.descriptor(nodeid)? {
            return Ok(descriptor);
        }
        let view = self.nodes.view(nodeid)?;
        let mut result = Err(Errno::STALE);
        for location in view.locations.iter().rev() {
            result = self.resolve_at(nodeid, &view, location);
            if result.is_ok() {
                break;
            }
        }
        result.map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
            other => other,
        })
    }

    /// Walks to `location`: up to the next directory that is at hand, and down again.
    fn resolve_at(&self, nodeid: u64, view: &View, location: &Location) -> FsResult<Arc<OwnedFd>> {
        let mut steps = Vec::new();
        let mut step = (nodeid, view.identity, view.kind, location.clone());
        let mut directory = loop {
            let parent = step.3.parent;
            steps.push(step);
            if let Some(descriptor) = self.nodes.descriptor(parent)? {
                break descriptor;
            }
            if parent == ROOT_NODEID || steps.len() >= DEPTH_MAX {
                return Err(Errno::STALE);
            }
            let view = self.nodes.view(parent)?;
            let location = view.locations.last().cloned().ok_or(Errno::STALE)?;
            step = (parent, view.identity, view.kind, location);
        };
        for (nodeid, identity, kind, location) in steps.into_iter().rev() {
            let descriptor = host::open_path(directory.as_fd(), Name::new(&location.name)?)?;
            let (sighting, _) = self.see_descriptor(descriptor.as_fd())?;
            if sighting != (Sighting { identity, kind }) {
                return Err(Errno::STALE);
            }
            directory = Arc::new(descriptor);
            self.nodes.cache(nodeid, Arc::clone(&directory));
        }
        Ok(directory)
    }

    /// The type of the file system on a mount.
    pub(crate) fn file_system(&self, mount: u32) -> Option<u64> {
        let mounts = self.mounts.all();
        let mount = mounts.get(usize::try_from(mount).ok()?)?;
        Some(mount.file_system)
    }

    /// Puts all file systems below the share on stable storage.
    pub(crate) fn sync(&self) -> FsResult<()> {
        let mut directories = vec![None; self.mounts.all().len()];
        if let [of_root] = directories.as_mut_slice() {
            *of_root = Some(Arc::clone(&self.host.root));
            return sync(&self.host, directories);
        }
        for (nodeid, mount) in self.nodes.directories() {
            let of_mount = usize::try_from(mount)
                .ok()
                .and_then(|mount| directories.get_mut(mount));
            if let Some(found @ None) = of_mount {
                // One that is gone is no reason to fail: another one may be there.
                *found = self.resolve(nodeid).ok();
            }
        }
        sync(&self.host, directories)
    }

    /// What `descriptor` refers to.
    pub(crate) fn see_descriptor(&self, descriptor: BorrowedFd<'_>) -> FsResult<(Sighting, Statx)> {
        let stat = host::stat_descriptor(descriptor)?;
        let identity = self
            .mounts
            .identify(&stat, || host::file_system_type(descriptor))?;
        Ok((sighting(identity, &stat)?, stat))
    }

    /// What `name` in `directory` is.
    pub(crate) fn see_name(
        &self,
        directory: BorrowedFd<'_>,
        name: Name<'_>,
    ) -> FsResult<(Sighting, Statx)> {
        let stat = host::stat_name(directory, name)?;
        let identity = self.mounts.identify(&stat, || {
            host::file_system_type(host::open_path(directory, name)?.as_fd())
        })?;
        Ok((sighting(identity, &stat)?, stat))
    }
}

fn sync(host: &Host, directories: Vec<Option<Arc<OwnedFd>>>) -> FsResult<()> {
    for directory in directories.into_iter().flatten() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::syncfs(host.reopen(directory.as_fd(), flags)?)?;
    }
    Ok(())
}

fn sighting(identity: Identity, stat: &Statx) -> FsResult<Sighting> {
    let kind = FileKind::from_mode(stat.stx_mode.into()).ok_or(Errno::IO)?;
    Ok(Sighting { identity, kind })
}
