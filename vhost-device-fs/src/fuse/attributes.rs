//! Operations on the session, on a file's attributes and on the file system as a whole.

use common::report::Sparse;

use super::abi::{AccessIn, GETATTR_HANDLE, GetAttrIn, SetAttrIn, StatFsOut, StatxIn, setattr};
use super::call::Call;
use super::session::negotiate;
use crate::operations::{FsResult, SetAttributes, SetTime, Statfs};

/// Sessions that ended because another one began.
static SESSIONS: Sparse = Sparse::new();

/// A guest that boots again sends INIT again, without having said goodbye: what the one before it knew is forgotten.
pub(super) fn init(call: &mut Call<'_>) -> FsResult<()> {
    let answer = negotiate(call.config, &mut call.input)?;
    if let Some(session) = answer.session {
        if call.session.is_some()
            && let Some(count) = SESSIONS.count()
        {
            log::info!("guest: new session; the previous one is forgotten ({count} so far)");
        }
        call.file_system.destroy();
        call.file_system.session_started(session);
    }
    call.put(&answer.reply);
    Ok(())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the table of operations has one type"
)]
pub(super) fn destroy(call: &mut Call<'_>) -> FsResult<()> {
    call.file_system.destroy();
    Ok(())
}

pub(super) fn get(call: &mut Call<'_>) -> FsResult<()> {
    let get: GetAttrIn = call.input.take()?;
    let handle = (get.flags & GETATTR_HANDLE != 0).then_some(get.handle);
    let attributes = call.file_system.get_attributes(call.nodeid, handle)?;
    call.put_attributes(&attributes);
    Ok(())
}

/// GETATTR with the time of birth. What was asked for does not matter: the answer says what it has.
pub(super) fn statx(call: &mut Call<'_>) -> FsResult<()> {
    let get: StatxIn = call.input.take()?;
    let handle = (get.getattr_flags & GETATTR_HANDLE != 0).then_some(get.handle);
    let attributes = call.file_system.get_attributes(call.nodeid, handle)?;
    call.put_extended_attributes(&attributes);
    Ok(())
}

pub(super) fn set(call: &mut Call<'_>) -> FsResult<()> {
    let set: SetAttrIn = call.input.take()?;
    let change = change(&set);
    let attributes = call
        .file_system
        .set_attributes(&call.caller, call.nodeid, &change)?;
    call.put_attributes(&attributes);
    Ok(())
}

fn change(set: &SetAttrIn) -> SetAttributes {
    let valid = |flag| set.valid & flag != 0;
    let time = |at, now, seconds: u64, nanoseconds| {
        if valid(now) {
            Some(SetTime::Now)
        } else {
            valid(at).then_some(SetTime::At(seconds.cast_signed(), nanoseconds))
        }
    };
    SetAttributes {
        mode: valid(setattr::MODE).then_some(set.mode),
        uid: valid(setattr::UID).then_some(set.uid),
        gid: valid(setattr::GID).then_some(set.gid),
        size: valid(setattr::SIZE).then_some(set.size),
        atime: time(
            setattr::ATIME,
            setattr::ATIME_NOW,
            set.atime,
            set.atime_nsec,
        ),
        mtime: time(
            setattr::MTIME,
            setattr::MTIME_NOW,
            set.mtime,
            set.mtime_nsec,
        ),
        kill_suidgid: valid(setattr::KILL_SUIDGID),
        handle: valid(setattr::HANDLE).then_some(set.handle),
    }
}

pub(super) fn access(call: &mut Call<'_>) -> FsResult<()> {
    let access: AccessIn = call.input.take()?;
    call.file_system
        .access(&call.caller, call.nodeid, access.mask)
}

pub(super) fn statfs(call: &mut Call<'_>) -> FsResult<()> {
    let Statfs {
        blocks,
        bfree,
        bavail,
        files,
        ffree,
        bsize,
        namelen,
        frsize,
    } = call.file_system.statfs(call.nodeid)?;
    call.put(&StatFsOut {
        blocks,
        bfree,
        bavail,
        files,
        ffree,
        bsize,
        namelen,
        frsize,
        padding: 0,
        spare: [0; 6],
    });
    Ok(())
}

pub(super) fn sync_filesystem(call: &mut Call<'_>) -> FsResult<()> {
    call.file_system.sync_filesystem(call.nodeid)
}
