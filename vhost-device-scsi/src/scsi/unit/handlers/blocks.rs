//! Commands that read and write blocks (SBC-4, clause 5).
//!
//! Knows ranges and flags. A unit has no protection information, so commands that ask for some are refused.

use super::super::{Refusal, Unit};
use crate::scsi::command::Command;
use crate::scsi::fast::TRANSFER_BYTES_MAX;
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Extent, Operation, Reply};

/// First block and number of blocks, as the four lengths of commands have them.
fn range(command: Command<'_>) -> (u64, u64) {
    match command.byte(0) >> 5 {
        0 => {
            let blocks = match command.byte(4) {
                0 => 256, // SBC-4, 5.11
                blocks => u64::from(blocks),
            };
            (u64::from(command.u24(1) & 0x1f_ffff), blocks)
        }
        1 | 2 => (u64::from(command.u32(2)), u64::from(command.u16(7))),
        4 => (command.u64(2), u64::from(command.u32(10))),
        _ => (u64::from(command.u32(2)), u64::from(command.u32(6))),
    }
}

fn done() -> Action {
    Action::Reply(Reply::good(Vec::new(), 0))
}

/// The three bits at the top of byte 1: protection information is wanted.
fn no_protection(command: Command<'_>) -> Result<(), Sense> {
    if command.byte(0) >> 5 != 0 && command.byte(1) & 0xe0 != 0 {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(7)));
    }
    Ok(())
}

fn fua(command: Command<'_>) -> bool {
    command.byte(0) >> 5 != 0 && command.bit(1, 3)
}

impl Unit {
    /// A range as bytes; `None` if there is nothing in it, but it is within the medium.
    pub(super) fn extent(&self, lba: u64, blocks: u64) -> Result<Option<Extent>, Sense> {
        let end = lba.checked_add(blocks);
        if end.is_none_or(|end| end > self.state.blocks) || lba >= self.state.blocks && blocks > 0 {
            return Err(Sense::OUT_OF_RANGE.about(lba));
        }
        let shift = self.identity.block_shift();
        Ok((blocks > 0).then_some(Extent {
            at: lba << shift,
            len: blocks << shift,
        }))
    }

    /// [`extent`](Self::extent) of a command that transfers it.
    fn transfer(&self, lba: u64, blocks: u64) -> Result<Option<Extent>, Sense> {
        let extent = self.extent(lba, blocks)?;
        if extent.is_some_and(|extent| extent.len > TRANSFER_BYTES_MAX) {
            return Err(Sense::INVALID_FIELD); // more than VPD page b0 allows
        }
        Ok(extent)
    }

    fn on_range(
        &self,
        command: Command<'_>,
        operation: impl FnOnce(Extent) -> Operation,
    ) -> Result<Action, Refusal> {
        let (lba, blocks) = range(command);
        let extent = self.transfer(lba, blocks)?;
        Ok(extent.map_or_else(done, |extent| Action::Operation(operation(extent))))
    }

    pub(super) fn is_durable(&self, command: Command<'_>) -> bool {
        fua(command) || !self.state.modes.write_cache
    }
}

/// READ. With FUA what is cached must have been written first; the host's file gives what was written last in either case.
pub(crate) fn read(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    unit.on_range(command, Operation::Read)
}

/// WRITE.
pub(crate) fn write(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    let durable = unit.is_durable(command);
    unit.on_range(command, |extent| Operation::Write { extent, durable })
}

/// WRITE AND VERIFY. BYTCHK is 00b or 01b.
pub(crate) fn write_and_verify(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    let compare = match command.byte(1) >> 1 & 3 {
        0 => false,
        1 => true,
        _ => return Err(Sense::INVALID_FIELD.at_command(1, Some(2)).into()),
    };
    unit.on_range(command, |extent| Operation::WriteAndVerify {
        extent,
        compare,
    })
}

/// VERIFY. BYTCHK is 00b, 01b or 11b. In each case no more than a transfer: a ring is not stopped before its commands have ended, and
/// to read a large medium takes hours.
pub(crate) fn verify(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    let block = unit.identity.block_size;
    match command.byte(1) >> 1 & 3 {
        0 => unit.on_range(command, Operation::Verify),
        1 => unit.on_range(command, |extent| Operation::Compare {
            extent,
            repeated: None,
        }),
        3 => unit.on_range(command, |extent| Operation::Compare {
            extent,
            repeated: Some(block),
        }),
        _ => Err(Sense::INVALID_FIELD.at_command(1, Some(2)).into()),
    }
}

/// COMPARE AND WRITE.
pub(crate) fn compare_and_write(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    let durable = unit.is_durable(command);
    let extent = unit.transfer(command.u64(2), u64::from(command.byte(13)))?;
    Ok(extent.map_or_else(done, |extent| {
        Action::Operation(Operation::CompareAndWrite { extent, durable })
    }))
}

/// ORWRITE(16).
pub(crate) fn or_write(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    no_protection(command)?;
    let durable = unit.is_durable(command);
    unit.on_range(command, |extent| Operation::OrWrite { extent, durable })
}

/// SYNCHRONIZE CACHE: all of it, whatever the range is. IMMED is not waited for less.
pub(crate) fn synchronize_cache(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let (lba, blocks) = range(command);
    unit.extent(lba, blocks)?;
    Ok(Action::Operation(Operation::Flush))
}

/// PRE-FETCH: GOOD, which says that not all of it need be in the cache afterwards (SBC-4, 5.13).
pub(crate) fn pre_fetch(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let (lba, blocks) = range(command);
    unit.extent(lba, blocks)?;
    Ok(done())
}
