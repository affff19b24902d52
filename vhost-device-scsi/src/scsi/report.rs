//! REPORT LUNS, and what answers where no unit is (SPC-5, 6.34; SAM-5, 4.7).
//!
//! Knows numbers of units; knows no unit.

use super::command::Command;
use super::sense::Sense;
use super::{Reply, opcode};

/// Numbers below this use peripheral device addressing, others flat space addressing (SAM-5, 4.7.7).
const PERIPHERAL_MAX: u16 = 255;
/// The well-known logical unit REPORT LUNS.
const REPORT_LUNS_UNIT: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];

/// REPORT LUNS.
pub fn report_luns(cdb: &[u8], luns: &[u16]) -> Reply {
    let command = Command(cdb);
    let allocation = command.u32(6);
    let units: Vec<[u8; 8]> = match command.byte(2) {
        0x00 | 0x11 => luns.iter().map(|lun| encode(*lun)).collect(),
        0x01 => vec![REPORT_LUNS_UNIT],
        0x02 => std::iter::once(REPORT_LUNS_UNIT)
            .chain(luns.iter().map(|lun| encode(*lun)))
            .collect(),
        0x10 | 0x12 => Vec::new(),
        _ => return Reply::failed(Sense::INVALID_FIELD.at_command(2, Some(7)), false),
    };
    if allocation < 16 {
        return Reply::failed(Sense::INVALID_FIELD.at_command(6, Some(7)), false);
    }
    let length = u32::try_from(units.len() * 8).unwrap_or(u32::MAX);
    let mut data = length.to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data.extend(units.into_iter().flatten());
    Reply::good(data, allocation)
}

fn encode(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    let high = if lun > PERIPHERAL_MAX { 0x40 | high } else { 0 };
    [high, low, 0, 0, 0, 0, 0, 0]
}

/// A unit that is not there, of a target that is: peripheral qualifier 011b.
pub fn absent(cdb: &[u8], luns: &[u16]) -> Reply {
    let command = Command(cdb);
    match command.byte(0) {
        0x12 => {
            let mut data = standard_inquiry(0x7f);
            data.extend_from_slice(&[0; 28]);
            if command.bit(1, 0) {
                return Reply::failed(Sense::INVALID_FIELD.at_command(1, Some(0)), false);
            }
            Reply::good(data, u32::from(command.u16(3)))
        }
        0x03 => {
            let sense = Sense::NO_SUCH_UNIT.encode(command.bit(1, 0));
            Reply::good(sense, u32::from(command.byte(4)))
        }
        opcode::REPORT_LUNS => report_luns(cdb, luns),
        _ => Reply::failed(Sense::NO_SUCH_UNIT, false),
    }
}

/// The well-known logical unit REPORT LUNS (SPC-5, 8.2).
pub fn well_known(cdb: &[u8], luns: &[u16]) -> Reply {
    let command = Command(cdb);
    match command.byte(0) {
        0x00 => Reply::good(Vec::new(), 0),
        0x03 => {
            let sense = Sense::NONE.encode(command.bit(1, 0));
            Reply::good(sense, u32::from(command.byte(4)))
        }
        0x12 if command.bit(1, 0) => {
            Reply::failed(Sense::INVALID_FIELD.at_command(1, Some(0)), false)
        }
        0x12 => {
            let mut data = standard_inquiry(0x1e);
            data.extend_from_slice(&[0; 28]);
            Reply::good(data, u32::from(command.u16(3)))
        }
        opcode::REPORT_LUNS => report_luns(cdb, luns),
        _ => Reply::failed(Sense::INVALID_COMMAND, false),
    }
}

/// The first bytes of standard INQUIRY data of what is no disk.
fn standard_inquiry(peripheral: u8) -> Vec<u8> {
    vec![peripheral, 0, 0x06, 0x12, 31, 0, 0, 0x02]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Status;

    fn report(select: u8, allocation: u8, luns: &[u16]) -> Reply {
        let cdb = [0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0];
        report_luns(&cdb, luns)
    }

    #[test]
    fn units_are_listed_in_the_single_level_formats() {
        let reply = report(0, 64, &[0, 255, 256, 16383]);
        let expected = [
            [0, 0, 0, 32, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 255, 0, 0, 0, 0, 0, 0],
            [0x41, 0, 0, 0, 0, 0, 0, 0],
            [0x7f, 0xff, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(reply.data, expected);
        assert_eq!(report(0, 16, &[0, 1]).data.len(), 16);
        assert_eq!(report(1, 64, &[0]).data[8..], REPORT_LUNS_UNIT);
        assert_eq!(report(2, 64, &[0]).data.len(), 24);
        assert_eq!(report(0, 15, &[0]).status, Status::CheckCondition);
        assert_eq!(report(3, 64, &[0]).status, Status::CheckCondition);
    }

    #[test]
    fn a_unit_that_is_not_there_says_so() {
        let inquiry = absent(&[0x12, 0, 0, 0, 36, 0], &[]);
        assert_eq!((inquiry.data[0], inquiry.data.len()), (0x7f, 36));
        let ready = absent(&[0; 6], &[]);
        assert_eq!(ready.sense, Some(Sense::NO_SUCH_UNIT));
        let sense = absent(&[0x03, 0, 0, 0, 18, 0], &[]);
        assert_eq!((sense.status, sense.data[12]), (Status::Good, 0x25));
    }
}
