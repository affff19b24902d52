//! A guest's virtio-scsi driver (virtio 1.3, 5.6): one command at a time, on the rings of a [`Machine`].
//!
//! Knows the framing of commands and of task management, and what sense data says; knows no commands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;

use super::wire::{CDB_MAX, DATA_MAX, SENSE_MAX};
use crate::guest::chain::{Buffer, Table};
use crate::guest::machine::Machine;
use crate::guest::memory::Memory;

/// `VIRTIO_SCSI_F_HOTPLUG` and `VIRTIO_SCSI_F_CHANGE` (virtio 1.3, 5.6.3).
const FEATURES: u64 = 1 << 1 | 1 << 2;
/// The ring for task management, and the first one for commands.
const CONTROL_RING: usize = 0;
const REQUEST_RING: usize = 2;
const RING_SIZE: u16 = 128;
/// Linux splits a transfer into pages at worst; this is neither the best case nor the worst one.
const SEGMENT: usize = 512 << 10;
const MEMORY_SIZE: u64 = 40 << 20;

/// Bytes of a command's header, with the `cdb_size` that devices start with.
const REQUEST_SIZE: usize = 19 + CDB_MAX;
/// Bytes of a command's response, with the `sense_size` that devices start with.
const RESPONSE_SIZE: usize = 12 + SENSE_MAX;

/// `VIRTIO_SCSI_S_OK`.
pub const RESPONSE_OK: u8 = 0;
/// GOOD (SAM-5, 5.3).
pub const GOOD: u8 = 0x00;
/// CHECK CONDITION: there is sense data.
pub const CHECK_CONDITION: u8 = 0x02;
/// RESERVATION CONFLICT.
pub const RESERVATION_CONFLICT: u8 = 0x18;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// Data of a command.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// There is none.
    None,
    /// For the device.
    Out(&'a [u8]),
    /// Room for so many bytes from the device.
    In(usize),
}

/// `VIRTIO_SCSI_T_TMF_` (virtio 1.3, 5.6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskManagement {
    /// I T NEXUS RESET.
    NexusReset = 4,
    /// LOGICAL UNIT RESET.
    UnitReset = 5,
}

/// What sense data says (SPC-5, 4.5): sense key, additional sense code and its qualifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sense(pub u8, pub u8, pub u8);

impl Sense {
    /// From data in fixed or in descriptor format; `None` if it is neither.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let byte = |at: usize| bytes.get(at).copied();
        match byte(0)? & 0x7f {
            0x70 | 0x71 => Some(Self(byte(2)? & 0xf, byte(12)?, byte(13)?)),
            0x72 | 0x73 => Some(Self(byte(1)? & 0xf, byte(2)?, byte(3)?)),
            _ => None,
        }
    }
}

impl fmt::Debug for Sense {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, code, qualifier) = self;
        write!(formatter, "{key:x}/{code:02x}/{qualifier:02x}")
    }
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `VIRTIO_SCSI_S_`.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Vec<u8>,
    /// How much of the data was not transferred, in bytes.
    pub residual: u32,
    /// As many bytes as there was room for; zeros where the device wrote nothing.
    pub data: Vec<u8>,
}

impl Outcome {
    /// What the sense data says, if there is any.
    pub fn sense(&self) -> Option<Sense> {
        Sense::parse(&self.sense)
    }

    /// The data that the device says it transferred.
    pub fn transferred(&self) -> &[u8] {
        let end = self.data.len().saturating_sub(self.residual as usize);
        self.data.get(..end).unwrap_or_default()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Initiator {
    machine: Machine,
    request: u64,
    response: u64,
    data: u64,
    tag: u64,
}

impl Initiator {
    /// Starts a device on which nothing was said yet.
    pub fn boot(frontend: Frontend) -> Result<Self> {
        let memory = Memory::new(&[MEMORY_SIZE])?;
        let machine = Machine::boot(frontend, &memory, RING_SIZE, FEATURES)?;
        Ok(Self {
            machine,
            request: memory.allocate(REQUEST_SIZE as u64)?,
            response: memory.allocate(RESPONSE_SIZE as u64)?,
            data: memory.allocate(DATA_MAX as u64)?,
            tag: 0,
        })
    }

    /// The device and its rings; nothing is in flight.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Sends a command to `lun` of target 0 and waits for its end. Transport errors are outcomes; an error is a device that does not answer,
    /// or one that does not keep to virtio.
    pub fn command(&mut self, lun: u16, cdb: &[u8], data: Data<'_>) -> Result<Outcome> {
        self.submit(lun, cdb, data)?;
        let used = self.machine.ring(REQUEST_RING)?.wait(DEADLINE)?;
        let [used] = used[..] else {
            anyhow::bail!("one command, {} of them used", used.len());
        };
        let length = match data {
            Data::In(length) => length,
            Data::None | Data::Out(_) => 0,
        };
        let memory = self.machine.memory();
        let response = memory.read_vec(self.response, RESPONSE_SIZE)?;
        let (fields, sense) = response.split_at(12);
        let [s0, s1, s2, s3, r0, r1, r2, r3, _, _, status, response] = *fields else {
            anyhow::bail!("a response of another size");
        };
        let sense_length = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let residual = u32::from_le_bytes([r0, r1, r2, r3]);
        let sense = sense
            .get(..sense_length)
            .with_context(|| format!("{sense_length} bytes of sense data"))?;
        let asked = match data {
            Data::Out(bytes) => bytes.len(),
            Data::None | Data::In(_) => length,
        };
        ensure!(
            residual as usize <= asked,
            "{residual} of {asked} bytes not transferred"
        );
        ensure!(
            used.written as usize <= RESPONSE_SIZE + length,
            "{} bytes written, and room for {}",
            used.written,
            RESPONSE_SIZE + length
        );
        Ok(Outcome {
            response,
            status,
            sense: sense.to_vec(),
            residual,
            data: memory.read_vec(self.data, length)?,
        })
    }

    fn submit(&mut self, lun: u16, cdb: &[u8], data: Data<'_>) -> Result<()> {
        ensure!(cdb.len() <= CDB_MAX, "a command of {} bytes", cdb.len());
        self.tag += 1;
        let memory = Arc::clone(self.machine.memory());
        let mut request = Vec::with_capacity(REQUEST_SIZE);
        request.extend(address(lun));
        request.extend(self.tag.to_le_bytes());
        request.extend([0; 3]); // simple task attribute, no priority, no command reference number
        request.extend(cdb);
        request.resize(REQUEST_SIZE, 0);
        memory.write(self.request, &request)?;
        memory.write(self.response, &[0xff; RESPONSE_SIZE])?;

        let (length, writable) = match data {
            Data::None => (0, false),
            Data::Out(bytes) => (bytes.len(), false),
            Data::In(length) => (length, true),
        };
        ensure!(length <= DATA_MAX, "{length} bytes of data");
        match data {
            Data::Out(bytes) => memory.write(self.data, bytes)?,
            Data::None | Data::In(_) => memory.write(self.data, &vec![0; length])?,
        }
        let segments = (0..length).step_by(SEGMENT).map(|at| Buffer {
            address: self.data + at as u64,
            length: u32::try_from(SEGMENT.min(length - at)).unwrap_or(u32::MAX),
            writable,
        });
        let mut chain = vec![readable(self.request, REQUEST_SIZE)?];
        let response = Buffer {
            writable: true,
            ..readable(self.response, RESPONSE_SIZE)?
        };
        if writable {
            chain.push(response);
            chain.extend(segments);
        } else {
            chain.extend(segments);
            chain.push(response);
        }
        let ring = self.machine.ring(REQUEST_RING)?;
        ring.add(&chain, Table::Direct)?;
        ring.publish()
    }

    /// A task management function on `lun`; returns the device's response to it.
    pub fn manage(&mut self, lun: u16, function: TaskManagement) -> Result<u8> {
        let memory = Arc::clone(self.machine.memory());
        let mut request = vec![0; 4]; // VIRTIO_SCSI_T_TMF
        request.extend((function as u32).to_le_bytes());
        request.extend(address(lun));
        request.extend([0; 8]); // the command that is meant: none
        memory.write(self.request, &request)?;
        let chain = [
            readable(self.request, request.len())?,
            Buffer {
                writable: true,
                ..readable(self.response, 1)?
            },
        ];
        let ring = self.machine.ring(CONTROL_RING)?;
        ring.add(&chain, Table::Direct)?;
        ring.publish()?;
        ring.wait(DEADLINE)?;
        memory.load(self.response)
    }

    /// TEST UNIT READY until there is no unit attention, as a guest's kernel does when it finds the unit; returns what there was.
    pub fn clear_attentions(&mut self, lun: u16) -> Result<Vec<Sense>> {
        let mut seen = Vec::new();
        while seen.len() < 100 {
            let outcome = self.command(lun, &[0; 6], Data::None)?;
            match outcome.sense() {
                Some(sense @ Sense(6, _, _)) => seen.push(sense),
                _ if (outcome.response, outcome.status) == (RESPONSE_OK, GOOD) => return Ok(seen),
                _ => anyhow::bail!("LUN {lun} does not become ready: {outcome:x?}"),
            }
        }
        anyhow::bail!("unit attentions without end: {seen:?}")
    }
}

fn readable(address: u64, length: usize) -> Result<Buffer> {
    Ok(Buffer {
        address,
        length: u32::try_from(length)?,
        writable: false,
    })
}

/// `lun` of target 0, as Linux writes it (virtio 1.3, 5.6.6.1): flat addressing, whatever the number.
pub(super) fn address(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [1, 0, high | 0x40, low, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_data_of_both_formats() {
        let mut fixed = [0; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13]) = (0xf0, 0x45, 0x24, 0x01);
        assert_eq!(Sense::parse(&fixed), Some(Sense(5, 0x24, 0x01)));
        assert_eq!(
            Sense::parse(&[0x72, 6, 0x29, 0, 0, 0, 0, 0]),
            Some(Sense(6, 0x29, 0))
        );
        assert_eq!(Sense::parse(&fixed[..8]), None);
        assert_eq!(Sense::parse(&[0; 18]), None);
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(format!("{:?}", Sense(5, 0x24, 1)), "5/24/01");
    }
}
