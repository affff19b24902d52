//! The commands that matter for speed: plain reads and writes, decided without a lock and without an allocation.
//!
//! Knows the four sizes of READ and WRITE; whatever is unusual about one goes the long way, through the table.

use super::command::Command;
use super::{Extent, Operation};

/// Greatest length of a transfer in bytes: MAXIMUM TRANSFER LENGTH of VPD page b0.
pub const TRANSFER_BYTES_MAX: u64 = 32 << 20;

/// What a plain read or write needs to know of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Binary logarithm of the block size in bytes.
    pub block_shift: u8,
    /// Logical blocks.
    pub blocks: u64,
    /// Writes are refused.
    pub readonly: bool,
    /// Writes are on stable storage before they are answered (WCE = 0).
    pub write_through: bool,
}

impl Geometry {
    /// A part of the medium; `None` if it is empty, not within the medium, or too long for one transfer.
    pub fn extent(self, lba: u64, blocks: u64) -> Option<Extent> {
        let end = lba.checked_add(blocks)?;
        let len = blocks.checked_mul(1 << self.block_shift)?;
        let within = blocks > 0 && end <= self.blocks && len <= TRANSFER_BYTES_MAX;
        within.then_some(Extent {
            at: lba << self.block_shift,
            len,
        })
    }
}

/// The operation of a plain READ or WRITE; `None` for everything else.
pub fn operation(cdb: &[u8], geometry: Geometry) -> Option<Operation> {
    let command = Command(cdb);
    let code = command.byte(0);
    let (lba, blocks, flags) = match code {
        0x28 | 0x2a => (
            u64::from(command.u32(2)),
            u64::from(command.u16(7)),
            command.byte(1),
        ),
        0x88 | 0x8a => (command.u64(2), u64::from(command.u32(10)), command.byte(1)),
        0xa8 | 0xaa => (
            u64::from(command.u32(2)),
            u64::from(command.u32(6)),
            command.byte(1),
        ),
        0x08 | 0x0a => {
            let blocks = match command.byte(4) {
                0 => 256,
                blocks => u64::from(blocks),
            };
            (u64::from(command.u24(1) & 0x1f_ffff), blocks, 0)
        }
        _ => return None,
    };
    let control = match code >> 5 {
        0 => command.byte(5),
        1 => command.byte(9),
        4 => command.byte(15),
        _ => command.byte(11),
    };
    // Protection information, or NACA: the long way says what is wrong with it.
    if flags & 0xe0 != 0 || control & 0x04 != 0 {
        return None;
    }
    let extent = geometry.extent(lba, blocks)?;
    let fua = flags & 0x08 != 0;
    match code & 0x1f {
        0x08 if fua => None, // what is cached must be on the medium first
        0x08 => Some(Operation::Read(extent)),
        _ if geometry.readonly => None,
        _ => Some(Operation::Write {
            extent,
            durable: fua || geometry.write_through,
        }),
    }
}
