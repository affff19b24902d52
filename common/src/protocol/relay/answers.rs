//! The messages that the relay answers itself, after everything before them was handled.
//!
//! Knows what they ask for and how they are acknowledged; who does it is [`Explicit`](super::Explicit) and [`Regions`].

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::super::codec::{Message, is_stream, send};
use super::super::inflight::{InflightError, Regions};
use super::super::messages::{Inflight, Request, protocol_feature};
use super::{DisplaySocketError, Relay, RelayError};
use crate::report;

impl Relay<'_> {
    /// Whether the stock daemon never sees this message. What was not negotiated is forwarded, and ends the connection.
    pub(super) fn is_ours(&self, request: Request) -> bool {
        let negotiated = |bit| self.acked & bit != 0;
        match request {
            Request::SUSPEND | Request::RESUME => negotiated(protocol_feature::SUSPEND),
            Request::GPU_SET_SOCKET => true,
            Request::GET_INFLIGHT_FD | Request::SET_INFLIGHT_FD => {
                self.regions.is_some() && negotiated(protocol_feature::INFLIGHT_SHMFD)
            }
            _ => false,
        }
    }

    pub(super) fn answer(&mut self, message: Message) -> Result<(), RelayError> {
        match (message.request, self.regions.clone()) {
            (Request::GET_INFLIGHT_FD, Some(regions)) => {
                let reply = new_region(&regions, &message)?;
                let lasting = self.lasting_region(&reply)?;
                self.note_region(lasting);
                send(self.front_end, &reply).map_err(RelayError::FrontEnd)
            }
            (Request::SET_INFLIGHT_FD, Some(regions)) => {
                let acknowledged = self.is_acknowledged(&message);
                let lasting = self.lasting_region(&message)?;
                match use_region(&regions, message) {
                    // Without an acknowledgement the front-end would believe that nothing can get lost.
                    Err(error) if !acknowledged => Err(RelayError::Inflight(error)),
                    Err(error) => {
                        log::error!("SET_INFLIGHT_FD refused: {}", report::chain(&error));
                        self.acknowledge(Request::SET_INFLIGHT_FD, false)
                    }
                    Ok(()) => {
                        self.note_region(lasting);
                        if acknowledged {
                            self.acknowledge(Request::SET_INFLIGHT_FD, true)?;
                        }
                        Ok(())
                    }
                }
            }
            (Request::GPU_SET_SOCKET, _) => self.set_display_socket(message),
            _ => self.suspend_or_resume(&message),
        }
    }

    /// How the next daemon is told to go on with the same region: by then nothing is in flight in it.
    fn lasting_region(&self, message: &Message) -> Result<Option<Message>, RelayError> {
        // Without a file there is no region: a refusal.
        if self.record.is_none() || message.files.is_empty() {
            return Ok(None);
        }
        let files = message.files.iter().map(OwnedFd::try_clone);
        Ok(Some(Message {
            files: files
                .collect::<Result<_, _>>()
                .map_err(RelayError::Duplicate)?,
            ..Message::new(Request::SET_INFLIGHT_FD, message.body.clone())
        }))
    }

    /// The region is in use.
    fn note_region(&mut self, lasting: Option<Message>) {
        if let (Some(record), Some(message)) = (&mut self.record, lasting) {
            record.note(message);
        }
    }

    fn suspend_or_resume(&mut self, message: &Message) -> Result<(), RelayError> {
        let request = message.request;
        if !message.body.is_empty() || !message.files.is_empty() {
            return Err(RelayError::NotEmpty { request });
        }
        let began = Instant::now();
        let result = if request == Request::SUSPEND {
            self.explicit.suspend()
        } else {
            self.explicit.resume();
            Ok(())
        };
        match &result {
            Ok(()) => log::info!("{request} result=ok us={}", began.elapsed().as_micros()),
            Err(error) => log::error!("SUSPEND refused: {}", report::chain(error)),
        }
        if let Some(record) = &mut self.record
            && result.is_ok()
        {
            record.set_suspended(request == Request::SUSPEND);
        }
        if self.is_acknowledged(message) {
            self.acknowledge(request, result.is_ok())?;
        }
        Ok(())
    }

    fn set_display_socket(&self, mut message: Message) -> Result<(), RelayError> {
        let result = unix_stream(std::mem::take(&mut message.files))
            .and_then(|socket| Ok(self.explicit.set_display_socket(socket)?));
        if let Err(error) = &result {
            log::error!("{}", report::chain(error));
        }
        if self.is_acknowledged(&message) {
            self.acknowledge(message.request, result.is_ok())?;
        }
        Ok(())
    }

    /// Whether the front-end waits for an acknowledgement.
    fn is_acknowledged(&self, message: &Message) -> bool {
        message.needs_reply() && self.acked & protocol_feature::REPLY_ACK != 0
    }

    fn acknowledge(&self, request: Request, done: bool) -> Result<(), RelayError> {
        let reply = Message::reply(request, u64::from(!done));
        send(self.front_end, &reply).map_err(RelayError::FrontEnd)
    }
}

/// The reply to `GET_INFLIGHT_FD`, of the length of the question: compilers differ in the padding. A region of no bytes is a
/// refusal, as QEMU's vhost-user.c understands it.
fn new_region(regions: &Regions, question: &Message) -> Result<Message, RelayError> {
    let (wanted, length) = shape(question, 0).map_err(RelayError::Inflight)?;
    let (made, file) = match regions.create(wanted) {
        Ok((made, file)) => (made, Some(file)),
        Err(error) => {
            log::error!("GET_INFLIGHT_FD refused: {}", report::chain(&error));
            (Inflight { size: 0, ..wanted }, None)
        }
    };
    let mut body = made.encode();
    body.truncate(length);
    Ok(Message {
        body,
        files: file.into_iter().collect(),
        ..Message::reply(question.request, 0)
    })
}

fn use_region(regions: &Regions, message: Message) -> Result<(), InflightError> {
    let (told, _) = shape(&message, 1)?;
    let Some(file) = message.files.into_iter().next() else {
        return Ok(()); // it has one: `shape` has looked
    };
    regions.adopt(told, file)
}

/// What the message says, if it has the right form, and the length of its payload in bytes.
fn shape(message: &Message, files: usize) -> Result<(Inflight, usize), InflightError> {
    let bytes = message.body.len();
    let fields = Inflight::decode(&message.body);
    let right = bytes == Inflight::FIELDS_SIZE || bytes == Inflight::default().encode().len();
    fields
        .filter(|_| right && message.files.len() == files)
        .map(|fields| (fields, bytes))
        .ok_or(InflightError::Form {
            bytes,
            files: message.files.len(),
        })
}

/// The only descriptor, which must be a connected or connectable stream.
fn unix_stream(mut files: Vec<OwnedFd>) -> Result<UnixStream, DisplaySocketError> {
    let (1, Some(file)) = (files.len(), files.pop()) else {
        return Err(DisplaySocketError::Descriptors(files.len()));
    };
    if is_stream(&file) {
        Ok(UnixStream::from(file))
    } else {
        Err(DisplaySocketError::Kind)
    }
}
