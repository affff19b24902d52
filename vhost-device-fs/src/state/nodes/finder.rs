//! Finds inodes by nodeid, by bisection: there is no hash that somebody who forges a state could make slow.

use std::collections::BTreeMap;

use super::Node;

/// The inodes that were added so far, in any order.
#[derive(Debug, Default)]
pub struct NodeFinder {
    count: usize,
    /// Those whose nodeid is greater than all before it: all that a source of ours writes, unless directories were moved.
    sorted: Vec<Found>,
    others: BTreeMap<u64, Found>,
    /// What was found last: what is in one directory mostly comes together.
    latest: Option<Found>,
}

/// What is known of an inode that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    nodeid: u64,
    /// How many were added before it.
    pub index: usize,
    /// Its type (`S_IFMT` bits).
    pub kind: u32,
    /// It is [lost](super::NodeV1::lost).
    pub lost: bool,
}

impl NodeFinder {
    /// An empty one with room for so many inodes.
    pub fn with_capacity(nodes: usize) -> Self {
        Self {
            sorted: Vec::with_capacity(nodes),
            ..Self::default()
        }
    }

    /// Adds an inode. Says whether it is a new one; nothing has changed otherwise.
    #[must_use]
    pub fn add(&mut self, node: &Node<'_>) -> bool {
        let found = Found {
            nodeid: node.nodeid,
            index: self.count,
            kind: node.kind,
            lost: node.lost,
        };
        let is_last = self
            .sorted
            .last()
            .is_none_or(|last| last.nodeid < found.nodeid);
        // Others are only added behind a greater one.
        if is_last {
            self.sorted.push(found);
        } else if self.in_sorted(found.nodeid).is_some() || self.others.contains_key(&found.nodeid)
        {
            return false;
        } else {
            self.others.insert(found.nodeid, found);
        }
        self.count += 1;
        true
    }

    /// The inode `nodeid`.
    pub fn find(&mut self, nodeid: u64) -> Option<Found> {
        let found = match self.latest {
            Some(latest) if latest.nodeid == nodeid => return Some(latest),
            _ => self
                .in_sorted(nodeid)
                .or_else(|| self.others.get(&nodeid).copied()),
        };
        self.latest = found;
        found
    }

    fn in_sorted(&self, nodeid: u64) -> Option<Found> {
        let at = self
            .sorted
            .binary_search_by_key(&nodeid, |found| found.nodeid);
        at.ok().and_then(|at| self.sorted.get(at)).copied()
    }
}
