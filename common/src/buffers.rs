//! File I/O straight from and to guest memory: preadv2(2) and pwritev2(2) on the buffers of a descriptor chain.
//!
//! The one place where host addresses of guest memory are given to the kernel. Knows nothing of rings and
//! requests: it is handed slices, and marks in the dirty log what the kernel wrote.

#![expect(
    unsafe_code,
    reason = "guest memory changes under our hands, so it may be passed to the kernel but never borrowed as &[u8]"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Buffers given to the kernel in one call; half of `IOV_MAX`, and twice what a 1 MiB request in pages needs.
const BUFFERS_MAX: usize = 512;

/// How a write to a file is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At this offset in bytes.
    At(u64),
    /// At the end of the file, whatever its size is by then (`RWF_APPEND`).
    Append,
}

/// Whether a read may wait for the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It takes as long as it takes.
    Allowed,
    /// What is not in memory already is `WouldBlock` (`RWF_NOWAIT`); a file system may know nothing of it and refuse.
    Refused,
}

/// Buffers of a request as the kernel wants them, for I/O that outlives a call. Kept from request to request, so that filling it
/// allocates nothing.
#[derive(Debug, Default)]
pub struct IoVectors(Vec<libc::iovec>);

// SAFETY: the addresses are only numbers here; what they point to is guest memory, which any thread may use, and whoever gives
// them to the kernel keeps the request that they come from.
unsafe impl Send for IoVectors {}

impl IoVectors {
    /// The buffers, joined where one follows another. They are valid as long as the request that they come from.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.0
    }

    pub(crate) fn fill<'a, B: BitmapSlice + 'a>(
        &mut self,
        slices: impl Iterator<Item = VolatileSlice<'a, B>>,
    ) {
        self.0.clear();
        for slice in slices {
            let base: *mut libc::c_void = slice.ptr_guard_mut().as_ptr().cast();
            match self.0.last_mut() {
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == base => {
                    last.iov_len += slice.len();
                }
                _ => self.0.push(libc::iovec {
                    iov_base: base,
                    iov_len: slice.len(),
                }),
            }
        }
    }
}

/// A fixed array of `iovec`, filled slice by slice; lives on the stack. Most requests need one of them, so the others are not
/// written before they are used.
struct Batch {
    vectors: [MaybeUninit<libc::iovec>; BUFFERS_MAX],
    count: usize,
    bytes: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            vectors: [const { MaybeUninit::uninit() }; BUFFERS_MAX],
            count: 0,
            bytes: 0,
        }
    }

    /// Adds a buffer, joined to the previous one if it follows it in memory; false if the batch is full.
    fn push(&mut self, base: *mut libc::c_void, len: usize) -> bool {
        if let Some(last) = self.last()
            && last.iov_base.wrapping_byte_add(last.iov_len) == base
        {
            last.iov_len += len;
        } else if let Some(free) = self.vectors.get_mut(self.count) {
            free.write(libc::iovec {
                iov_base: base,
                iov_len: len,
            });
            self.count += 1;
        } else {
            return false;
        }
        self.bytes += len;
        true
    }

    fn last(&mut self) -> Option<&mut libc::iovec> {
        let last = self.vectors.get_mut(self.count.checked_sub(1)?)?;
        // SAFETY: `push` has written all that are counted.
        Some(unsafe { last.assume_init_mut() })
    }

    /// The first `count` are written.
    fn as_ptr(&self) -> *const libc::iovec {
        self.vectors.as_ptr().cast()
    }

    fn clear(&mut self) {
        self.count = 0;
        self.bytes = 0;
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.count).unwrap_or(0)
    }
}

/// Reads from `file` at `offset` into `slices` until they are full or a read comes up short.
///
/// Returns the number of bytes read; an error only if nothing was read before it.
pub(crate) fn read_at<'a, B: BitmapSlice + 'a>(
    file: BorrowedFd<'_>,
    offset: u64,
    waiting: Waiting,
    slices: impl Iterator<Item = VolatileSlice<'a, B>> + Clone,
) -> io::Result<usize> {
    let flags = match waiting {
        Waiting::Allowed => 0,
        Waiting::Refused => libc::RWF_NOWAIT,
    };
    let transferred = transfer(slices.clone(), |batch, done| {
        let position = position(offset, done)?;
        // SAFETY: each vector covers guest memory that stays mapped, writable and of this length while the
        // slices live, which the caller's iterator borrows; the kernel may write it as a guest may.
        let result = unsafe {
            libc::preadv2(
                file.as_raw_fd(),
                batch.as_ptr(),
                batch.count(),
                position,
                flags,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    });
    if let Ok(bytes) = transferred {
        mark_written(slices, bytes);
    }
    transferred
}

/// Writes `slices` to `file` until all is written or a write comes up short.
///
/// Returns the number of bytes written; an error only if nothing was written before it.
pub(crate) fn write_at<'a, B: BitmapSlice + 'a>(
    file: BorrowedFd<'_>,
    placement: Placement,
    slices: impl Iterator<Item = VolatileSlice<'a, B>>,
) -> io::Result<usize> {
    transfer(slices, |batch, done| {
        let (position, flags) = match placement {
            Placement::At(offset) => (position(offset, done)?, 0),
            Placement::Append => (0, libc::RWF_APPEND),
        };
        // SAFETY: as in `read_at`; the kernel only reads the memory.
        let result = unsafe {
            libc::pwritev2(
                file.as_raw_fd(),
                batch.as_ptr(),
                batch.count(),
                position,
                flags,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    })
}

fn position(offset: u64, done: usize) -> io::Result<libc::off_t> {
    u64::try_from(done)
        .ok()
        .and_then(|done| offset.checked_add(done))
        .and_then(|offset| libc::off_t::try_from(offset).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

fn transfer<'a, B: BitmapSlice + 'a>(
    slices: impl Iterator<Item = VolatileSlice<'a, B>>,
    mut call: impl FnMut(&Batch, usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut batch = Batch::new();
    let mut done = 0;
    let mut run = |batch: &mut Batch, done: &mut usize| -> io::Result<bool> {
        if batch.bytes == 0 {
            return Ok(true);
        }
        let bytes = loop {
            match call(batch, *done) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if *done > 0 => return Ok(false),
                other => break other?,
            }
        };
        *done += bytes;
        let complete = bytes == batch.bytes;
        batch.clear();
        Ok(complete)
    };
    for slice in slices {
        let base = slice.ptr_guard_mut().as_ptr().cast();
        if batch.push(base, slice.len()) {
            continue;
        }
        if !run(&mut batch, &mut done)? {
            return Ok(done);
        }
        batch.push(base, slice.len());
    }
    run(&mut batch, &mut done)?;
    Ok(done)
}

/// Notes in the dirty log that the first `bytes` of the buffers were written, by whomever.
pub(crate) fn mark_written<'a, B: BitmapSlice + 'a>(
    slices: impl Iterator<Item = VolatileSlice<'a, B>>,
    mut bytes: usize,
) {
    for slice in slices {
        let len = slice.len().min(bytes);
        slice.bitmap().mark_dirty(0, len);
        bytes -= len;
        if bytes == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
