//! The first page of a store, shared with the other daemons: the generation, and a slot for each of them.
//!
//! Knows where they are; what they mean is in [`super`]. Everything in the page is an atomic number, and any number is a valid one.

#![expect(
    unsafe_code,
    reason = "a mapping shared by processes has no safe interface"
)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::format::PAGE;

/// Daemons that can use a store at the same time.
pub(super) const SLOTS: usize = 64;

/// A daemon.
#[repr(C)]
pub(super) struct Slot {
    /// Who it is, as a hash.
    pub(super) initiator: AtomicU64,
    /// Commands in flight.
    pub(super) in_flight: AtomicU32,
}

/// The page as a whole; `format.rs` writes the first 16 bytes.
#[repr(C)]
struct Page {
    _header: [AtomicU64; 2],
    generation: AtomicU64,
    slots: [Slot; SLOTS],
}

const _: () = assert!(size_of::<Page>() <= PAGE);

/// See the [module](self).
pub(super) struct Mapping(NonNull<Page>);

// SAFETY: all that can be reached through it are atomic numbers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first page of a file that is at least as long.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        NonNull::new(page.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub(super) fn generation(&self) -> &AtomicU64 {
        &self.page().generation
    }

    pub(super) fn slot(&self, number: usize) -> Option<&Slot> {
        self.page().slots.get(number)
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped until drop, page-aligned, large enough, and made of atomics only, so that what other processes do to it is
        // nothing but their stores. `format.rs` never makes a store shorter.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` with this length, and no reference to it is left.
        if let Err(error) = unsafe { munmap(self.0.as_ptr().cast(), PAGE) } {
            log::error!("host: a store of reservations cannot be unmapped: {error}");
        }
    }
}
