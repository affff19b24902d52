//! The table of inodes, in memory without an allocation for each: a guest may know millions of them.
//!
//! Knows how [`NodeV1`] lies on the wire and in memory, and not what makes one sound.

use std::fmt::{Debug, Formatter};

use common::state::{Section, StateError};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{LocationV1, NodeV1};

/// Inodes in one state: as many as a guest can make a back-end of ours keep.
const NODES_MAX: usize = 1 << 24;
/// What room is made for in a name, in bytes.
const NAME_BYTES_USUAL: usize = 24;
/// Names that are remembered of one inode.
pub(super) const LOCATIONS_MAX: usize = 8;

/// An inode of a [`NodeTable`].
pub type Node<'a> = NodeV1<Locations<'a>>;

/// A table of [`NodeV1`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NodeTable {
    rows: Vec<Row>,
    /// The names of the first inode, then those of the second one.
    places: Vec<Place>,
    /// The bytes of the first name, then those of the second one.
    names: Vec<u8>,
}

/// What an inode has one of, and where its names end in the table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    nodeid: u64,
    ino: u64,
    birth_ns: u64,
    ino_shown: u64,
    lookups: u64,
    kind: u32,
    mount: u32,
    places_end: usize,
    lost: bool,
}

/// A directory, and where the name in it ends among the bytes of all names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    parent: u64,
    name_end: usize,
}

/// The names of an inode of a table.
#[derive(Clone, Copy)]
pub struct Locations<'a> {
    places: &'a [Place],
    /// Where the first name begins.
    start: usize,
    names: &'a [u8],
}

impl NodeTable {
    /// An empty table with room for so many inodes of one usual name each.
    pub fn with_capacity(nodes: usize) -> Self {
        Self {
            rows: Vec::with_capacity(nodes),
            places: Vec::with_capacity(nodes),
            names: Vec::with_capacity(nodes * NAME_BYTES_USUAL),
        }
    }

    /// Adds an inode at the end.
    pub fn push<L, N>(&mut self, node: NodeV1<L>)
    where
        L: IntoIterator<Item = LocationV1<N>>,
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
        for LocationV1 { parent, name } in locations {
            self.names.extend_from_slice(name.as_ref());
            let name_end = self.names.len();
            self.places.push(Place { parent, name_end });
        }
        self.rows.push(Row {
            nodeid,
            ino,
            birth_ns,
            ino_shown,
            lookups,
            kind,
            mount,
            places_end: self.places.len(),
            lost,
        });
    }

    /// Adds a piece of the table as it lies in a stream.
    pub(super) fn read(&mut self, section: &Section) -> Result<(), StateError> {
        let before = self.rows.len();
        section.decode_items(before, NODES_MAX, |node: NodeV1<Few<'_>>| self.push(node))
    }

    /// Number of inodes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The inode at `index`.
    pub fn get(&self, index: usize) -> Option<Node<'_>> {
        let row = self.rows.get(index)?;
        let before = index.checked_sub(1).and_then(|index| self.rows.get(index));
        Some(self.node(row, before.map_or(0, |before| before.places_end)))
    }

    /// All inodes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Node<'_>> {
        let mut start = 0;
        self.rows
            .iter()
            .map(move |row| self.node(row, std::mem::replace(&mut start, row.places_end)))
    }

    /// All inodes, to be changed one by one.
    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<NodeV1> {
        let owned = |node: Node<'_>| NodeV1 {
            nodeid: node.nodeid,
            kind: node.kind,
            mount: node.mount,
            ino: node.ino,
            birth_ns: node.birth_ns,
            ino_shown: node.ino_shown,
            lookups: node.lookups,
            locations: node.locations.iter().map(LocationV1::from).collect(),
            lost: node.lost,
        };
        self.iter().map(owned).collect()
    }

    fn node(&self, row: &Row, places_start: usize) -> Node<'_> {
        let Row {
            nodeid,
            ino,
            birth_ns,
            ino_shown,
            lookups,
            kind,
            mount,
            places_end,
            lost,
        } = *row;
        let before = places_start.checked_sub(1);
        let before = before.and_then(|index| self.places.get(index));
        NodeV1 {
            nodeid,
            kind,
            mount,
            ino,
            birth_ns,
            ino_shown,
            lookups,
            locations: Locations {
                places: self
                    .places
                    .get(places_start..places_end)
                    .unwrap_or_default(),
                start: before.map_or(0, |before| before.name_end),
                names: &self.names,
            },
            lost,
        }
    }

    /// Finds inodes by nodeid. `Err` is a nodeid that is there twice.
    pub fn finder(&self) -> Result<NodeFinder<'_>, u64> {
        let rows = self.rows.as_slice();
        // As a source of ours writes it, unless directories were moved: then there is nothing to sort.
        let sorted = rows.is_sorted_by(|one, next| one.nodeid < next.nodeid);
        let mut order = None;
        if !sorted {
            let mut indices: Vec<(u64, usize)> =
                rows.iter().map(|row| row.nodeid).zip(0..).collect();
            indices.sort_unstable();
            let twice = indices
                .array_windows()
                .find(|[(one, _), (next, _)]| one == next);
            if let Some([(nodeid, _), _]) = twice {
                return Err(*nodeid);
            }
            order = Some(indices);
        }
        Ok(NodeFinder {
            rows,
            order,
            latest: (0, None),
        })
    }
}

impl Debug for NodeTable {
    /// As a vector of [`NodeV1`].
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl Debug for Locations<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl<L, N> FromIterator<NodeV1<L>> for NodeTable
where
    L: IntoIterator<Item = LocationV1<N>>,
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

/// Finds the inodes of a table by nodeid, by bisection: there is no hash that somebody who forges a state could make slow.
#[derive(Debug)]
pub struct NodeFinder<'a> {
    rows: &'a [Row],
    /// Nodeids and indices sorted by nodeid, if the rows are not.
    order: Option<Vec<(u64, usize)>>,
    /// What was asked last, and the answer: what is in one directory mostly comes together.
    latest: (u64, Option<usize>),
}

impl NodeFinder<'_> {
    /// The index of `nodeid` in the table.
    pub fn find(&mut self, nodeid: u64) -> Option<usize> {
        let (asked, answer) = self.latest;
        if asked == nodeid && answer.is_some() {
            return answer;
        }
        let found = match &self.order {
            None => self
                .rows
                .binary_search_by_key(&nodeid, |row| row.nodeid)
                .ok(),
            Some(order) => {
                let at = order.binary_search_by_key(&nodeid, |(nodeid, _)| *nodeid);
                at.ok()
                    .and_then(|at| order.get(at))
                    .map(|(_, index)| *index)
            }
        };
        self.latest = (nodeid, found);
        found
    }
}

impl<'a> Locations<'a> {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The newest name.
    pub fn last(&self) -> Option<LocationV1<&'a [u8]>> {
        self.iter().next_back()
    }

    /// All names, the newest last.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = LocationV1<&'a [u8]>> + ExactSizeIterator {
        let Self {
            places,
            start,
            names,
        } = *self;
        let end = move |index: usize| places.get(index).map_or(start, |place| place.name_end);
        places.iter().enumerate().map(move |(index, place)| {
            let begin = index.checked_sub(1).map_or(start, end);
            LocationV1 {
                parent: place.parent,
                name: names.get(begin..place.name_end).unwrap_or_default(),
            }
        })
    }
}

#[cfg(test)]
impl From<LocationV1<&[u8]>> for LocationV1 {
    fn from(LocationV1 { parent, name }: LocationV1<&[u8]>) -> Self {
        let name = name.to_vec();
        Self { parent, name }
    }
}

impl Serialize for Locations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|LocationV1 { parent, name }| LocationV1 {
            parent,
            name: Bytes(name),
        }))
    }
}

/// Bytes that are encoded together, as a `Vec<u8>` is encoded byte by byte.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The names of an inode as they are decoded: without an allocation for what has one, and no more of them than there can be. Small, for
/// it is moved from hand to hand by what decodes.
#[derive(Default)]
struct Few<'a> {
    first: Option<LocationV1<&'a [u8]>>,
    others: Vec<LocationV1<&'a [u8]>>,
}

impl<'a> IntoIterator for Few<'a> {
    type Item = LocationV1<&'a [u8]>;
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<Self::Item>, std::vec::IntoIter<Self::Item>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}

impl<'de> Deserialize<'de> for Few<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Few<'de>;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "at most {LOCATIONS_MAX} names of an inode")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Few<'de>, A::Error> {
                let first = sequence.next_element()?;
                let mut few = Few {
                    first,
                    others: Vec::new(),
                };
                while let Some(name) = sequence.next_element()? {
                    let count = few.others.len() + 2;
                    if count > LOCATIONS_MAX {
                        return Err(A::Error::invalid_length(count, &self));
                    }
                    few.others.push(name);
                }
                Ok(few)
            }
        }

        deserializer.deserialize_seq(Names)
    }
}
