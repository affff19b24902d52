//! The initiator's side: one session with a target of others, one command at a time.
//!
//! Knows no commands.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{FINAL, NO_TAG, SEGMENT_MAX, Unit, opcode, write_keys};
use crate::scsi_suite::initiator::{Data, Outcome, RESPONSE_OK};
use crate::scsi_suite::wire::DATA_MAX;

/// Flags of a login: leave the operational stage, the only one, for the full feature phase.
const LOGIN_FLAGS: u8 = 0x87;
/// Flags of a command.
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
/// Flags of a response: the residual counts what was not transferred.
const UNDERFLOW: u8 = 0x02;
/// Flag of data: there is a status in it.
const STATUS: u8 = 0x01;

/// A session.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    command_number: u32,
    status_number: u32,
    tag: u32,
}

impl Client {
    /// Logs in to the target `target` as `initiator`.
    pub fn connect(address: SocketAddr, target: &str, initiator: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Self {
            stream,
            command_number: 1,
            status_number: 0,
            tag: 0,
        };
        let mut login = Unit::new(opcode::LOGIN | super::IMMEDIATE, LOGIN_FLAGS);
        login.set(8, &[0x80, 0, 0, 0, 0, 1]); // a random session id, not so random
        login.set_word(24, client.command_number);
        let fixed = [
            ("InitiatorName", initiator),
            ("TargetName", target),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "No"),
            ("MaxConnections", "1"),
            ("MaxOutstandingR2T", "1"),
            ("ErrorRecoveryLevel", "0"),
        ];
        let limits = [
            ("MaxRecvDataSegmentLength", SEGMENT_MAX.to_string()),
            ("MaxBurstLength", DATA_MAX.to_string()),
        ];
        let fixed = fixed
            .into_iter()
            .map(|(key, value)| (key, value.to_owned()));
        login.data = write_keys(fixed.chain(limits));
        login.send(&mut client.stream)?;
        let answer = client.receive()?;
        ensure!(
            answer.opcode() == opcode::LOGIN | opcode::ANSWER && answer.byte(36) == 0,
            "the login is refused: {answer:x?}"
        );
        ensure!(
            answer.byte(1) & FINAL != 0,
            "the login goes on: {answer:x?}"
        );
        Ok(client)
    }

    fn receive(&mut self) -> Result<Unit> {
        let unit = Unit::receive(&mut self.stream)?.context("the target has closed the session")?;
        let counts = match unit.opcode() {
            opcode::READY_TO_TRANSFER => false,
            opcode::DATA_IN => unit.byte(1) & STATUS != 0,
            _ => true,
        };
        if counts {
            self.status_number = unit.word(24).wrapping_add(1);
        }
        Ok(unit)
    }

    /// Sends a command to `lun` and waits for its end.
    pub fn command(&mut self, lun: u8, cdb: &[u8], data: Data<'_>) -> Result<Outcome> {
        ensure!(cdb.len() <= 16, "a command of {} bytes", cdb.len());
        self.tag += 1;
        let (flags, length) = match data {
            Data::None => (0, 0),
            Data::Out(bytes) => (WRITE, bytes.len()),
            Data::In(length) => (READ, length),
        };
        let mut request = Unit::new(opcode::COMMAND, FINAL | flags);
        request.set(9, &[lun]);
        request.set_word(16, self.tag);
        request.set_word(20, u32::try_from(length)?);
        request.set_word(24, self.command_number);
        request.set_word(28, self.status_number);
        request.set(32, cdb);
        request.send(&mut self.stream)?;
        self.command_number = self.command_number.wrapping_add(1);

        let mut read = match data {
            Data::In(length) => vec![0; length],
            Data::None | Data::Out(_) => Vec::new(),
        };
        loop {
            let unit = self.receive()?;
            match unit.opcode() {
                // The target looks whether we are there.
                opcode::NOP_IN => self.pong(&unit)?,
                opcode::READY_TO_TRANSFER => {
                    let Data::Out(bytes) = data else {
                        bail!("the target invites data that there is not");
                    };
                    self.data_out(&unit, bytes)?;
                }
                opcode::DATA_IN => {
                    let at = unit.word(40) as usize;
                    let place = at..at + unit.data.len();
                    let place = read.get_mut(place).context("data beyond the end")?;
                    place.copy_from_slice(&unit.data);
                    if unit.byte(1) & STATUS != 0 {
                        return Ok(outcome(&unit, Vec::new(), read));
                    }
                }
                opcode::RESPONSE => {
                    ensure!(unit.byte(2) == 0, "the target has failed: {unit:x?}");
                    let sense = unit.data.get(2..).unwrap_or_default().to_vec();
                    return Ok(outcome(&unit, sense, read));
                }
                other => bail!("opcode {other:#x} instead of a response"),
            }
        }
    }

    fn data_out(&mut self, ready: &Unit, bytes: &[u8]) -> Result<()> {
        let (start, length) = (ready.word(40) as usize, ready.word(44) as usize);
        let wanted = bytes
            .get(start..start + length)
            .context("the target wants more data than there is")?;
        // Nobody has declared more than the default.
        let count = wanted.chunks(8192).count();
        for (number, chunk) in wanted.chunks(8192).enumerate() {
            let last = if number + 1 == count { FINAL } else { 0 };
            let mut unit = Unit::new(opcode::DATA_OUT, last);
            unit.set(8, ready.header.get(8..24).unwrap_or_default());
            unit.set_word(28, self.status_number);
            unit.set_word(36, u32::try_from(number)?);
            unit.set_word(40, u32::try_from(start + number * 8192)?);
            unit.data = chunk.to_vec();
            unit.send(&mut self.stream)?;
        }
        Ok(())
    }

    fn pong(&mut self, ping: &Unit) -> Result<()> {
        let mut unit = Unit::new(opcode::NOP_OUT | super::IMMEDIATE, FINAL);
        unit.set(8, ping.header.get(8..16).unwrap_or_default());
        unit.set_word(16, NO_TAG);
        unit.set(20, ping.header.get(20..24).unwrap_or_default());
        unit.set_word(24, self.command_number);
        unit.set_word(28, self.status_number);
        unit.send(&mut self.stream)
    }
}

fn outcome(unit: &Unit, sense: Vec<u8>, data: Vec<u8>) -> Outcome {
    let under = unit.byte(1) & UNDERFLOW != 0;
    Outcome {
        response: RESPONSE_OK,
        status: unit.byte(3),
        sense,
        residual: if under { unit.word(44) } else { 0 },
        data,
    }
}
