//! The bytes of requests and responses (virtio 1.3, 5.6.6), and how a logical unit is addressed (5.6.6.1).
//!
//! Knows no ring and no unit.

use common::report::Sparse;
use common::request::{CursorError, Request, Writer};

use crate::scsi::CDB_BYTES_MAX;

/// Bytes of a request before the command descriptor block: lun, id, attribute, priority, crn.
const COMMAND_PREFIX: usize = 19;
/// Bytes of a response before the sense data: `sense_len`, `residual`, `status_qualifier`, `status`, `response`.
const RESPONSE_PREFIX: usize = 12;
/// `cdb_size` and `sense_size` after a reset (5.6.4).
pub const COMMAND_BYTES_DEFAULT: u32 = 32;
/// See [`COMMAND_BYTES_DEFAULT`].
pub const SENSE_BYTES_DEFAULT: u32 = 96;

/// The field `response` (5.6.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The command has a status.
    Ok = 0,
    /// The command transfers more than there are buffers for.
    Overrun = 1,
    /// Ended by ABORT TASK or ABORT TASK SET.
    Aborted = 2,
    /// No such target.
    BadTarget = 3,
    /// Ended by a reset.
    Reset = 4,
    /// Data in both directions, or what cannot be said otherwise.
    Failure = 9,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The logical unit of this number, which may not be there.
    Unit(u16),
    /// The well-known logical unit REPORT LUNS.
    ReportLuns,
    /// No target of ours.
    BadTarget,
}

impl Address {
    /// From the eight bytes of a request. Peripheral and flat addressing are both accepted, as Linux uses flat addressing for all
    /// units and others do not.
    pub fn decode(lun: [u8; 8], target: u8) -> Self {
        match lun {
            [0xc1, 0x01, ..] => Self::ReportLuns,
            // Linux's way to address it: through the flat format.
            [1, to, 0xc1, 0x01, ..] if to == target => Self::ReportLuns,
            [1, to, 0, low, ..] if to == target => Self::Unit(u16::from(low)),
            [1, to, high @ 0x40..=0x7f, low, ..] if to == target => {
                Self::Unit(u16::from_be_bytes([high & 0x3f, low]))
            }
            _ => Self::BadTarget,
        }
    }
}

/// The bytes that events carry: Linux compares them with what REPORT LUNS said, so units below 256 use peripheral addressing
/// and others flat addressing.
pub fn event_lun(target: u8, lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    let high = if lun < 256 { 0 } else { 0x40 | high };
    [1, target, high, low, 0, 0, 0, 0]
}

/// Sizes that the driver may choose in the config space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `cdb_size` in bytes.
    pub command: usize,
    /// `sense_size` in bytes.
    pub sense: usize,
}

/// Where data lies in a request's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes to read before the data for the device.
    pub out_at: usize,
    /// Bytes of data for the device.
    pub out_len: usize,
    /// Bytes to write before the data for the driver.
    pub in_at: usize,
    /// Bytes of room for data for the driver.
    pub in_len: usize,
    /// Room for sense data.
    sense: usize,
}

/// A command as it came.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Bytes of the address.
    pub lun: [u8; 8],
    /// The driver's name for the command.
    pub id: u64,
    /// The command descriptor block, with zeros behind it.
    pub cdb: [u8; CDB_BYTES_MAX],
    /// Where its data is.
    pub frame: Frame,
}

impl Incoming {
    /// Takes a request apart.
    pub fn parse(request: &Request, sizes: Sizes) -> Result<Self, CursorError> {
        let mut reader = request.reader();
        let mut prefix = [0; COMMAND_PREFIX];
        reader.read_exact(&mut prefix)?;
        let mut cdb = [0; CDB_BYTES_MAX];
        let known = sizes.command.min(CDB_BYTES_MAX);
        if let Some(known) = cdb.get_mut(..known) {
            reader.read_exact(known)?;
        }
        reader.skip(sizes.command - known)?;
        let in_at = RESPONSE_PREFIX + sizes.sense;
        let room = request.writer().remaining();
        let in_len = room.checked_sub(in_at).ok_or(CursorError::ReplyTooSmall {
            available: room,
            wanted: in_at,
        })?;
        let [lun @ .., _, _, _, _, _, _, _, _, _, _, _] = prefix;
        let [_, _, _, _, _, _, _, _, id @ .., _, _, _] = prefix;
        Ok(Self {
            lun,
            id: u64::from_le_bytes(id),
            cdb,
            frame: Frame {
                out_at: COMMAND_PREFIX + sizes.command,
                out_len: reader.remaining(),
                in_at,
                in_len,
                sense: sizes.sense,
            },
        })
    }
}

/// Tells the operator of a request whose buffers are too short for what it is, if it is not the thousandth. The guest gets it back
/// unserved.
pub fn malformed(ring: usize, error: &CursorError) {
    static MALFORMED: Sparse = Sparse::new();
    if let Some(count) = MALFORMED.count() {
        log::warn!("ring {ring}: {error}; given back unserved ({count} so far)");
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Transport.
    pub response: Response,
    /// SCSI status.
    pub status: u8,
    /// Sense data; cut to `sense_size`.
    pub sense: &'a [u8],
    /// Bytes of data that were transferred, either way.
    pub transferred: usize,
}

impl Answer<'_> {
    /// A response without a status.
    pub fn only(response: Response) -> Self {
        Self {
            response,
            status: 0,
            sense: &[],
            transferred: 0,
        }
    }

    /// Writes the response; returns the bytes written to the request's buffers, counting data that is there already.
    pub fn write(&self, request: &Request, frame: &Frame) -> u32 {
        let sense = self.sense.get(..frame.sense).unwrap_or(self.sense);
        let wanted = frame.out_len.max(frame.in_len);
        let residual = wanted.saturating_sub(self.transferred);
        let mut bytes = [0; RESPONSE_PREFIX];
        let fields = [sense.len(), residual].map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        for (target, byte) in bytes
            .iter_mut()
            .zip(fields.into_iter().flat_map(u32::to_le_bytes))
        {
            *target = byte;
        }
        let [.., status, response] = &mut bytes;
        *status = self.status;
        *response = self.response as u8;
        let mut writer = request.writer();
        let written = Self::put(&mut writer, &bytes, sense);
        if let Err(error) = written {
            // Looked at when the request was parsed, and buffers do not shrink.
            log::error!("response lost: {error}");
            return 0;
        }
        // What was taken from the driver is not written to its buffers.
        let data = self.transferred.min(frame.in_len);
        u32::try_from(frame.in_at + data).unwrap_or(u32::MAX)
    }

    fn put(writer: &mut Writer<'_>, bytes: &[u8], sense: &[u8]) -> Result<(), CursorError> {
        writer.write_all(bytes)?;
        writer.write_all(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let decode = |bytes: [u8; 4]| {
            let [a, b, c, d] = bytes;
            Address::decode([a, b, c, d, 0, 0, 0, 0], 3)
        };
        assert_eq!(decode([1, 3, 0, 7]), Address::Unit(7));
        assert_eq!(decode([1, 3, 0x40, 7]), Address::Unit(7));
        assert_eq!(decode([1, 3, 0x7f, 0xff]), Address::Unit(16383));
        assert_eq!(decode([1, 3, 0x01, 7]), Address::BadTarget);
        assert_eq!(decode([1, 2, 0x40, 7]), Address::BadTarget);
        assert_eq!(decode([0, 3, 0x40, 7]), Address::BadTarget);
        assert_eq!(decode([0xc1, 1, 0, 0]), Address::ReportLuns);
        assert_eq!(decode([1, 3, 0xc1, 1]), Address::ReportLuns);
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let sizes = Sizes {
            command: 32,
            sense: 96,
        };
        let header = [0; 51];
        for (out, room, transferred, written) in [
            (512, 0, 512, 108),
            (0, 64, 512, 172),
            (0, 64, 10, 118),
            (0, 0, 512, 108),
        ] {
            let request = Request::in_memory(&[&header, &vec![0; out]], &[108, room]);
            let incoming = Incoming::parse(&request, sizes).unwrap();
            let answer = Answer {
                transferred,
                ..Answer::only(Response::Ok)
            };
            assert_eq!(answer.write(&request, &incoming.frame), written);
        }
    }

    #[test]
    fn events_use_the_addresses_of_report_luns() {
        assert_eq!(event_lun(3, 255), [1, 3, 0, 255, 0, 0, 0, 0]);
        assert_eq!(event_lun(3, 256), [1, 3, 0x41, 0, 0, 0, 0, 0]);
    }
}
