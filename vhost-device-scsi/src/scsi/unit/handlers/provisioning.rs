//! Thin provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-4, 4.7).
//!
//! Deallocated blocks read as zeros (LBPRZ is 001b). There are no anchored blocks.

use super::super::{Refusal, Unit};
use crate::scsi::command::Command;
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Operation, Reply};

/// MAXIMUM UNMAP LBA COUNT, as bytes: a hole of any size costs the same.
pub(crate) const UNMAP_BYTES_MAX: u64 = 512 << 20;
/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// MAXIMUM WRITE SAME LENGTH, as bytes.
pub(crate) const WRITE_SAME_BYTES_MAX: u64 = 32 << 20;

/// UNMAP.
pub(crate) fn unmap(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    if !unit.identity.thin {
        return Err(Sense::INVALID_COMMAND.into());
    }
    if command.bit(1, 0) {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(0)).into()); // ANCHOR
    }
    match usize::from(command.u16(7)) {
        0 => Ok(Action::Reply(Reply::good(Vec::new(), 0))),
        1..8 => Err(Sense::PARAMETER_LENGTH.into()),
        len => Ok(Action::Parameters { len }),
    }
}

/// UNMAP's parameter list (SBC-4, 5.35.2). A descriptor that is cut off is ignored.
pub(crate) fn unmap_list(unit: &mut Unit, parameters: &[u8]) -> Result<Action, Refusal> {
    let claimed = usize::from(Command(parameters).u16(2));
    let list = parameters.get(8..).unwrap_or_default();
    let list = list.get(..claimed).unwrap_or(list);
    let descriptors = list.chunks_exact(16);
    if descriptors.len() > UNMAP_DESCRIPTORS_MAX as usize {
        return Err(Sense::INVALID_PARAMETER.at_parameter(2, None).into());
    }
    let mut extents = Vec::with_capacity(descriptors.len());
    let mut bytes = 0;
    for descriptor in descriptors {
        let descriptor = Command(descriptor);
        let extent = unit.extent(descriptor.u64(0), u64::from(descriptor.u32(8)))?;
        bytes += extent.map_or(0, |extent| extent.len);
        extents.extend(extent);
    }
    if bytes > UNMAP_BYTES_MAX {
        return Err(Sense::INVALID_PARAMETER.at_parameter(8, None).into());
    }
    if extents.is_empty() {
        return Ok(Action::Reply(Reply::good(Vec::new(), 0)));
    }
    Ok(Action::Operation(Operation::Unmap(extents)))
}

/// WRITE SAME.
pub(crate) fn write_same(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let long = command.byte(0) == 0x93;
    if command.byte(1) & 0xe0 != 0 {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(7)).into());
    }
    let unmap = command.bit(1, 3);
    if command.bit(1, 4) || unmap && !unit.identity.thin {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(4)).into()); // ANCHOR
    }
    let no_data = long && command.bit(1, 0);
    if no_data {
        return write_same_with(unit, command, None);
    }
    check_range(unit, command)?;
    Ok(Action::Parameters {
        len: unit.identity.block_size as usize,
    })
}

fn check_range(unit: &Unit, command: Command<'_>) -> Result<crate::scsi::Extent, Sense> {
    let (lba, blocks, at) = if command.byte(0) == 0x93 {
        (command.u64(2), u64::from(command.u32(10)), 10)
    } else {
        (u64::from(command.u32(2)), u64::from(command.u16(7)), 7)
    };
    // None means no blocks, which WSNZ forbids.
    let extent = unit
        .extent(lba, blocks)?
        .ok_or(Sense::INVALID_FIELD.at_command(at, Some(7)))?;
    if extent.len > WRITE_SAME_BYTES_MAX {
        return Err(Sense::INVALID_FIELD.at_command(at, Some(7)));
    }
    Ok(extent)
}

/// WRITE SAME's block.
pub(crate) fn write_same_block(
    unit: &mut Unit,
    command: Command<'_>,
    block: &[u8],
) -> Result<Action, Refusal> {
    let zeros = block.iter().all(|byte| *byte == 0);
    write_same_with(unit, command, (!zeros).then(|| block.to_vec()))
}

fn write_same_with(
    unit: &mut Unit,
    command: Command<'_>,
    block: Option<Vec<u8>>,
) -> Result<Action, Refusal> {
    let extent = check_range(unit, command)?;
    Ok(Action::Operation(Operation::WriteSame {
        extent,
        block,
        unmap: command.bit(1, 3),
        durable: !unit.state.modes.write_cache,
    }))
}

/// GET LBA STATUS: as much of what follows the first block as fits into the answer. An allocation length that is too short for one
/// descriptor is no error (SPC-5, 4.2.5.6).
pub(crate) fn lba_status(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let lba = command.u64(2);
    if lba >= unit.state.blocks {
        return Err(Sense::OUT_OF_RANGE.about(lba).into());
    }
    let rest = (unit.state.blocks - lba).min(u64::from(u32::MAX));
    let extent = unit.extent(lba, rest)?.ok_or(Sense::OUT_OF_RANGE)?;
    Ok(Action::Operation(Operation::Allocation(extent)))
}
