//! Cursors over the buffers of a request: reading what the guest wrote, writing the reply, each byte once.
//!
//! Knows that the buffers were checked when the chain was popped; knows nothing of rings.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::{ByteValued, VolatileSlice};

use super::Segment;
use crate::buffers::{self, IoVectors, Placement, Waiting};
use crate::memory::{self, GuestMemory};
use crate::protocol::dirty_log::DirtyLogSlice;

/// The guest's request is shorter, or its reply buffer smaller, than the device needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Too few bytes to read.
    #[error("guest: request ends after {available} of {wanted} bytes")]
    RequestTooShort {
        /// Bytes left.
        available: usize,
        /// Bytes needed.
        wanted: usize,
    },
    /// Too little room to write.
    #[error("guest: reply buffer has room for {available} of {wanted} bytes")]
    ReplyTooSmall {
        /// Bytes left.
        available: usize,
        /// Bytes needed.
        wanted: usize,
    },
}

/// A position in a list of buffers, with an end.
#[derive(Clone)]
struct Cursor<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are already behind.
    offset: usize,
    remaining: usize,
    memory: &'a GuestMemory,
}

impl<'a> Cursor<'a> {
    fn new(segments: &'a [Segment], memory: &'a GuestMemory) -> Self {
        Self {
            segments,
            offset: 0,
            remaining: segments.iter().map(|segment| segment.len).sum(),
            memory,
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        self.remaining = self.remaining.saturating_sub(bytes);
        while let Some((first, rest)) = self.segments.split_first() {
            let left = first.len - self.offset;
            if bytes < left {
                self.offset += bytes;
                return;
            }
            bytes -= left;
            self.offset = 0;
            self.segments = rest;
        }
    }

    /// The next `bytes` bytes as slices of guest memory. Ranges were checked when the chain was popped and the
    /// memory cannot be unmapped before the request ends, so none is missing.
    fn slices(&self, bytes: usize) -> Slices<'a> {
        Slices {
            cursor: self.clone(),
            left: bytes.min(self.remaining),
        }
    }
}

/// Slices of guest memory from a cursor on.
#[derive(Clone)]
struct Slices<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for Slices<'a> {
    type Item = VolatileSlice<'a, DirtyLogSlice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let first = self.cursor.segments.first()?;
            let len = (first.len - self.cursor.offset).min(self.left);
            if len == 0 {
                self.cursor.advance(0);
                continue;
            }
            let address = first.address.0.checked_add(self.cursor.offset as u64)?;
            let slice = memory::first_slice(self.cursor.memory, address, len)?;
            self.cursor.advance(slice.len());
            self.left -= slice.len();
            return Some(slice);
        }
        None
    }
}

/// Reads what the guest wrote, each byte once: a guest that changes it afterwards changes nothing.
#[derive(Clone)]
pub struct Reader<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    pub(super) fn new(segments: &'a [Segment], memory: &'a GuestMemory) -> Self {
        Self(Cursor::new(segments, memory))
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.0.remaining
    }

    /// Fills `buffer`, or reads nothing.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), CursorError> {
        self.require(buffer.len())?;
        let mut filled = 0;
        for slice in self.0.slices(buffer.len()) {
            if let Some(target) = buffer.get_mut(filled..filled + slice.len()) {
                filled += slice.copy_to(target);
            }
        }
        self.0.advance(buffer.len());
        Ok(())
    }

    /// Reads a plain object.
    pub fn read_object<T: ByteValued + Default>(&mut self) -> Result<T, CursorError> {
        let mut object = T::default();
        self.read_exact(object.as_mut_slice())?;
        Ok(object)
    }

    /// Passes over `bytes` bytes.
    pub fn skip(&mut self, bytes: usize) -> Result<(), CursorError> {
        self.require(bytes)?;
        self.0.advance(bytes);
        Ok(())
    }

    /// Writes up to `len` bytes to `file`, straight from guest memory. Returns the bytes written, which the cursor
    /// has passed; fewer than asked if the file took fewer.
    pub fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        placement: Placement,
        len: usize,
    ) -> io::Result<usize> {
        let written = buffers::write_at(file, placement, self.0.slices(len))?;
        self.0.advance(written);
        Ok(written)
    }

    /// The next `len` bytes as the kernel wants them.
    pub fn vectors(&self, len: usize, vectors: &mut IoVectors) {
        vectors.fill(self.0.slices(len));
    }

    fn require(&self, wanted: usize) -> Result<(), CursorError> {
        let available = self.remaining();
        if wanted <= available {
            Ok(())
        } else {
            Err(CursorError::RequestTooShort { available, wanted })
        }
    }
}

/// Writes the reply.
pub struct Writer<'a> {
    cursor: Cursor<'a>,
    written: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(segments: &'a [Segment], memory: &'a GuestMemory) -> Self {
        Self {
            cursor: Cursor::new(segments, memory),
            written: 0,
        }
    }

    /// Room left, in bytes.
    pub fn remaining(&self) -> usize {
        self.cursor.remaining
    }

    /// Bytes written through this writer.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Writes all of `bytes`, or nothing.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), CursorError> {
        let available = self.remaining();
        if bytes.len() > available {
            return Err(CursorError::ReplyTooSmall {
                available,
                wanted: bytes.len(),
            });
        }
        let mut rest = bytes;
        for slice in self.cursor.slices(bytes.len()) {
            let (now, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(now);
            rest = later;
        }
        self.cursor.advance(bytes.len());
        self.written += bytes.len();
        Ok(())
    }

    /// Writes a plain object.
    pub fn write_object<T: ByteValued>(&mut self, object: &T) -> Result<(), CursorError> {
        self.write_all(object.as_slice())
    }

    /// Splits the room: a writer for the next `bytes` bytes, and one for what follows them.
    ///
    /// For a reply whose header is known only after its data.
    pub fn split_at(self, bytes: usize) -> Result<(Writer<'a>, Writer<'a>), CursorError> {
        let available = self.remaining();
        if bytes > available {
            return Err(CursorError::ReplyTooSmall {
                available,
                wanted: bytes,
            });
        }
        let mut head = self.cursor.clone();
        head.remaining = bytes;
        let mut tail = self.cursor;
        tail.advance(bytes);
        let writer = |cursor| Writer { cursor, written: 0 };
        Ok((writer(head), writer(tail)))
    }

    /// Reads up to `len` bytes of `file` at `offset`, straight into guest memory. Returns the bytes read, which the
    /// cursor has passed; fewer than asked at the end of the file.
    pub fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        self.read(file, offset, len, Waiting::Allowed)
    }

    /// Like [`read_from_file`](Self::read_from_file), but only what is in memory already.
    pub fn read_from_file_at_once(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        self.read(file, offset, len, Waiting::Refused)
    }

    fn read(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        waiting: Waiting,
    ) -> io::Result<usize> {
        let read = buffers::read_at(file, offset, waiting, self.cursor.slices(len))?;
        self.cursor.advance(read);
        self.written += read;
        Ok(read)
    }

    /// The next `len` bytes of room as the kernel wants them. What it writes there is to be
    /// [noted](Self::note_written) when it is done.
    pub fn vectors(&self, len: usize, vectors: &mut IoVectors) {
        vectors.fill(self.cursor.slices(len));
    }

    /// The kernel has written the next `bytes` bytes: they are in the dirty log now, and behind this writer.
    pub fn note_written(&mut self, bytes: usize) {
        let bytes = bytes.min(self.remaining());
        buffers::mark_written(self.cursor.slices(bytes), bytes);
        self.cursor.advance(bytes);
        self.written += bytes;
    }

    /// Passes over `bytes` bytes, which are left as they are.
    pub fn skip(&mut self, bytes: usize) -> Result<(), CursorError> {
        let available = self.remaining();
        if bytes > available {
            return Err(CursorError::ReplyTooSmall {
                available,
                wanted: bytes,
            });
        }
        self.cursor.advance(bytes);
        Ok(())
    }
}
