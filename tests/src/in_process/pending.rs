//! Requests of the test's own guest between being put on a ring and being answered.
//!
//! Knows memory and rings, and no device.

use anyhow::{Result, bail, ensure};

use super::DEADLINE;
use crate::guest::{Buffer, Memory, Ring, Table};

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    head: u16,
    reply: u64,
    request: u64,
    request_len: u64,
    reply_len: usize,
}

/// Puts a request on a ring that a thread of its own drives.
pub fn add(memory: &Memory, ring: &mut Ring, request: &[u8], reply_len: usize) -> Result<Pending> {
    let request_len = request.len() as u64;
    let request_at = memory.allocate(request_len)?;
    memory.write(request_at, request)?;
    let reply = memory.allocate(reply_len as u64)?;
    let buffers = [
        Buffer {
            address: request_at,
            length: u32::try_from(request_len)?,
            writable: false,
        },
        Buffer {
            address: reply,
            length: u32::try_from(reply_len)?,
            writable: true,
        },
    ];
    let table = if request_at % 32 == 0 {
        Table::Indirect
    } else {
        Table::Direct
    };
    Ok(Pending {
        head: ring.add(&buffers, table)?,
        reply,
        request: request_at,
        request_len,
        reply_len,
    })
}

/// Waits for a request, the only one on its ring.
pub fn finish(memory: &Memory, ring: &mut Ring, pending: Pending) -> Result<Vec<u8>> {
    let used = ring.wait(DEADLINE)?;
    let [used] = used.as_slice() else {
        bail!("{} requests completed, one was expected", used.len());
    };
    ensure!(used.head == pending.head, "another request completed");
    pending.take(memory, used.written)
}

impl Pending {
    /// Which descriptor it begins with.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The reply of a completed request; gives its memory back.
    pub fn take(self, memory: &Memory, written: u32) -> Result<Vec<u8>> {
        let written = usize::try_from(written)?;
        ensure!(written <= self.reply_len, "more was written than fits");
        let reply = memory.read_vec(self.reply, written)?;
        memory.release(self.request, self.request_len);
        memory.release(self.reply, self.reply_len as u64);
        Ok(reply)
    }
}
