//! Requests without a ring, for the unit tests of devices. Behind the cargo feature `test-kit`.

#![expect(
    clippy::panic,
    reason = "what a test calls says what is wrong by a panic"
)]

use std::sync::Arc;

use vm_memory::{Bytes as _, GuestAddress};

use super::{Origin, Request, Segment, Segments};
use crate::memory::GuestMemory;

/// Buffers lie apart, so that they are not taken for one.
const GAP_BYTES: usize = 64;

impl Request {
    /// A request in a memory of its own: buffers that hold `readable`, and zeroed buffers of the lengths in `writable`.
    ///
    /// # Panics
    ///
    /// If the host has no memory for it.
    pub fn in_memory(readable: &[&[u8]], writable: &[usize]) -> Self {
        let bytes: usize = readable
            .iter()
            .map(|bytes| bytes.len())
            .chain(writable.iter().copied())
            .map(|len| len + GAP_BYTES)
            .sum();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), bytes.max(GAP_BYTES))])
            .unwrap_or_else(|error| panic!("no guest memory of {bytes} bytes: {error}"));
        let mut next = 0;
        let mut place = |len: usize| {
            let address = GuestAddress(next);
            next += (len + GAP_BYTES) as u64;
            Segment { address, len }
        };
        let mut segments = Segments::default();
        for bytes in readable {
            let segment = place(bytes.len());
            memory
                .write_slice(bytes, segment.address)
                .unwrap_or_else(|error| panic!("guest memory not written: {error}"));
            segments.readable.push(segment);
        }
        segments
            .writable
            .extend(writable.iter().map(|len| place(*len)));
        Self {
            origin: Origin {
                head: 0,
                position: 0,
                resubmitted: false,
            },
            segments,
            memory: Arc::new(memory),
        }
    }

    /// The first `len` bytes of the writable buffers.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn written(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in &self.segments.writable {
            let mut buffer = vec![0; segment.len.min(len - bytes.len())];
            self.memory
                .read_slice(&mut buffer, segment.address)
                .unwrap_or_else(|error| panic!("guest memory not read: {error}"));
            bytes.append(&mut buffer);
        }
        assert_eq!(bytes.len(), len, "the request has less room");
        bytes
    }
}
