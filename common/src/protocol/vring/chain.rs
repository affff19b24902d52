//! The descriptors of a chain whose head is known.
//!
//! The stock crate gives chains by way of the available ring only, from which a head that another process popped is gone; and it looks
//! each descriptor's address up anew, which is most of what a short request costs here. A table is looked up once.
//! Like the stock iterator this one ends silently on whatever is wrong (virtio 1.3, 2.7.5); `request.rs` tells an end from the end.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{
    Bytes as _, GuestAddress, GuestMemoryBackend as _, VolatileMemory as _, VolatileSlice,
};

use crate::memory::GuestMemory;
use crate::protocol::dirty_log::DirtyLogSlice;

const DESCRIPTOR_BYTES: u16 = 16;

/// See the [module](self).
pub(super) struct Chain<'a> {
    memory: &'a GuestMemory,
    table: GuestAddress,
    /// All of the table, unless it spans two regions of memory.
    slice: Option<VolatileSlice<'a, DirtyLogSlice<'a>>>,
    size: u16,
    next: u16,
    /// Descriptors that may follow: a chain is not longer than its table.
    left: u16,
    is_indirect: bool,
    bytes: u32,
}

impl<'a> Chain<'a> {
    /// The chain that begins with `head`, in a table of `size` descriptors.
    pub(super) fn new(memory: &'a GuestMemory, table: GuestAddress, size: u16, head: u16) -> Self {
        Self {
            memory,
            table,
            slice: slice(memory, table, size),
            size,
            next: head,
            left: size,
            is_indirect: false,
            bytes: 0,
        }
    }

    fn read(&self) -> Option<Descriptor> {
        if self.left == 0 || self.next >= self.size {
            return None;
        }
        let offset = usize::from(self.next) * usize::from(DESCRIPTOR_BYTES);
        if let Some(slice) = &self.slice {
            return Some(slice.get_ref(offset).ok()?.load());
        }
        let address = vm_memory::Address::checked_add(&self.table, offset as u64)?;
        self.memory.read_obj(address).ok()
    }

    /// The rest of the chain is in a table of its own (2.7.5.3).
    fn enter(&mut self, descriptor: Descriptor) -> Option<()> {
        let bytes = descriptor.len();
        if self.is_indirect || !bytes.is_multiple_of(u32::from(DESCRIPTOR_BYTES)) {
            return None;
        }
        self.size = u16::try_from(bytes / u32::from(DESCRIPTOR_BYTES)).ok()?;
        self.table = descriptor.addr();
        self.slice = slice(self.memory, self.table, self.size);
        self.next = 0;
        self.left = self.size;
        self.is_indirect = true;
        Some(())
    }
}

fn slice(
    memory: &GuestMemory,
    table: GuestAddress,
    size: u16,
) -> Option<VolatileSlice<'_, DirtyLogSlice<'_>>> {
    let bytes = usize::from(size) * usize::from(DESCRIPTOR_BYTES);
    memory.get_slice(table, bytes).ok()
}

impl Iterator for Chain<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        let mut descriptor = self.read()?;
        if descriptor.refers_to_indirect_table() {
            self.enter(descriptor)?;
            descriptor = self.read()?;
            if descriptor.refers_to_indirect_table() {
                return None;
            }
        }
        self.bytes = self.bytes.checked_add(descriptor.len())?;
        if descriptor.has_next() {
            self.next = descriptor.next();
            self.left -= 1;
        } else {
            self.left = 0;
        }
        Some(descriptor)
    }
}
