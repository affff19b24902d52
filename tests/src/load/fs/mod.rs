//! A load generator for file systems behind vhost-user: what programs in a guest would make its kernel ask, in a closed loop.
//!
//! Real requests on real rings, by one thread for all rings, as one processor of a guest would. Every answer is looked at as far as
//! its error number; what is in a file is not.
//!
//! Knows what a guest asks for and how that lies in memory; does not know which daemon it talks to.

mod script;
mod share;
mod slot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;
use hdrhistogram::Histogram;
use vhost_device_fs::fuse::abi::init;

use super::measure::{LATENCY_NS_MAX, Measured};
use super::wait_for_use;
use crate::fuse_client::Client;
use crate::guest::{Memory, Used};
use script::{Progress, Script};
use slot::{Ask, FRAME_BYTES, Request, Shape, Slot};

pub use script::Operation;
pub use share::{
    DATA, DATA_BYTES, KNOWN, KNOWN_FILES, LISTED, LISTED_FILES, NEW, known_name, make,
};

/// Descriptors of a ring: what QEMU should be told to offer.
const RING_SIZE: u16 = 1024;
/// Guest memory: rings, and the data of all requests in flight.
const MEMORY_BYTES: u64 = 160 << 20;
/// The ring for requests that must not wait (virtio 1.3, 5.11.2).
const HIGH_PRIORITY: usize = 0;
/// What programs write. Nothing else on the share is made of it.
pub const WRITTEN: u8 = 0x5a;

/// What a device is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsWork {
    /// What programs do.
    pub operation: Operation,
    /// How many do so at once, on each ring.
    pub depth: u16,
    /// Request rings that are used.
    pub rings: usize,
}

/// When a load ends; what is in flight then is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so long.
    Time(Duration),
    /// After so many operations.
    Count(u64),
}

/// A guest with one file system. See the [module](self).
#[derive(Debug)]
pub struct FsLoad {
    client: Client,
    script: Script,
    request: Request,
}

/// One program.
#[derive(Debug)]
struct Program {
    slot: Slot,
    /// Where it sends its requests.
    ring: usize,
    began: Instant,
    unique: u64,
    /// Whether the request in flight is answered.
    waits: bool,
    shape: Option<Shape>,
    /// For what nobody waits for.
    spare: Spare,
    progress: Progress,
}

/// Room for a request that is not answered: it is on its way while the program goes on.
#[derive(Debug)]
struct Spare {
    slot: Slot,
    shape: Option<Shape>,
    in_flight: bool,
}

/// Programs at work.
struct Loop {
    memory: Arc<Memory>,
    work: FsWork,
    programs: Vec<Program>,
    /// For each ring, whether there is something on it that the device was not told of.
    offered: Vec<bool>,
    /// Requests in flight that nobody waits for.
    silent: usize,
    begun: u64,
    until: Until,
    start: Instant,
    measured: Measured,
}

impl FsLoad {
    /// Boots a guest, on a share that [`make`] has made.
    pub fn boot(frontend: Frontend) -> Result<Self> {
        let memory = Memory::new(&[MEMORY_BYTES])?;
        let mut client = Client::boot_in(frontend, &memory, RING_SIZE)?;
        let flags = init::ASYNC_READ
            | init::BIG_WRITES
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO;
        client.init(flags)?;
        let known = share::Known::learn(&mut client)?;
        Ok(Self {
            client,
            script: Script::new(known),
            request: Request::default(),
        })
    }

    /// How many rings take requests.
    pub fn request_rings(&mut self) -> usize {
        self.client.machine().rings().len() - 1
    }

    /// Files that were made by [`Operation::Create`] and not removed: how often [`Operation::Unlink`] can be done.
    pub fn made(&self) -> u64 {
        self.script.made()
    }

    /// Loads the device, and waits for what is in flight at the end.
    pub fn measure(&mut self, work: &FsWork, until: Until) -> Result<Measured> {
        ensure!(work.depth > 0 && work.rings > 0, "no work");
        let memory = Arc::clone(self.client.machine().memory());
        let count = u64::from(work.depth) * u64::try_from(work.rings)?;
        let data_bytes = u64::from(work.operation.data_bytes());
        let frames_bytes = 2 * count * FRAME_BYTES;
        let room_bytes = frames_bytes + count * data_bytes;
        let room = memory.allocate_pages_in(0, room_bytes)?;
        let data = vec![WRITTEN; usize::try_from(count * data_bytes)?];
        memory.write(room + frames_bytes, &data)?;
        let measured = self.run(work, until, &memory, room);
        memory.release(room, room_bytes);
        measured
    }

    fn run(
        &mut self,
        work: &FsWork,
        until: Until,
        memory: &Arc<Memory>,
        room: u64,
    ) -> Result<Measured> {
        let start = Instant::now();
        let count = work.rings * usize::from(work.depth);
        let data = room + 2 * count as u64 * FRAME_BYTES;
        let data_bytes = u64::from(work.operation.data_bytes());
        let program = |number: usize| -> Result<_> {
            let slot = |number: usize| -> Result<_> {
                Ok(Slot {
                    head: u16::try_from(number)?,
                    frame: room + number as u64 * FRAME_BYTES,
                    data: data + (number % count) as u64 * data_bytes,
                })
            };
            Ok(Program {
                slot: slot(number)?,
                spare: Spare {
                    slot: slot(count + number)?,
                    shape: None,
                    in_flight: false,
                },
                ring: 1 + number % work.rings,
                began: start,
                unique: 0,
                waits: true,
                shape: None,
                progress: Progress::default(),
            })
        };
        let mut state = Loop {
            memory: Arc::clone(memory),
            work: *work,
            programs: (0..count).map(program).collect::<Result<_>>()?,
            offered: vec![false; 1 + work.rings],
            silent: 0,
            begun: 0,
            until,
            start,
            measured: Measured {
                requests: 0,
                elapsed: Duration::ZERO,
                latency_ns: Histogram::new_with_max(LATENCY_NS_MAX, 3)
                    .context("making a histogram")?,
            },
        };
        let mut busy = 0;
        for number in 0..count {
            busy += usize::from(self.begin(&mut state, number, start)?);
        }
        self.publish(&mut state)?;
        while busy + state.silent > 0 {
            let mut idle = true;
            for ring in 0..=work.rings {
                let (used, ended) = self.turn(&mut state, ring)?;
                idle &= used == 0;
                busy -= ended;
            }
            self.publish(&mut state)?;
            if idle {
                wait_for_use(self.client.machine(), 0..1 + work.rings)?;
            }
        }
        state.measured.elapsed = start.elapsed();
        Ok(state.measured)
    }

    /// Goes on with the programs whose requests one ring has used. Returns how many requests there were, and how many programs ended.
    fn turn(&mut self, state: &mut Loop, ring: usize) -> Result<(usize, usize)> {
        let (mut count, mut ended) = (0, 0);
        let mut now = None;
        while let Some(used) = self.client.machine().ring(ring)?.take_used()? {
            // One look at the clock for all that was there.
            let now = *now.get_or_insert_with(Instant::now);
            count += 1;
            let number = usize::from(used.head);
            if state.is_silent(number)? || self.go_on(state, number, used)? {
                continue;
            }
            let program = state.programs.get(number).context("no such program")?;
            let latency = u64::try_from((now - program.began).as_nanos())?;
            state.measured.latency_ns.saturating_record(latency);
            state.measured.requests += 1;
            ended += usize::from(!self.begin(state, number, now)?);
        }
        Ok((count, ended))
    }

    /// Begins an operation; false if there is nothing more to do.
    fn begin(&mut self, state: &mut Loop, number: usize, now: Instant) -> Result<bool> {
        let over = match state.until {
            Until::Time(time) => state.begun > 0 && now - state.start >= time,
            Until::Count(count) => state.begun >= count,
        };
        if over {
            return Ok(false);
        }
        state.begun += 1;
        let program = state.programs.get_mut(number).context("no such program")?;
        program.began = now;
        program.progress = Progress::default();
        self.send_next(state, number, 0)
    }

    /// Sends the next request of an operation; false if it is over.
    fn go_on(&mut self, state: &mut Loop, number: usize, used: Used) -> Result<bool> {
        let program = state.programs.get(number).context("no such program")?;
        let answered = if program.waits {
            program.slot.check(&state.memory, program.unique, used)?
        } else {
            0
        };
        self.send_next(state, number, answered)
    }

    fn send_next(&mut self, state: &mut Loop, number: usize, answered: u32) -> Result<bool> {
        let program = state.programs.get_mut(number).context("no such program")?;
        let last = (program.slot, &*state.memory, answered);
        let next = self.script.next(
            state.work.operation,
            &mut program.progress,
            last,
            self.request.begin(),
        )?;
        let Some(ask) = next else {
            return Ok(false);
        };
        let ring = ring_for(ask, program.ring);
        let driver = self.client.machine().ring(ring)?;
        *state.offered.get_mut(ring).context("no such ring")? = true;
        program.waits = ask.reply_bytes.is_some();
        let spare = &mut program.spare;
        if !program.waits && !spare.in_flight {
            spare.in_flight = true;
            state.silent += 1;
            let shape = &mut spare.shape;
            spare
                .slot
                .send(&state.memory, driver, shape, ask, &mut self.request)?;
            return self.send_next(state, number, 0);
        }
        program.unique = self.request.unique;
        let shape = &mut program.shape;
        program
            .slot
            .send(&state.memory, driver, shape, ask, &mut self.request)?;
        Ok(true)
    }

    fn publish(&mut self, state: &mut Loop) -> Result<()> {
        for (ring, offered) in state.offered.iter_mut().enumerate() {
            if std::mem::take(offered) {
                self.client.machine().ring(ring)?.publish()?;
            }
        }
        Ok(())
    }
}

impl Loop {
    /// Whether this was a request that nobody waited for.
    fn is_silent(&mut self, head: usize) -> Result<bool> {
        let Some(number) = head.checked_sub(self.programs.len()) else {
            return Ok(false);
        };
        let program = self.programs.get_mut(number).context("no such program")?;
        program.spare.in_flight = false;
        self.silent -= 1;
        Ok(true)
    }
}

/// What is not answered goes where nothing waits.
fn ring_for(ask: Ask, ring: usize) -> usize {
    if ask.reply_bytes.is_some() {
        ring
    } else {
        HIGH_PRIORITY
    }
}
