//! The payloads of messages: what follows the header, field by field.
//!
//! Layouts from QEMU's docs/interop/vhost-user.rst. Knows no request beside naming it.

#![expect(
    clippy::host_endian_bytes,
    reason = "vhost-user numbers are in the byte order of the machine that both ends run on"
)]

/// Payload of `SET_DEVICE_STATE_FD`: `{direction: u32, phase: u32}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// [`Direction`](super::Direction) as a number.
    pub direction: u32,
    /// [`DEVICE_STATE_PHASE_STOPPED`](super::DEVICE_STATE_PHASE_STOPPED).
    pub phase: u32,
}

impl DeviceState {
    /// The payload.
    pub fn encode(self) -> Vec<u8> {
        [self.direction.to_ne_bytes(), self.phase.to_ne_bytes()].concat()
    }

    /// `None` unless `body` has exactly the right size.
    pub fn decode(body: &[u8]) -> Option<Self> {
        (body.len() == 8)
            .then(|| {
                Some(Self {
                    direction: word(body, 0)?,
                    phase: word(body, 4)?,
                })
            })
            .flatten()
    }
}

/// Payload of the requests about one number of one ring: `{index: u32, num: u32}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Which ring.
    pub index: u32,
    /// Its size, its base, or whether it is enabled.
    pub value: u32,
}

impl RingState {
    /// The payload.
    pub fn encode(self) -> Vec<u8> {
        [self.index.to_ne_bytes(), self.value.to_ne_bytes()].concat()
    }

    /// `None` unless `body` has exactly the right size.
    pub fn decode(body: &[u8]) -> Option<Self> {
        (body.len() == 8)
            .then(|| {
                Some(Self {
                    index: word(body, 0)?,
                    value: word(body, 4)?,
                })
            })
            .flatten()
    }
}

/// Payload of `SET_VRING_ADDR`. All but `log` are addresses in the front-end's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddress {
    /// Which ring.
    pub index: u32,
    /// [`RING_FLAG_LOG`] or 0.
    pub flags: u32,
    /// The descriptor table.
    pub descriptors: u64,
    /// The used ring.
    pub used: u64,
    /// The available ring.
    pub available: u64,
    /// The guest address by which writes to the used ring are logged.
    pub log: u64,
}

impl RingAddress {
    /// The payload.
    pub fn encode(self) -> Vec<u8> {
        let mut body = [self.index.to_ne_bytes(), self.flags.to_ne_bytes()].concat();
        for address in [self.descriptors, self.used, self.available, self.log] {
            body.extend(address.to_ne_bytes());
        }
        body
    }
}

/// `VHOST_VRING_F_LOG` in [`RingAddress`]: writes to the used ring are logged.
pub const RING_FLAG_LOG: u32 = 1;

/// One region of guest memory; its file travels beside the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Bytes.
    pub size: u64,
    /// Where the front-end has it mapped; the unit of ring addresses.
    pub user_address: u64,
    /// Offset in bytes in the file.
    pub file_offset: u64,
}

impl MemoryRegion {
    fn append_to(self, body: &mut Vec<u8>) {
        for field in [
            self.guest_address,
            self.size,
            self.user_address,
            self.file_offset,
        ] {
            body.extend(field.to_ne_bytes());
        }
    }

    /// Payload of `ADD_MEM_REG` and `REM_MEM_REG`: 8 bytes of padding and the region.
    pub fn encode_single(self) -> Vec<u8> {
        let mut body = vec![0; 8];
        self.append_to(&mut body);
        body
    }

    fn decode_at(body: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            guest_address: double_word(body, at)?,
            size: double_word(body, at + 8)?,
            user_address: double_word(body, at + 16)?,
            file_offset: double_word(body, at + 24)?,
        })
    }

    /// The region in a payload of `ADD_MEM_REG` or `REM_MEM_REG`; `None` if it is too short.
    pub fn decode_single(body: &[u8]) -> Option<Self> {
        Self::decode_at(body, 8)
    }

    /// The regions in a payload of `SET_MEM_TABLE`; `None` if it is too short for what it says.
    pub fn decode_table(body: &[u8]) -> Option<Vec<Self>> {
        let count = usize::try_from(word(body, 0)?).ok()?;
        if body.len() < 8 + count.checked_mul(32)? {
            return None;
        }
        (0..count)
            .map(|index| Self::decode_at(body, 8 + index * 32))
            .collect()
    }

    /// Payload of `SET_MEM_TABLE`: `{count: u32, padding: u32}` and the regions.
    pub fn encode_table(regions: &[Self]) -> Vec<u8> {
        let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
        let mut body = [count.to_ne_bytes(), [0; 4]].concat();
        for region in regions {
            region.append_to(&mut body);
        }
        body
    }
}

/// Payload of `SET_LOG_BASE`; the file of the log travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLog {
    /// Bytes; one bit for each page of 4096 bytes.
    pub size: u64,
    /// Offset in bytes in the file.
    pub file_offset: u64,
}

impl DirtyLog {
    /// The payload.
    pub fn encode(self) -> Vec<u8> {
        [self.size.to_ne_bytes(), self.file_offset.to_ne_bytes()].concat()
    }

    /// `None` if `body` is too short.
    pub fn decode(body: &[u8]) -> Option<Self> {
        Some(Self {
            size: double_word(body, 0)?,
            file_offset: double_word(body, 8)?,
        })
    }
}

/// Payload of `GET_INFLIGHT_FD` and `SET_INFLIGHT_FD`, and of the reply to the former: a region for requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflight {
    /// Bytes; of no meaning in a `GET_INFLIGHT_FD`, and 0 in a reply that is a refusal.
    pub size: u64,
    /// Offset in bytes in the file; of no meaning in a `GET_INFLIGHT_FD`.
    pub file_offset: u64,
    /// Number of rings.
    pub rings: u16,
    /// Number of descriptors of each.
    pub ring_size: u16,
}

impl Inflight {
    /// Bytes of the fields, without the padding that a C compiler adds.
    pub const FIELDS_SIZE: usize = 20;

    /// The payload, with the padding.
    pub fn encode(self) -> Vec<u8> {
        let mut body = [self.size.to_ne_bytes(), self.file_offset.to_ne_bytes()].concat();
        body.extend(self.rings.to_ne_bytes());
        body.extend(self.ring_size.to_ne_bytes());
        body.extend([0; 4]);
        body
    }

    /// `None` if `body` is too short.
    pub fn decode(body: &[u8]) -> Option<Self> {
        Some(Self {
            size: double_word(body, 0)?,
            file_offset: double_word(body, 8)?,
            rings: half_word(body, 16)?,
            ring_size: half_word(body, 18)?,
        })
    }
}

/// Payload of `GET_CONFIG` and `SET_CONFIG` and of their replies: a header, then the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Offset in bytes in the config space.
    pub offset: u32,
    /// 0, or 1 if a live migration writes what the guest could not.
    pub flags: u32,
    /// The bytes written or read; how many are wanted, in a `GET_CONFIG`.
    pub bytes: Vec<u8>,
}

impl Config {
    /// Bytes of the header: offset, size and flags, each a `u32`.
    pub const HEADER_SIZE: usize = 12;

    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let size = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let mut body = [self.offset, size, self.flags]
            .map(u32::to_ne_bytes)
            .concat();
        body.extend(&self.bytes);
        body
    }

    /// `None` unless the header's size and the number of bytes agree.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let bytes = body.get(Self::HEADER_SIZE..)?.to_vec();
        (usize::try_from(word(body, 4)?) == Ok(bytes.len()))
            .then(|| {
                Some(Self {
                    offset: word(body, 0)?,
                    flags: word(body, 8)?,
                    bytes,
                })
            })
            .flatten()
    }
}

/// The `u32` at byte `at` of `body`.
pub(super) fn word(body: &[u8], at: usize) -> Option<u32> {
    let bytes = body.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The `u16` at byte `at` of `body`.
fn half_word(body: &[u8], at: usize) -> Option<u16> {
    let bytes = body.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The `u64` at byte `at` of `body`.
fn double_word(body: &[u8], at: usize) -> Option<u64> {
    let bytes = body.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_ne_bytes(*bytes))
}
