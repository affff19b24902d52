//! One inode after the other in as few bytes as it needs: most of what it is, the one before it was, too.
//!
//! ```text
//! nodeid            difference from the inode before
//! kind, lost        (S_IFMT bits >> 12) * 2, and 1 if it is lost
//! mount             difference from the inode before
//! ino               likewise
//! birth_ns          likewise
//! ino_shown         difference from ino
//! lookups           number
//! names             how many follow
//!   parent          difference from the name before, of this inode or of an earlier one
//!   length          number of bytes
//!   name            the bytes
//! ```
//!
//! All are [numbers](super::number). Before the first inode of a section, everything is 0, so each section can be read by itself.
//! Knows not what makes an inode sound: any that can be put is given back.

use std::fmt::{Debug, Formatter};

use super::number::{put, put_difference, take, take_difference};
use super::{Node, PackedError};
use crate::state::{LocationV1, NodeV1};

/// The type in `S_IFMT` bits stands above these.
const KIND_SHIFT: u32 = 12;

/// What the next inode is told as a difference from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    nodeid: u64,
    mount: u64,
    ino: u64,
    birth_ns: u64,
    parent: u64,
}

/// The names of an inode of a table.
#[derive(Clone, Copy)]
pub struct Locations<'a> {
    count: usize,
    /// The names, which are whole, and maybe more.
    packed: &'a [u8],
    /// The parent of the name before.
    parent: u64,
}

/// Appends `node` to `bytes`, the last of which is the one that `before` is of.
pub(super) fn pack<L, N>(bytes: &mut Vec<u8>, before: &mut Before, node: NodeV1<L>)
where
    L: IntoIterator<Item = LocationV1<N>, IntoIter: ExactSizeIterator>,
    N: AsRef<[u8]>,
{
    let NodeV1 {
        nodeid,
        kind,
        mount,
        ino,
        birth_ns,
        ino_shown,
        lookups,
        locations,
        lost,
    } = node;
    let mount = mount.into();
    let kind = u64::from(kind.rotate_right(KIND_SHIFT));
    let locations = locations.into_iter();
    put_difference(bytes, nodeid, before.nodeid);
    put(bytes, kind << 1 | u64::from(lost));
    put_difference(bytes, mount, before.mount);
    put_difference(bytes, ino, before.ino);
    put_difference(bytes, birth_ns, before.birth_ns);
    put_difference(bytes, ino_shown, ino);
    put(bytes, lookups);
    put(bytes, locations.len() as u64);
    let mut latest = before.parent;
    for LocationV1 { parent, name } in locations {
        let name = name.as_ref();
        put_difference(bytes, parent, latest);
        put(bytes, name.len() as u64);
        bytes.extend_from_slice(name);
        latest = parent;
    }
    *before = Before {
        nodeid,
        mount,
        ino,
        birth_ns,
        parent: latest,
    };
}

/// Takes the inode at the beginning of `bytes` from them.
#[inline]
pub(super) fn unpack<'a>(
    bytes: &mut &'a [u8],
    before: &mut Before,
) -> Result<Node<'a>, PackedError> {
    let nodeid = take_difference(bytes, before.nodeid)?;
    let kind = take(bytes)?;
    let mount = take_difference(bytes, before.mount)?;
    let ino = take_difference(bytes, before.ino)?;
    let birth_ns = take_difference(bytes, before.birth_ns)?;
    let ino_shown = take_difference(bytes, ino)?;
    let lookups = take(bytes)?;
    let count = take(bytes)?;
    let packed = *bytes;
    let mut parent = before.parent;
    // Each takes bytes, so that this ends long before a forged count does.
    for _ in 0..count {
        parent = unpack_name(bytes, parent)?.parent;
    }
    let node = NodeV1 {
        nodeid,
        kind: narrow(kind >> 1)?.rotate_left(KIND_SHIFT),
        mount: narrow(mount)?,
        ino,
        birth_ns,
        ino_shown,
        lookups,
        locations: Locations {
            count: usize::try_from(count).map_err(|_| PackedError::Cut)?,
            packed,
            parent: before.parent,
        },
        lost: kind & 1 == 1,
    };
    *before = Before {
        nodeid,
        mount,
        ino,
        birth_ns,
        parent,
    };
    Ok(node)
}

#[inline]
fn unpack_name<'a>(bytes: &mut &'a [u8], before: u64) -> Result<LocationV1<&'a [u8]>, PackedError> {
    let parent = take_difference(bytes, before)?;
    let length = usize::try_from(take(bytes)?).map_err(|_| PackedError::Cut)?;
    let (name, rest) = bytes.split_at_checked(length).ok_or(PackedError::Cut)?;
    *bytes = rest;
    Ok(LocationV1 { parent, name })
}

fn narrow(number: u64) -> Result<u32, PackedError> {
    number.try_into().map_err(|_| PackedError::Number)
}

impl<'a> Locations<'a> {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The newest name.
    pub fn last(&self) -> Option<LocationV1<&'a [u8]>> {
        self.iter().last()
    }

    /// All names, the newest last.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = LocationV1<&'a [u8]>> + use<'a> {
        LocationsIter { left: *self }
    }
}

/// Gives the names of an inode.
struct LocationsIter<'a> {
    left: Locations<'a>,
}

impl<'a> Iterator for LocationsIter<'a> {
    type Item = LocationV1<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = &mut self.left;
        left.count = left.count.checked_sub(1)?;
        let location = unpack_name(&mut left.packed, left.parent).ok()?; // they are whole
        left.parent = location.parent;
        Some(location)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.count, Some(self.left.count))
    }
}

impl ExactSizeIterator for LocationsIter<'_> {}

impl PartialEq for Locations<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Locations<'_> {}

impl Debug for Locations<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}
