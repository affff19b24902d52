//! What the preloaded library and the gateway say to each other over a UNIX stream socket, one connection for each open device file.
//!
//! The library sends one byte, the number in `/dev/sgN`; then requests, each with its data-out, and gets answers, each with as much data-in
//! as was asked for. Knows no SCSI. Both sides are built from this file.

/// The environment variable that names the gateway's socket.
pub const SOCKET_VARIABLE: &str = "SGSHIM_SOCKET";

/// Bytes of a request without its data.
pub const REQUEST_SIZE: usize = 40;
/// Bytes of an answer without its data.
pub const ANSWER_SIZE: usize = 104;
/// Greatest length of a command descriptor block.
pub const CDB_MAX: usize = 32;
/// Greatest length of sense data.
pub const SENSE_MAX: usize = 96;
/// Greatest length of the data of one request.
pub const DATA_MAX: usize = 32 << 20;

/// What a program wants of a device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command without data.
    Command = 0,
    /// A command with data for the device.
    CommandOut = 1,
    /// A command with data from the device.
    CommandIn = 2,
    /// A reset of the logical unit.
    ResetUnit = 3,
    /// A reset of all that the initiator has to do with the target.
    ResetNexus = 4,
}

impl Kind {
    fn new(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Command,
            1 => Self::CommandOut,
            2 => Self::CommandIn,
            3 => Self::ResetUnit,
            4 => Self::ResetNexus,
            _ => return None,
        })
    }
}

/// A request without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub kind: Kind,
    /// The command descriptor block, and zeros.
    pub cdb: [u8; CDB_MAX],
    /// How much of it the program gave.
    pub cdb_length: u8,
    /// Length of the data in bytes.
    pub length: u32,
}

impl Request {
    /// As it is sent.
    pub fn encode(&self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        let fields = [self.kind as u8, self.cdb_length, 0, 0]
            .into_iter()
            .chain(self.length.to_le_bytes())
            .chain(self.cdb);
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }

    /// `None` if the other side is not built from this file.
    pub fn decode(bytes: &[u8; REQUEST_SIZE]) -> Option<Self> {
        let [kind, cdb_length, _, _, l0, l1, l2, l3, cdb @ ..] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let fits = usize::from(cdb_length) <= CDB_MAX && length as usize <= DATA_MAX;
        fits.then_some(Self {
            kind: Kind::new(kind)?,
            cdb,
            cdb_length,
            length,
        })
    }
}

/// An answer without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// SCSI status; for a reset the device's response to it.
    pub status: u8,
    /// The device's response, `VIRTIO_SCSI_S_` (virtio 1.3, 5.6.6.1).
    pub response: u8,
    /// How much of `sense` there is.
    pub sense_length: u8,
    /// How much of the data was not transferred, in bytes.
    pub residual: u32,
    /// Sense data, and zeros.
    pub sense: [u8; SENSE_MAX],
}

impl Answer {
    /// As it is sent.
    pub fn encode(&self) -> [u8; ANSWER_SIZE] {
        let mut bytes = [0; ANSWER_SIZE];
        let fields = [self.status, self.response, self.sense_length, 0]
            .into_iter()
            .chain(self.residual.to_le_bytes())
            .chain(self.sense);
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }

    /// What was sent.
    pub fn decode(bytes: &[u8; ANSWER_SIZE]) -> Self {
        let [
            status,
            response,
            sense_length,
            _,
            r0,
            r1,
            r2,
            r3,
            sense @ ..,
        ] = *bytes;
        Self {
            status,
            response,
            sense_length,
            residual: u32::from_le_bytes([r0, r1, r2, r3]),
            sense,
        }
    }
}
