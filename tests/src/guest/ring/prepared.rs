//! Chains that are written once and offered again and again: what a load generator's rings are made of.
//!
//! Nothing is allocated and nothing is remembered for a request, so that the driver costs little beside the device.

use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};

use super::Ring;
use crate::guest::chain::{Buffer, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, Used};

impl Ring {
    /// Writes a chain into the ring's descriptors from `first` on, which no other chain may use; `first` is its head, to be
    /// [offered](Self::offer). Not while it is in flight.
    pub fn prepare(&self, first: u16, buffers: &[Buffer]) -> Result<()> {
        let count = u16::try_from(buffers.len())?;
        for (number, buffer) in (first..).zip(buffers) {
            let last = number + 1 == first + count;
            let writes = if buffer.writable { DESCRIPTOR_WRITE } else { 0 };
            let descriptor = Descriptor {
                address: buffer.address,
                length: buffer.length,
                flags: writes | if last { 0 } else { DESCRIPTOR_NEXT },
                next: if last { 0 } else { number + 1 },
            };
            self.write_descriptor(number, descriptor)?;
        }
        Ok(())
    }

    /// Takes the next chain that the device has used off the ring. It stays written.
    pub fn take_used(&mut self) -> Result<Option<Used>> {
        let end = u16::from_le(self.memory.load(self.at.used + 2)?);
        if self.at.next_used == end {
            return Ok(None);
        }
        let slot = u64::from(self.at.next_used % self.at.size);
        let element = self.at.used + 4 + 8 * slot;
        let head = u32::from_le(self.memory.load(element)?);
        let written = u32::from_le(self.memory.load(element + 4)?);
        self.at.next_used = self.at.next_used.wrapping_add(1);
        Ok(Some(Used {
            head: u16::try_from(head).context("the device used what is no head")?,
            written,
        }))
    }

    /// Asks to be notified of the next chain that is used; false if there is one already, of which the device may say nothing.
    pub fn listen(&self) -> Result<bool> {
        self.ask_for_call()?;
        fence(Ordering::SeqCst);
        Ok(u16::from_le(self.memory.load(self.at.used + 2)?) == self.at.next_used)
    }
}
