//! Commands about the unit as a whole (SPC-5, clause 6; SBC-4, clause 5).

use super::super::{Refusal, Unit};
use crate::scsi::attention::Attention;
use crate::scsi::command::Command;
use crate::scsi::reservation::Class;
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Operation, Reply, report};

fn done() -> Action {
    Action::Reply(Reply::good(Vec::new(), 0))
}

/// TEST UNIT READY.
pub(crate) fn test_unit_ready(_unit: &mut Unit, _command: Command<'_>) -> Result<Action, Refusal> {
    Ok(done()) // that it is ready was looked at before
}

/// REQUEST SENSE: a deferred error or a unit attention as data, and with that it is heard of.
pub(crate) fn request_sense(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let state = &mut unit.state;
    let sense = state
        .deferred
        .take()
        .or_else(|| state.attentions.take().map(Attention::sense))
        .unwrap_or(if state.stopped {
            Sense::NOT_READY
        } else {
            Sense::NONE
        });
    let data = sense.encode(command.bit(1, 0));
    Ok(Action::Reply(Reply::good(data, u32::from(command.byte(4)))))
}

/// READ CAPACITY(10).
pub(crate) fn read_capacity_10(unit: &mut Unit, _command: Command<'_>) -> Result<Action, Refusal> {
    let last = last_block(unit);
    let mut data = u32::try_from(last)
        .unwrap_or(u32::MAX)
        .to_be_bytes()
        .to_vec();
    data.extend_from_slice(&unit.identity.block_size.to_be_bytes());
    Ok(Action::Reply(Reply::good(data, 8)))
}

/// READ CAPACITY(16).
pub(crate) fn read_capacity_16(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let last = last_block(unit);
    let mut data = last.to_be_bytes().to_vec();
    data.extend_from_slice(&unit.identity.block_size.to_be_bytes());
    // Physical blocks of 4096 bytes: LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
    let exponent = 12_u8.saturating_sub(unit.identity.block_shift());
    let provisioning = if unit.identity.thin { 0xc0 } else { 0 }; // LBPME, LBPRZ
    data.extend_from_slice(&[0, exponent, provisioning, 0]);
    data.resize(32, 0);
    Ok(Action::Reply(Reply::good(data, command.u32(10))))
}

/// The initiator knows the size by this.
fn last_block(unit: &mut Unit) -> u64 {
    unit.state.blocks_reported = unit.state.blocks;
    unit.state.blocks.saturating_sub(1)
}

/// READ DEFECT DATA: there are none.
pub(crate) fn read_defect_data(_unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let (data, allocation) = if command.byte(0) == 0x37 {
        let data = vec![0, command.byte(2) & 0x1f, 0, 0];
        (data, u32::from(command.u16(7)))
    } else {
        let data = vec![0, command.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0];
        (data, command.u32(6))
    };
    Ok(Action::Reply(Reply::good(data, allocation)))
}

/// START STOP UNIT. What is not removable is not ejected, and there are no power conditions but active and stopped.
pub(crate) fn start_stop(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    if command.byte(4) >> 4 != 0 {
        unit.require(Class::Write)?;
        return Err(Sense::INVALID_FIELD.at_command(4, Some(7)).into());
    }
    let start = command.bit(4, 0);
    if !start {
        unit.require(Class::Write)?;
    }
    if command.bit(4, 1) {
        return Err(Sense::INVALID_FIELD.at_command(4, Some(1)).into()); // LOEJ
    }
    unit.state.stopped = !start;
    Ok(if start {
        done()
    } else {
        // What is cached is written before the answer (SBC-4, 5.31).
        Action::Operation(Operation::Flush)
    })
}

/// PREVENT ALLOW MEDIUM REMOVAL: noted, though nothing can be removed.
pub(crate) fn prevent_allow(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let prevent = match command.byte(4) & 3 {
        0 => false,
        1 => true,
        _ => return Err(Sense::INVALID_FIELD.at_command(4, Some(1)).into()),
    };
    if prevent {
        unit.require(Class::Write)?;
    }
    unit.state.removal_prevented = prevent;
    Ok(done())
}

/// REPORT LUNS is the target's to answer; a unit alone knows of itself only.
pub(crate) fn report_luns(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    Ok(Action::Reply(report::report_luns(
        command.0,
        &[unit.identity.lun],
    )))
}

/// LOG SENSE: supported pages and informational exceptions, of which there are none (SPC-5, 7.3).
pub(crate) fn log_sense(_unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    if command.bit(1, 0) {
        return Err(Sense::INVALID_FIELD.at_command(1, Some(0)).into()); // SP
    }
    let (page, subpage) = (command.byte(2) & 0x3f, command.byte(3));
    let data = match (page, subpage) {
        (0x00, 0x00) => vec![0x00, 0, 0, 2, 0x00, 0x2f],
        // With subpages: pairs, the lists themselves included.
        (0x00, 0xff) => vec![0x40, 0xff, 0, 6, 0x00, 0x00, 0x00, 0xff, 0x2f, 0x00],
        (0x2f, 0x00) => vec![0x2f, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0, 0],
        (0x00 | 0x2f, _) => return Err(Sense::INVALID_FIELD.at_command(3, Some(7)).into()),
        _ => return Err(Sense::INVALID_FIELD.at_command(2, Some(5)).into()),
    };
    Ok(Action::Reply(Reply::good(data, u32::from(command.u16(7)))))
}
