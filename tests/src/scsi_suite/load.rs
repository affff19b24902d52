//! A guest with many commands in flight at a time, that knows what must be on its disk.
//!
//! Each block of the disk has a version; reads, writes and COMPARE AND WRITEs of random blocks go on side by side, one for a block at a
//! time. What comes back is checked at once: that it was waited for, how it ended, and what was read. Commands that have not been
//! done are sent again, as a guest's kernel would. Knows nothing of crashes but that [`Load::reconnect`] is called after one.

mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::frontend::Frontend;

use super::initiator::{CHECK_CONDITION, GOOD, RESPONSE_OK, Sense, TaskManagement, address};
use crate::guest::chain::{Buffer, Table};
use crate::guest::machine::Machine;
use crate::guest::memory::Memory;

/// Bytes of a block of ours: a page, which the host writes whole or not at all.
pub const BLOCK_BYTES: usize = 4096;
/// The device's own blocks in one of ours.
const SECTORS: u8 = 8;

const FEATURES: u64 = 1 << 1 | 1 << 2;
const CONTROL_RING: usize = 0;
const REQUEST_RING: usize = 2;
const RING_SIZE: u16 = 128;
const MEMORY_SIZE: u64 = 16 << 20;
/// Commands in flight.
const DEPTH: usize = 32;

const REQUEST_SIZE: usize = 51;
const RESPONSE_SIZE: usize = 108;
/// `VIRTIO_SCSI_S_ABORTED` and `VIRTIO_SCSI_S_RESET`: a reset has ended it, done or not.
const RESPONSE_ABORTED: u8 = 2;
const RESPONSE_RESET: u8 = 4;
/// ABORTED COMMAND, INTERNAL TARGET FAILURE.
const INTERRUPTED: Sense = Sense(0xb, 0x44, 0x00);

pub use tally::Tally;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
enum Work {
    Read,
    Write {
        version: u64,
    },
    /// COMPARE AND WRITE.
    Replace {
        version: u64,
    },
    /// A read that is to tell whether a `Replace` was done.
    Find {
        version: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Job {
    block: usize,
    work: Work,
}

/// How a command ended.
enum End {
    Done,
    NotDone,
    Unknown,
    /// The device was given it once more after a crash.
    Interrupted,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    request: u64,
    response: u64,
    data: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Load {
    machine: Machine,
    memory: Arc<Memory>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    in_flight: BTreeMap<u16, (usize, Job)>,
    /// The version that each block has.
    versions: Vec<u64>,
    /// Blocks that a command is about.
    busy: Vec<bool>,
    next_version: u64,
    /// Where the task management function is, and whether it is under way.
    task: (Slot, bool),
    random: u64,
    tally: Tally,
}

impl Load {
    /// Boots a guest whose disk has `blocks` blocks of zeros.
    pub fn boot(frontend: Frontend, blocks: usize, seed: u64) -> Result<Self> {
        let memory = Memory::new(&[MEMORY_SIZE])?;
        let mut machine = Machine::boot(frontend, &memory, RING_SIZE, FEATURES)?;
        machine.track(RING_SIZE)?;
        let slot = || -> Result<Slot> {
            Ok(Slot {
                request: memory.allocate(REQUEST_SIZE as u64)?,
                response: memory.allocate(RESPONSE_SIZE as u64)?,
                data: memory.allocate(2 * BLOCK_BYTES as u64)?,
            })
        };
        Ok(Self {
            slots: (0..DEPTH).map(|_| slot()).collect::<Result<_>>()?,
            task: (slot()?, false),
            memory: Arc::clone(&memory),
            machine,
            free: (0..DEPTH).collect(),
            in_flight: BTreeMap::new(),
            versions: vec![0; blocks],
            busy: vec![false; blocks],
            next_version: 1,
            random: seed | 1,
            tally: Tally::default(),
        })
    }

    /// What has happened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The device.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Keeps the device busy for so long.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            self.fill()?;
        }
        Ok(())
    }

    /// The device has crashed; what it has given back counts. Goes on with the next one.
    pub fn reconnect(&mut self, frontend: Frontend) -> Result<()> {
        self.check()?;
        self.tally.interrupted += self.in_flight.len() as u64;
        self.machine.reconnect(frontend)
    }

    /// Waits for all that is in flight, and for what follows from it.
    pub fn settle(&mut self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.in_flight.is_empty() || self.task.1 {
            ensure!(
                Instant::now() < end,
                "lost: {:?}, task: {}, {:?}",
                self.in_flight,
                self.task.1,
                self.tally
            );
            self.check()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Reads every block, when nothing else is in flight.
    pub fn verify(&mut self) -> Result<()> {
        self.settle()?;
        for block in 0..self.versions.len() {
            while self.free.is_empty() {
                self.check()?;
            }
            self.submit(Job {
                block,
                work: Work::Read,
            })?;
            self.machine.ring(REQUEST_RING)?.publish()?;
        }
        self.settle()
    }

    /// Takes what has come back, and sends again what was not done.
    fn check(&mut self) -> Result<()> {
        for used in self.machine.ring(CONTROL_RING)?.collect()? {
            let response: u8 = self.memory.load(self.task.0.response)?;
            ensure!(
                self.task.1 && used.written == 1 && response == 0,
                "{response}"
            );
            self.task.1 = false;
            self.tally.tasks += 1;
        }
        // All are taken off first: what is sent again may get the head of one that came back with it.
        let mut back = Vec::new();
        for used in self.machine.ring(REQUEST_RING)?.collect()? {
            let known = self.in_flight.remove(&used.head);
            back.push(known.context("a command that is not in flight")?);
        }
        for (number, job) in back {
            self.free.push(number);
            self.end(number, job)
                .and_then(|end| self.conclude(number, job, &end))
                .with_context(|| format!("{job:?}, {:?}", self.tally))?;
        }
        self.machine.ring(REQUEST_RING)?.publish()
    }

    fn end(&self, number: usize, job: Job) -> Result<End> {
        let slot = self.slot(number)?;
        let response = self.memory.read_vec(slot.response, RESPONSE_SIZE)?;
        let (fields, sense) = response.split_at(12);
        let [.., status, response] = *fields else {
            bail!("a response of another size");
        };
        let is_replace = matches!(job.work, Work::Replace { .. });
        Ok(match (response, status, Sense::parse(sense)) {
            (RESPONSE_OK, GOOD, _) => End::Done,
            (RESPONSE_OK, CHECK_CONDITION, Some(Sense(6, _, _))) => End::NotDone,
            (RESPONSE_OK, CHECK_CONDITION, Some(INTERRUPTED)) if is_replace => End::Interrupted,
            (RESPONSE_ABORTED | RESPONSE_RESET, _, _) => End::Unknown,
            (response, status, sense) => {
                bail!("response {response}, status {status:#x}, sense {sense:?}")
            }
        })
    }

    fn conclude(&mut self, number: usize, job: Job, end: &End) -> Result<()> {
        let Job { block, work } = job;
        let known = self.version(block)?;
        let now = match (end, work) {
            (End::Done, Work::Read) => {
                ensure!(
                    self.found(number)? == contents(block, known),
                    "not what was written"
                );
                known
            }
            (End::Done, Work::Write { version } | Work::Replace { version }) => version,
            (End::Done, Work::Find { version }) => {
                let found = self.found(number)?;
                let done = found == contents(block, version);
                ensure!(
                    done || found == contents(block, known),
                    "neither old nor new"
                );
                self.tally.unknown_and_done += u64::from(done);
                if done { version } else { known }
            }
            (End::Unknown | End::Interrupted, Work::Replace { version }) => {
                self.tally.unknown += 1;
                self.tally.repeated += u64::from(matches!(end, End::Interrupted));
                let work = Work::Find { version };
                return self.submit(Job { block, work });
            }
            (End::NotDone | End::Unknown | End::Interrupted, _) => return self.submit(job),
        };
        *self.versions.get_mut(block).context("no such block")? = now;
        *self.busy.get_mut(block).context("no such block")? = false;
        self.tally.done += 1;
        Ok(())
    }

    /// New commands for all slots that are free; now and then a reset of the unit.
    fn fill(&mut self) -> Result<()> {
        while !self.free.is_empty() {
            let block = usize::try_from(self.random()).unwrap_or(0) % self.versions.len();
            if self.busy.get(block).is_none_or(|busy| *busy) {
                continue;
            }
            let version = self.next_version;
            let work = match self.random() % 10 {
                0..3 => Work::Read,
                3..8 => Work::Write { version },
                _ => Work::Replace { version },
            };
            self.next_version += 1;
            self.submit(Job { block, work })?;
        }
        if !self.task.1 && self.random().is_multiple_of(500) {
            self.reset_unit()?;
        }
        self.machine.ring(REQUEST_RING)?.publish()
    }

    fn submit(&mut self, job: Job) -> Result<()> {
        let Job { block, work } = job;
        let number = self.free.pop().context("no slot")?;
        let slot = self.slot(number)?;
        let known = self.version(block)?;
        *self.busy.get_mut(block).context("no such block")? = true;
        let (code, out) = match work {
            Work::Read | Work::Find { .. } => (0x88, None),
            Work::Write { version } => (0x8a, Some(contents(block, version))),
            Work::Replace { version } => {
                let both = [contents(block, known), contents(block, version)].concat();
                (0x89, Some(both))
            }
        };
        let mut request = Vec::with_capacity(REQUEST_SIZE);
        request.extend(address(0));
        request.extend((number as u64).to_le_bytes());
        request.extend([0, 0, 0, code, 0]);
        request.extend((block as u64 * u64::from(SECTORS)).to_be_bytes());
        request.extend([0, 0, 0, SECTORS]);
        request.resize(REQUEST_SIZE, 0);
        self.memory.write(slot.request, &request)?;
        self.memory.write(slot.response, &[0xff; RESPONSE_SIZE])?;
        let length = out.as_ref().map_or(BLOCK_BYTES, Vec::len);
        let fill = out.clone().unwrap_or_else(|| vec![0xee; BLOCK_BYTES]);
        self.memory.write(slot.data, &fill)?;
        let mut chain = vec![buffer(slot.request, REQUEST_SIZE, false)?];
        let response = buffer(slot.response, RESPONSE_SIZE, true)?;
        let data = buffer(slot.data, length, out.is_none())?;
        chain.extend(if out.is_some() {
            [data, response]
        } else {
            [response, data]
        });
        let head = self
            .machine
            .ring(REQUEST_RING)?
            .add(&chain, Table::Direct)?;
        self.in_flight.insert(head, (number, job));
        Ok(())
    }

    fn reset_unit(&mut self) -> Result<()> {
        let slot = self.task.0;
        let mut request = vec![0; 4];
        request.extend((TaskManagement::UnitReset as u32).to_le_bytes());
        request.extend(address(0));
        request.extend([0; 8]);
        self.memory.write(slot.request, &request)?;
        self.memory.write(slot.response, &[0xff])?;
        let chain = [
            buffer(slot.request, request.len(), false)?,
            buffer(slot.response, 1, true)?,
        ];
        self.task.1 = true;
        let ring = self.machine.ring(CONTROL_RING)?;
        ring.add(&chain, Table::Direct)?;
        ring.publish()
    }

    fn found(&self, number: usize) -> Result<Vec<u8>> {
        self.memory.read_vec(self.slot(number)?.data, BLOCK_BYTES)
    }

    fn slot(&self, number: usize) -> Result<Slot> {
        self.slots.get(number).copied().context("no such slot")
    }

    fn version(&self, block: usize) -> Result<u64> {
        self.versions.get(block).copied().context("no such block")
    }

    /// A random number (xorshift64).
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 8
    }
}

fn buffer(address: u64, length: usize, writable: bool) -> Result<Buffer> {
    Ok(Buffer {
        address,
        length: u32::try_from(length)?,
        writable,
    })
}

/// A block of a version; zeros at first.
fn contents(block: usize, version: u64) -> Vec<u8> {
    let word = if version == 0 {
        0
    } else {
        (block as u64) << 40 | version
    };
    word.to_le_bytes().repeat(BLOCK_BYTES / 8)
}
