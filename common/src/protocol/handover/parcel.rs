//! What one daemon leaves for the next: a record of the connection as bytes, and the descriptors that belong to it.
//!
//! The record is a state stream like any other, of a kind of its own: it may be damaged or forged, and is refused then.
//! Knows the layout, and not what the messages do.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::super::codec::{Message, is_stream};
use super::super::messages::{BODY_MAX, FILES_MAX, Request};
use super::HandoverError;
use super::record::{Record, lasts};
use crate::state::{
    DeviceKind, Importance, Limits, SchemaSupport, StateError, StateReader, StateSchema,
    StateWriter, Tag, read_state, write_state,
};

/// Most descriptors that can be left: what one message carries (`SCM_MAX_FD`, unix(7)).
pub(crate) const PARCEL_FILES_MAX: usize = 253;

/// Greatest length of a record in bytes.
pub(crate) const PARCEL_BYTES_MAX: usize = 128 << 10;

/// Descriptors before those of messages: the connection, and the device's state.
const LEADING: usize = 2;

const CONNECTION: Tag = Tag::new(*b"CONN");

/// What is left, not looked at yet.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) record: Vec<u8>,
    pub(crate) files: Vec<OwnedFd>,
}

/// What was found in a [`Parcel`].
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) front_end: UnixStream,
    pub(super) state: File,
    pub(super) suspended: bool,
    pub(super) messages: Vec<Message>,
}

/// What travels; never changed once released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ConnectionV1 {
    /// Number of the device's kind.
    device: u16,
    /// The front-end had suspended the device.
    suspended: bool,
    messages: Vec<MessageV1>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MessageV1 {
    request: u32,
    body: Vec<u8>,
    /// How many of the descriptors belong to it.
    files: u32,
}

impl StateSchema for ConnectionV1 {
    const KIND: DeviceKind = DeviceKind::Connection;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        out.section(CONNECTION, 1, Importance::Critical, self)
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut found = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (CONNECTION, 1) if found.is_none() => found = Some(section.decode()?),
                _ => input.unknown(&section)?,
            }
        }
        found.ok_or(StateError::MissingSection { tag: CONNECTION })
    }
}

/// The bytes of `record`, and the descriptors that go with them.
pub(super) fn pack<'a>(
    device: DeviceKind,
    record: &'a Record,
    front_end: BorrowedFd<'a>,
    state: BorrowedFd<'a>,
) -> Result<(Vec<u8>, Vec<BorrowedFd<'a>>), HandoverError> {
    let mut files = vec![front_end, state];
    let mut messages = Vec::new();
    for said in record.messages() {
        messages.push(MessageV1 {
            request: said.request.0,
            body: said.body,
            files: u32::try_from(said.files.len()).unwrap_or(u32::MAX),
        });
        files.extend(said.files);
    }
    if files.len() > PARCEL_FILES_MAX {
        return Err(HandoverError::TooManyFiles(files.len()));
    }
    let connection = ConnectionV1 {
        device: device.as_u16(),
        suspended: record.is_suspended(),
        messages,
    };
    let mut bytes = Vec::new();
    write_state(&connection, ConnectionV1::VERSION, &mut bytes).map_err(HandoverError::Record)?;
    if bytes.len() > PARCEL_BYTES_MAX {
        return Err(HandoverError::TooLarge(bytes.len()));
    }
    Ok((bytes, files))
}

impl Parcel {
    /// What is in it, for a device of this kind.
    pub(crate) fn unpack(self, device: DeviceKind) -> Result<Inheritance, HandoverError> {
        let limits = Limits {
            total_bytes_max: PARCEL_BYTES_MAX as u64,
            ..Limits::default()
        };
        let connection: ConnectionV1 =
            read_state(&mut &*self.record, &limits).map_err(HandoverError::Record)?;
        if connection.device != device.as_u16() {
            return Err(HandoverError::Device {
                found: connection.device,
                ours: device,
            });
        }
        let told: usize = connection
            .messages
            .iter()
            .fold(LEADING, |sum, one| sum.saturating_add(one.files as usize));
        if told != self.files.len() {
            return Err(HandoverError::Files {
                told,
                found: self.files.len(),
            });
        }
        let mut files = self.files.into_iter();
        let (Some(front_end), Some(state)) = (files.next(), files.next()) else {
            return Err(HandoverError::Files { told, found: 0 });
        };
        if !is_stream(&front_end) {
            return Err(HandoverError::NoConnection);
        }
        let messages = connection.messages.into_iter().map(|one| {
            let request = Request(one.request);
            if !lasts(request) || one.body.len() > BODY_MAX || one.files as usize > FILES_MAX {
                return Err(HandoverError::Message { request });
            }
            let mut message = Message::new(request, one.body);
            message
                .files
                .extend(files.by_ref().take(one.files as usize));
            Ok(message)
        });
        Ok(Inheritance {
            messages: messages.collect::<Result<_, _>>()?,
            front_end: UnixStream::from(front_end),
            state: File::from(state),
            suspended: connection.suspended,
        })
    }
}

impl Inheritance {
    /// The connection itself.
    pub(crate) fn front_end(&self) -> std::io::Result<UnixStream> {
        Ok(UnixStream::from(
            self.front_end.as_fd().try_clone_to_owned()?,
        ))
    }
}

#[cfg(test)]
mod tests;
