//! The table of inodes, in memory as it lies in a stream: a guest may know millions of them.
//!
//! Knows how inodes become a table, and not what makes one sound.

mod finder;
mod number;
mod packed;
mod version_1;

use std::fmt::{Debug, Formatter};

use common::state::{Section, StateError};

pub use self::finder::{Found, NodeFinder};
pub use self::packed::Locations;
use self::packed::{Before, pack, unpack};
use self::version_1::Few;
use super::{LocationV1, NodeV1};

/// Inodes in one state: as many as a guest can make a back-end of ours keep.
pub(super) const NODES_MAX: usize = 1 << 24;
/// Names that are remembered of one inode.
pub(super) const LOCATIONS_MAX: usize = 8;
/// A piece gets no more inodes when it has this many bytes, and room for more: a section of it and a few names fits into a pipe.
const PIECE_BYTES: usize = 60 << 10;
const PIECE_ROOM: usize = PIECE_BYTES + (2 << 10);

/// An inode of a [`NodeTable`].
pub type Node<'a> = NodeV1<Locations<'a>>;

/// Why the bytes of a section are no inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PackedError {
    #[error("it ends within an inode")]
    Cut,
    #[error("a number in it is too large, or takes more bytes than it needs")]
    Number,
    #[error("with it there are more than {0} inodes")]
    TooMany(usize),
    #[error("an inode of it has {0} names, more than {LOCATIONS_MAX}")]
    Names(usize),
}

/// A table of [`NodeV1`].
#[derive(Clone, Default)]
pub struct NodeTable {
    /// Payloads of sections; all are whole.
    pieces: Vec<Vec<u8>>,
    count: usize,
    /// What the next inode of the last piece is told as a difference from.
    before: Before,
}

impl NodeTable {
    /// Adds an inode at the end.
    pub fn push<L, N>(&mut self, node: NodeV1<L>)
    where
        L: IntoIterator<Item = LocationV1<N>, IntoIter: ExactSizeIterator>,
        N: AsRef<[u8]>,
    {
        let last = self.pieces.last_mut();
        if let Some(piece) = last.filter(|piece| piece.len() < PIECE_BYTES) {
            pack(piece, &mut self.before, node);
        } else {
            let mut piece = Vec::with_capacity(PIECE_ROOM);
            self.before = Before::default();
            pack(&mut piece, &mut self.before, node);
            self.pieces.push(piece);
        }
        self.count += 1;
    }

    /// Adds the inodes of a section, of which there are at most `count_max` in all then.
    pub(super) fn read(&mut self, section: Section, count_max: usize) -> Result<(), StateError> {
        let mut before = Before::default();
        let mut rest = section.bytes();
        while !rest.is_empty() {
            let node = unpack(&mut rest, &mut before).map_err(|error| section.malformed(error))?;
            let names = node.locations.len();
            if names > LOCATIONS_MAX {
                return Err(section.malformed(PackedError::Names(names)));
            }
            if self.count >= count_max {
                return Err(section.malformed(PackedError::TooMany(count_max)));
            }
            self.count += 1;
        }
        self.pieces.push(section.into_bytes());
        self.before = before;
        Ok(())
    }

    /// Adds the inodes of a section as versions 1 and 2 of the state have it.
    pub(super) fn read_version_1(&mut self, section: &Section) -> Result<(), StateError> {
        section.decode_items(self.count, NODES_MAX, |node: NodeV1<Few>| self.push(node))
    }

    /// The payloads of its sections; at least one.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let empty = self.pieces.is_empty().then_some(&[][..]);
        self.pieces.iter().map(Vec::as_slice).chain(empty)
    }

    /// All inodes, with names of their own.
    pub(super) fn owned(&self) -> impl Iterator<Item = NodeV1> {
        self.iter().map(|node| node.owned())
    }

    /// All inodes, to be changed one by one.
    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<NodeV1> {
        self.owned().collect()
    }

    /// Number of inodes.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All inodes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Node<'_>> {
        Nodes {
            pieces: self.pieces.iter(),
            rest: &[],
            before: Before::default(),
        }
    }
}

/// Gives the inodes of a table.
struct Nodes<'a> {
    pieces: std::slice::Iter<'a, Vec<u8>>,
    /// What is left of a piece.
    rest: &'a [u8],
    before: Before,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Node<'a>;

    #[inline]
    fn next(&mut self) -> Option<Node<'a>> {
        while self.rest.is_empty() {
            self.rest = self.pieces.next()?;
            self.before = Before::default();
        }
        unpack(&mut self.rest, &mut self.before).ok() // they are whole
    }
}

impl PartialEq for NodeTable {
    /// The same inodes; where pieces end means nothing.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for NodeTable {}

impl Debug for NodeTable {
    /// As a vector of [`NodeV1`].
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl<L, N> FromIterator<NodeV1<L>> for NodeTable
where
    L: IntoIterator<Item = LocationV1<N>, IntoIter: ExactSizeIterator>,
    N: AsRef<[u8]>,
{
    fn from_iter<I: IntoIterator<Item = NodeV1<L>>>(nodes: I) -> Self {
        let mut table = Self::default();
        for node in nodes {
            table.push(node);
        }
        table
    }
}

impl Node<'_> {
    /// The same with names of its own.
    fn owned(&self) -> NodeV1 {
        let node = self;
        let owned = |LocationV1 { parent, name }: LocationV1<&[u8]>| LocationV1 {
            parent,
            name: name.to_vec(),
        };
        NodeV1 {
            nodeid: node.nodeid,
            kind: node.kind,
            mount: node.mount,
            ino: node.ino,
            birth_ns: node.birth_ns,
            ino_shown: node.ino_shown,
            lookups: node.lookups,
            locations: node.locations.iter().map(owned).collect(),
            lost: node.lost,
        }
    }
}

#[cfg(test)]
mod tests;
