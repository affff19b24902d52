//! Guest memory: the type that all devices use, and a handle to the current memory table.
//!
//! Knows that writes are logged (see [`DirtyLog`]); does not know who sets the table, or when.

use std::sync::Arc;

use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap,
    VolatileSlice,
};

use crate::protocol::dirty_log::{DirtyLog, DirtyLogSlice};

/// Guest memory whose every write through its slices is noted in the dirty log.
pub type GuestMemory = GuestMemoryMmap<DirtyLog>;

/// The memory table as the front-end last set it. Cheap to clone; all clones see the same table.
#[derive(Clone)]
pub struct GuestMemoryHandle {
    table: GuestMemoryAtomic<GuestMemory>,
}

impl GuestMemoryHandle {
    /// A handle to an empty table.
    pub fn new() -> Self {
        Self {
            table: GuestMemoryAtomic::new(GuestMemory::default()),
        }
    }

    /// Guest memory as it is now. Its mappings live as long as the returned reference.
    pub fn snapshot(&self) -> Arc<GuestMemory> {
        self.table.memory().into_inner()
    }

    /// The shared table itself, for the parts that set it.
    pub(crate) fn table(&self) -> &GuestMemoryAtomic<GuestMemory> {
        &self.table
    }
}

impl Default for GuestMemoryHandle {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `len` bytes from `address` on are guest memory.
///
/// Nearly all buffers lie in one region, for which one look is enough; one may span adjacent regions, though.
pub(crate) fn contains(memory: &GuestMemory, address: GuestAddress, len: usize) -> bool {
    memory.get_slice(address, len).is_ok() || memory.check_range(address, len)
}

/// The first part of a buffer that is guest memory: all of it, unless it spans two regions.
pub(crate) fn first_slice(
    memory: &GuestMemory,
    address: u64,
    len: usize,
) -> Option<VolatileSlice<'_, DirtyLogSlice<'_>>> {
    let address = GuestAddress(address);
    match memory.get_slice(address, len) {
        Ok(slice) => Some(slice),
        Err(_) => memory.get_slices(address, len).next()?.ok(),
    }
}
