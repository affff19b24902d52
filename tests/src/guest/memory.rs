//! Guest memory that a back-end can map: several regions, an allocator, snapshots to compare.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use common::frontend::Region;
use common::protocol::messages::MemoryRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{
    AtomicAccess, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
};

/// Bytes of a page; what the dirty log counts in.
pub const PAGE: u64 = 4096;

/// Distance between the guest's addresses and those that stand for the VMM's own. It is not where the
/// memory is mapped: a back-end that takes one kind of address for the other is to fail.
const USER_OFFSET: u64 = 0x5500_0000_0000;

/// Where regions after the first begin, each so much above the one before: there is a hole between them,
/// as below 4 GiB in a PC.
const REGION_DISTANCE: u64 = 1 << 32;

/// Memory of a guest. Shared by the rings and drivers that live in it.
pub struct Memory {
    map: GuestMemoryMmap,
    layouts: Vec<MemoryRegion>,
    files: Vec<Arc<File>>,
    /// Free ranges, start to length.
    free: Mutex<BTreeMap<u64, u64>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Memory")
            .field("layouts", &self.layouts)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Memory of regions with these sizes in bytes, multiples of [`PAGE`].
    pub fn new(sizes: &[u64]) -> Result<Arc<Self>> {
        let (mut ranges, mut layouts, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let mut free = BTreeMap::new();
        let mut start = 0;
        for &size in sizes {
            ensure!(
                size > PAGE && size % PAGE == 0,
                "a region of {size} bytes is not whole pages"
            );
            let file = memfd_create("guest-memory", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, size)?;
            let file = Arc::new(File::from(file));
            let offset = FileOffset::from_arc(Arc::clone(&file), 0);
            ranges.push((GuestAddress(start), usize::try_from(size)?, Some(offset)));
            layouts.push(MemoryRegion {
                guest_address: start,
                size,
                user_address: start + USER_OFFSET,
                file_offset: 0,
            });
            files.push(file);
            // The first page of a region is never given out, so that a stray address stays harmless.
            free.insert(start + PAGE, size - PAGE);
            start += REGION_DISTANCE;
        }
        let map = GuestMemoryMmap::from_ranges_with_files(ranges)?;
        Ok(Arc::new(Self {
            map,
            layouts,
            files,
            free: Mutex::new(free),
        }))
    }

    /// A second memory with the same content, of which the same is free: what a migrated guest has.
    pub fn copy(&self) -> Result<Arc<Self>> {
        let sizes: Vec<_> = self.layouts.iter().map(|layout| layout.size).collect();
        let copy = Self::new(&sizes)?;
        copy.restore(&self.snapshot()?)?;
        copy.free().clone_from(&self.free());
        Ok(copy)
    }

    /// The regions, for [`Frontend::set_memory`](common::frontend::Frontend::set_memory).
    pub fn regions(&self) -> Vec<Region<'_>> {
        let files = self.files.iter().map(AsFd::as_fd);
        self.layouts
            .iter()
            .zip(files)
            .map(|(&layout, file)| Region { layout, file })
            .collect()
    }

    /// The address by which the front-end speaks of guest address `address`.
    pub fn user_address(address: u64) -> u64 {
        address + USER_OFFSET
    }

    /// Takes `size` bytes, aligned to 16.
    pub fn allocate(&self, size: u64) -> Result<u64> {
        let size = size.next_multiple_of(16).max(16);
        let mut free = self.free();
        let (&start, &length) = free
            .iter()
            .find(|&(_, &length)| length >= size)
            .with_context(|| format!("guest memory has no {size} bytes in a row left"))?;
        free.remove(&start);
        if length > size {
            free.insert(start + size, length - size);
        }
        Ok(start)
    }

    /// Takes `size` bytes in the region with the number `region`, aligned to a page.
    pub fn allocate_pages_in(&self, region: usize, size: u64) -> Result<u64> {
        let layout = self.layouts.get(region).context("no such region")?;
        let size = size.next_multiple_of(PAGE);
        let mut free = self.free();
        let (start, length, at) = free
            .range(layout.guest_address..layout.guest_address + layout.size)
            .map(|(&start, &length)| (start, length, start.next_multiple_of(PAGE)))
            .find(|&(start, length, at)| at + size <= start + length)
            .with_context(|| format!("region {region} has no {size} bytes of pages left"))?;
        free.remove(&start);
        if at > start {
            free.insert(start, at - start);
        }
        if start + length > at + size {
            free.insert(at + size, start + length - at - size);
        }
        Ok(at)
    }

    /// Gives back what [`allocate`](Self::allocate) gave.
    pub fn release(&self, address: u64, size: u64) {
        let (mut start, mut length) = (address, size.next_multiple_of(16).max(16));
        let mut free = self.free();
        if let Some((&before, &before_length)) = free.range(..start).next_back()
            && before + before_length == start
        {
            free.remove(&before);
            (start, length) = (before, before_length + length);
        }
        if let Some(after_length) = free.remove(&(start + length)) {
            length += after_length;
        }
        free.insert(start, length);
    }

    /// Bytes that are not given out.
    pub fn free_bytes(&self) -> u64 {
        self.free().values().sum()
    }

    /// Writes `bytes`.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.map
            .write_slice(bytes, GuestAddress(address))
            .context("writing guest memory")
    }

    /// Reads into `bytes`.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.map
            .read_slice(bytes, GuestAddress(address))
            .context("reading guest memory")
    }

    /// Reads `size` bytes.
    pub fn read_vec(&self, address: u64, size: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Where `size` bytes in one region are in our own address space, as long as the memory lives: for a driver that wants
    /// pointers.
    pub fn pointer(&self, address: u64, size: usize) -> Option<NonNull<u8>> {
        let slice = self.map.get_slice(GuestAddress(address), size).ok()?;
        NonNull::new(slice.ptr_guard_mut().as_ptr())
    }

    /// Stores one number, before everything that follows.
    pub fn store<T: AtomicAccess>(&self, address: u64, value: T) -> Result<()> {
        let address = GuestAddress(address);
        self.map
            .store(value, address, Ordering::Release)
            .context("writing guest memory")
    }

    /// Loads one number, before everything that follows.
    pub fn load<T: AtomicAccess>(&self, address: u64) -> Result<T> {
        self.map
            .load(GuestAddress(address), Ordering::Acquire)
            .context("reading guest memory")
    }

    /// A copy of everything, to be compared or restored later.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let regions = self.layouts.iter().map(|layout| {
            let size = usize::try_from(layout.size)?;
            Ok((
                layout.guest_address,
                self.read_vec(layout.guest_address, size)?,
            ))
        });
        Ok(Snapshot {
            regions: regions.collect::<Result<_>>()?,
        })
    }

    /// The pages, by address, in which memory differs from `before`.
    pub fn changed_pages(&self, before: &Snapshot) -> Result<Vec<u64>> {
        let now = self.snapshot()?;
        let page = usize::try_from(PAGE)?;
        let mut changed = Vec::new();
        for ((start, now), (_, before)) in now.regions.iter().zip(&before.regions) {
            let pages = now
                .chunks(page)
                .zip(before.chunks(page))
                .zip((*start..).step_by(page));
            changed.extend(
                pages
                    .filter(|((now, before), _)| now != before)
                    .map(|(_, at)| at),
            );
        }
        Ok(changed)
    }

    /// Writes a snapshot back, of this memory or of another one of the same layout.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        snapshot
            .regions
            .iter()
            .try_for_each(|(start, bytes)| self.write(*start, bytes))
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What guest memory held at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    regions: Vec<(u64, Vec<u8>)>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self
            .regions
            .iter()
            .map(|(start, bytes)| (start, bytes.len()));
        formatter.debug_map().entries(sizes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_had_again_in_one_piece() {
        let memory = Memory::new(&[16 * PAGE, 4 * PAGE]).unwrap();
        let all = memory.free_bytes();
        let pieces: Vec<_> = (1_u8..100)
            .map(|size| (memory.allocate(size.into()).unwrap(), size))
            .collect();
        for &(address, size) in &pieces {
            assert_eq!(address % 16, 0);
            memory.write(address, &vec![size; size.into()]).unwrap();
        }
        for &(address, size) in &pieces {
            let bytes = memory.read_vec(address, size.into()).unwrap();
            assert_eq!(bytes, vec![size; size.into()]);
        }
        for &(address, size) in pieces
            .iter()
            .step_by(2)
            .chain(pieces.iter().skip(1).step_by(2))
        {
            memory.release(address, size.into());
        }
        assert_eq!(memory.free_bytes(), all);
        let whole = memory.allocate(15 * PAGE).unwrap();
        assert!(memory.allocate(15 * PAGE).is_err());
        memory.release(whole, 15 * PAGE);
        assert!(memory.allocate_pages_in(1, PAGE).unwrap() >= REGION_DISTANCE);
    }

    #[test]
    fn a_change_of_one_byte_is_seen() {
        let memory = Memory::new(&[4 * PAGE, 4 * PAGE]).unwrap();
        let before = memory.snapshot().unwrap();
        assert_eq!(memory.changed_pages(&before).unwrap(), [0; 0]);
        memory.write(REGION_DISTANCE + 3 * PAGE - 1, &[1]).unwrap();
        memory.write(PAGE, &[1]).unwrap();
        let changed = memory.changed_pages(&before).unwrap();
        assert_eq!(changed, [PAGE, REGION_DISTANCE + 2 * PAGE]);
        memory.restore(&before).unwrap();
        assert_eq!(memory.changed_pages(&before).unwrap(), [0; 0]);
    }
}
