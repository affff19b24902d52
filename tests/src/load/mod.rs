//! A load generator for disks behind vhost-user: virtio-scsi and virtio-blk, in a closed loop; [`fs`] is the one for file systems.
//!
//! It is the guest's driver and nothing else: chains are written once into real rings and offered again as soon as they were used,
//! by one thread for all rings, as one processor of a guest would. [`Load::measure`] asks how fast a device is and does not look at data;
//! [`Load::verify`] looks at every byte.
//!
//! Knows the requests of both kinds of disk (`request.rs`); does not know which daemon it talks to.

pub mod fs;
mod measure;
mod request;
mod verify;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use measure::Measured;
pub use request::Kind;
pub use verify::pattern;

use crate::guest::memory::PAGE;
use crate::guest::{Machine, Memory};
use request::Slot;

/// Descriptors of a ring: as many as QEMU offers.
const RING_SIZE: u16 = 128;
/// Descriptors of a request: header, data, response.
const DESCRIPTORS: u16 = 3;
/// Guest memory: rings, and the data of all requests in flight.
const MEMORY_BYTES: u64 = 64 << 20;
/// Unit attentions that a disk may have to report before it reads.
const GREETINGS_MAX: u32 = 16;
/// How long a device may take to use one chain, in seconds.
const PATIENCE_SECONDS: i64 = 60;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the guest.
    Read,
    /// To the disk.
    Write,
}

/// Which part of the disk the next request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any.
    Random,
    /// The one after the last.
    Sequential,
}

/// What a device is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Which way data goes.
    pub direction: Direction,
    /// Where.
    pub order: Order,
    /// Bytes of a request.
    pub request_bytes: u32,
    /// Requests in flight on each ring.
    pub depth: u16,
    /// Rings that are used.
    pub rings: usize,
}

/// A guest with one disk. See the [module](self).
#[derive(Debug)]
pub struct Load {
    machine: Machine,
    kind: Kind,
    disk_bytes: u64,
    places: Places,
}

/// Numbers that look random enough, the same in every run (xorshift64).
#[derive(Debug)]
struct Places {
    state: u64,
    last: u64,
}

impl Places {
    fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            last: 0,
        }
    }

    fn next(&mut self, order: Order, count: u64) -> u64 {
        match order {
            Order::Random => {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                self.state % count
            }
            Order::Sequential => {
                self.last = (self.last + 1) % count;
                self.last
            }
        }
    }
}

impl Load {
    /// Boots a guest with a disk of `disk_bytes` bytes.
    pub fn boot(frontend: Frontend, kind: Kind, disk_bytes: u64) -> Result<Self> {
        let memory = Memory::new(&[MEMORY_BYTES])?;
        let mut load = Self {
            machine: Machine::boot(frontend, &memory, RING_SIZE, kind.features())?,
            kind,
            disk_bytes,
            places: Places::new(),
        };
        load.greet().context("the first requests")?;
        Ok(load)
    }

    /// Reads until that is answered well: a SCSI disk has to say first that it is new.
    fn greet(&mut self) -> Result<()> {
        let work = Work {
            direction: Direction::Read,
            order: Order::Sequential,
            request_bytes: 4096,
            depth: 1,
            rings: 1,
        };
        let memory = Arc::clone(self.machine.memory());
        let prepared = self.prepare(&work)?;
        let slot = *prepared.slots.first().context("no request")?;
        let mut answer = Ok(());
        for _ in 0..GREETINGS_MAX {
            let part = (0, work.request_bytes);
            slot.fill(&memory, self.kind, work.direction, 0, part)?;
            let ring = self.machine.ring(self.kind.first_ring())?;
            ring.offer(0)?;
            ring.publish()?;
            while self
                .machine
                .ring(self.kind.first_ring())?
                .take_used()?
                .is_none()
            {
                self.wait(work.rings)?;
            }
            answer = slot.check(&memory, self.kind);
            if answer.is_ok() {
                break;
            }
        }
        self.release(&prepared);
        answer
    }

    /// How many rings take requests.
    pub fn request_rings(&mut self) -> usize {
        self.machine.rings().len() - self.kind.first_ring()
    }

    /// Writes the chains of all requests.
    fn prepare(&mut self, work: &Work) -> Result<Prepared> {
        ensure!(
            work.depth > 0 && work.depth * DESCRIPTORS <= RING_SIZE,
            "a ring of {RING_SIZE} descriptors has no room for {} requests",
            work.depth
        );
        let blocks = self.disk_bytes / u64::from(work.request_bytes);
        ensure!(blocks > 0, "a disk that is smaller than a request");
        let memory = Arc::clone(self.machine.memory());
        let count = work.rings as u64 * u64::from(work.depth);
        let bytes = count * (u64::from(work.request_bytes) + Slot::BYTES);
        let start = memory.allocate_pages_in(0, bytes)?;
        let frames = start + count * u64::from(work.request_bytes);
        let mut slots = Vec::new();
        for ring in 0..work.rings {
            let driver = self.machine.ring(self.kind.first_ring() + ring)?;
            ensure!(driver.in_flight() == 0, "the last load is not over");
            for number in 0..work.depth {
                let index = slots.len() as u64;
                let slot = Slot {
                    frame: frames + index * Slot::BYTES,
                    data: start + index * u64::from(work.request_bytes),
                };
                slot.prepare(&memory, self.kind)?;
                let buffers = slot.buffers(self.kind, work.direction, work.request_bytes);
                driver.prepare(number * DESCRIPTORS, &buffers)?;
                slots.push(slot);
            }
        }
        Ok(Prepared {
            slots,
            blocks,
            memory: (start, bytes.next_multiple_of(PAGE)),
        })
    }

    fn release(&self, prepared: &Prepared) {
        let (start, bytes) = prepared.memory;
        self.machine.memory().release(start, bytes);
    }

    /// Sleeps until there is something on one of the first `rings` request rings.
    fn wait(&mut self, rings: usize) -> Result<()> {
        let first = self.kind.first_ring();
        wait_for_use(&mut self.machine, first..first + rings)
    }
}

/// Sleeps until the device has used something on one of these rings.
fn wait_for_use(machine: &mut Machine, rings: Range<usize>) -> Result<()> {
    let (first, count) = (rings.start, rings.len());
    for ring in machine.rings().iter().skip(first).take(count) {
        if !ring.listen()? {
            return Ok(());
        }
    }
    let (_, calls) = machine.events();
    let mut events: Vec<PollFd<'_>> = calls
        .skip(first)
        .take(count)
        .map(|call| PollFd::new(call, PollFlags::IN))
        .collect();
    let limit = Timespec {
        tv_sec: PATIENCE_SECONDS,
        tv_nsec: 0,
    };
    let ready = match poll(&mut events, Some(&limit)) {
        Ok(0) => anyhow::bail!("no request was answered for {PATIENCE_SECONDS} seconds"),
        Ok(_) => events
            .iter()
            .map(|event| !event.revents().is_empty())
            .collect(),
        Err(Errno::INTR) => Vec::new(),
        Err(error) => return Err(error).context("waiting for the device"),
    };
    let rings = machine.rings().iter().skip(first);
    for (ring, _) in rings.zip(ready).filter(|(_, ready)| *ready) {
        ring.take_call()?;
    }
    Ok(())
}

/// Chains that are written, and what they need of guest memory.
#[derive(Debug)]
struct Prepared {
    /// Ring by ring.
    slots: Vec<Slot>,
    /// Parts of the disk that are as long as a request.
    blocks: u64,
    memory: (u64, u64),
}
