//! The dirty log: which pages of guest memory the device has written, for a migration in progress.
//!
//! Rules: vhost-user.rst, "Migration". The stock bitmap forgets the log when the memory table changes
//! and never stops logging, so this one adds three things around it: a switch (`F_LOG_ALL`), marks that wait
//! while a new region has not met the log yet, and the means to give the log to new regions.
//!
//! Does not know what a ring is. A write through a [`VolatileSlice`](vm_memory::VolatileSlice) marks by itself;
//! writes through raw pointers (vectored file I/O) are marked by `buffers.rs`.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, RwLock, Weak};

use vhost_user_backend::bitmap::{BitmapMmapRegion, BitmapReplace, MemRegionBitmap, MmapLogReg};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::memory::GuestMemory;

/// vhost-user.rst, "Migration": one bit per page of this many bytes.
const PAGE_BYTES: usize = 0x1000;

/// Marks that may wait for a region to be attached, before the whole region is taken as written.
const WAITING_MAX: usize = 256;

/// A region that has not been given its log yet: marks are kept beside it.
const UNATTACHED: u8 = 0;
/// Logging is off: a mark costs one load.
const OFF: u8 = 1;
/// Logging is on.
const ON: u8 = 2;

/// The dirty log of one region of guest memory.
#[derive(Clone, Debug, Default)]
pub struct DirtyLog {
    region: Arc<RegionLog>,
}

#[derive(Debug, Default)]
struct RegionLog {
    /// Length of the region in bytes.
    len: usize,
    mode: AtomicU8,
    marks: RwLock<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// Pages written before the region was attached, as `(first byte, length)`.
    waiting: Vec<(usize, usize)>,
    /// Set once a log has been given: the stock bitmap, which bounds and sets the bits.
    log: Option<(Arc<MmapLogReg>, BitmapMmapRegion)>,
}

/// Part of a region's log; what the slices of guest memory carry.
#[derive(Clone, Copy, Debug)]
pub struct DirtyLogSlice<'a> {
    region: &'a RegionLog,
    base: usize,
}

/// A log fitted to one region: what the stock handler makes of `SET_LOG_BASE`.
pub struct FittedLog {
    log: Arc<MmapLogReg>,
    bitmap: vhost_user_backend::bitmap::AtomicBitmapMmap,
}

impl RegionLog {
    fn mark(&self, offset: usize, len: usize) {
        if len == 0 || self.mode.load(Ordering::Relaxed) == OFF {
            return;
        }
        self.mark_slowly(offset, len);
    }

    /// A region is unattached only between the stock handler's publishing of a new memory table and its
    /// call of `update_memory` right after, so `waiting` stays short.
    #[cold]
    fn mark_slowly(&self, offset: usize, len: usize) {
        {
            let marks = read(&self.marks);
            if self.mode.load(Ordering::Relaxed) != UNATTACHED {
                marks.set(offset, len);
                return;
            }
        }
        let mut marks = write(&self.marks);
        if self.mode.load(Ordering::Relaxed) == UNATTACHED {
            marks.remember(offset, len, self.len);
        } else {
            marks.set(offset, len);
        }
    }
}

impl Marks {
    fn set(&self, offset: usize, len: usize) {
        if let Some((_, bitmap)) = &self.log {
            bitmap.mark_dirty(offset, len);
        }
    }

    /// Notes pages until they are too many to be worth telling apart; then the whole region counts as written.
    fn remember(&mut self, offset: usize, len: usize, region_len: usize) {
        let first = offset / PAGE_BYTES * PAGE_BYTES;
        let entry = (first, offset.saturating_add(len).saturating_sub(first));
        if self.waiting.contains(&entry) {
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            self.waiting.clear();
            self.waiting.push((0, region_len));
        } else {
            self.waiting.push(entry);
        }
    }
}

/// A poisoned lock only says that some thread panicked; marks are valid after every step.
fn read(lock: &RwLock<Marks>) -> std::sync::RwLockReadGuard<'_, Marks> {
    lock.read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write(lock: &RwLock<Marks>) -> std::sync::RwLockWriteGuard<'_, Marks> {
    lock.write()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl DirtyLog {
    /// Gives the region the current log, if there is one, and switches logging; marks that waited are set.
    fn attach(&self, log: Option<FittedLog>, on: bool) {
        let mut marks = write(&self.region.marks);
        if let Some(fitted) = log {
            marks.install(fitted);
        }
        for (offset, len) in std::mem::take(&mut marks.waiting) {
            if on {
                marks.set(offset, len);
            }
        }
        self.region
            .mode
            .store(if on { ON } else { OFF }, Ordering::Relaxed);
    }

    fn current(&self) -> Option<Arc<MmapLogReg>> {
        read(&self.region.marks)
            .log
            .as_ref()
            .map(|(log, _)| Arc::clone(log))
    }

    fn has(&self, log: &Arc<MmapLogReg>) -> bool {
        self.current()
            .is_some_and(|current| Arc::ptr_eq(&current, log))
    }
}

impl Marks {
    fn install(&mut self, fitted: FittedLog) {
        let bitmap = BitmapMmapRegion::default();
        bitmap.replace(fitted.bitmap);
        self.log = Some((fitted.log, bitmap));
    }
}

impl Bitmap for DirtyLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.region.mark(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.slice_at(0).dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> DirtyLogSlice<'_> {
        DirtyLogSlice {
            region: &self.region,
            base: offset,
        }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyLog {
    type S = DirtyLogSlice<'a>;
}

impl NewBitmap for DirtyLog {
    fn with_len(len: usize) -> Self {
        Self {
            region: Arc::new(RegionLog {
                len,
                ..RegionLog::default()
            }),
        }
    }
}

impl Bitmap for DirtyLogSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.region.mark(self.base.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        read(&self.region.marks)
            .log
            .as_ref()
            .is_some_and(|(_, bitmap)| bitmap.dirty_at(self.base.saturating_add(offset)))
    }

    fn slice_at(&self, offset: usize) -> Self {
        DirtyLogSlice {
            region: self.region,
            base: self.base.saturating_add(offset),
        }
    }
}

impl WithBitmapSlice<'_> for DirtyLogSlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtyLogSlice<'_> {}

impl MemRegionBitmap for FittedLog {
    fn new<R: GuestMemoryRegion>(region: &R, log: Arc<MmapLogReg>) -> std::io::Result<Self> {
        let bitmap = vhost_user_backend::bitmap::AtomicBitmapMmap::new(region, Arc::clone(&log))?;
        Ok(Self { log, bitmap })
    }
}

impl BitmapReplace for DirtyLog {
    type InnerBitmap = FittedLog;

    /// `SET_LOG_BASE`: the region goes on in its mode, with the new log.
    fn replace(&self, fitted: FittedLog) {
        write(&self.region.marks).install(fitted);
    }
}

/// What the dirty log of a whole memory table needs to know between two tables.
#[derive(Default)]
pub(crate) struct LogSwitch {
    /// Whether the front-end has acknowledged `F_LOG_ALL`.
    on: bool,
    /// The newest log that was seen on a table.
    log: Option<Arc<MmapLogReg>>,
    /// The current table.
    current: Option<Arc<GuestMemory>>,
    /// Tables before it, through which requests in flight still write.
    earlier: Vec<Weak<GuestMemory>>,
}

impl LogSwitch {
    /// A new memory table was published: new regions get the log of the old ones.
    ///
    /// A log that is too small for a new region is an error only while logging is on: QEMU resizes the log
    /// before it adds memory, but leaves an old log in place when no migration runs (hw/virtio/vhost.c,
    /// `vhost_commit`).
    pub(crate) fn update(&mut self, memory: &Arc<GuestMemory>) -> std::io::Result<()> {
        self.find_log();
        if let Some(last) = self.current.replace(Arc::clone(memory)) {
            self.earlier.push(Arc::downgrade(&last));
        }
        self.earlier.retain(|table| table.strong_count() > 0);
        self.apply()
    }

    /// `SET_FEATURES` was handled: `on` is whether `F_LOG_ALL` is among the acknowledged features. When this
    /// returns, every thread's next write is logged (or not) accordingly.
    pub(crate) fn set(&mut self, on: bool) {
        if self.on == on {
            return;
        }
        self.on = on;
        self.find_log();
        if let Err(error) = self.apply() {
            log::error!("front-end: the dirty log does not cover guest memory: {error}");
        }
        super::membarrier::all_threads();
    }

    /// The stock handler gives a new log to the regions of the current table, and tells nobody else.
    fn find_log(&mut self) {
        let found = self
            .current
            .as_ref()
            .and_then(|table| table.iter().find_map(|region| bitmap(region).current()));
        if found.is_some() {
            self.log = found;
        }
    }

    /// Gives the newest log and the current mode to every region that can still be written to. While logging is on, a region
    /// that the log does not cover is an error.
    fn apply(&self) -> std::io::Result<()> {
        let mut result = Ok(());
        let earlier: Vec<_> = self.earlier.iter().filter_map(Weak::upgrade).collect();
        for region in earlier
            .iter()
            .chain(&self.current)
            .flat_map(|table| table.iter())
        {
            let fitted = self
                .log
                .as_ref()
                .filter(|log| !bitmap(region).has(log))
                .map(|log| FittedLog::new(region, Arc::clone(log)))
                .transpose()
                .unwrap_or_else(|error| {
                    if self.on {
                        result = Err(error);
                    }
                    None
                });
            bitmap(region).attach(fitted, self.on);
        }
        result
    }
}

fn bitmap(region: &GuestRegionMmap<DirtyLog>) -> &DirtyLog {
    let mapping: &MmapRegion<DirtyLog> = region;
    mapping.bitmap()
}

#[cfg(test)]
mod tests;
