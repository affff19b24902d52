//! Where a request lies in guest memory, and how: in an indirect table, headers and arguments in buffers of their own, data in pages
//! that do not follow each other, as the kernel's driver has it (virtio 1.3, 5.11.6.1; Linux' `virtio_fs.c`).
//!
//! Knows layouts; does not know what is asked.

use anyhow::{Context, Result, ensure};
use vhost_device_fs::fuse::abi::{InHeader, Opcode, OutHeader};
use vhost_device_fs::fuse::wire::Wire;

use crate::guest::chain::{
    Buffer, DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_SIZE, DESCRIPTOR_WRITE, Descriptor,
};
use crate::guest::memory::PAGE;
use crate::guest::{Memory, Ring, Used};

/// Who asks: a user's program, not root.
const CALLER: u32 = 1000;

/// Longest header with arguments.
const REQUEST_BYTES: u64 = 512;
/// Longest reply without data.
const REPLY_BYTES: u64 = 512;
/// Both, and a table of descriptors for 1 MiB in pages.
pub(super) const FRAME_BYTES: u64 = 8192;

/// Which way the data of a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    None,
    /// To the guest; so many bytes.
    In(u32),
    /// To the device; so many bytes.
    Out(u32),
}

/// What is asked, but for the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) opcode: Opcode,
    pub(super) nodeid: u64,
    /// Bytes that are answered behind the header, without data; `None` if nothing is answered at all.
    pub(super) reply_bytes: Option<usize>,
    pub(super) data: Data,
}

/// What a chain depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    ring: u32,
    arguments: u32,
    reply_bytes: Option<usize>,
    data: Data,
}

/// A request that is being made. Kept from request to request, so that making one allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) unique: u64,
    header: Vec<u8>,
    /// Room for the header, and the arguments.
    bytes: Vec<u8>,
}

impl Request {
    /// Begins a request; its arguments are to be appended to what is returned.
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        self.unique += 2; // odd ones are the kernel's INTERRUPTs
        self.bytes.clear();
        self.bytes.resize(InHeader::SIZE, 0);
        &mut self.bytes
    }
}

/// Room for one request. Its head on every ring is its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) head: u16,
    pub(super) frame: u64,
    pub(super) data: u64,
}

impl Slot {
    fn reply(self) -> u64 {
        self.frame + REQUEST_BYTES
    }

    fn table(self) -> u64 {
        self.frame + REQUEST_BYTES + REPLY_BYTES
    }

    /// Writes the request, and its chain if that is not there from the last time, and offers it on `ring`.
    pub(super) fn send(
        self,
        memory: &Memory,
        ring: &mut Ring,
        there: &mut Option<Shape>,
        ask: Ask,
        request: &mut Request,
    ) -> Result<()> {
        let arguments = u32::try_from(request.bytes.len() - InHeader::SIZE)?;
        let data_out = if let Data::Out(bytes) = ask.data {
            bytes
        } else {
            0
        };
        let header = InHeader {
            len: u32::try_from(request.bytes.len())? + data_out,
            opcode: ask.opcode.number(),
            unique: request.unique,
            nodeid: ask.nodeid,
            uid: CALLER,
            gid: CALLER,
            pid: CALLER,
            ..InHeader::default()
        };
        request.header.clear();
        header.append(&mut request.header);
        for (to, from) in request.bytes.iter_mut().zip(&request.header) {
            *to = *from;
        }
        memory.write(self.frame, &request.bytes)?;
        let shape = Shape {
            ring: ring.index(),
            arguments,
            reply_bytes: ask.reply_bytes,
            data: ask.data,
        };
        if *there != Some(shape) {
            let count = self.write_table(memory, ask, arguments)?;
            let descriptor = Descriptor {
                address: self.table(),
                length: count * u32::try_from(DESCRIPTOR_SIZE)?,
                flags: DESCRIPTOR_INDIRECT,
                next: 0,
            };
            ring.write_descriptor(self.head, descriptor)?;
            *there = Some(shape);
        }
        ring.offer(self.head)
    }

    /// Writes the chain, and returns how many descriptors it has.
    fn write_table(self, memory: &Memory, ask: Ask, arguments: u32) -> Result<u32> {
        let buffer = |address, length: u32, writable| Buffer {
            address,
            length,
            writable,
        };
        let header_bytes = u32::try_from(InHeader::SIZE)?;
        let mut chain = Vec::with_capacity(8);
        chain.push(buffer(self.frame, header_bytes, false));
        chain.push(buffer(
            self.frame + u64::from(header_bytes),
            arguments,
            false,
        ));
        if let Data::Out(bytes) = ask.data {
            chain.extend(
                self.pages(bytes)
                    .map(|page| buffer(page, bytes.min(4096), false)),
            );
        }
        if let Some(bytes) = ask.reply_bytes {
            let header_bytes = u32::try_from(OutHeader::SIZE)?;
            chain.push(buffer(self.reply(), header_bytes, true));
            let bytes = u32::try_from(bytes)?;
            if bytes > 0 {
                chain.push(buffer(self.reply() + u64::from(header_bytes), bytes, true));
            }
        }
        if let Data::In(bytes) = ask.data {
            chain.extend(
                self.pages(bytes)
                    .map(|page| buffer(page, bytes.min(4096), true)),
            );
        }
        let mut table = Vec::with_capacity(chain.len() * 16);
        let last = chain.len() - 1;
        for (number, buffer) in chain.iter().enumerate() {
            let follows = number < last;
            let descriptor = Descriptor {
                address: buffer.address,
                length: buffer.length,
                flags: if buffer.writable { DESCRIPTOR_WRITE } else { 0 }
                    | if follows { DESCRIPTOR_NEXT } else { 0 },
                next: if follows {
                    u16::try_from(number + 1)?
                } else {
                    0
                },
            };
            table.extend_from_slice(&descriptor.encode());
        }
        memory.write(self.table(), &table)?;
        Ok(u32::try_from(chain.len())?)
    }

    /// The pages of `bytes` bytes of data, in an order in which none follows the one before.
    fn pages(self, bytes: u32) -> impl Iterator<Item = u64> {
        let count = u64::from(bytes).div_ceil(PAGE);
        (0..count).map(move |page| self.data + page * 5 % count * PAGE)
    }

    /// Looks whether the device has answered request `unique`, and well. Returns how many bytes are behind the header.
    pub(super) fn check(self, memory: &Memory, unique: u64, used: Used) -> Result<u32> {
        let mut bytes = [0; OutHeader::SIZE];
        memory.read(self.reply(), &mut bytes)?;
        let header = OutHeader::take(&mut &bytes[..]).context("no header")?;
        ensure!(
            header.unique == unique && header.error == 0 && header.len == used.written,
            "request {unique} was answered {header:?} in {} bytes",
            used.written
        );
        Ok(header.len - u32::try_from(OutHeader::SIZE)?)
    }

    /// A structure that was answered.
    pub(super) fn answer<T: Wire>(self, memory: &Memory) -> Result<T> {
        let mut bytes = [0; 256];
        memory.read(self.reply() + OutHeader::SIZE as u64, &mut bytes)?;
        T::take(&mut &bytes[..]).context("a structure that is too long")
    }

    /// The first `len` bytes of the data that a request of `of` bytes was answered.
    pub(super) fn data(self, memory: &Memory, of: u32, len: u32, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        into.resize(usize::try_from(len)?, 0);
        for (part, page) in into.chunks_mut(4096).zip(self.pages(of)) {
            memory.read(page, part)?;
        }
        Ok(())
    }
}
