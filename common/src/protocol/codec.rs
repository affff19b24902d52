//! The wire: whole vhost-user messages, with their file descriptors, from and to a UNIX socket.
//!
//! Knows where a message ends and nothing of what it means: unknown requests pass like any other.
//! Both ends of the protocol are served, so "the peer" in an error is a front-end or a back-end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};

use super::messages::{
    BODY_MAX, FILES_MAX, HEADER_SIZE, Header, Request, decode_u64, encode_u64, flag,
};

/// What can go wrong between two whole messages.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The socket failed.
    #[error("host: receiving from the vhost-user socket failed")]
    Receive(#[source] io::Error),
    /// The socket failed, or the peer is gone.
    #[error("host: sending {request} to the vhost-user socket failed")]
    Send {
        /// What was to be sent.
        request: Request,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The socket has a time limit and the peer did not keep it.
    #[error("the peer did not send, or not take, a whole message in time")]
    TimedOut,
    /// The connection ended after some bytes of a message.
    #[error("the peer closed the connection {received} bytes into a message")]
    EndInsideMessage {
        /// Bytes of the message that had come.
        received: usize,
    },
    /// Some files were lost, or there is no place for them.
    #[error(
        "the peer sent more file descriptors with one message than {FILES_MAX}, or than this \
         process can still open"
    )]
    TooManyFiles,
    /// The header's size is out of bounds; the body was not read.
    #[error("the peer sent {request} with {size} bytes of payload, the limit is {BODY_MAX}")]
    TooLarge {
        /// Its request.
        request: Request,
        /// Its size in bytes.
        size: usize,
    },
    /// The header's version is not 1.
    #[error("the peer sent {request} with flags {flags:#x}, which is not protocol version 1")]
    Version {
        /// Its request.
        request: Request,
        /// Its flags.
        flags: u32,
    },
}

impl CodecError {
    /// Whether all that happened is that the peer closed the connection, however rudely.
    pub fn peer_is_gone(&self) -> bool {
        match self {
            Self::Receive(source) | Self::Send { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            Self::TimedOut
            | Self::EndInsideMessage { .. }
            | Self::TooManyFiles
            | Self::TooLarge { .. }
            | Self::Version { .. } => false,
        }
    }
}

/// One vhost-user message. Its files are closed with it.
#[derive(Debug)]
pub struct Message {
    /// What is asked, or answered.
    pub request: Request,
    /// Version and [`flag`] bits.
    pub flags: u32,
    /// The payload, at most [`BODY_MAX`] bytes.
    pub body: Vec<u8>,
    /// The files that came along, at most [`FILES_MAX`].
    pub files: Vec<OwnedFd>,
}

impl Message {
    /// A request without files.
    pub fn new(request: Request, body: Vec<u8>) -> Self {
        Self {
            request,
            flags: flag::VERSION,
            body,
            files: Vec::new(),
        }
    }

    /// The same message, asking for an acknowledgement.
    #[must_use]
    pub fn needing_reply(mut self) -> Self {
        self.flags |= flag::NEED_REPLY;
        self
    }

    /// The reply to `request` that is one number; zero is the acknowledgement of success.
    pub fn reply(request: Request, value: u64) -> Self {
        let flags = flag::VERSION | flag::REPLY;
        Self {
            request,
            flags,
            body: encode_u64(value),
            files: Vec::new(),
        }
    }

    /// Whether the message is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags & flag::REPLY != 0
    }

    /// Whether the sender waits for an answer.
    pub fn needs_reply(&self) -> bool {
        self.flags & flag::NEED_REPLY != 0
    }

    /// The payload, if it is exactly one number.
    pub fn value(&self) -> Option<u64> {
        decode_u64(&self.body)
    }
}

/// Whether a file that came along is a UNIX stream socket, connected or connectable.
pub(super) fn is_stream(file: &OwnedFd) -> bool {
    socket_domain(file) == Ok(AddressFamily::UNIX) && socket_type(file) == Ok(SocketType::STREAM)
}

/// Waits for one whole message; `None` when the peer closed the connection between two messages.
///
/// Honours the socket's read time limit, if it has one. After an error the connection is useless,
/// since nobody knows where the next message begins.
pub fn receive(socket: &UnixStream) -> Result<Option<Message>, CodecError> {
    let mut files = Vec::new();
    let mut header = [0; HEADER_SIZE];
    match fill(socket, &mut header, &mut files)? {
        0 => return Ok(None),
        HEADER_SIZE => {}
        received => return Err(CodecError::EndInsideMessage { received }),
    }
    let Header {
        request,
        flags,
        size,
    } = Header::decode(header);
    if flags & flag::VERSION_MASK != flag::VERSION {
        return Err(CodecError::Version { request, flags });
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > BODY_MAX {
        return Err(CodecError::TooLarge { request, size });
    }
    let mut body = vec![0; size];
    let received = fill(socket, &mut body, &mut files)?;
    if received < size {
        return Err(CodecError::EndInsideMessage {
            received: HEADER_SIZE + received,
        });
    }
    Ok(Some(Message {
        request,
        flags,
        body,
        files,
    }))
}

/// Sends one whole message; its files leave with the first byte.
///
/// Honours the socket's write time limit, if it has one. After an error the connection is useless,
/// since part of the message may have been sent.
pub fn send(socket: &UnixStream, message: &Message) -> Result<(), CodecError> {
    let files: Vec<_> = message.files.iter().map(AsFd::as_fd).collect();
    send_parts(
        socket,
        message.request,
        message.flags,
        &message.body,
        &files,
    )
}

/// [`send`] for a sender that keeps its files.
pub fn send_parts(
    socket: &UnixStream,
    request: Request,
    flags: u32,
    body: &[u8],
    files: &[BorrowedFd<'_>],
) -> Result<(), CodecError> {
    if files.len() > FILES_MAX {
        return Err(CodecError::TooManyFiles);
    }
    let size = match u32::try_from(body.len()) {
        Ok(size) if body.len() <= BODY_MAX => size,
        _ => {
            return Err(CodecError::TooLarge {
                request,
                size: body.len(),
            });
        }
    };
    let header = Header {
        request,
        flags,
        size,
    }
    .encode();
    send_bytes(socket, &[&header, body].concat(), files).map_err(|error| match error {
        Errno::AGAIN => CodecError::TimedOut,
        error => CodecError::Send {
            request,
            source: error.into(),
        },
    })
}

/// Sends any bytes, the files with the first of them: what [`send`] is made of, and what a hostile
/// peer would do.
pub fn send_bytes(
    socket: &UnixStream,
    mut bytes: &[u8],
    mut files: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    while !bytes.is_empty() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(Errno::TOOMANYREFS);
        }
        match sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => {
                bytes = bytes.get(sent..).unwrap_or_default();
                files = &[];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the connection ends; returns how many bytes came.
fn fill(
    socket: &UnixStream,
    buffer: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> Result<usize, CodecError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut received = 0;
    while let Some(rest) = buffer.get_mut(received..).filter(|rest| !rest.is_empty()) {
        // Dropping this closes the files that nobody took out of it.
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(rest)];
        let got = match recvmsg(socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Err(CodecError::TimedOut),
            Err(error) => return Err(CodecError::Receive(error.into())),
        };
        // The kernel also says so when this process has reached its limit of open files.
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(CodecError::TooManyFiles);
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        // There is room for a few more, since its size is rounded up.
        if files.len() > FILES_MAX {
            return Err(CodecError::TooManyFiles);
        }
        if got.bytes == 0 {
            break;
        }
        received += got.bytes;
    }
    Ok(received)
}

#[cfg(test)]
mod tests;
