//! Open files and directories by the number that the guest uses for them. Knows nothing of what they are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;

use super::hash::NumberHash;
use crate::operations::FsResult;

const SHARDS: usize = 16;

/// A value with the handle that the guest was given for it.
pub(crate) type Numbered<T> = (u64, Arc<T>);

/// Values by handle. A handle is never given twice, so that a stale one is noticed.
#[derive(Debug)]
pub(crate) struct HandleTable<T> {
    shards: [RwLock<HashMap<u64, Arc<T>, NumberHash>>; SHARDS],
    next: AtomicU64,
    len: AtomicUsize,
}

impl<T> HandleTable<T> {
    /// An empty table that gives `next` as its first handle.
    pub(crate) fn new(next: u64) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            next: AtomicU64::new(next),
            len: AtomicUsize::new(0),
        }
    }

    fn shard(&self, handle: u64) -> &RwLock<HashMap<u64, Arc<T>, NumberHash>> {
        let [first, ..] = &self.shards;
        usize::try_from(handle % SHARDS as u64)
            .ok()
            .and_then(|index| self.shards.get(index))
            .unwrap_or(first)
    }

    /// Gives `value` a handle.
    pub(crate) fn insert(&self, value: T) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.place(handle, value);
        handle
    }

    /// Puts `value` under the handle it had before it was saved.
    pub(crate) fn place(&self, handle: u64, value: T) {
        let _replaced = {
            let mut shard = self
                .shard(handle)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let replaced = shard.insert(handle, Arc::new(value));
            if replaced.is_none() {
                // Before a guest that guesses it can have it released: there are never fewer than none.
                self.len.fetch_add(1, Ordering::Relaxed);
            }
            replaced
        };
    }

    /// The value of `handle`; `EBADF` if the guest was never given it, or has released it.
    pub(crate) fn get(&self, handle: u64) -> FsResult<Arc<T>> {
        self.shard(handle)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .cloned()
            .ok_or(Errno::BADF)
    }

    /// Takes the value of `handle` out; `EBADF` like [`get`](Self::get).
    pub(crate) fn remove(&self, handle: u64) -> FsResult<Arc<T>> {
        let removed = self
            .shard(handle)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle)
            .ok_or(Errno::BADF)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Ok(removed)
    }

    /// Number of handles.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// All values, sorted by handle.
    pub(crate) fn all(&self) -> Vec<Numbered<T>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(
                shard
                    .iter()
                    .map(|(handle, value)| (*handle, Arc::clone(value))),
            );
        }
        all.sort_unstable_by_key(|(handle, _)| *handle);
        all
    }

    /// The handle that will be given next.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_handle_stays_unknown() {
        let table = HandleTable::new(1);
        let first = table.insert("first");
        let second = table.insert("second");
        assert_eq!((first, second, table.next(), table.len()), (1, 2, 3, 2));
        assert_eq!(table.get(first).map(|value| *value), Ok("first"));
        assert_eq!(table.remove(first).map(|value| *value), Ok("first"));
        assert_eq!(table.get(first), Err(Errno::BADF));
        assert_eq!(table.remove(first), Err(Errno::BADF));
        assert_ne!(table.insert("third"), first);
        assert_eq!(table.get(u64::MAX), Err(Errno::BADF));
        let handles: Vec<u64> = table.all().iter().map(|(handle, _)| *handle).collect();
        assert_eq!((handles, table.len()), (vec![2, 3], 2));
    }

    #[test]
    fn a_handle_that_is_guessed_and_released_at_once_was_counted_before() {
        const HANDLES: u64 = 20_000;
        let table = HandleTable::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for handle in 0..HANDLES {
                    while table.remove(handle).is_err() {
                        std::hint::spin_loop();
                    }
                    let len = table.len();
                    assert!(len <= usize::try_from(HANDLES).unwrap(), "{len} handles");
                }
            });
            for _ in 0..HANDLES {
                table.insert(());
            }
        });
        assert_eq!(table.len(), 0);
    }
}
