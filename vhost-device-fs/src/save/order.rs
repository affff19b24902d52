//! Which inodes are saved, and in which order. Knows records and what becomes of them, and no state.

use std::collections::HashMap;

use crate::operations::ROOT_NODEID;
use crate::store::{Location, Record};

/// What becomes of an inode that a destination could not find by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It travels.
    Orphan,
    /// It is lost.
    Lost,
}

/// By nodeid; what has none is found by its names.
pub(super) type Fates = HashMap<u64, Fate>;

/// All records, and what becomes of them.
pub(super) struct Known<'a> {
    /// Sorted by nodeid.
    pub(super) records: Vec<&'a Record>,
    pub(super) fates: Fates,
}

/// Finds records by nodeid; what is in one directory mostly comes together.
pub(super) struct Finder<'a> {
    records: &'a [&'a Record],
    latest: Option<(u64, usize)>,
}

impl Finder<'_> {
    /// Its index.
    pub(super) fn find(&mut self, nodeid: u64) -> Option<usize> {
        match self.latest {
            Some((asked, index)) if asked == nodeid => Some(index),
            _ => {
                let records = self.records;
                let found = records.binary_search_by_key(&nodeid, |record| record.nodeid);
                self.latest = found.ok().map(|index| (nodeid, index));
                found.ok()
            }
        }
    }
}

impl<'k> Known<'k> {
    /// The record of `nodeid`.
    pub(super) fn get(&self, nodeid: u64) -> Option<&'k Record> {
        let at = self.finder().find(nodeid)?;
        self.records.get(at).copied()
    }

    /// Finds many of them.
    pub(super) fn finder(&self) -> Finder<'_> {
        Finder {
            records: &self.records,
            latest: None,
        }
    }

    /// The names by which the inode is found.
    pub(super) fn locations<'r>(&self, record: &'r Record) -> &'r [Location] {
        if self.fates.contains_key(&record.nodeid) {
            &[]
        } else {
            &record.locations
        }
    }

    /// The indices of all records: the root, then directories before what is in them, so that a reader can tell that
    /// nobody is his own ancestor. Marks as lost what names lead to in a circle only.
    pub(super) fn parents_first(&mut self) -> Vec<usize> {
        let mut order = Order::new(self.records.len());
        let mut finder = self.finder();
        // A directory mostly has a smaller nodeid than what was found in it; what waits was moved.
        for (index, record) in self.records.iter().enumerate() {
            let locations = self.locations(record).iter();
            let parents = locations.map(|location| finder.find(location.parent));
            order.add(index, parents);
        }
        let in_circles: Vec<usize> = order.left().collect();
        for index in &in_circles {
            if let Some(record) = self.records.get(*index) {
                let nodeid = record.nodeid;
                log::warn!("host: nodeid {nodeid} was moved behind our back, and is lost");
                self.fates.insert(nodeid, Fate::Lost);
            }
        }
        order.ordered.extend(in_circles);
        order.ordered
    }

    /// Which records of those in `order` the guest still uses, by index: not what only an inode kept alive that has lost its names.
    pub(super) fn used<'o>(
        &self,
        order: &[usize],
        open: impl Iterator<Item = &'o u64>,
    ) -> Vec<bool> {
        let mut finder = self.finder();
        let mut used = vec![false; self.records.len()];
        for nodeid in open.chain([&ROOT_NODEID]) {
            mark(&mut used, finder.find(*nodeid));
        }
        for index in order.iter().rev() {
            let Some(record) = self.records.get(*index) else {
                continue;
            };
            if record.lookups > 0 || used.get(*index) == Some(&true) {
                mark(&mut used, Some(*index));
                for location in self.locations(record) {
                    mark(&mut used, finder.find(location.parent));
                }
            }
        }
        used
    }
}

fn mark(used: &mut [bool], index: Option<usize>) {
    if let Some(used) = index.and_then(|index| used.get_mut(index)) {
        *used = true;
    }
}

/// Indices, each after those that it waits for.
struct Order {
    ordered: Vec<usize>,
    is_ordered: Vec<bool>,
    /// Those that wait for an index.
    waiting: HashMap<usize, Vec<usize>>,
    /// For how many others one waits.
    missing: HashMap<usize, usize>,
}

impl Order {
    fn new(count: usize) -> Self {
        Self {
            ordered: Vec::with_capacity(count),
            is_ordered: vec![false; count],
            waiting: HashMap::new(),
            missing: HashMap::new(),
        }
    }

    /// Adds `index` once all of `parents` are ordered; `None` is one that never is.
    fn add(&mut self, index: usize, parents: impl Iterator<Item = Option<usize>>) {
        let mut missing = 0;
        for parent in parents {
            match parent {
                Some(parent) if self.is_ordered.get(parent) == Some(&true) => {}
                Some(parent) => {
                    self.waiting.entry(parent).or_default().push(index);
                    missing += 1;
                }
                None => missing += 1,
            }
        }
        if missing > 0 {
            self.missing.insert(index, missing);
            return;
        }
        let mut ready = vec![index];
        while let Some(index) = ready.pop() {
            mark(&mut self.is_ordered, Some(index));
            self.ordered.push(index);
            for child in self.waiting.remove(&index).unwrap_or_default() {
                if let Some(missing) = self.missing.get_mut(&child) {
                    *missing -= 1;
                    if *missing == 0 {
                        self.missing.remove(&child);
                        ready.push(child);
                    }
                }
            }
        }
    }

    /// Those that still wait, in order.
    fn left(&self) -> impl Iterator<Item = usize> {
        let all = self.is_ordered.iter().enumerate();
        all.filter(|(_, is_ordered)| !**is_ordered)
            .map(|(index, _)| index)
    }
}
