//! All inodes that the guest knows, as values: taken out of the store to be saved, and put into another one. Knows no
//! state stream.

use std::sync::atomic::Ordering;

use super::record::Record;
use super::{NodeImage, NodeStore, lock};

impl NodeStore {
    /// All records, sorted by nodeid.
    pub(crate) fn images(&self) -> Vec<NodeImage> {
        let mut images = Vec::new();
        for shard in &self.shards {
            images.extend(
                lock(shard)
                    .records
                    .iter()
                    .map(|(nodeid, record)| NodeImage {
                        nodeid: *nodeid,
                        identity: record.identity,
                        kind: record.kind,
                        ino_shown: record.ino_shown,
                        lookups: record.lookups,
                        locations: record.locations.clone(),
                        pinned: record.pinned.clone(),
                        lost: record.lost,
                    }),
            );
        }
        images.sort_unstable_by_key(|image| image.nodeid);
        images
    }

    /// Puts a record under the nodeid it had before it was saved. Its parents come first; one that is unknown is
    /// left out.
    pub(crate) fn place(&self, mut image: NodeImage) {
        image
            .locations
            .retain(|location| self.hold(location.parent).is_ok());
        let record = Record {
            identity: image.identity,
            kind: image.kind,
            ino_shown: image.ino_shown,
            lookups: image.lookups,
            references: 0,
            locations: image.locations,
            pinned: image.pinned,
            lost: image.lost,
        };
        if record.pinned.is_some() {
            self.pinned.fetch_add(1, Ordering::Relaxed);
        }
        let mut identities = self.identity_shard(&image.identity);
        self.shard(image.nodeid)
            .records
            .insert(image.nodeid, record);
        if !image.lost {
            identities.entry(image.identity).or_insert(image.nodeid);
        }
    }
}
