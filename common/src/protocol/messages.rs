//! The numbers and layouts of vhost-user: requests, flags, feature bits, payloads.
//!
//! From QEMU's docs/interop/vhost-user.rst, except for [`Request::SUSPEND`], [`Request::RESUME`] and
//! [`protocol_feature::SUSPEND`], which are provisional: they are ours, defined only here, and far
//! away from the ids (up to 45) and bits (up to 23) that upstream has given out.
//!
//! Knows no sockets (that is [`codec`](super::codec)) and no types of the `vhost` crate. Numbers
//! travel in the machine's own byte order (vhost-user.rst, "Message Specification").

#![expect(
    clippy::host_endian_bytes,
    reason = "vhost-user numbers are in the byte order of the machine that both ends run on"
)]

use std::fmt;

mod payload;

use payload::word;
pub use payload::{
    Config, DeviceState, DirtyLog, Inflight, MemoryRegion, RING_FLAG_LOG, RingAddress, RingState,
};

/// Bytes of a message header: request, flags and size, each a `u32`.
pub const HEADER_SIZE: usize = 12;

/// Greatest number of payload bytes that we send or accept; vhost-user.rst sets no limit. The
/// largest payload in use is a full config space, 4096 bytes less its header.
pub const BODY_MAX: usize = 4096;

/// Greatest number of file descriptors with one message. No message carries more than the 8 of
/// `SET_MEM_TABLE`, but the stock handler accepts as many as this.
pub const FILES_MAX: usize = 32;

/// Greatest number of regions in `SET_MEM_TABLE` (vhost-user.rst, "Memory region description").
pub const MEMORY_REGIONS_MAX: usize = 8;

/// Bits of the header's flags (vhost-user.rst, "Header").
pub mod flag {
    /// The two bits that hold the protocol version.
    pub const VERSION_MASK: u32 = 0x3;
    /// The only protocol version there is.
    pub const VERSION: u32 = 0x1;
    /// The message is a reply.
    pub const REPLY: u32 = 0x4;
    /// The sender waits for an answer; needs [`super::protocol_feature::REPLY_ACK`].
    pub const NEED_REPLY: u32 = 0x8;
}

/// Bits of the virtio features that belong to the transport or to vhost-user.
pub mod feature {
    /// `VHOST_F_LOG_ALL`: every write to guest memory is marked in the dirty log.
    pub const LOG_ALL: u64 = 1 << 26;
    /// `VIRTIO_RING_F_INDIRECT_DESC` (virtio 1.3, 2.7.5.3).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_RING_F_EVENT_IDX` (virtio 1.3, 2.7.7).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VHOST_USER_F_PROTOCOL_FEATURES`: there are protocol features to negotiate, and rings start
    /// disabled.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// `VIRTIO_F_VERSION_1`.
    pub const VERSION_1: u64 = 1 << 32;
    /// `VIRTIO_F_RING_RESET` (virtio 1.3, 2.6.1).
    pub const RING_RESET: u64 = 1 << 40;
}

/// Bits of the protocol features (vhost-user.rst, "Protocol features").
pub mod protocol_feature {
    /// More than one queue; `GET_QUEUE_NUM` tells how many.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log is shared memory, passed by `SET_LOG_BASE`.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// Requests marked [`super::flag::NEED_REPLY`] are answered by a `u64`, zero for success.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back-end sends requests of its own over a second socket.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// The back-end serves the config space.
    pub const CONFIG: u64 = 1 << 9;
    /// File descriptors may accompany requests of the back-end.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// The requests in flight are written down in shared memory: `GET_INFLIGHT_FD`, `SET_INFLIGHT_FD`.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// `RESET_DEVICE` is understood.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory is described region by region, `ADD_MEM_REG` and `REM_MEM_REG`.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// `SET_DEVICE_STATE_FD` and `CHECK_DEVICE_STATE` are understood.
    pub const DEVICE_STATE: u64 = 1 << 19;
    /// Provisional: [`super::Request::SUSPEND`] and [`super::Request::RESUME`] are understood.
    pub const SUSPEND: u64 = 1 << 56;
}

// Far away from what upstream gives out.
const _: () = assert!(protocol_feature::SUSPEND >= 1 << 32);
const _: () = assert!(Request::SUSPEND.0 >= 0x1000_0000 && Request::RESUME.0 >= 0x1000_0000);

/// The id of a request. Any number is representable, since unknown requests are passed on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request(pub u32);

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $id:expr;)*) => {
        impl Request {
            $($(#[$doc])* pub const $name: Self = Self($id);)*

            /// The name in vhost-user.rst without its `VHOST_USER_`, if the id has one.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

requests! {
    /// Reply: the virtio features on offer, `u64`.
    GET_FEATURES = 1;
    /// The virtio features that the driver accepted, `u64`.
    SET_FEATURES = 2;
    /// The sender owns the session from here on.
    SET_OWNER = 3;
    /// Deprecated.
    RESET_OWNER = 4;
    /// All of guest memory, replacing what was known; payload [`MemoryRegion::encode_table`].
    SET_MEM_TABLE = 5;
    /// The dirty log; payload [`DirtyLog`], reply with a payload that carries nothing.
    SET_LOG_BASE = 6;
    /// An eventfd to signal when the log was written.
    SET_LOG_FD = 7;
    /// The number of descriptors of a ring; payload [`RingState`].
    SET_VRING_NUM = 8;
    /// Where the parts of a ring are; payload [`RingAddress`].
    SET_VRING_ADDR = 9;
    /// The next available index to be looked at; payload [`RingState`].
    SET_VRING_BASE = 10;
    /// Stops a ring; payload and reply [`RingState`].
    GET_VRING_BASE = 11;
    /// The eventfd by which the guest notifies; payload [`RING_FILE_NONE`].
    SET_VRING_KICK = 12;
    /// The eventfd by which the guest is notified; payload [`RING_FILE_NONE`].
    SET_VRING_CALL = 13;
    /// The eventfd that reports errors of a ring; payload [`RING_FILE_NONE`].
    SET_VRING_ERR = 14;
    /// Reply: the protocol features on offer, `u64`.
    GET_PROTOCOL_FEATURES = 15;
    /// The protocol features that the front-end accepts, `u64`.
    SET_PROTOCOL_FEATURES = 16;
    /// Reply: the number of rings, `u64`.
    GET_QUEUE_NUM = 17;
    /// Whether a started ring is processed; payload [`RingState`].
    SET_VRING_ENABLE = 18;
    /// The socket for requests of the back-end.
    SET_BACKEND_REQ_FD = 21;
    /// Payload and reply: [`Config`].
    GET_CONFIG = 24;
    /// Payload: [`Config`].
    SET_CONFIG = 25;
    /// Makes a new region for requests in flight; payload and reply [`Inflight`], one file with the reply.
    GET_INFLIGHT_FD = 31;
    /// Hands over the region for requests in flight, new or used; payload [`Inflight`], one file.
    SET_INFLIGHT_FD = 32;
    /// The socket of the GPU display protocol (vhost-user-gpu.rst).
    GPU_SET_SOCKET = 33;
    /// The device back to its initial state; all rings are disabled.
    RESET_DEVICE = 34;
    /// Reply: how many regions of memory can be described, `u64`.
    GET_MAX_MEM_SLOTS = 36;
    /// One more region; payload [`MemoryRegion::encode_single`], one file.
    ADD_MEM_REG = 37;
    /// One region less; payload [`MemoryRegion::encode_single`].
    REM_MEM_REG = 38;
    /// The virtio device status, `u64`.
    SET_STATUS = 39;
    /// Reply: the virtio device status, `u64`.
    GET_STATUS = 40;
    /// A file of a shared object.
    GET_SHARED_OBJECT = 41;
    /// Begins a state transfer; payload [`DeviceState`], one file; reply `u64`:
    /// [`DEVICE_STATE_NO_FILE`], 0 with a file to use instead, or [`DEVICE_STATE_REFUSED`].
    SET_DEVICE_STATE_FD = 42;
    /// Ends a state transfer; reply `u64`, zero for success.
    CHECK_DEVICE_STATE = 43;
    /// Reply: the shared memory regions of the device.
    GET_SHMEM_CONFIG = 44;
    /// Provisional: the device becomes silent, as if all rings were stopped, and keeps its rings.
    /// No payload; idempotent.
    SUSPEND = 0x1000_0001;
    /// Provisional: the device continues on whatever rings are started by then. No payload;
    /// idempotent.
    RESUME = 0x1000_0002;
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "request {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Reply to `SET_DEVICE_STATE_FD`: accepted, on the file that the front-end sent.
pub const DEVICE_STATE_NO_FILE: u64 = 0x100;

/// Reply to `SET_DEVICE_STATE_FD`: refused, and no file comes with the reply.
pub const DEVICE_STATE_REFUSED: u64 = 0x101;

/// The byte of the reply to `SET_DEVICE_STATE_FD` that holds an error code.
pub const DEVICE_STATE_ERROR_MASK: u64 = 0xff;

/// Payload of `SET_VRING_KICK`, `SET_VRING_CALL` and `SET_VRING_ERR`: a `u64` with the ring's index in
/// bits 0 to 7, and this bit if no file comes with the message.
pub const RING_FILE_NONE: u64 = 1 << 8;

/// The only phase of `SET_DEVICE_STATE_FD` there is: the device is suspended.
pub const DEVICE_STATE_PHASE_STOPPED: u32 = 0;

/// Which way the state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the back-end to the front-end.
    Save = 0,
    /// From the front-end to the back-end.
    Load = 1,
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Save => "SAVE",
            Self::Load => "LOAD",
        })
    }
}

/// Payload of a request or reply that is one number.
pub fn encode_u64(value: u64) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// `None` unless `body` is exactly one number.
pub fn decode_u64(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_ne_bytes)
}

/// The 12 bytes before every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked, or answered.
    pub request: Request,
    /// Version and [`flag`] bits.
    pub flags: u32,
    /// Bytes of payload that follow.
    pub size: u32,
}

impl Header {
    /// The bytes.
    pub fn encode(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let words = [self.request.0, self.flags, self.size];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Any 12 bytes are a header.
    pub fn decode(bytes: [u8; HEADER_SIZE]) -> Self {
        let [request, flags, size] = [0, 4, 8].map(|at| word(&bytes, at).unwrap_or_default());
        Self {
            request: Request(request),
            flags,
            size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_in_logs() {
        assert_eq!(Request::SUSPEND.to_string(), "SUSPEND");
        assert_eq!(Request(42).to_string(), "SET_DEVICE_STATE_FD");
        assert_eq!(Request(0x99).to_string(), "request 0x99");
    }

    #[test]
    fn payloads_have_the_sizes_of_the_specification() {
        let region = MemoryRegion {
            guest_address: 1,
            size: 2,
            user_address: 3,
            file_offset: 4,
        };
        assert_eq!(region.encode_single().len(), 40);
        assert_eq!(MemoryRegion::encode_table(&[region; 8]).len(), 8 + 8 * 32);
        assert_eq!(
            DirtyLog {
                size: 1,
                file_offset: 2
            }
            .encode()
            .len(),
            16
        );
        let address = RingAddress {
            index: 0,
            flags: 0,
            descriptors: 1,
            used: 2,
            available: 3,
            log: 4,
        };
        assert_eq!(address.encode().len(), 40);
        assert_eq!(Inflight::default().encode().len(), 24, "as QEMU's sizeof");
    }

    #[test]
    fn payloads_come_back_as_they_went_and_not_from_other_sizes() {
        let state = RingState {
            index: 3,
            value: 0x8000_0001,
        };
        assert_eq!(RingState::decode(&state.encode()), Some(state));
        let transfer = DeviceState {
            direction: Direction::Load as u32,
            phase: 7,
        };
        assert_eq!(DeviceState::decode(&transfer.encode()), Some(transfer));
        let config = Config {
            offset: 4,
            flags: 1,
            bytes: vec![9; 5],
        };
        assert_eq!(Config::decode(&config.encode()), Some(config.clone()));
        assert_eq!(decode_u64(&encode_u64(u64::MAX - 1)), Some(u64::MAX - 1));
        let inflight = Inflight {
            size: 1 << 40,
            file_offset: 4096,
            rings: 3,
            ring_size: 128,
        };
        assert_eq!(Inflight::decode(&inflight.encode()), Some(inflight));
        assert_eq!(
            Inflight::decode(&inflight.encode()[..20]),
            Some(inflight),
            "without the padding"
        );
        assert_eq!(Inflight::decode(&inflight.encode()[..19]), None);

        for body in [&state.encode()[..7], &[0; 9]] {
            assert_eq!(RingState::decode(body), None);
            assert_eq!(DeviceState::decode(body), None);
            assert_eq!(decode_u64(body), None);
        }
        assert_eq!(Config::decode(&config.encode()[..16]), None);
        assert_eq!(Config::decode(&[0; 11]), None);
    }
}
