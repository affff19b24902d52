//! The control-plane relay: stands between the front-end and the stock daemon and answers what that cannot.
//!
//! Every message is forwarded whole, with its descriptors, in order, in both directions. Four things are added: the bit of
//! the SUSPEND extension in the protocol features, SUSPEND and RESUME themselves, `GET_INFLIGHT_FD` and `SET_INFLIGHT_FD`
//! (`inflight.rs`), the checks of `trust.rs`, and `GPU_SET_SOCKET`, of which the stock handler makes an object that lets nobody
//! have the socket. The data path (kicks, rings, guest memory) never passes through here.
//!
//! Knows messages, and [`Explicit`]; knows no device.

mod answers;

use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::codec::{CodecError, Message, receive, send};
use super::inflight::{InflightError, Regions};
use super::messages::{Request, decode_u64, encode_u64, protocol_feature};
use super::trust::{self, TrustError};
use crate::device::{NoDisplay, SuspendError};

/// What the relay asks for itself.
pub(crate) trait Explicit {
    /// SUSPEND.
    fn suspend(&self) -> Result<(), SuspendError>;
    /// RESUME.
    fn resume(&self);
    /// `GPU_SET_SOCKET`.
    fn set_display_socket(&self, socket: UnixStream) -> Result<(), NoDisplay>;
}

/// Why a display socket was not taken. The connection goes on without it.
#[derive(Debug, thiserror::Error)]
enum DisplaySocketError {
    #[error("front-end: GPU_SET_SOCKET comes with {0} descriptors, and must come with one")]
    Descriptors(usize),
    #[error("front-end: the descriptor of GPU_SET_SOCKET is no UNIX stream socket")]
    Kind,
    #[error(transparent)]
    NoDisplay(#[from] NoDisplay),
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The front-end closed it.
    FrontEndLeft,
    /// The stock daemon closed it: it found a message unacceptable, and has logged why.
    Refused,
    /// The daemon is to end.
    Stopped,
}

/// The connection broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("connection to the front-end")]
    FrontEnd(#[source] CodecError),
    #[error("link to the stock daemon")]
    BackEnd(#[source] CodecError),
    #[error("front-end: {request} must have neither payload nor descriptors")]
    NotEmpty { request: Request },
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("front-end: the region for requests in flight cannot be used")]
    Inflight(#[source] InflightError),
    #[error("host: cannot wait for messages")]
    Wait(#[source] std::io::Error),
}

/// One connection.
pub(crate) struct Relay<'a> {
    front_end: &'a UnixStream,
    back_end: &'a UnixStream,
    explicit: &'a dyn Explicit,
    /// Where requests in flight are written down, if the device wants that.
    regions: Option<Regions>,
    /// Protocol features that the front-end acknowledged, our bit included.
    acked: u64,
    /// `GET_FEATURES` of the front-end that are not answered yet.
    awaited: u32,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(
        front_end: &'a UnixStream,
        back_end: &'a UnixStream,
        explicit: &'a dyn Explicit,
        regions: Option<Regions>,
    ) -> Self {
        Self {
            front_end,
            back_end,
            explicit,
            regions,
            acked: 0,
            awaited: 0,
        }
    }

    /// Forwards until one side closes, or `stop` becomes readable; closes both sides then.
    pub(crate) fn run(mut self, stop: BorrowedFd<'_>) -> Result<End, RelayError> {
        let result = self.forward_all(stop);
        for side in [self.front_end, self.back_end] {
            let _closed_already = side.shutdown(Shutdown::Both);
        }
        match result {
            // It closed with a reply unread, or before one was sent.
            Err(RelayError::FrontEnd(error)) if error.peer_is_gone() => Ok(End::FrontEndLeft),
            // Likewise the stock daemon, over a message that was not the last.
            Err(RelayError::BackEnd(error)) if error.peer_is_gone() => Ok(End::Refused),
            result => result,
        }
    }

    fn forward_all(&mut self, stop: BorrowedFd<'_>) -> Result<End, RelayError> {
        loop {
            let end = match self.wait(stop, PollFlags::IN)? {
                Side::Stop => Some(End::Stopped),
                Side::BackEnd => self.reply()?,
                Side::FrontEnd => self.request(stop)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// The side to look at next; the front-end only for `interest`, and for its end. Replies first: they answer earlier
    /// requests.
    fn wait(&self, stop: BorrowedFd<'_>, interest: PollFlags) -> Result<Side, RelayError> {
        let mut sides = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::new(self.back_end, PollFlags::IN),
            PollFd::new(self.front_end, interest),
        ];
        loop {
            match poll(&mut sides, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(RelayError::Wait(error.into())),
            }
            let [stop, back_end, front_end] = &sides;
            for (poll, side) in [
                (stop, Side::Stop),
                (back_end, Side::BackEnd),
                (front_end, Side::FrontEnd),
            ] {
                if !poll.revents().is_empty() {
                    return Ok(side);
                }
            }
        }
    }

    fn request(&mut self, stop: BorrowedFd<'_>) -> Result<Option<End>, RelayError> {
        let Some(mut message) = receive(self.front_end).map_err(RelayError::FrontEnd)? else {
            return Ok(Some(End::FrontEndLeft));
        };
        if self.is_ours(message.request) {
            if let Some(end) = self.barrier(stop)? {
                return Ok(Some(end));
            }
            self.answer(message)?;
            return Ok(None);
        }
        match message.request {
            Request::SET_PROTOCOL_FEATURES => {
                if let Some(features) = message.value() {
                    self.acked = features;
                    message.body = encode_u64(features & !protocol_feature::SUSPEND);
                }
            }
            Request::GET_FEATURES => self.awaited += 1,
            _ => trust::check(&message)?,
        }
        send(self.back_end, &message).map_err(RelayError::BackEnd)?;
        Ok(None)
    }

    fn reply(&mut self) -> Result<Option<End>, RelayError> {
        match receive(self.back_end).map_err(RelayError::BackEnd)? {
            Some(message) => {
                self.forward_reply(message)?;
                Ok(None)
            }
            None => Ok(Some(End::Refused)),
        }
    }

    fn forward_reply(&mut self, mut message: Message) -> Result<(), RelayError> {
        match message.request {
            Request::GET_PROTOCOL_FEATURES => {
                if let Some(features) = decode_u64(&message.body) {
                    message.body = encode_u64(features | protocol_feature::SUSPEND);
                }
            }
            Request::GET_FEATURES => self.awaited = self.awaited.saturating_sub(1),
            _ => {}
        }
        send(self.front_end, &message).map_err(RelayError::FrontEnd)
    }

    /// Waits until the stock daemon has handled every message before this point, and forwards the replies: it serves in
    /// order, and always answers `GET_FEATURES`. Without it SUSPEND would overtake messages that need no reply.
    ///
    /// A message before it may wait for a request that never ends: the front-end's leaving ends this wait, too.
    fn barrier(&mut self, stop: BorrowedFd<'_>) -> Result<Option<End>, RelayError> {
        let question = Message::new(Request::GET_FEATURES, Vec::new());
        send(self.back_end, &question).map_err(RelayError::BackEnd)?;
        loop {
            match self.wait(stop, PollFlags::RDHUP)? {
                Side::Stop => return Ok(Some(End::Stopped)),
                Side::FrontEnd => return Ok(Some(End::FrontEndLeft)),
                Side::BackEnd => {}
            }
            match receive(self.back_end).map_err(RelayError::BackEnd)? {
                None => return Ok(Some(End::Refused)),
                Some(message) if message.request == Request::GET_FEATURES && self.awaited == 0 => {
                    return Ok(None);
                }
                Some(message) => self.forward_reply(message)?,
            }
        }
    }
}

/// What a poll can find.
#[derive(Clone, Copy)]
enum Side {
    Stop,
    BackEnd,
    FrontEnd,
}

#[cfg(test)]
mod tests;
