//! Operations on open files and their data.

use rustix::io::Errno;

use super::abi::{
    CopyFileRangeIn, CopyFileRangeOut, CreateIn, FSYNC_DATA_ONLY, FallocateIn, FlushIn, FsyncIn,
    LseekIn, LseekOut, OPEN_KILL_SUIDGID, OpenIn, ReadIn, ReleaseIn, WRITE_CACHE,
    WRITE_KILL_SUIDGID, WriteIn, WriteOut,
};
use super::call::Call;
use super::session::TRANSFER_BYTES_MAX;
use crate::operations::{Entry, FsResult, OpenReply, WriteOptions};

/// Most that one `COPY_FILE_RANGE` copies, so that the ring does not wait for long; the guest comes again.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// Most that one READ reads, in bytes: as many pages as INIT allows, in a guest with pages of 64 KiB. More than that no
/// guest asks for that is not out to keep the ring, and whoever wants to stop it, waiting.
const READ_BYTES_MAX: usize = 256 * (64 << 10);

pub(super) fn open(call: &mut Call<'_>) -> FsResult<()> {
    let open: OpenIn = call.input.take()?;
    let kill_suidgid = open.open_flags & OPEN_KILL_SUIDGID != 0;
    let opened = call
        .file_system
        .open(&call.caller, call.nodeid, open.flags, kill_suidgid)?;
    call.put_open(opened);
    Ok(())
}

pub(super) fn create(call: &mut Call<'_>) -> FsResult<()> {
    let create: CreateIn = call.input.take()?;
    let name = call.input.name()?;
    let extensions = call.extensions()?;
    let created = call.file_system.create(
        &call.caller,
        call.nodeid,
        name,
        create.flags,
        create.mode,
        create.umask,
        extensions,
    )?;
    put_created(call, created);
    Ok(())
}

/// The guest sends a name, but there is none: it is the one that its own bookkeeping shows.
pub(super) fn temporary_file(call: &mut Call<'_>) -> FsResult<()> {
    let create: CreateIn = call.input.take()?;
    call.input.name()?;
    let extensions = call.extensions()?;
    let created = call.file_system.temporary_file(
        &call.caller,
        call.nodeid,
        create.flags,
        create.mode,
        create.umask,
        extensions,
    )?;
    put_created(call, created);
    Ok(())
}

fn put_created(call: &mut Call<'_>, (entry, opened): (Entry, OpenReply)) {
    call.put_entry(&entry);
    call.put_open(opened);
}

/// A reply that is short means the end of the file to the guest, so a buffer that is too small is an error.
pub(super) fn read(call: &mut Call<'_>) -> FsResult<()> {
    let read: ReadIn = call.input.take()?;
    let data = call.data.as_mut().ok_or(Errno::INVAL)?;
    let size = usize::try_from(read.size).map_err(|_| Errno::INVAL)?;
    if size > READ_BYTES_MAX || size > data.remaining() {
        return Err(Errno::INVAL);
    }
    call.file_system
        .read(read.handle, read.offset, size, data)?;
    Ok(())
}

pub(super) fn write(call: &mut Call<'_>) -> FsResult<()> {
    let write: WriteIn = call.input.take()?;
    let size = usize::try_from(write.size).map_err(|_| Errno::INVAL)?;
    if write.size > TRANSFER_BYTES_MAX || size > call.rest_len {
        return Err(Errno::INVAL);
    }
    let options = WriteOptions {
        cached: write.write_flags & WRITE_CACHE != 0,
        append: write.flags & libc::O_APPEND.cast_unsigned() != 0,
        kill_suidgid: write.write_flags & WRITE_KILL_SUIDGID != 0,
    };
    let written =
        call.file_system
            .write(write.handle, write.offset, size, options, &mut call.rest)?;
    put_count(call, written)
}

fn put_count(call: &mut Call<'_>, count: usize) -> FsResult<()> {
    let size = u32::try_from(count).map_err(|_| Errno::IO)?;
    call.put(&WriteOut { size, padding: 0 });
    Ok(())
}

pub(super) fn flush(call: &mut Call<'_>) -> FsResult<()> {
    let flush: FlushIn = call.input.take()?;
    call.file_system
        .flush(call.nodeid, flush.handle, flush.lock_owner)
}

pub(super) fn release(call: &mut Call<'_>) -> FsResult<()> {
    let release: ReleaseIn = call.input.take()?;
    call.file_system.release(release.handle)
}

pub(super) fn fsync(call: &mut Call<'_>) -> FsResult<()> {
    let fsync: FsyncIn = call.input.take()?;
    call.file_system
        .fsync(fsync.handle, fsync.fsync_flags & FSYNC_DATA_ONLY != 0)
}

pub(super) fn fallocate(call: &mut Call<'_>) -> FsResult<()> {
    let allocate: FallocateIn = call.input.take()?;
    call.file_system.fallocate(
        allocate.handle,
        allocate.mode,
        allocate.offset,
        allocate.length,
    )
}

pub(super) fn seek(call: &mut Call<'_>) -> FsResult<()> {
    let seek: LseekIn = call.input.take()?;
    let offset = call
        .file_system
        .seek(seek.handle, seek.offset, seek.whence)?;
    call.put(&LseekOut { offset });
    Ok(())
}

pub(super) fn copy_file_range(call: &mut Call<'_>) -> FsResult<()> {
    let copied = copy_range(call)?;
    put_count(call, copied)
}

pub(super) fn copy_file_range_64(call: &mut Call<'_>) -> FsResult<()> {
    let bytes_copied = copy_range(call)? as u64;
    call.put(&CopyFileRangeOut { bytes_copied });
    Ok(())
}

fn copy_range(call: &mut Call<'_>) -> FsResult<usize> {
    let copy: CopyFileRangeIn = call.input.take()?;
    call.file_system.copy_file_range(
        copy.handle_in,
        copy.offset_in,
        copy.handle_out,
        copy.offset_out,
        copy.len.min(COPY_BYTES_MAX),
        copy.flags,
    )
}
