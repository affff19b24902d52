//! The target's side: an initiator's session becomes the use of one of our ports.
//!
//! A session that ends is a loss of the nexus, which is told to the device as a reset of it. Knows no commands.

use std::collections::VecDeque;
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};

use super::{FINAL, IMMEDIATE, NO_TAG, SEGMENT_MAX, Unit, lun, opcode, parse_keys, write_keys};
use crate::scsi_suite::initiator::{Data, Initiator, Outcome, RESPONSE_OK, TaskManagement};
use crate::scsi_suite::wire::DATA_MAX;

/// Commands that an initiator may send ahead.
const WINDOW: u32 = 64;
/// Flags of a login: transit to the next stage.
const TRANSIT: u8 = 0x80;
/// The stage after login.
const FULL_FEATURE: u8 = 3;
/// Flags of a command: data from the device, and for it.
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
/// Flag of a response: less was transferred than expected.
const UNDERFLOW: u8 = 0x02;
/// `VIRTIO_SCSI_S_OVERRUN`: the device has more than there was room for.
const RESPONSE_OVERRUN: u8 = 1;
/// Flag of a response: more would have been transferred than was expected.
const OVERFLOW: u8 = 0x04;

/// What the session wants of the ports.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing any more: it is closed, and the nexus is lost.
    Closed,
    /// All units of all ports are to be reset.
    ResetTarget,
    /// There may be more.
    Open,
}

/// One connection, which is one session.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    /// Received while data was awaited.
    waiting: VecDeque<Unit>,
    status_number: u32,
    command_number: u32,
    /// What the initiator accepts in one unit, and sends for one invitation.
    segment: usize,
    burst: usize,
}

impl Session {
    /// Takes a connection through its login; also returns the initiator's name.
    pub fn accept(mut stream: TcpStream) -> Result<(Self, String)> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        let mut name = String::new();
        let (mut segment, mut burst) = (8192, DATA_MAX);
        let mut status_number = 1;
        loop {
            let request = Unit::receive(&mut stream)?.context("closed during login")?;
            ensure!(request.opcode() == opcode::LOGIN, "no login: {request:x?}");
            let mut keys = Vec::new();
            for (key, value) in parse_keys(&request.data)? {
                match key.as_str() {
                    "InitiatorName" => name.clone_from(&value),
                    "MaxRecvDataSegmentLength" => segment = value.parse()?,
                    "MaxBurstLength" => burst = value.parse::<usize>()?.clamp(512, DATA_MAX),
                    _ => {}
                }
                keys.extend(negotiate(&key, &value));
            }
            let stages = request.byte(1) & 0x0f;
            if stages & 3 == FULL_FEATURE {
                keys.push(("MaxRecvDataSegmentLength", SEGMENT_MAX.to_string()));
            }
            keys.push(("TargetPortalGroupTag", "1".to_owned()));
            let mut response = Unit::new(opcode::LOGIN | opcode::ANSWER, request.byte(1) & 0x8f);
            let command_number = request.word(24);
            response.set(8, request.header.get(8..20).unwrap_or_default());
            response.set(14, &[0, 1]); // the session's handle
            response.set_word(24, status_number);
            response.set_word(28, command_number);
            response.set_word(32, command_number.wrapping_add(WINDOW));
            response.data = write_keys(keys);
            response.send(&mut stream)?;
            status_number += 1;
            if request.byte(1) & TRANSIT != 0 && stages & 3 == FULL_FEATURE {
                let session = Self {
                    stream,
                    waiting: VecDeque::new(),
                    status_number,
                    command_number,
                    segment: segment.clamp(512, SEGMENT_MAX),
                    burst,
                };
                return Ok((session, name));
            }
        }
    }

    /// The connection, to be polled.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Serves what has arrived, on `initiator`. To be called when there is something to read.
    pub fn serve(&mut self, initiator: &mut Initiator) -> Result<Event> {
        let Ok(Some(first)) = Unit::receive(&mut self.stream) else {
            return Ok(Event::Closed);
        };
        self.waiting.push_back(first);
        while let Some(unit) = self.waiting.pop_front() {
            if unit.byte(0) & IMMEDIATE == 0 && unit.opcode() != opcode::DATA_OUT {
                self.command_number = unit.word(24).wrapping_add(1);
            }
            let event = match unit.opcode() {
                opcode::COMMAND => self.command(&unit, initiator)?,
                opcode::TASK_MANAGEMENT => self.manage(&unit, initiator)?,
                opcode::NOP_OUT if unit.tag() == NO_TAG => Event::Open,
                opcode::NOP_OUT => {
                    let mut answer = Unit::new(opcode::NOP_OUT | opcode::ANSWER, FINAL);
                    answer.set_word(20, NO_TAG);
                    answer.data.clone_from(&unit.data);
                    self.answer(&unit, answer)?;
                    Event::Open
                }
                opcode::LOGOUT => {
                    self.answer(&unit, Unit::new(opcode::LOGOUT | opcode::ANSWER, FINAL))?;
                    Event::Closed
                }
                other => bail!("iSCSI opcode {other:#x} is not served"),
            };
            if event != Event::Open {
                return Ok(event);
            }
        }
        Ok(Event::Open)
    }

    /// Sends what ends `request`.
    fn answer(&mut self, request: &Unit, mut answer: Unit) -> Result<()> {
        answer.set_word(16, request.tag());
        self.number(&mut answer);
        self.status_number = self.status_number.wrapping_add(1);
        answer.send(&mut self.stream)
    }

    fn number(&self, unit: &mut Unit) {
        unit.set_word(24, self.status_number);
        unit.set_word(28, self.command_number);
        unit.set_word(32, self.command_number.wrapping_add(WINDOW));
    }

    fn command(&mut self, request: &Unit, initiator: &mut Initiator) -> Result<Event> {
        let expected = request.word(20) as usize;
        ensure!(
            expected <= DATA_MAX,
            "a command with {expected} bytes of data"
        );
        let lun = lun(request.header.get(8..16).unwrap_or_default());
        let cdb = request.header.get(32..48).unwrap_or_default().to_vec();
        let outcome = if request.byte(1) & WRITE != 0 && expected > 0 {
            let Some(data) = self.data_out(request, expected)? else {
                return Ok(Event::Closed);
            };
            initiator.command(lun, &cdb, Data::Out(&data))?
        } else if request.byte(1) & READ != 0 && expected > 0 {
            initiator.command(lun, &cdb, Data::In(expected))?
        } else {
            initiator.command(lun, &cdb, Data::None)?
        };
        let units = self.data_in(request, outcome.transferred())?;
        self.respond(request, &outcome, units)?;
        Ok(Event::Open)
    }

    /// Invites the data, a burst at a time. Other requests that come in between wait.
    fn data_out(&mut self, request: &Unit, expected: usize) -> Result<Option<Vec<u8>>> {
        let mut data = Vec::with_capacity(expected);
        let mut invited = 0;
        while data.len() < expected {
            if data.len() == invited {
                let length = self.burst.min(expected - invited);
                let mut ready = Unit::new(opcode::READY_TO_TRANSFER, FINAL);
                ready.set(8, request.header.get(8..20).unwrap_or_default());
                ready.set_word(20, request.tag());
                self.number(&mut ready);
                ready.set_word(36, u32::try_from(invited / self.burst)?);
                ready.set_word(40, u32::try_from(invited)?);
                ready.set_word(44, u32::try_from(length)?);
                ready.send(&mut self.stream)?;
                invited += length;
            }
            let Some(unit) = Unit::receive(&mut self.stream)? else {
                return Ok(None);
            };
            if unit.opcode() != opcode::DATA_OUT {
                self.waiting.push_back(unit);
                continue;
            }
            let offset = unit.word(40) as usize;
            ensure!(
                offset == data.len(),
                "data at {offset}, not at {}",
                data.len()
            );
            data.extend(unit.data);
            ensure!(data.len() <= invited, "more data than was asked for");
        }
        Ok(Some(data))
    }

    /// Sends the data; returns in how many units.
    fn data_in(&mut self, request: &Unit, data: &[u8]) -> Result<u32> {
        let mut number = 0;
        let count = data.chunks(self.segment).count();
        for (index, chunk) in data.chunks(self.segment).enumerate() {
            let last = if index + 1 == count { FINAL } else { 0 };
            let mut unit = Unit::new(opcode::DATA_IN, last);
            self.number(&mut unit);
            unit.set_word(16, request.tag());
            unit.set_word(20, NO_TAG);
            unit.set_word(24, 0); // there is no status in it
            unit.set_word(36, number);
            unit.set_word(40, u32::try_from(index * self.segment)?);
            unit.data = chunk.to_vec();
            unit.send(&mut self.stream)?;
            number += 1;
        }
        Ok(number)
    }

    fn respond(&mut self, request: &Unit, outcome: &Outcome, units: u32) -> Result<()> {
        let mut flags = FINAL;
        let delivered = matches!(outcome.response, RESPONSE_OK | RESPONSE_OVERRUN);
        if outcome.response == RESPONSE_OVERRUN {
            flags |= OVERFLOW;
        } else if outcome.residual > 0 {
            flags |= UNDERFLOW;
        }
        let mut response = Unit::new(opcode::RESPONSE, flags);
        // "Target Failure" for all that has no status.
        response.set(2, &[u8::from(!delivered), outcome.status]);
        response.set_word(36, units);
        response.set_word(44, outcome.residual);
        if !outcome.sense.is_empty() {
            response.data = u16::try_from(outcome.sense.len())?.to_be_bytes().to_vec();
            response.data.extend(&outcome.sense);
        }
        self.answer(request, response)
    }

    fn manage(&mut self, request: &Unit, initiator: &mut Initiator) -> Result<Event> {
        let lun = lun(request.header.get(8..16).unwrap_or_default());
        // Requests are served one after the other: what is to be aborted is done already.
        let (response, event) = match request.byte(1) & 0x7f {
            1..=4 => (0, Event::Open),
            5 => match initiator.manage(lun, TaskManagement::UnitReset)? {
                0 | 10 => (0, Event::Open),
                _ => (255, Event::Open),
            },
            6 | 7 => (0, Event::ResetTarget),
            _ => (5, Event::Open),
        };
        let mut answer = Unit::new(opcode::TASK_MANAGEMENT | opcode::ANSWER, FINAL);
        answer.set(2, &[response]);
        self.answer(request, answer)?;
        Ok(event)
    }
}

/// Our answer to a key of the initiator's; `None` if it declares and does not ask.
fn negotiate(key: &str, value: &str) -> Option<(&'static str, String)> {
    let at_most = |limit: usize| value.parse().unwrap_or(limit).min(limit).to_string();
    let fixed = |value: &str| value.to_owned();
    Some(match key {
        "AuthMethod" => ("AuthMethod", fixed("None")),
        "HeaderDigest" => ("HeaderDigest", fixed("None")),
        "DataDigest" => ("DataDigest", fixed("None")),
        "InitialR2T" => ("InitialR2T", fixed("Yes")),
        "ImmediateData" => ("ImmediateData", fixed("No")),
        "MaxBurstLength" => ("MaxBurstLength", at_most(DATA_MAX)),
        "FirstBurstLength" => ("FirstBurstLength", at_most(SEGMENT_MAX)),
        "MaxConnections" => ("MaxConnections", fixed("1")),
        "MaxOutstandingR2T" => ("MaxOutstandingR2T", fixed("1")),
        "ErrorRecoveryLevel" => ("ErrorRecoveryLevel", fixed("0")),
        "DefaultTime2Wait" => ("DefaultTime2Wait", fixed("0")),
        "DefaultTime2Retain" => ("DefaultTime2Retain", fixed("0")),
        "DataPDUInOrder" => ("DataPDUInOrder", fixed("Yes")),
        "DataSequenceInOrder" => ("DataSequenceInOrder", fixed("Yes")),
        "IFMarker" => ("IFMarker", fixed("No")),
        "OFMarker" => ("OFMarker", fixed("No")),
        _ => return None,
    })
}
