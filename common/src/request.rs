//! A request: one descriptor chain, checked, with cursors over what the guest wrote and what it may read.
//!
//! Knows guest memory; knows nothing of rings beyond the head index, and nothing of any device.
//!
//! A chain is checked whole when it is popped: it has buffers, all of them lie in guest memory, readable ones come
//! before writable ones (virtio 1.3, 2.7.4.2), it is at most 2^32 - 1 bytes long (2.7.5.2), and it ends where it
//! says it ends. A chain that fails never reaches a device.

mod cursor;
#[cfg(feature = "test-kit")]
mod test_kit;

use std::sync::Arc;

use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

pub use cursor::{CursorError, Reader, Writer};

use crate::memory::{self, GuestMemory};

/// The guest put a malformed chain on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain has no buffer at all, or its head cannot be read.
    #[error("guest: descriptor chain {head} has no readable descriptor")]
    Empty {
        /// Index of the head.
        head: u16,
    },
    /// It continues, but the next descriptor does not exist, is part of a loop, or makes it too long.
    #[error("guest: descriptor chain {head} breaks off after {descriptors} descriptors")]
    BreaksOff {
        /// Index of the head.
        head: u16,
        /// Descriptors that were sound.
        descriptors: usize,
    },
    /// A buffer for the device to read follows one for it to write.
    #[error("guest: descriptor chain {head} has a readable buffer after a writable one")]
    Order {
        /// Index of the head.
        head: u16,
    },
    /// A buffer lies outside of guest memory.
    #[error(
        "guest: descriptor chain {head} has a buffer of {len} bytes at {address:#x}, outside of guest memory"
    )]
    OutsideMemory {
        /// Index of the head.
        head: u16,
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    address: GuestAddress,
    len: usize,
}

/// The buffers of a chain. Reused from request to request, so that popping one allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// Index of the chain's head in the descriptor table.
    pub(crate) head: u16,
    /// The ring's available index before it was popped; of what was resubmitted, the number of those popped before.
    pub(crate) position: u16,
    /// Another process popped it before.
    pub(crate) resubmitted: bool,
}

/// One request of the guest, to be given back with [`Ring::complete`](crate::ring::Ring::complete).
#[derive(Debug)]
pub struct Request {
    origin: Origin,
    pub(crate) segments: Segments,
    memory: Arc<GuestMemory>,
}

impl Request {
    /// Checks the chain; on an error the segments are returned for the next one.
    pub(crate) fn parse(
        origin: Origin,
        chain: impl Iterator<Item = Descriptor>,
        mut segments: Segments,
        memory: &Arc<GuestMemory>,
    ) -> Result<Self, (ChainError, Segments)> {
        segments.readable.clear();
        segments.writable.clear();
        match segments.collect(origin.head, chain, memory) {
            Ok(()) => Ok(Self {
                origin,
                segments,
                memory: Arc::clone(memory),
            }),
            Err(error) => Err((error, segments)),
        }
    }

    /// Index of the chain's head in the descriptor table.
    pub fn head(&self) -> u16 {
        self.origin.head
    }

    /// Whether a process before this one popped it and did not live to give it back. It may have been carried out, or half of
    /// it, or nothing: whoever cannot do it once more without harm has to say so to the guest.
    pub fn is_resubmitted(&self) -> bool {
        self.origin.resubmitted
    }

    pub(crate) fn position(&self) -> u16 {
        self.origin.position
    }

    /// The memory that the request was popped from.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// A cursor over what the guest wrote.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.segments.readable, &self.memory)
    }

    /// A cursor over the room for the reply.
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(&self.segments.writable, &self.memory)
    }
}

impl Segments {
    /// Whether a chain can be collected without allocating, as a rule.
    pub(crate) fn has_room(&self) -> bool {
        self.readable.capacity() > 0
    }

    fn collect(
        &mut self,
        head: u16,
        chain: impl Iterator<Item = Descriptor>,
        memory: &GuestMemory,
    ) -> Result<(), ChainError> {
        let mut descriptors = 0;
        let mut continues = false;
        for descriptor in chain {
            descriptors += 1;
            continues = descriptor.has_next();
            let segment = Segment {
                address: descriptor.addr(),
                len: descriptor.len() as usize,
            };
            if descriptor.is_write_only() {
                self.writable.push(segment);
            } else if self.writable.is_empty() {
                self.readable.push(segment);
            } else {
                return Err(ChainError::Order { head });
            }
            if !memory::contains(memory, segment.address, segment.len) {
                return Err(ChainError::OutsideMemory {
                    head,
                    address: segment.address.0,
                    len: descriptor.len(),
                });
            }
        }
        // The iterator ends silently on everything that is wrong with a chain: only an end that was announced
        // is an end.
        if descriptors == 0 {
            Err(ChainError::Empty { head })
        } else if continues {
            Err(ChainError::BreaksOff { head, descriptors })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
