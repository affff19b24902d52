//! The control-plane relay: stands between the front-end and the stock daemon and answers what that cannot.
//!
//! Every message is forwarded whole, with its descriptors, in order, in both directions. Four things are added: the bit of
//! the SUSPEND extension in the protocol features, SUSPEND and RESUME themselves, `GET_INFLIGHT_FD` and `SET_INFLIGHT_FD`
//! (`inflight.rs`), the checks of `trust.rs`, and `GPU_SET_SOCKET`, of which the stock handler makes an object that lets nobody
//! have the socket. The data path (kicks, rings, guest memory) never passes through here.
//!
//! Knows messages, and [`Explicit`]; knows no device.

mod answers;
mod repeat;

use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::codec::{CodecError, Message, receive, send};
use super::handover::Record;
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
    /// The daemon is to end, and the next one goes on with the connection.
    HandedOver,
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
    #[error("host: a descriptor of the front-end cannot be duplicated")]
    Duplicate(#[source] std::io::Error),
    #[error("the stock daemon does not accept what an earlier one did")]
    NotRepeated,
}

/// How long to wait for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until<'a> {
    /// Until this becomes readable.
    Readable(BorrowedFd<'a>),
    /// Until then.
    At(Instant),
    /// However long it takes.
    Never,
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
    /// What is to be said to the next daemon, if there may be one.
    record: Option<Record>,
    /// Replies are for nobody: the front-end had its own from an earlier daemon.
    repeating: bool,
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
            record: None,
            repeating: false,
        }
    }

    /// From here on it is kept what a new daemon would have to be told.
    pub(crate) fn keep_record(&mut self) {
        self.record = Some(Record::new());
    }

    /// Closes the link to the stock daemon, and the connection, unless somebody else goes on with it.
    pub(crate) fn close(&self, connection: bool) {
        let _closed_already = self.back_end.shutdown(Shutdown::Both);
        if connection {
            let _closed_already = self.front_end.shutdown(Shutdown::Both);
        }
    }

    /// Forwards until one side closes, or the wait is over.
    pub(crate) fn run(&mut self, until: Until<'_>) -> Result<End, RelayError> {
        match self.forward_all(until) {
            // It closed with a reply unread, or before one was sent.
            Err(RelayError::FrontEnd(error)) if error.peer_is_gone() => Ok(End::FrontEndLeft),
            // Likewise the stock daemon, over a message that was not the last.
            Err(RelayError::BackEnd(error)) if error.peer_is_gone() => Ok(End::Refused),
            result => result,
        }
    }

    fn forward_all(&mut self, until: Until<'_>) -> Result<End, RelayError> {
        loop {
            let end = match self.wait(until, PollFlags::IN)? {
                Side::Stop => Some(End::Stopped),
                Side::BackEnd => self.reply()?,
                Side::FrontEnd => self.request(until)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// The side to look at next; the front-end only for `interest`, and for its end. Replies first: they answer earlier
    /// requests.
    fn wait(&self, until: Until<'_>, interest: PollFlags) -> Result<Side, RelayError> {
        let mut order = vec![
            (PollFd::new(self.back_end, PollFlags::IN), Side::BackEnd),
            (PollFd::new(self.front_end, interest), Side::FrontEnd),
        ];
        if let Until::Readable(stop) = until {
            let stop = PollFd::from_borrowed_fd(stop, PollFlags::IN);
            order.insert(0, (stop, Side::Stop));
        }
        let (mut polled, sides): (Vec<_>, Vec<_>) = order.into_iter().unzip();
        loop {
            let mut timeout = None;
            if let Until::At(end) = until {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Side::Stop);
                }
                timeout = Timespec::try_from(left).ok();
            }
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(RelayError::Wait(error.into())),
            }
            let mut found = polled.iter().zip(&sides);
            if let Some((_, side)) = found.find(|(polled, _)| !polled.revents().is_empty()) {
                return Ok(*side);
            }
        }
    }

    fn request(&mut self, until: Until<'_>) -> Result<Option<End>, RelayError> {
        match receive(self.front_end).map_err(RelayError::FrontEnd)? {
            Some(message) => self.take(message, until),
            None => Ok(Some(End::FrontEndLeft)),
        }
    }

    fn take(&mut self, mut message: Message, until: Until<'_>) -> Result<Option<End>, RelayError> {
        if self.is_ours(message.request) {
            if let Some(end) = self.barrier(until)? {
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
        if let Some(record) = &mut self.record {
            if message.request == Request::SET_PROTOCOL_FEATURES {
                message.body = encode_u64(self.acked);
            }
            record.note(message);
        }
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
        if let Some(record) = &mut self.record {
            record.note_reply(&message);
        }
        if self.repeating {
            return Ok(());
        }
        send(self.front_end, &message).map_err(RelayError::FrontEnd)
    }

    /// Waits until the stock daemon has handled every message before this point, and forwards the replies: it serves in
    /// order, and always answers `GET_FEATURES`. Without it SUSPEND would overtake messages that need no reply.
    ///
    /// A message before it may wait for a request that never ends: the front-end's leaving ends this wait, too.
    pub(super) fn barrier(&mut self, until: Until<'_>) -> Result<Option<End>, RelayError> {
        let question = Message::new(Request::GET_FEATURES, Vec::new());
        send(self.back_end, &question).map_err(RelayError::BackEnd)?;
        loop {
            match self.wait(until, PollFlags::RDHUP)? {
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
