//! Names that go or change: UNLINK, RMDIR, RENAME. What the guest still knows when its last name goes keeps a
//! descriptor, for there is no other way to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};

use super::FileSystem;
use super::budget::Reserved;
use super::host;
use super::tables::Tables;
use crate::operations::FsResult;
use crate::store::{Location, Name};

/// An inode that the guest knows and that is about to lose a name.
struct Doomed<'a> {
    nodeid: u64,
    /// A way to it, for when this was its last name.
    pin: Option<Arc<OwnedFd>>,
    /// Room for that.
    _room: Option<Reserved<'a>>,
}

impl FileSystem {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> FsResult<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: u64, name: &[u8]) -> FsResult<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: u64, name: &[u8], flags: AtFlags) -> FsResult<()> {
        self.host.writable()?;
        let tables = self.tables();
        let name = Name::new(name)?;
        let directory = tables.resolve(parent)?;
        let location = Location::new(parent, name);
        let _names = tables.names.change(parent, name);
        let doomed = doomed(&tables, directory.as_fd(), name);
        let _changing = self.changing();
        rustix::fs::unlinkat(&directory, name.bytes(), flags)?;
        if let Some(doomed) = doomed {
            tables
                .nodes
                .remove_location(doomed.nodeid, &location, doomed.pin);
        }
        Ok(())
    }

    /// Gives what is called `name` in `parent` the name `new_name` in `new_parent`. `flags` are those of
    /// `renameat2(2)`.
    pub fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> FsResult<()> {
        self.host.writable()?;
        let tables = self.tables();
        let (name, new_name) = (Name::new(name)?, Name::new(new_name)?);
        let from = tables.resolve(parent)?;
        let to = tables.resolve(new_parent)?;
        let old = Location::new(parent, name);
        let new = Location::new(new_parent, new_name);
        let _names = tables
            .names
            .change_both((parent, name), (new_parent, new_name));
        let moved = known(&tables, from.as_fd(), name);
        let doomed = doomed(&tables, to.as_fd(), new_name);
        let flags = RenameFlags::from_bits_retain(flags);
        let _changing = self.changing();
        rustix::fs::renameat_with(&from, name.bytes(), &to, new_name.bytes(), flags)?;
        let target = doomed.as_ref().map(|doomed| doomed.nodeid);
        if moved == target && moved.is_some() {
            return Ok(()); // Two names of one inode: rename(2) does nothing.
        }
        if let Some(doomed) = doomed {
            if flags.contains(RenameFlags::EXCHANGE) {
                tables.nodes.add_location(doomed.nodeid, old.clone());
            }
            tables
                .nodes
                .remove_location(doomed.nodeid, &new, doomed.pin);
        }
        if let Some(moved) = moved {
            // First the new one, lest it seem to have none.
            tables.nodes.add_location(moved, new);
            tables.nodes.remove_location(moved, &old, None);
        }
        Ok(())
    }
}

/// The nodeid of `name` in `directory`, if the guest knows it.
fn known(tables: &Tables, directory: BorrowedFd<'_>, name: Name<'_>) -> Option<u64> {
    let (sighting, _) = tables.see_name(directory, name).ok()?;
    tables.nodes.nodeid(&sighting.identity)
}

/// Prepares for `name` in `directory` to go. That there is nothing, or no descriptor left, is not an error here: the
/// removal itself will tell, or the inode will be stale.
///
/// Also if it has other names: those may go at the same time, and what is pinned for nothing is let go.
fn doomed<'a>(tables: &'a Tables, directory: BorrowedFd<'_>, name: Name<'_>) -> Option<Doomed<'a>> {
    let nodeid = known(tables, directory, name)?;
    let cached = tables.nodes.descriptor(nodeid).ok()?;
    let room = tables.reserve_descriptors(1).ok();
    let pin = match cached {
        _ if room.is_none() => None,
        Some(descriptor) => Some(descriptor),
        None => host::open_path(directory, name).ok().map(Arc::new),
    };
    Some(Doomed {
        nodeid,
        pin,
        _room: room,
    })
}
