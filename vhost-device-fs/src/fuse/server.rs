//! One request from the ring to its reply. Knows headers and sizes; what an opcode means is in `dispatch`.
//!
//! Whatever the guest sends, it gets an error reply if there is a way to give it one, and the process goes on.

use common::report::Sparse;
use common::request::{Reader, Request, Writer};
use rustix::io::Errno;

use super::abi::{InHeader, Opcode, OutHeader};
use super::call::Call;
use super::dispatch::{Body, Effort, Operation, Reply, operation};
use super::input::Input;
use super::wire::Wire;
use crate::config::Config;
use crate::operations::{Caller, FsResult};
use crate::passthrough::FileSystem;

/// Greatest body that is copied: an extended attribute of 64 KiB with its name, or a symlink with its label.
const BODY_BYTES_MAX: usize = 128 << 10;

/// Requests without a header.
static TOO_SHORT: Sparse = Sparse::new();

/// Memory that is reused from request to request, one for each ring.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The request behind its header, or the part of it that the operation wants copied.
    body: Vec<u8>,
    /// The reply's header.
    header: Vec<u8>,
    /// The reply behind its header.
    reply: Vec<u8>,
}

/// Serves requests on a file system. Cheap to make; has no state of its own.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    /// How the device is configured.
    pub config: &'a Config,
    /// What requests are about.
    pub file_system: &'a FileSystem,
    /// Whether a request may wait for a lock of somebody else's ([`Served::Waits`]).
    pub may_wait: bool,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// So many bytes were written to it, and the guest can have it back.
    Answered(u32),
    /// It waits for somebody else, and is to be served again. Nothing was written.
    Waits,
    /// It was left as it is, since whoever was asked wanted that. Nothing was done.
    Left,
}

/// How many bytes are behind the slot of the reply's header.
enum Answer {
    /// The guest expects no reply.
    Nothing,
    /// There is none yet.
    Later,
    /// There is none, for nothing was done.
    Left,
    /// The reply is in [`Buffers::reply`].
    Reply,
    /// So many bytes are in guest memory already.
    InPlace(usize),
}

impl Server<'_> {
    /// Serves `request`.
    ///
    /// `leave` is asked before an operation on a nodeid that takes some effort whether to leave it for somebody else.
    pub fn serve(
        &self,
        request: &Request,
        buffers: &mut Buffers,
        leave: &mut dyn FnMut(Effort, u64) -> bool,
    ) -> Served {
        let mut reader = request.reader();
        let Ok(header) = copy::<InHeader>(&mut reader) else {
            if let Some(count) = TOO_SHORT.count() {
                log::warn!(
                    "guest: request of {} bytes, too short for a FUSE header ({count} so far)",
                    reader.remaining()
                );
            }
            return Served::Answered(0);
        };
        let answer = self.answer(&header, reader, request, buffers, leave);
        let (error, behind, body) = match answer {
            Ok(Answer::Nothing) => return Served::Answered(0),
            Ok(Answer::Later) => return Served::Waits,
            Ok(Answer::Left) => return Served::Left,
            Ok(Answer::Reply) => (0, buffers.reply.len(), buffers.reply.as_slice()),
            Ok(Answer::InPlace(bytes)) => (0, bytes, &[][..]),
            Err(error) => {
                log::trace!(
                    "opcode {} on node {}: {error}",
                    header.opcode,
                    header.nodeid
                );
                (-error.raw_os_error(), 0, &[][..])
            }
        };
        let reply = OutHeader {
            len: u32::try_from(OutHeader::SIZE + behind).unwrap_or(u32::MAX),
            error,
            unique: header.unique,
        };
        Served::Answered(send(&mut buffers.header, request, reply, body))
    }

    fn answer(
        &self,
        header: &InHeader,
        mut reader: Reader<'_>,
        request: &Request,
        buffers: &mut Buffers,
        leave: &mut dyn FnMut(Effort, u64) -> bool,
    ) -> FsResult<Answer> {
        let body_len = body_len(header, &reader)?;
        let opcode = Opcode::from_number(header.opcode).ok_or(Errno::NOSYS)?;
        let operation = operation(opcode).ok_or(Errno::NOSYS)?;
        let session = self.file_system.session();
        if session.is_none() && opcode != Opcode::Init {
            return Err(Errno::IO);
        }
        let data = room(request, &operation)?;
        copy_body(&operation, body_len, &mut reader, &mut buffers.body)?;
        buffers.reply.clear();
        let mut call = Call {
            config: self.config,
            file_system: self.file_system,
            session,
            nodeid: header.nodeid,
            caller: Caller {
                uid: header.uid,
                gid: header.gid,
                pid: header.pid,
                supplementary_group: None,
            },
            input: Input::new(&buffers.body),
            reply: &mut buffers.reply,
            rest: reader,
            rest_len: body_len.saturating_sub(buffers.body.len()),
            data,
            may_wait: self.may_wait,
            waits: false,
        };
        if let Some((effort, at_least)) = operation.effort
            && call.data_len() >= at_least
            && leave(effort, header.nodeid)
        {
            return Ok(Answer::Left);
        }
        (operation.run)(&mut call)?;
        if call.waits {
            return Ok(Answer::Later);
        }
        let in_place = call.data.as_ref().map_or(0, Writer::written);
        let room = call.data.as_ref().map_or(0, Writer::remaining);
        match operation.reply {
            Reply::None => Ok(Answer::Nothing),
            Reply::InPlace => Ok(Answer::InPlace(in_place)),
            Reply::Bytes { .. } if buffers.reply.len() > room => Err(Errno::RANGE),
            Reply::Bytes { .. } => Ok(Answer::Reply),
        }
    }
}

/// The length of the body, which must be there. What the chain holds beyond it is not part of the request.
fn body_len(header: &InHeader, reader: &Reader<'_>) -> FsResult<usize> {
    usize::try_from(header.len)
        .ok()
        .and_then(|len| len.checked_sub(InHeader::SIZE))
        .filter(|len| *len <= reader.remaining())
        .ok_or(Errno::INVAL)
}

/// The room for the reply behind its header. An operation is not begun if there is none for what it always answers.
fn room<'a>(request: &'a Request, operation: &Operation) -> FsResult<Option<Writer<'a>>> {
    let needed = match operation.reply {
        Reply::None => return Ok(None),
        Reply::InPlace => 0,
        Reply::Bytes { at_least } => at_least,
    };
    let (_, data) = request
        .writer()
        .split_at(OutHeader::SIZE)
        .map_err(|_| Errno::INVAL)?;
    if data.remaining() < needed {
        return Err(Errno::INVAL);
    }
    Ok(Some(data))
}

fn copy_body(
    operation: &Operation,
    len: usize,
    reader: &mut Reader<'_>,
    body: &mut Vec<u8>,
) -> FsResult<()> {
    let len = match operation.body {
        Body::Whole => len,
        Body::Front(front) => front.min(len),
    };
    if len > BODY_BYTES_MAX {
        return Err(Errno::TOOBIG);
    }
    body.clear();
    body.resize(len, 0);
    reader.read_exact(body).map_err(|_| Errno::INVAL)
}

/// Copies a structure out of guest memory.
pub(super) fn copy<T: Wire>(reader: &mut Reader<'_>) -> FsResult<T> {
    const STRUCTURE_BYTES_MAX: usize = 128;
    let mut bytes = [0; STRUCTURE_BYTES_MAX];
    let bytes = bytes.get_mut(..T::SIZE).ok_or(Errno::INVAL)?;
    reader.read_exact(bytes).map_err(|_| Errno::INVAL)?;
    T::take(&mut &*bytes).ok_or(Errno::INVAL)
}

/// Writes a reply with `behind` bytes after its header, of which `body` are written here and the rest are there
/// already. Returns the bytes of the reply; 0 if the guest left no room for it.
fn send(header: &mut Vec<u8>, request: &Request, reply: OutHeader, body: &[u8]) -> u32 {
    header.clear();
    reply.append(header);
    let mut writer = request.writer();
    match writer
        .write_all(header)
        .and_then(|()| writer.write_all(body))
    {
        Ok(()) => reply.len,
        Err(error) => {
            log::debug!("{error}; request {} stays without a reply", reply.unique);
            0
        }
    }
}

#[cfg(test)]
mod tests;
