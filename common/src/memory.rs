//! Guest memory: the type that all devices use, and a handle to the current memory table.
//!
//! Knows that writes are logged (see [`DirtyLog`]); does not know who sets the table, or when.

use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use crate::protocol::dirty_log::DirtyLog;

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
