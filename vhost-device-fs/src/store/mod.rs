//! What the guest knows: inodes by nodeid, where to find them again, and what is open.
//!
//! Knows identities, names and descriptors, and makes no system call beside closing a descriptor: finding and
//! opening files is `passthrough/`'s work. Everything here is made to be saved by a walk of memory.
//!
//! ```text
//! nodeid -> record { identity, kind, lookups, references, locations [(parent nodeid, name)], pinned descriptor }
//! identity (mount, inode number, birth) -> nodeid
//! nodeid -> O_PATH descriptor, in a bounded cache
//! handle -> open file or directory
//! owner in the guest -> ranges that it has locked
//! ```

mod descriptors;
mod handles;
mod hash;
mod identity;
mod mounts;
mod names;
mod nodes;
mod ranges;

pub(crate) use handles::{HandleTable, Numbered};
pub(crate) use identity::{FileKind, Identity, STATX_WANTED};
pub(crate) use mounts::MountTable;
pub(crate) use names::Name;
pub(crate) use nodes::{Location, NodeStore, Record, Sighting, View};
pub(crate) use ranges::{Range, Ranges};
