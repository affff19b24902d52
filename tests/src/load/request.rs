//! A request of a disk, as it lies in guest memory: virtio-scsi (virtio 1.3, 5.6.6.1) and virtio-blk (5.2.6).
//!
//! Knows layouts; knows neither rings nor time.

use anyhow::{Result, ensure};

use super::Direction;
use crate::guest::{Buffer, Memory};

/// Bytes of a sector, in which both kinds of disk count here.
const SECTOR_BYTES: u64 = 512;

const SCSI_REQUEST_BYTES: u32 = 51;
const SCSI_RESPONSE_BYTES: u32 = 108;
const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;

const BLOCK_HEADER_BYTES: u32 = 16;
/// `VIRTIO_BLK_F_FLUSH`: the disk may keep what is written in a cache until it is told otherwise, as a SCSI disk may.
const BLOCK_FLUSH: u64 = 1 << 9;

/// Room for header and response: lines of the cache that no other request has a part in.
const SLOT_BYTES: usize = 256;

/// What no device answers.
const UNANSWERED: u8 = 0xff;

/// Which kind of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// virtio-scsi, target 0, logical unit 0.
    Scsi,
    /// virtio-blk.
    Block,
}

impl Kind {
    /// Device features that the driver wants.
    pub(super) fn features(self) -> u64 {
        match self {
            Self::Scsi => 0,
            Self::Block => BLOCK_FLUSH,
        }
    }

    /// The first ring that takes requests.
    pub(super) fn first_ring(self) -> usize {
        match self {
            Self::Scsi => 2,
            Self::Block => 0,
        }
    }
}

/// Where one request lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Header and response.
    pub(super) frame: u64,
    /// Data.
    pub(super) data: u64,
}

impl Slot {
    /// Bytes of header and response.
    pub(super) const BYTES: u64 = SLOT_BYTES as u64;

    fn response(self) -> u64 {
        self.frame + 128
    }

    /// Writes what is the same for all requests.
    pub(super) fn prepare(self, memory: &Memory, kind: Kind) -> Result<()> {
        memory.write(self.frame, &[0; SLOT_BYTES])?;
        match kind {
            Kind::Scsi => memory.write(self.frame, &[1, 0, 0x40, 0]),
            Kind::Block => Ok(()),
        }
    }

    /// The chain.
    pub(super) fn buffers(self, kind: Kind, direction: Direction, data_bytes: u32) -> [Buffer; 3] {
        let (header, response) = match kind {
            Kind::Scsi => (SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES),
            Kind::Block => (BLOCK_HEADER_BYTES, 1),
        };
        let buffer = |address, length, writable| Buffer {
            address,
            length,
            writable,
        };
        let header = buffer(self.frame, header, false);
        let response = buffer(self.response(), response, true);
        let data = buffer(self.data, data_bytes, direction == Direction::Read);
        match (kind, direction) {
            (Kind::Scsi, Direction::Read) => [header, response, data],
            (Kind::Scsi, Direction::Write) | (Kind::Block, _) => [header, data, response],
        }
    }

    /// Writes what this request is about: `bytes` bytes at the `at`th byte of the disk.
    pub(super) fn fill(
        self,
        memory: &Memory,
        kind: Kind,
        direction: Direction,
        tag: u64,
        (at, bytes): (u64, u32),
    ) -> Result<()> {
        let sector = at / SECTOR_BYTES;
        match kind {
            Kind::Scsi => {
                let [.., a, b, c, d] = sector.to_be_bytes();
                let [.., high, low] = (u64::from(bytes) / SECTOR_BYTES).to_be_bytes();
                let code = match direction {
                    Direction::Read => READ_10,
                    Direction::Write => WRITE_10,
                };
                // The driver's name for the request, then attribute, priority and number, then the command.
                let mut rest = [0; 21];
                let command = [code, 0, a, b, c, d, 0, high, low, 0];
                let fields = tag.to_le_bytes().into_iter().chain([0; 3]).chain(command);
                for (byte, field) in rest.iter_mut().zip(fields) {
                    *byte = field;
                }
                memory.write(self.frame + 8, &rest)?;
                memory.store(self.response() + 10, u16::from(UNANSWERED) << 8)
            }
            Kind::Block => {
                let kind = u64::from(direction == Direction::Write);
                memory.store(self.frame, kind.to_le())?;
                memory.store(self.frame + 8, sector.to_le())?;
                memory.store(self.response(), UNANSWERED)
            }
        }
    }

    /// Whether the device has answered, and well.
    pub(super) fn check(self, memory: &Memory, kind: Kind) -> Result<()> {
        let answer = match kind {
            // Status and response.
            Kind::Scsi => memory.load::<u16>(self.response() + 10)?,
            Kind::Block => u16::from(memory.load::<u8>(self.response())?),
        };
        ensure!(
            answer == 0,
            "the device answered {:02x?}",
            memory.read_vec(self.response(), SCSI_RESPONSE_BYTES as usize)?
        );
        Ok(())
    }
}
