//! What the store knows of one inode, and the shapes in which it tells of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::locations::{Location, Locations};
use crate::store::{FileKind, Identity, Name};

/// Names that are remembered of an inode with many hard links; the newest ones.
pub(super) const LOCATIONS_MAX: usize = 8;

/// An inode of the host that the guest is about to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Which one.
    pub(crate) identity: Identity,
    /// Its type.
    pub(crate) kind: FileKind,
}

/// What the guest is told of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The guest's name for it.
    pub(crate) nodeid: u64,
    /// The inode number that the guest sees; the host's may have changed by a migration.
    pub(crate) ino_shown: u64,
}

/// What never changes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Its type.
    pub(crate) kind: FileKind,
    /// Number of the mount that it is on.
    pub(crate) mount: u32,
    /// The inode number that the guest sees.
    pub(crate) ino_shown: u64,
}

/// A record as it is at a moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Which inode of the host it is.
    pub(crate) identity: Identity,
    /// Its type.
    pub(crate) kind: FileKind,
    /// Its names, the newest last.
    pub(crate) locations: Locations,
}

/// What is known of an inode. There may be millions, so it is small.
#[derive(Debug)]
pub(crate) struct Record {
    /// The guest's name for it.
    pub(crate) nodeid: u64,
    /// Which inode of the host it is.
    pub(crate) identity: Identity,
    /// Its type.
    pub(crate) kind: FileKind,
    /// It could not be found after a migration: every use of it fails with `EIO`.
    pub(crate) lost: bool,
    /// The inode number that the guest sees.
    pub(crate) ino_shown: u64,
    /// Lookups that the guest holds.
    pub(crate) lookups: u64,
    /// Locations that lead through this inode, and open handles of it.
    pub(crate) references: u64,
    /// Its names, the newest last.
    pub(crate) locations: Locations,
    /// The descriptor that is the only way to it, for it has no name left.
    pub(crate) pinned: Option<Arc<OwnedFd>>,
}

impl Record {
    /// An inode with the inode number that the host has for it, and nothing that keeps it alive.
    pub(crate) fn new(nodeid: u64, sighting: Sighting) -> Self {
        Self {
            nodeid,
            identity: sighting.identity,
            kind: sighting.kind,
            lost: false,
            ino_shown: sighting.identity.ino,
            lookups: 0,
            references: 0,
            locations: Locations::None,
            pinned: None,
        }
    }

    /// Whether nothing keeps it alive.
    pub(super) fn is_unused(&self) -> bool {
        self.lookups == 0 && self.references == 0
    }

    /// Whether it is what the guest means by an inode of this type. If the type is another one, the inode number was
    /// given to another file, and that one gets another nodeid.
    pub(super) fn is_of(&self, kind: FileKind) -> bool {
        self.kind == kind && !self.lost
    }

    /// Whether this is where it was found the last time.
    pub(super) fn is_newest_at(&self, parent: u64, name: Name<'_>) -> bool {
        let newest = self.locations.last();
        newest.is_some_and(|newest| newest.parent == parent && *newest.name == *name.bytes())
    }

    /// The guest holds one more lookup of it.
    pub(super) fn look_up(&mut self) -> Known {
        self.lookups = self.lookups.saturating_add(1);
        Known {
            nodeid: self.nodeid,
            ino_shown: self.ino_shown,
        }
    }

    /// Adds a name, and returns the parents of the names that it replaces: a reference to each is to be given up.
    pub(super) fn add_location(&mut self, location: Location) -> Vec<u64> {
        let keep = if self.kind == FileKind::Directory {
            0 // A directory has one name only: it was moved on the host.
        } else {
            LOCATIONS_MAX - 1
        };
        self.locations.change(|locations| {
            let mut replaced = Vec::new();
            if let Some(index) = locations.iter().position(|known| *known == location) {
                // To the end: it is now the newest.
                replaced.push(locations.remove(index).parent);
            }
            let surplus = locations.len().saturating_sub(keep);
            replaced.extend(locations.drain(..surplus).map(|old| old.parent));
            locations.push(location);
            replaced
        })
    }
}
