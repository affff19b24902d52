//! Operations on extended attributes.

use rustix::io::Errno;

use super::abi::{
    GetXattrIn, GetXattrOut, SETXATTR_ACL_KILL_SGID, SetXattrIn, SetXattrInExtension, init,
};
use super::call::Call;
use crate::operations::{FsResult, XattrReply};

pub(super) fn set(call: &mut Call<'_>) -> FsResult<()> {
    let set: SetXattrIn = call.input.take()?;
    let session = call.session.ok_or(Errno::IO)?;
    let extension = if session.has(init::SETXATTR_EXT) {
        call.input.take()?
    } else {
        SetXattrInExtension::default()
    };
    let name = call.input.name()?;
    let size = usize::try_from(set.size).map_err(|_| Errno::INVAL)?;
    let value = call.input.bytes(size)?;
    let kill_sgid = extension.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
    call.file_system
        .set_xattr(call.nodeid, name, value, set.flags, kill_sgid)
}

pub(super) fn get(call: &mut Call<'_>) -> FsResult<()> {
    let get: GetXattrIn = call.input.take()?;
    let name = call.input.name()?;
    let found = call.file_system.get_xattr(call.nodeid, name, get.size)?;
    put(call, found);
    Ok(())
}

pub(super) fn list(call: &mut Call<'_>) -> FsResult<()> {
    let list: GetXattrIn = call.input.take()?;
    let found = call.file_system.list_xattr(call.nodeid, list.size)?;
    put(call, found);
    Ok(())
}

pub(super) fn remove(call: &mut Call<'_>) -> FsResult<()> {
    let name = call.input.name()?;
    call.file_system.remove_xattr(call.nodeid, name)
}

fn put(call: &mut Call<'_>, found: XattrReply) {
    match found {
        XattrReply::Size(size) => call.put(&GetXattrOut { size, padding: 0 }),
        XattrReply::Value(value) => call.reply.extend_from_slice(&value),
    }
}
