//! The ways to an inode that the guest knows: names that it gets and loses, and the descriptor that is left when the last one is gone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Location, NodeStore};

impl NodeStore {
    /// Keeps `descriptor` as the way to an inode that never had a name. Without effect if it is unknown.
    pub(crate) fn pin(&self, nodeid: u64, descriptor: OwnedFd) {
        let mut shard = self.shard(nodeid);
        if let Some(record) = shard.records.get_mut(nodeid)
            && record.pinned.is_none()
        {
            record.pinned = Some(Arc::new(descriptor));
            self.pinned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of descriptors that are the only way to their inode.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// The inode got another name. Without effect if it or the directory is unknown.
    pub(crate) fn add_location(&self, nodeid: u64, location: Location) {
        if self.hold(location.parent).is_err() {
            return;
        }
        let parent = location.parent;
        let released = match self.shard(nodeid).records.get_mut(nodeid) {
            Some(record) => record.add_location(location),
            None => vec![parent],
        };
        self.release_all(released);
    }

    /// The inode lost a name. If that was its last one, `pin` is kept as the way to it.
    pub(crate) fn remove_location(
        &self,
        nodeid: u64,
        location: &Location,
        pin: Option<Arc<OwnedFd>>,
    ) {
        let removed = {
            let mut shard = self.shard(nodeid);
            let Some(record) = shard.records.get_mut(nodeid) else {
                return;
            };
            let before = record.locations.len();
            record
                .locations
                .change(|locations| locations.retain(|known| known != location));
            if record.locations.is_empty() && record.pinned.is_none() && pin.is_some() {
                record.pinned = pin;
                self.pinned.fetch_add(1, Ordering::Relaxed);
            }
            before - record.locations.len()
        };
        self.release_all(vec![location.parent; removed]);
    }

    /// Lets go of the descriptor of an inode without a name, to which a handle leads as well.
    pub(crate) fn unpin(&self, nodeid: u64) {
        let unpinned = {
            let mut shard = self.shard(nodeid);
            let record = shard.records.get_mut(nodeid);
            record.and_then(|record| record.pinned.take())
        };
        if unpinned.is_some() {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
