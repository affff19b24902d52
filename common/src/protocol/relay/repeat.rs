//! What the relay says to the stock daemon on its own account, when a connection changes hands.
//!
//! Knows that there is a [`Record`]; when it is used is for `handover/` to say.

use std::os::fd::{AsFd as _, BorrowedFd};

use super::super::codec::{Message, receive, send, send_parts};
use super::super::handover::Record;
use super::super::messages::{Request, RingState, flag};
use super::{Relay, RelayError, Until};

/// The record of a relay that keeps none.
static NOTHING: Record = Record::new();

impl<'a> Relay<'a> {
    /// What was said so far.
    pub(crate) fn record(&self) -> &Record {
        self.record.as_ref().unwrap_or(&NOTHING)
    }

    /// The connection.
    pub(crate) fn front_end(&self) -> BorrowedFd<'a> {
        self.front_end.as_fd()
    }

    /// Stops the rings that are started, and notes where they are to be continued. Comes after a [barrier](Self::barrier): no
    /// other reply is on its way.
    pub(crate) fn stop_rings(&mut self) -> Result<(), RelayError> {
        for index in self.record().started() {
            let body = RingState { index, value: 0 }.encode();
            let question = Message::new(Request::GET_VRING_BASE, body);
            send(self.back_end, &question).map_err(RelayError::BackEnd)?;
            let reply = receive(self.back_end).map_err(RelayError::BackEnd)?;
            let base = reply.and_then(|reply| RingState::decode(&reply.body));
            match (base.filter(|base| base.index == index), &mut self.record) {
                (Some(base), Some(record)) => record.set_base(base),
                _ => return Err(RelayError::NotRepeated),
            }
        }
        Ok(())
    }

    /// Takes [`stop_rings`](Self::stop_rings) back.
    pub(crate) fn restart_rings(&mut self) -> Result<(), RelayError> {
        for said in self.record().ring_messages() {
            let (request, flags) = (said.request, flag::VERSION);
            send_parts(self.back_end, request, flags, &said.body, &said.files)
                .map_err(RelayError::BackEnd)?;
        }
        match self.barrier(Until::Never)? {
            None => Ok(()),
            Some(_) => Err(RelayError::NotRepeated),
        }
    }

    /// Says what the front-end has said to an earlier daemon; none of the answers is for it.
    pub(crate) fn repeat(
        &mut self,
        messages: Vec<Message>,
        suspended: bool,
    ) -> Result<(), RelayError> {
        self.repeating = true;
        let mut end = self.barrier(Until::Never)?;
        for message in messages {
            end = end.or(self.take(message, Until::Never)?);
        }
        end = end.or(self.barrier(Until::Never)?);
        self.repeating = false;
        if let Some(record) = &mut self.record {
            record.set_suspended(suspended);
        }
        end.map_or(Ok(()), |_| Err(RelayError::NotRepeated))
    }
}
