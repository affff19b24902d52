//! MODE SENSE and MODE SELECT, 6 and 10 (SPC-5, 6.11 to 6.14).
//!
//! Knows headers and block descriptors; what is in a page is in `modes.rs`.

use super::super::modes::{self, ModeValues};
use super::super::{Refusal, Unit};
use crate::scsi::command::Command;
use crate::scsi::sense::{Key, Sense};
use crate::scsi::{Action, Reply};

/// SAVING PARAMETERS NOT SUPPORTED.
const NOT_SAVED: Sense = Sense::new(Key::IllegalRequest, 0x39, 0x00);
/// All pages.
const ALL: u8 = 0x3f;

/// MODE SENSE.
pub(crate) fn mode_sense(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let long = command.byte(0) == 0x5a;
    let (control, wanted, subpage) = (
        command.byte(2) >> 6,
        command.byte(2) & 0x3f,
        command.byte(3),
    );
    if control == 3 {
        return Err(NOT_SAVED.into());
    }
    if subpage != 0 && subpage != 0xff {
        return Err(Sense::INVALID_FIELD.at_command(3, Some(7)).into());
    }
    let codes: Vec<u8> = modes::PAGES
        .into_iter()
        .filter(|page| wanted == ALL || *page == wanted)
        .collect();
    if codes.is_empty() {
        return Err(Sense::INVALID_FIELD.at_command(2, Some(5)).into());
    }
    let pages = codes.into_iter().filter_map(|page| match control {
        0 => unit.state.modes.page(page),
        1 => modes::changeable(page),
        _ => unit.modes_default.page(page),
    });
    let block = if command.bit(1, 3) {
        Vec::new()
    } else {
        block_descriptor(unit, long && command.bit(1, 4))
    };
    let mut data = header(unit, long, &block);
    data.extend_from_slice(&block);
    data.extend(pages.flatten());
    let follow = data.len();
    let allocation = if long {
        if let [high, low, ..] = data.as_mut_slice() {
            [*high, *low] = u16::try_from(follow - 2).unwrap_or(u16::MAX).to_be_bytes();
        }
        u32::from(command.u16(7))
    } else {
        if let Some(first) = data.first_mut() {
            *first = u8::try_from(follow - 1).unwrap_or(u8::MAX);
        }
        u32::from(command.byte(4))
    };
    Ok(Action::Reply(Reply::good(data, allocation)))
}

/// The header, with its length field still empty.
fn header(unit: &Unit, long: bool, block: &[u8]) -> Vec<u8> {
    let protected = if unit.is_protected() { 0x80 } else { 0 };
    let device = protected | 0x10; // WP, DPOFUA
    let block_bytes = u8::try_from(block.len()).unwrap_or(0);
    if long {
        let long_lba = u8::from(block.len() == 16);
        vec![0, 0, 0, device, long_lba, 0, 0, block_bytes]
    } else {
        vec![0, 0, device, block_bytes]
    }
}

/// SBC-4, 6.5.2: short, or long for large units.
fn block_descriptor(unit: &Unit, long: bool) -> Vec<u8> {
    let (blocks, size) = (unit.state.blocks, unit.identity.block_size);
    if long {
        let mut bytes = blocks.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&size.to_be_bytes());
        return bytes;
    }
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    let mut bytes = blocks.to_be_bytes().to_vec();
    let [_, size @ ..] = size.to_be_bytes();
    bytes.push(0);
    bytes.extend_from_slice(&size);
    bytes
}

/// MODE SELECT. Pages are in the standard's format (PF), and are not saved (SP).
pub(crate) fn mode_select(_unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    if command.bit(1, 0) {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(0)).into());
    }
    if !command.bit(1, 4) {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(4)).into());
    }
    let len = if command.byte(0) == 0x55 {
        usize::from(command.u16(7))
    } else {
        usize::from(command.byte(4))
    };
    Ok(if len == 0 {
        Action::Reply(Reply::good(Vec::new(), 0))
    } else {
        Action::Parameters { len }
    })
}

/// MODE SELECT's parameter list: all of it is right, or nothing changes.
pub(crate) fn mode_parameters(
    unit: &mut Unit,
    parameters: &[u8],
    long: bool,
) -> Result<Action, Refusal> {
    let list = Command(parameters);
    let (header, block) = if long {
        (8, usize::from(list.u16(6)))
    } else {
        (4, usize::from(list.byte(3)))
    };
    if parameters.len() < header + block {
        return Err(Sense::PARAMETER_LENGTH.into());
    }
    check_block(
        unit,
        parameters.get(header..header + block),
        long && list.bit(4, 0),
        header,
    )?;
    let mut modes = unit.state.modes;
    let mut at = header + block;
    while at < parameters.len() {
        at += take_page(&mut modes, parameters, at)?;
    }
    // Other initiators would hear of it (2a/01); there are none on this nexus.
    unit.state.modes = modes;
    Ok(Action::Reply(Reply::good(Vec::new(), 0)))
}

/// A block descriptor may only say what is so.
fn check_block(unit: &Unit, block: Option<&[u8]>, long: bool, at: usize) -> Result<(), Sense> {
    let block = block.unwrap_or_default();
    let size = match (block.len(), long) {
        (0, _) => return Ok(()),
        (8, false) => Command(block).u24(5),
        (16, true) => Command(block).u32(12),
        _ => return Err(Sense::INVALID_PARAMETER.at_parameter(offset(at) - 1, None)),
    };
    if size == unit.identity.block_size {
        Ok(())
    } else {
        Err(Sense::INVALID_PARAMETER.at_parameter(offset(at + 5), None))
    }
}

/// Takes one page over; returns its length.
fn take_page(modes: &mut ModeValues, parameters: &[u8], at: usize) -> Result<usize, Sense> {
    let rest = parameters.get(at..).unwrap_or_default();
    let page = Command(rest).byte(0) & 0x3f;
    let known = modes.page(page).filter(|_| !Command(rest).bit(0, 6));
    let known = known.ok_or(Sense::INVALID_PARAMETER.at_parameter(offset(at), Some(5)))?;
    let Some(new) = rest.get(..known.len()) else {
        return Err(Sense::PARAMETER_LENGTH);
    };
    if new.get(1) != known.get(1) {
        return Err(Sense::INVALID_PARAMETER.at_parameter(offset(at + 1), Some(7)));
    }
    modes
        .set_page(page, new)
        .map_err(|byte| Sense::INVALID_PARAMETER.at_parameter(offset(at) + byte, None))?;
    Ok(new.len())
}

fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}
