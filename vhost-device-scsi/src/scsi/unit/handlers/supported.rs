//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-5, 6.36 and 6.37): the table of commands, as data.

use super::super::{Refusal, Unit};
use crate::scsi::command::Command;
use crate::scsi::opcode::{Entry, TABLE};
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Reply};

/// UNMAP is only there if blocks can be deallocated.
const UNMAP: u8 = 0x42;
/// A command timeouts descriptor that gives no times.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// ATS, ATSS, CTSS, LURS, QTS; QTSS, ITNRS.
const TASKS: [u8; 2] = [0xdc, 0x03];

/// REPORT SUPPORTED OPERATION CODES.
pub(crate) fn supported_codes(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let timeouts = command.bit(2, 7);
    let (code, action) = (command.byte(3), command.u16(4));
    let entries = || {
        TABLE
            .iter()
            .filter(|entry| entry.code != UNMAP || unit.identity.thin)
    };
    let of_code = || entries().filter(|entry| entry.code == code);
    let with_actions = of_code().any(|entry| entry.action.is_some());
    let data = match command.byte(2) & 7 {
        0 => all(entries(), timeouts),
        1 if with_actions => return Err(Sense::INVALID_FIELD.at_command(2, Some(2)).into()),
        2 if of_code().next().is_some() && !with_actions => {
            return Err(Sense::INVALID_FIELD.at_command(2, Some(2)).into());
        }
        1..=3 => one(
            of_code().find(|entry| entry.action.is_none_or(|of_entry| of_entry == action)),
            timeouts,
        ),
        _ => return Err(Sense::INVALID_FIELD.at_command(2, Some(2)).into()),
    };
    Ok(Action::Reply(Reply::good(data, command.u32(6))))
}

fn all<'a>(entries: impl Iterator<Item = &'a Entry>, timeouts: bool) -> Vec<u8> {
    let mut descriptors = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.usage.len()).unwrap_or(0);
        descriptors.extend_from_slice(&[entry.code, 0]);
        descriptors.extend_from_slice(&entry.action.unwrap_or(0).to_be_bytes());
        let flags = u8::from(timeouts) << 1 | u8::from(entry.action.is_some());
        descriptors.extend_from_slice(&[0, flags]); // CTDP, SERVACTV
        descriptors.extend_from_slice(&length.to_be_bytes());
        if timeouts {
            descriptors.extend_from_slice(&TIMEOUTS);
        }
    }
    let length = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
    let mut data = length.to_be_bytes().to_vec();
    data.append(&mut descriptors);
    data
}

fn one(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    let Some(entry) = entry else {
        return vec![0, 0x01, 0, 0]; // not supported
    };
    let length = u16::try_from(entry.usage.len()).unwrap_or(0);
    let mut data = vec![0, u8::from(timeouts) << 7 | 0x03];
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(entry.usage);
    // The service action itself is part of the usage data.
    if let (Some(action), Some(byte)) = (entry.action, data.get_mut(5)) {
        *byte = u8::try_from(action).unwrap_or(0) & 0x1f | *byte & 0xe0;
    }
    if timeouts {
        data.extend_from_slice(&TIMEOUTS);
    }
    data
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub(crate) fn supported_tasks(_unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let allocation = command.u32(6);
    if allocation < 4 {
        return Err(Sense::INVALID_FIELD.at_command(6, Some(7)).into());
    }
    let mut data = TASKS.to_vec();
    data.extend_from_slice(&[0, 0]);
    if command.bit(2, 7) {
        // REPD: no time-outs are given.
        data.resize(16, 0);
        if let Some(length) = data.get_mut(3) {
            *length = 0x0c;
        }
    }
    Ok(Action::Reply(Reply::good(data, allocation)))
}
