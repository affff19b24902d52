//! Operations on open directories.

use super::abi::{
    DirEnt, DirEntPlus, EntryOut, FSYNC_DATA_ONLY, FsyncIn, OpenIn, ReadIn, ReleaseIn,
};
use super::call::{Call, entry_out};
use super::wire::Wire;
use crate::config::Config;
use crate::operations::{DirectoryEntry, FsResult};
use crate::passthrough::Folder;

/// Most that one READDIR answers, in bytes, whatever room the guest leaves.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Entries are padded to units of this many bytes.
const ENTRY_UNIT: usize = 8;

pub(super) fn open(call: &mut Call<'_>) -> FsResult<()> {
    let open: OpenIn = call.input.take()?;
    let opened = call.file_system.open_directory(call.nodeid, open.flags)?;
    call.put_open(opened);
    Ok(())
}

pub(super) fn release(call: &mut Call<'_>) -> FsResult<()> {
    let release: ReleaseIn = call.input.take()?;
    call.file_system.release_directory(release.handle)
}

pub(super) fn fsync(call: &mut Call<'_>) -> FsResult<()> {
    let fsync: FsyncIn = call.input.take()?;
    call.file_system
        .fsync_directory(fsync.handle, fsync.fsync_flags & FSYNC_DATA_ONLY != 0)
}

pub(super) fn read(call: &mut Call<'_>) -> FsResult<()> {
    read_entries(call, DirEnt::SIZE, |call, entry| {
        dirent(entry).append(call.reply);
    })
}

/// READDIRPLUS: every name comes with what LOOKUP would answer, and counts as a lookup.
pub(super) fn read_with_entries(call: &mut Call<'_>) -> FsResult<()> {
    let folder = call.file_system.folder(call.nodeid).ok();
    read_entries(call, DirEntPlus::SIZE, |call, entry| {
        let found = DirEntPlus {
            entry: look_up(call.config, folder.as_ref(), entry.name),
            entry_name: dirent(entry),
        };
        found.append(call.reply);
    })
}

/// `.` and `..` are not looked up, and a name that cannot be is given without an inode: the guest will ask for it.
fn look_up(config: &Config, folder: Option<&Folder<'_>>, name: &[u8]) -> EntryOut {
    if name == b"." || name == b".." {
        return EntryOut::default();
    }
    let found = folder.and_then(|folder| folder.look_up(name).ok());
    found.map_or_else(EntryOut::default, |entry| entry_out(config, &entry))
}

/// Appends entries with `put` until the guest's buffer is full. `put` is not called for an entry that does not fit,
/// so what it looked up has always been told to the guest; for the same reason an error after the first entry is
/// kept for the next call.
fn read_entries(
    call: &mut Call<'_>,
    fixed_bytes: usize,
    mut put: impl FnMut(&mut Call<'_>, &DirectoryEntry<'_>),
) -> FsResult<()> {
    let read: ReadIn = call.input.take()?;
    let room = call.room().min(REPLY_BYTES_MAX);
    let limit = usize::try_from(read.size).map_or(room, |size| size.min(room));
    let mut too_large_for_any = false;
    let file_system = call.file_system;
    let result = file_system.read_directory(call.nodeid, read.handle, read.offset, &mut |entry| {
        let size = (fixed_bytes + entry.name.len()).next_multiple_of(ENTRY_UNIT);
        if call.reply.len() + size > limit {
            too_large_for_any = call.reply.is_empty();
            return false;
        }
        let end = call.reply.len() + size;
        put(call, &entry);
        call.reply.extend_from_slice(entry.name);
        call.reply.resize(end, 0);
        true
    });
    if call.reply.is_empty() {
        result?;
        if too_large_for_any {
            // An empty reply would mean the end of the directory.
            return Err(rustix::io::Errno::INVAL);
        }
    }
    Ok(())
}

fn dirent(entry: &DirectoryEntry<'_>) -> DirEnt {
    DirEnt {
        ino: entry.ino,
        offset: entry.next_offset,
        // Bounded by `REPLY_BYTES_MAX`.
        namelen: u32::try_from(entry.name.len()).unwrap_or(u32::MAX),
        kind: entry.kind,
    }
}
