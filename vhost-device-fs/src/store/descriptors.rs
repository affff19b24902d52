//! A bounded cache of descriptors, so that a known inode is not looked up again for each request.
//!
//! Knows nodeids and descriptors. Which one goes is decided by the clock algorithm: each descriptor has a credit
//! that use renews and the passing hand takes away. Directories get more, for every path leads through them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::hash::NumberHash;

/// Turns of the hand that an unused directory survives.
const DIRECTORY_CREDIT: u8 = 3;
/// Turns of the hand that anything else survives unused.
const FILE_CREDIT: u8 = 1;

#[derive(Debug)]
struct Cached {
    nodeid: u64,
    descriptor: Arc<OwnedFd>,
    credit: u8,
    credit_max: u8,
}

/// At most `limit` descriptors, by nodeid.
#[derive(Debug)]
pub(super) struct DescriptorCache {
    limit: usize,
    hand: usize,
    ring: Vec<Cached>,
    positions: HashMap<u64, usize, NumberHash>,
}

impl DescriptorCache {
    /// An empty cache. `limit` is at least 1.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hand: 0,
            ring: Vec::new(),
            positions: HashMap::default(),
        }
    }

    /// The descriptor of `nodeid`, if it is cached.
    pub(super) fn get(&mut self, nodeid: u64) -> Option<Arc<OwnedFd>> {
        let position = *self.positions.get(&nodeid)?;
        let cached = self.ring.get_mut(position)?;
        cached.credit = cached.credit_max;
        Some(Arc::clone(&cached.descriptor))
    }

    /// Caches a descriptor of `nodeid`, in place of another one if the cache is full. Returns what is to be closed,
    /// by dropping it where no lock is held.
    pub(super) fn insert(
        &mut self,
        nodeid: u64,
        descriptor: Arc<OwnedFd>,
        is_directory: bool,
    ) -> Option<Arc<OwnedFd>> {
        let credit_max = if is_directory {
            DIRECTORY_CREDIT
        } else {
            FILE_CREDIT
        };
        let cached = Cached {
            nodeid,
            descriptor,
            credit: credit_max,
            credit_max,
        };
        let position = match self.positions.get(&nodeid) {
            Some(position) => *position,
            None if self.ring.len() < self.limit => {
                self.positions.insert(nodeid, self.ring.len());
                self.ring.push(cached);
                return None;
            }
            None => self.victim(),
        };
        let place = self.ring.get_mut(position)?;
        let old = std::mem::replace(place, cached);
        self.positions.remove(&old.nodeid);
        self.positions.insert(nodeid, position);
        Some(old.descriptor)
    }

    /// Forgets the descriptor of `nodeid`, and returns it to be closed.
    pub(super) fn remove(&mut self, nodeid: u64) -> Option<Arc<OwnedFd>> {
        let position = self.positions.remove(&nodeid)?;
        let removed = self.ring.swap_remove(position);
        if let Some(moved) = self.ring.get(position) {
            self.positions.insert(moved.nodeid, position);
        }
        Some(removed.descriptor)
    }

    /// Forgets all.
    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.positions.clear();
    }

    /// Number of descriptors.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// The position of the next one to go. Ends, because each turn of the hand takes credit.
    fn victim(&mut self) -> usize {
        loop {
            let position = self.hand % self.ring.len().max(1);
            self.hand = position + 1;
            match self.ring.get_mut(position) {
                Some(cached) if cached.credit > 0 => cached.credit -= 1,
                _ => return position,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Arc<OwnedFd> {
        Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap())
    }

    #[test]
    fn never_grows_over_its_limit_and_prefers_directories() {
        let mut cache = DescriptorCache::new(8);
        for directory in 0..4 {
            assert!(cache.insert(directory, descriptor(), true).is_none());
        }
        for file in 100..1_100 {
            cache.insert(file, descriptor(), false);
            assert!(cache.ring.len() <= 8);
            assert_eq!(cache.ring.len(), cache.positions.len());
            for directory in 0..4 {
                assert!(cache.get(directory).is_some(), "directory {directory}");
            }
        }
        assert!(cache.get(1_099).is_some());
        assert!(cache.get(100).is_none());
    }

    #[test]
    fn removal_keeps_the_others_in_place() {
        let mut cache = DescriptorCache::new(4);
        let descriptors: Vec<_> = (0..4).map(|_| descriptor()).collect();
        for (nodeid, descriptor) in (0..).zip(&descriptors) {
            cache.insert(nodeid, Arc::clone(descriptor), false);
        }
        assert!(cache.remove(1).is_some());
        assert!(cache.remove(1).is_none());
        for (nodeid, descriptor) in (0..).zip(&descriptors) {
            let found = cache.get(nodeid);
            assert_eq!(
                found.is_some_and(|found| Arc::ptr_eq(&found, descriptor)),
                nodeid != 1
            );
        }
        // The same nodeid again: the old descriptor is handed back to be closed.
        assert!(cache.insert(2, descriptor(), true).is_some());
        assert_eq!(cache.ring.len(), 3);
    }
}
