//! The other half: a vhost-user front-end that suspends, saves, loads and resumes back-ends.
//!
//! For authors of VMMs, for tests and for tools; `examples/migrate.rs` is the place to start. It speaks
//! the wire itself, on [`codec`], because the front-end of the `vhost` crate truncates feature bits and
//! has no way to send a message that the crate does not know. Knows no guest: memory and rings are
//! described to it by whoever has them.
//!
//! ```text
//!         ,---------.            start:   set_ring_kick, or start for all there is to say about rings
//!         v         |            suspend: needs protocol_feature::SUSPEND and REPLY_ACK
//!      started --> stopped       stop:    stop_ring for each; works with every back-end
//!         ^  \       ^ |
//!         |   v      | v         save and load: while suspended or stopped
//!         suspended -'-'
//! ```
//!
//! # When to load
//!
//! Three orders are in use, and a back-end must bear all of them:
//!
//! | front-end | load comes after | and before |
//! |---|---|---|
//! | QEMU | [`negotiate`](Frontend::negotiate) | [`set_features`](Frontend::set_features), [`set_memory`](Frontend::set_memory) |
//! | Cloud Hypervisor, crosvm | `set_features` | `set_memory` |
//! | ours, if the VMM prefers | `set_memory` | [`start`](Frontend::start) |
//!
//! # Time
//!
//! No call waits for ever: every reply and every move on a state channel has a limit,
//! [`REPLY_LIMIT`] unless [`set_limit`](Frontend::set_limit) says otherwise. Note that a back-end takes
//! as long for SUSPEND and `GET_VRING_BASE` as its slowest request in flight.

mod error;
mod inflight;
mod rings;
mod transfer;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::lifecycle::{Event, Lifecycle};
use crate::protocol::codec::{self, CodecError, Message};
use crate::protocol::messages::{
    Config, DirtyLog, MemoryRegion, Request, decode_u64, encode_u64, feature, flag,
    protocol_feature,
};

pub use error::FrontendError;
pub use inflight::InflightRegion;
pub use rings::RingSetup;
pub use transfer::Channel;

/// How long a back-end may take for one reply, unless told otherwise.
pub const REPLY_LIMIT: Duration = Duration::from_mins(1);

/// What the back-end offers, and what was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Virtio features on offer; the driver chooses among them, see [`Frontend::set_features`].
    pub features: u64,
    /// Protocol features on offer.
    pub protocol_features: u64,
    /// Protocol features that both sides want.
    pub agreed: u64,
}

/// A region of guest memory and the file that it is mapped from.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// Where it is.
    pub layout: MemoryRegion,
    /// The file, which the back-end maps as well.
    pub file: BorrowedFd<'a>,
}

/// A connection to a back-end. See the [module](self).
#[derive(Debug)]
pub struct Frontend {
    socket: UnixStream,
    limit: Duration,
    lifecycle: Lifecycle,
    agreed: u64,
    started: BTreeSet<u32>,
}

impl Frontend {
    /// Connects to a back-end that listens at `path`.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, FrontendError> {
        let path = path.as_ref();
        let socket = UnixStream::connect(path).map_err(|source| FrontendError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Self::from_stream(socket)
    }

    /// Takes over a connection on which nothing was said yet.
    pub fn from_stream(socket: UnixStream) -> Result<Self, FrontendError> {
        let mut frontend = Self {
            socket,
            limit: REPLY_LIMIT,
            lifecycle: Lifecycle::Stopped,
            agreed: 0,
            started: BTreeSet::new(),
        };
        frontend.set_limit(REPLY_LIMIT)?;
        Ok(frontend)
    }

    /// How long the back-end may take for one reply, and for one move on a state channel.
    pub fn set_limit(&mut self, limit: Duration) -> Result<(), FrontendError> {
        self.socket
            .set_read_timeout(Some(limit))
            .and_then(|()| self.socket.set_write_timeout(Some(limit)))
            .map_err(|source| FrontendError::Host {
                what: "set a time limit",
                source,
            })?;
        self.limit = limit;
        Ok(())
    }

    /// Where the device stands, as far as this front-end brought it there.
    pub fn state(&self) -> Lifecycle {
        self.lifecycle
    }

    /// The protocol features that both sides want.
    pub fn agreed(&self) -> u64 {
        self.agreed
    }

    /// The socket, for a poll loop that wants to notice the end of the back-end.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Opens the session: asks for what is on offer, agrees on the protocol features among `wanted`,
    /// and becomes the owner. Virtio features are accepted later, by [`set_features`](Self::set_features).
    pub fn negotiate(&mut self, wanted: u64) -> Result<Offer, FrontendError> {
        let features = self.features()?;
        let mut protocol_features = 0;
        if features & feature::PROTOCOL_FEATURES != 0 {
            protocol_features = self.query_u64(Request::GET_PROTOCOL_FEATURES)?;
            let agreed = protocol_features & wanted;
            // Never with NEED_REPLY: whether that is understood is what this message decides.
            self.send(
                Request::SET_PROTOCOL_FEATURES,
                false,
                &encode_u64(agreed),
                &[],
            )?;
            self.agreed = agreed;
        }
        self.command(Request::SET_OWNER, &[], &[])?;
        Ok(Offer {
            features,
            protocol_features,
            agreed: self.agreed,
        })
    }

    /// The virtio features on offer.
    pub fn features(&mut self) -> Result<u64, FrontendError> {
        self.query_u64(Request::GET_FEATURES)
    }

    /// The driver's choice among the features, plus [`feature::PROTOCOL_FEATURES`] (without which rings
    /// cannot be enabled) and, while dirty pages are to be logged, [`feature::LOG_ALL`].
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.command(Request::SET_FEATURES, &encode_u64(features), &[])
    }

    /// The number of rings.
    pub fn ring_count(&mut self) -> Result<u64, FrontendError> {
        self.need(Request::GET_QUEUE_NUM, protocol_feature::MQ, "MQ")?;
        self.query_u64(Request::GET_QUEUE_NUM)
    }

    /// Describes all of guest memory, at most
    /// [`MEMORY_REGIONS_MAX`](crate::protocol::messages::MEMORY_REGIONS_MAX) regions.
    pub fn set_memory(&mut self, regions: &[Region<'_>]) -> Result<(), FrontendError> {
        let layouts: Vec<_> = regions.iter().map(|region| region.layout).collect();
        let files: Vec<_> = regions.iter().map(|region| region.file).collect();
        self.command(
            Request::SET_MEM_TABLE,
            &MemoryRegion::encode_table(&layouts),
            &files,
        )
    }

    /// Adds one region to guest memory.
    pub fn add_memory(&mut self, region: Region<'_>) -> Result<(), FrontendError> {
        let request = Request::ADD_MEM_REG;
        self.need(
            request,
            protocol_feature::CONFIGURE_MEM_SLOTS,
            "CONFIGURE_MEM_SLOTS",
        )?;
        self.command(request, &region.layout.encode_single(), &[region.file])
    }

    /// Takes one region away from guest memory.
    pub fn remove_memory(&mut self, layout: MemoryRegion) -> Result<(), FrontendError> {
        let request = Request::REM_MEM_REG;
        self.need(
            request,
            protocol_feature::CONFIGURE_MEM_SLOTS,
            "CONFIGURE_MEM_SLOTS",
        )?;
        self.command(request, &layout.encode_single(), &[])
    }

    /// Hands over the dirty log. Writes are logged while [`feature::LOG_ALL`] is accepted.
    pub fn set_log(&mut self, log: DirtyLog, file: impl AsFd) -> Result<(), FrontendError> {
        self.need(
            Request::SET_LOG_BASE,
            protocol_feature::LOG_SHMFD,
            "LOG_SHMFD",
        )?;
        // Answered whether or not asked for; what the answer carries means nothing.
        self.query(Request::SET_LOG_BASE, &log.encode(), &[file.as_fd()])
            .map(drop)
    }

    /// Reads `length` bytes of the config space.
    pub fn config(&mut self, offset: u32, length: usize) -> Result<Vec<u8>, FrontendError> {
        let request = Request::GET_CONFIG;
        self.need(request, protocol_feature::CONFIG, "CONFIG")?;
        let wanted = Config {
            offset,
            flags: 0,
            bytes: vec![0; length],
        };
        let reply = self.query(request, &wanted.encode(), &[])?;
        match Config::decode(&reply.body) {
            Some(config) if config.bytes.len() == length => Ok(config.bytes),
            // "uses zero length of payload to indicate an error" (vhost-user.rst, GET_CONFIG)
            Some(config) if config.bytes.is_empty() => {
                Err(FrontendError::Refused { request, code: 0 })
            }
            _ => Err(unexpected(request, &reply)),
        }
    }

    /// Writes to the config space, as the driver does.
    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FrontendError> {
        self.need(Request::SET_CONFIG, protocol_feature::CONFIG, "CONFIG")?;
        let config = Config {
            offset,
            flags: 0,
            bytes: bytes.to_vec(),
        };
        self.command(Request::SET_CONFIG, &config.encode(), &[])
    }

    /// Gives the back-end one end of a socket pair for requests of its own; the caller serves the other.
    pub fn set_backend_channel(&mut self, socket: impl AsFd) -> Result<(), FrontendError> {
        self.need(
            Request::SET_BACKEND_REQ_FD,
            protocol_feature::BACKEND_REQ,
            "BACKEND_REQ",
        )?;
        self.command(Request::SET_BACKEND_REQ_FD, &[], &[socket.as_fd()])
    }

    /// Gives a GPU one end of a socket pair for what it shows (vhost-user-gpu.rst); the caller serves the other.
    pub fn set_display_socket(&mut self, socket: impl AsFd) -> Result<(), FrontendError> {
        self.command(Request::GPU_SET_SOCKET, &[], &[socket.as_fd()])
    }

    /// The device back to its initial state. All rings are disabled and features must be accepted anew;
    /// an explicit suspension ends.
    pub fn reset_device(&mut self) -> Result<(), FrontendError> {
        self.need(
            Request::RESET_DEVICE,
            protocol_feature::RESET_DEVICE,
            "RESET_DEVICE",
        )?;
        self.command(Request::RESET_DEVICE, &[], &[])?;
        self.lifecycle = self.lifecycle.next(Event::Reset {
            rings: !self.started.is_empty(),
        });
        Ok(())
    }

    /// Sends a request that has no reply of its own, and waits for its acknowledgement if
    /// [`protocol_feature::REPLY_ACK`] is agreed on. For requests that have no method here.
    pub fn command(
        &mut self,
        request: Request,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let acknowledged = self.agreed & protocol_feature::REPLY_ACK != 0;
        self.send(request, acknowledged, body, files)?;
        if !acknowledged {
            return Ok(());
        }
        let reply = self.receive(request)?;
        match decode_u64(&reply.body) {
            Some(0) => Ok(()),
            Some(code) => Err(FrontendError::Refused { request, code }),
            None => Err(unexpected(request, &reply)),
        }
    }

    /// Sends a request that has a reply of its own, and waits for it. For requests that have no method
    /// here.
    pub fn query(
        &mut self,
        request: Request,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Message, FrontendError> {
        self.send(request, false, body, files)?;
        self.receive(request)
    }

    /// Sends any bytes, the files with the first of them: for tests that are hostile.
    pub fn send_raw(
        &mut self,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        codec::send_bytes(&self.socket, bytes, files).map_err(|error| FrontendError::Host {
            what: "send raw bytes",
            source: error.into(),
        })
    }

    /// Waits for the reply to `request`, which was sent by other means.
    pub fn receive(&mut self, request: Request) -> Result<Message, FrontendError> {
        match codec::receive(&self.socket) {
            Ok(Some(reply)) if reply.request == request && reply.is_reply() => Ok(reply),
            Ok(Some(reply)) => Err(unexpected(request, &reply)),
            Ok(None) => Err(FrontendError::Closed { request }),
            Err(CodecError::TimedOut) => Err(FrontendError::Unanswered {
                request,
                limit: self.limit,
            }),
            Err(source) => Err(FrontendError::Connection { request, source }),
        }
    }

    fn query_u64(&mut self, request: Request) -> Result<u64, FrontendError> {
        let reply = self.query(request, &[], &[])?;
        decode_u64(&reply.body).ok_or_else(|| unexpected(request, &reply))
    }

    fn send(
        &mut self,
        request: Request,
        needs_reply: bool,
        body: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let flags = flag::VERSION | if needs_reply { flag::NEED_REPLY } else { 0 };
        match codec::send_parts(&self.socket, request, flags, body, files) {
            Ok(()) => Ok(()),
            Err(CodecError::TimedOut) => Err(FrontendError::Unanswered {
                request,
                limit: self.limit,
            }),
            Err(source) => Err(FrontendError::Connection { request, source }),
        }
    }

    fn need(&self, request: Request, bit: u64, feature: &'static str) -> Result<(), FrontendError> {
        if self.agreed & bit == 0 {
            return Err(FrontendError::NotNegotiated { request, feature });
        }
        Ok(())
    }
}

fn unexpected(request: Request, reply: &Message) -> FrontendError {
    FrontendError::Reply {
        request,
        got: reply.request,
        flags: reply.flags,
        size: reply.body.len(),
        files: reply.files.len(),
    }
}

#[cfg(test)]
mod tests;
