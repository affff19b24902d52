//! Operations by system calls that may wait, straight between the file and guest memory where that is possible.
//!
//! Knows files and buffers; knows neither rings nor replies. What a guest wrote into its buffers is read once: if it changes it
//! meanwhile, it fools only itself.

use std::io;
use std::os::unix::fs::FileExt;

use common::Placement;
use common::request::Request;

use super::buffer::Aligned;
use crate::backing::{Backing, BackingError};
use crate::scsi::{Completion, Extent, Failure, Operation};

/// Bytes that are copied at a time, where something has to be copied.
const PIECE: u64 = 1 << 20;
/// Extents in an answer about allocation.
const EXTENTS_MAX: usize = 1024;

/// Where an operation's data is.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// The request.
    pub request: &'a Request,
    /// Bytes to read before the data for the device.
    pub data_out_at: usize,
    /// Bytes to write before the data for the driver.
    pub data_in_at: usize,
}

/// Does an operation.
pub fn run(
    operation: &Operation,
    backing: &Backing,
    data: &Data<'_>,
) -> Result<Completion, Failure> {
    let done = Ok(Completion::Done);
    match operation {
        Operation::Read(extent) => read(backing, *extent, data).and(done),
        Operation::Write { extent, durable } => {
            write(backing, *extent, data)?;
            settle(backing, extent.at, *durable).and(done)
        }
        Operation::Flush => settle(backing, 0, true).and(done),
        Operation::Verify(extent) => pieces(*extent)
            .try_for_each(|piece| fetch(backing, piece).map(drop))
            .and(done),
        Operation::Compare { extent, repeated } => {
            compare(backing, *extent, *repeated, data).and(done)
        }
        Operation::WriteAndVerify { extent, compare } => {
            write_and_verify(backing, *extent, *compare, data).and(done)
        }
        Operation::CompareAndWrite { extent, durable } => {
            compare_and_write(backing, *extent, data)?;
            settle(backing, extent.at, *durable).and(done)
        }
        Operation::OrWrite { extent, durable } => {
            or_write(backing, *extent, data)?;
            settle(backing, extent.at, *durable).and(done)
        }
        Operation::WriteSame {
            extent,
            block,
            unmap,
            durable,
        } => {
            write_same(backing, *extent, block.as_deref(), *unmap)?;
            settle(backing, extent.at, *durable).and(done)
        }
        Operation::Unmap(extents) => extents
            .iter()
            .try_for_each(|extent| write_same(backing, *extent, None, true))
            .and(done),
        Operation::Allocation(extent) => allocation(backing, *extent).map(Completion::Allocation),
    }
}

/// An extent, cut into pieces that are small enough to be copied.
fn pieces(extent: Extent) -> impl Iterator<Item = Extent> {
    (0..extent.len.div_ceil(PIECE)).map(move |number| {
        let done = number * PIECE;
        Extent {
            at: extent.at + done,
            len: (extent.len - done).min(PIECE),
        }
    })
}

fn size(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn write_failure(error: &io::Error, at: u64) -> Failure {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Failure::NoSpace { at },
        _ => Failure::Write { at },
    }
}

/// Makes what was written durable.
fn settle(backing: &Backing, at: u64, durable: bool) -> Result<(), Failure> {
    if !durable {
        return Ok(());
    }
    backing.sync_now().map_err(|error| {
        if let BackingError::Sync(error) = &error {
            write_failure(error, at)
        } else {
            Failure::Write { at }
        }
    })
}

/// To the data-in buffer.
fn read(backing: &Backing, extent: Extent, data: &Data<'_>) -> Result<(), Failure> {
    let mut writer = data.request.writer();
    writer.skip(data.data_in_at).map_err(|_| Failure::Aborted)?;
    let mut done = 0;
    while done < extent.len {
        let at = extent.at + done;
        match writer.read_from_file(backing.fd(), at, size(extent.len - done)) {
            Ok(0) => return Err(Failure::Read { at }), // the file is shorter than the medium
            Ok(read) => done += read as u64,
            Err(error) if is_misaligned(backing, &error) => {
                let len = (extent.len - done).min(PIECE);
                let piece = fetch(backing, Extent { at, len })?;
                writer
                    .write_all(piece.bytes())
                    .map_err(|_| Failure::Aborted)?;
                done += len;
            }
            Err(_) => return Err(Failure::Read { at }),
        }
    }
    Ok(())
}

/// From the data-out buffer.
fn write(backing: &Backing, extent: Extent, data: &Data<'_>) -> Result<(), Failure> {
    let written = write_all(backing, extent, data);
    backing.note_written();
    written
}

fn write_all(backing: &Backing, extent: Extent, data: &Data<'_>) -> Result<(), Failure> {
    let mut reader = data.request.reader();
    reader
        .skip(data.data_out_at)
        .map_err(|_| Failure::Aborted)?;
    let mut done = 0;
    while done < extent.len {
        let at = extent.at + done;
        let placement = Placement::At(at);
        match reader.write_to_file(backing.fd(), placement, size(extent.len - done)) {
            Ok(0) => return Err(Failure::Write { at }),
            Ok(written) => done += written as u64,
            Err(error) if is_misaligned(backing, &error) => {
                let len = (extent.len - done).min(PIECE);
                let mut piece = Aligned::new(size(len));
                reader
                    .read_exact(piece.bytes_mut())
                    .map_err(|_| Failure::Aborted)?;
                store(backing, at, piece.bytes())?;
                done += len;
            }
            Err(error) => return Err(write_failure(&error, at)),
        }
    }
    Ok(())
}

/// A guest's buffer need not be aligned as `O_DIRECT` wants it.
fn is_misaligned(backing: &Backing, error: &io::Error) -> bool {
    backing.is_direct() && error.raw_os_error() == Some(libc::EINVAL)
}

/// A part of the medium, copied.
fn fetch(backing: &Backing, extent: Extent) -> Result<Aligned, Failure> {
    let mut piece = Aligned::new(size(extent.len));
    let bytes = piece.bytes_mut();
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = extent.at + done as u64;
        match backing.file().read_at(rest, at) {
            Ok(0) => return Err(Failure::Read { at }),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Failure::Read { at }),
        }
    }
    Ok(piece)
}

/// A copy, put onto the medium.
fn store(backing: &Backing, at: u64, bytes: &[u8]) -> Result<(), Failure> {
    let written = backing.file().write_all_at(bytes, at);
    backing.note_written();
    written.map_err(|error| write_failure(&error, at))
}

/// A part of the data-out buffer, copied.
fn taken(data: &Data<'_>, at: u64, len: u64) -> Result<Aligned, Failure> {
    let mut piece = Aligned::new(size(len));
    let mut reader = data.request.reader();
    reader
        .skip(data.data_out_at + size(at))
        .and_then(|()| reader.read_exact(piece.bytes_mut()))
        .map_err(|_| Failure::Aborted)?;
    Ok(piece)
}

/// An error is the offset of the first difference, `at` bytes further.
fn equal(expected: &[u8], found: &[u8], at: u64) -> Result<(), Failure> {
    match expected
        .iter()
        .zip(found)
        .position(|(one, other)| one != other)
    {
        None => Ok(()),
        Some(offset) => Err(Failure::Miscompare {
            offset: at + offset as u64,
        }),
    }
}

fn compare(
    backing: &Backing,
    extent: Extent,
    repeated: Option<u32>,
    data: &Data<'_>,
) -> Result<(), Failure> {
    let Some(block_size) = repeated else {
        return pieces(extent).try_for_each(|piece| {
            let done = piece.at - extent.at;
            let expected = taken(data, done, piece.len)?;
            equal(expected.bytes(), fetch(backing, piece)?.bytes(), done)
        });
    };
    let block = taken(data, 0, u64::from(block_size))?;
    pieces(extent).try_for_each(|piece| {
        let found = fetch(backing, piece)?;
        found
            .bytes()
            .chunks(size(u64::from(block_size)))
            .try_for_each(|found| equal(block.bytes(), found, 0))
    })
}

/// What was written, as it comes back from the medium.
fn write_and_verify(
    backing: &Backing,
    extent: Extent,
    compare: bool,
    data: &Data<'_>,
) -> Result<(), Failure> {
    pieces(extent).try_for_each(|piece| {
        let done = piece.at - extent.at;
        let written = taken(data, done, piece.len)?;
        store(backing, piece.at, written.bytes())?;
        settle(backing, piece.at, true)?;
        let found = fetch(backing, piece)?;
        if compare {
            equal(written.bytes(), found.bytes(), done)?;
        }
        Ok(())
    })
}

fn compare_and_write(backing: &Backing, extent: Extent, data: &Data<'_>) -> Result<(), Failure> {
    let expected = taken(data, 0, extent.len)?;
    let new = taken(data, extent.len, extent.len)?;
    let _alone = backing.exclusively();
    let found = fetch(backing, extent)?;
    equal(expected.bytes(), found.bytes(), 0)?;
    store(backing, extent.at, new.bytes())
}

fn or_write(backing: &Backing, extent: Extent, data: &Data<'_>) -> Result<(), Failure> {
    let _alone = backing.exclusively();
    pieces(extent).try_for_each(|piece| {
        let more = taken(data, piece.at - extent.at, piece.len)?;
        let mut found = fetch(backing, piece)?;
        for (byte, more) in found.bytes_mut().iter_mut().zip(more.bytes()) {
            *byte |= more;
        }
        store(backing, piece.at, found.bytes())
    })
}

fn write_same(
    backing: &Backing,
    extent: Extent,
    block: Option<&[u8]>,
    unmap: bool,
) -> Result<(), Failure> {
    if block.is_none() {
        match backing.zero(extent, unmap) {
            Ok(true) => return Ok(()),
            Ok(false) => {} // by writing, then
            Err(error) => return Err(write_failure(&error, extent.at)),
        }
    }
    let mut pattern = Aligned::new(size(extent.len.min(PIECE)));
    if let Some(block) = block {
        for place in pattern.bytes_mut().chunks_mut(block.len().max(1)) {
            for (byte, of_block) in place.iter_mut().zip(block) {
                *byte = *of_block;
            }
        }
    }
    pieces(extent).try_for_each(|piece| {
        let bytes = pattern.bytes().get(..size(piece.len)).unwrap_or_default();
        store(backing, piece.at, bytes)
    })
}

/// Parts of whole blocks that are allocated or not, from the beginning of the extent on.
fn allocation(backing: &Backing, extent: Extent) -> Result<Vec<(Extent, bool)>, Failure> {
    const GRANULE: u64 = 4096; // whatever the block size is, no hole is smaller
    let end = extent.at + extent.len;
    let mut found: Vec<(Extent, bool)> = Vec::new();
    let mut at = extent.at;
    while at < end && found.len() < EXTENTS_MAX {
        let failed = |_| Failure::Read { at };
        let data = backing
            .next(at, true)
            .map_err(failed)?
            .unwrap_or(end)
            .min(end);
        // A granule that has data anywhere is allocated.
        let granule = data / GRANULE * GRANULE;
        let (until, allocated) = if granule > at {
            (granule, false)
        } else {
            let hole = backing.next(data, false).map_err(failed)?.unwrap_or(end);
            (hole.next_multiple_of(GRANULE).min(end), true)
        };
        let part = Extent {
            at,
            len: until - at,
        };
        match found.last_mut() {
            Some((last, same)) if *same == allocated => last.len += part.len,
            _ => found.push((part, allocated)),
        }
        at = until;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
