//! Operations on names: looking up, creating, linking, renaming, removing; and forgetting what was looked up.

use super::abi::{
    BatchForgetIn, ForgetIn, ForgetOne, LinkIn, MkDirIn, MkNodIn, Rename2In, RenameIn,
};
use super::call::Call;
use super::server::copy;
use super::wire::Wire;
use crate::operations::FsResult;
use rustix::io::Errno;

pub(super) fn lookup(call: &mut Call<'_>) -> FsResult<()> {
    let name = call.input.name()?;
    let negative = call.config.negative_timeout();
    match call.file_system.lookup(&call.caller, call.nodeid, name) {
        Ok(entry) => call.put_entry(&entry),
        // An error would not be remembered.
        Err(Errno::NOENT) if !negative.is_zero() => call.put_no_entry(negative),
        Err(errno) => return Err(errno),
    }
    Ok(())
}

pub(super) fn forget(call: &mut Call<'_>) -> FsResult<()> {
    let forget: ForgetIn = call.input.take()?;
    call.file_system.forget(call.nodeid, forget.nlookup);
    Ok(())
}

/// Most nodes that one request forgets, far more than Linux sends: buffers that overlap can make a list that has no end
/// in sight.
const FORGET_NODES_MAX: usize = 1 << 18;

/// The list may be long, so it is read node by node; what the count promises beyond the request's end is not there.
pub(super) fn batch_forget(call: &mut Call<'_>) -> FsResult<()> {
    let batch: BatchForgetIn = call.input.take()?;
    let there = (call.rest_len / ForgetOne::SIZE).min(FORGET_NODES_MAX);
    let count = usize::try_from(batch.count).map_or(there, |count| count.min(there));
    for _ in 0..count {
        let one: ForgetOne = copy(&mut call.rest)?;
        call.file_system.forget(one.nodeid, one.nlookup);
    }
    Ok(())
}

pub(super) fn symlink(call: &mut Call<'_>) -> FsResult<()> {
    let name = call.input.name()?;
    let target = call.input.name()?;
    let extensions = call.extensions()?;
    let entry = call
        .file_system
        .symlink(&call.caller, call.nodeid, name, target, extensions)?;
    call.put_entry(&entry);
    Ok(())
}

pub(super) fn make_node(call: &mut Call<'_>) -> FsResult<()> {
    let make: MkNodIn = call.input.take()?;
    let name = call.input.name()?;
    let extensions = call.extensions()?;
    let entry = call.file_system.make_node(
        &call.caller,
        call.nodeid,
        name,
        make.mode,
        make.rdev,
        make.umask,
        extensions,
    )?;
    call.put_entry(&entry);
    Ok(())
}

pub(super) fn make_directory(call: &mut Call<'_>) -> FsResult<()> {
    let make: MkDirIn = call.input.take()?;
    let name = call.input.name()?;
    let extensions = call.extensions()?;
    let entry = call.file_system.make_directory(
        &call.caller,
        call.nodeid,
        name,
        make.mode,
        make.umask,
        extensions,
    )?;
    call.put_entry(&entry);
    Ok(())
}

pub(super) fn link(call: &mut Call<'_>) -> FsResult<()> {
    let link: LinkIn = call.input.take()?;
    let name = call.input.name()?;
    let entry = call.file_system.link(link.old_nodeid, call.nodeid, name)?;
    call.put_entry(&entry);
    Ok(())
}

pub(super) fn unlink(call: &mut Call<'_>) -> FsResult<()> {
    let name = call.input.name()?;
    call.file_system.unlink(call.nodeid, name)
}

pub(super) fn remove_directory(call: &mut Call<'_>) -> FsResult<()> {
    let name = call.input.name()?;
    call.file_system.remove_directory(call.nodeid, name)
}

pub(super) fn rename(call: &mut Call<'_>) -> FsResult<()> {
    let rename: RenameIn = call.input.take()?;
    move_name(call, rename.new_parent, 0)
}

pub(super) fn rename_with_flags(call: &mut Call<'_>) -> FsResult<()> {
    let rename: Rename2In = call.input.take()?;
    move_name(call, rename.new_parent, rename.flags)
}

fn move_name(call: &mut Call<'_>, new_parent: u64, flags: u32) -> FsResult<()> {
    let name = call.input.name()?;
    let new_name = call.input.name()?;
    call.file_system
        .rename(call.nodeid, name, new_parent, new_name, flags)
}

pub(super) fn read_link(call: &mut Call<'_>) -> FsResult<()> {
    let target = call.file_system.read_link(call.nodeid)?;
    call.reply.extend_from_slice(&target);
    Ok(())
}
