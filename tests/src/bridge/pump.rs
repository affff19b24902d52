//! The bridge's thread: kernel to rings, rings to kernel, and commands in between.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::frontend::Frontend;
use common::protocol::messages::feature;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vhost_device_fs::fuse::abi::{InHeader, Opcode, OutHeader, WriteIn};
use vhost_device_fs::fuse::wire::Wire;

use super::Traffic;

use crate::fuse_client::reply_capacity;
use crate::guest::machine::Migrated;
use crate::guest::memory::PAGE;
use crate::guest::{Buffer, Machine, Manner, Memory, Table, Used};

/// Room for a request or for a reply: the kernel's largest transfer is 1 MiB.
const ROOM: usize = (1 << 20) + (1 << 16);

/// Requests in flight. The kernel itself keeps 12 in the background.
const SLOTS: usize = 24;

/// Chains of up to 262 descriptors fit, as the specification wants.
const RING_SIZE: u16 = 512;

/// The ring that FORGET goes to (virtio 1.3, 5.11.2).
const HIGH_PRIORITY: usize = 0;

/// A daemon that answers nothing for so long is dead.
const DEADLINE: Duration = Duration::from_mins(1);

/// What the owner of the bridge wants.
#[derive(Debug)]
pub(super) enum Command {
    Migrate(Frontend, Manner, Sender<Result<Migrated>>),
    Snapshot(Sender<Result<Vec<u8>>>),
    Stop(Sender<Result<()>>),
    Start(Sender<Result<()>>),
    Suspend(Sender<Result<()>>),
    Resume(Sender<Result<()>>),
    Traffic(Sender<Result<Traffic>>),
    End,
}

/// Guest memory for one request and its reply.
#[derive(Clone, Copy, Debug)]
struct Slot {
    request: u64,
    reply: u64,
}

#[derive(Debug)]
struct Pending {
    slot: Slot,
    /// The request's id, or `None` if it has no reply.
    unique: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Pump {
    fuse: OwnedFd,
    wake: OwnedFd,
    commands: Receiver<Command>,
    machine: Machine,
    free: Vec<Slot>,
    /// By ring and head.
    pending: HashMap<(usize, u16), Pending>,
    buffer: Vec<u8>,
    traffic: Traffic,
    /// Where the rings go on, while they are stopped.
    bases: Option<Vec<u32>>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    End,
}

impl Pump {
    pub(super) fn new(
        frontend: Frontend,
        fuse: OwnedFd,
        wake: OwnedFd,
        commands: Receiver<Command>,
    ) -> Result<Self> {
        // Requests lie in one region and replies in the other.
        let region = (ROOM as u64 * SLOTS as u64 + (1 << 20)).next_multiple_of(PAGE);
        let memory = Memory::new(&[region, region])?;
        let machine = Machine::boot(frontend, &memory, RING_SIZE, 0)?;
        ensure!(
            machine.features() & feature::INDIRECT_DESC != 0,
            "the daemon does not offer INDIRECT_DESC, and requests are long"
        );
        let slot = |_| {
            anyhow::Ok(Slot {
                request: memory.allocate_pages_in(0, ROOM as u64)?,
                reply: memory.allocate_pages_in(1, ROOM as u64)?,
            })
        };
        let free = (0..SLOTS).map(slot).collect::<Result<_>>()?;
        Ok(Self {
            fuse,
            wake,
            commands,
            machine,
            free,
            pending: HashMap::new(),
            buffer: vec![0; ROOM],
            traffic: Traffic::default(),
            bases: None,
        })
    }

    /// Until the mount is gone, or something is wrong.
    pub(super) fn run(mut self) -> Result<Traffic> {
        let mut progress = Instant::now();
        loop {
            if self.complete()? || self.pending.is_empty() {
                progress = Instant::now();
            }
            ensure!(
                progress.elapsed() < DEADLINE,
                "the daemon has not answered any of {} requests for {DEADLINE:?}",
                self.pending.len()
            );
            if self.obey() == Next::End || self.submit()? == Next::End {
                return Ok(self.traffic);
            }
            self.wait()?;
        }
    }

    /// Waits for anything to do.
    fn wait(&self) -> Result<()> {
        let (socket, calls) = self.machine.events();
        let mut events = vec![
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        events.extend(calls.map(|call| PollFd::new(call, PollFlags::IN)));
        if !self.free.is_empty() {
            events.push(PollFd::new(&self.fuse, PollFlags::IN));
        }
        match poll(&mut events, Some(&Timespec::try_from(DEADLINE)?)) {
            Ok(0) if !self.pending.is_empty() => {
                bail!(
                    "the daemon has not called for {DEADLINE:?}, with {} requests in flight",
                    self.pending.len()
                )
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting"),
        }
        ensure!(
            events
                .first()
                .is_none_or(|socket| socket.revents().is_empty()),
            "the daemon has closed its connection, or speaks unasked"
        );
        Ok(())
    }

    /// Does what the owner wants.
    fn obey(&mut self) -> Next {
        // Empty or not, it must not be readable again.
        let _empty = rustix::io::read(&self.wake, &mut [0; 8]);
        while let Ok(command) = self.commands.try_recv() {
            // Nobody waits for an answer that cannot be sent.
            let _unwanted = match command {
                Command::Migrate(destination, manner, answer) => {
                    self.traffic.in_flight_at_stop += self.pending.len();
                    answer
                        .send(self.machine.migrate_to(destination, manner))
                        .ok()
                }
                Command::Snapshot(answer) => {
                    self.traffic.in_flight_at_stop += self.pending.len();
                    answer.send(self.machine.snapshot()).ok()
                }
                Command::Stop(answer) => answer.send(self.stop()).ok(),
                Command::Start(answer) => answer.send(self.start()).ok(),
                Command::Suspend(answer) => answer.send(self.suspend()).ok(),
                Command::Resume(answer) => {
                    let resumed = self.machine.frontend().resume();
                    answer.send(resumed.map_err(Into::into)).ok()
                }
                Command::Traffic(answer) => {
                    self.traffic.in_flight_now = self.pending.len();
                    answer.send(Ok(self.traffic)).ok()
                }
                Command::End => return Next::End,
            };
        }
        Next::Continue
    }

    /// Stops the rings. Requests go on them nevertheless, as far as there is room.
    fn stop(&mut self) -> Result<()> {
        ensure!(self.bases.is_none(), "the rings are stopped already");
        self.traffic.in_flight_at_stop += self.pending.len();
        self.bases = Some(self.machine.stop()?);
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let bases = self.bases.take().context("the rings are not stopped")?;
        self.machine.start(&bases)
    }

    fn suspend(&mut self) -> Result<()> {
        self.traffic.in_flight_at_stop += self.pending.len();
        Ok(self.machine.frontend().suspend()?)
    }

    /// Takes requests from the kernel as long as there is room for them.
    fn submit(&mut self) -> Result<Next> {
        let mut rings_used = Vec::new();
        let next = loop {
            let Some(&slot) = self.free.last() else {
                break Next::Continue;
            };
            let size = match rustix::io::read(&self.fuse, &mut self.buffer) {
                Ok(size) => size,
                Err(Errno::AGAIN) => break Next::Continue,
                // The request was interrupted before it was read.
                Err(Errno::NOENT | Errno::INTR) => continue,
                // Unmounted; the second when that happens between the kernel's choice of a request and our reading it.
                Err(Errno::NODEV | Errno::CONNABORTED) => break Next::End,
                Err(error) => return Err(error).context("reading /dev/fuse"),
            };
            if let Some(ring) = self.submit_one(slot, size)? {
                rings_used.push(ring);
                self.free.pop();
            }
        };
        rings_used.sort_unstable();
        rings_used.dedup();
        for ring in rings_used {
            self.machine.ring(ring)?.publish()?;
        }
        Ok(next)
    }

    /// Puts the request in the first `size` bytes of the buffer on its ring, and returns which.
    fn submit_one(&mut self, slot: Slot, size: usize) -> Result<Option<usize>> {
        let request = self.buffer.get(..size).context("a request without bytes")?;
        let mut arguments = request;
        let header = InHeader::take(&mut arguments).context("a request without header")?;
        let opcode = Opcode::from_number(header.opcode);
        if opcode == Some(Opcode::Interrupt) {
            self.traffic.interrupts += 1;
            return Ok(None);
        }
        let capacity = reply_capacity(&header, arguments);
        self.machine.memory().write(slot.request, request)?;

        let mut buffers = Vec::new();
        let fixed = if opcode == Some(Opcode::Write) {
            WriteIn::SIZE
        } else {
            0
        };
        cut(
            &mut buffers,
            slot.request,
            size,
            &[InHeader::SIZE, fixed],
            false,
        )?;
        if let Some(capacity) = capacity {
            ensure!(
                capacity <= ROOM,
                "{opcode:?} wants {capacity} bytes of reply"
            );
            cut(&mut buffers, slot.reply, capacity, &[OutHeader::SIZE], true)?;
        }
        // Of the short ones, every other lies in the ring itself.
        let table = if buffers.len() <= 8 && header.unique & 2 == 0 {
            Table::Direct
        } else {
            Table::Indirect
        };
        let ring = if capacity.is_some() {
            let request_rings = self.machine.rings().len() - 1;
            ensure!(request_rings > 0, "the daemon has no ring for requests");
            // The kernel counts its requests in twos.
            1 + usize::try_from(header.unique / 2)? % request_rings
        } else {
            HIGH_PRIORITY
        };
        let head = self.machine.ring(ring)?.add(&buffers, table)?;
        let unique = capacity.map(|_| header.unique);
        self.pending.insert((ring, head), Pending { slot, unique });
        self.traffic.in_flight_most = self.traffic.in_flight_most.max(self.pending.len());
        Ok(Some(ring))
    }

    /// Passes on what the daemon has answered; whether there was anything.
    fn complete(&mut self) -> Result<bool> {
        let mut any = false;
        for index in 0..self.machine.rings().len() {
            let ring = self.machine.ring(index)?;
            ring.take_call()?;
            for used in ring.collect_and_listen()? {
                any = true;
                self.complete_one(index, used)?;
            }
        }
        Ok(any)
    }

    fn complete_one(&mut self, ring: usize, used: Used) -> Result<()> {
        let Pending { slot, unique } = self
            .pending
            .remove(&(ring, used.head))
            .context("an answer to nothing")?;
        self.free.push(slot);
        let Some(unique) = unique else {
            ensure!(
                used.written == 0,
                "a FORGET was answered with {} bytes",
                used.written
            );
            self.traffic.forgets += 1;
            return Ok(());
        };
        let size = usize::try_from(used.written)?;
        ensure!(size <= ROOM, "a reply of {size} bytes");
        let reply = self.machine.memory().read_vec(slot.reply, size)?;
        let header = OutHeader::take(&mut reply.as_slice())
            .with_context(|| format!("a reply of {size} bytes to request {unique}"))?;
        ensure!(
            header.len == used.written && header.unique == unique,
            "request {unique} was answered with {size} bytes and {header:?}"
        );
        match rustix::io::write(&self.fuse, &reply) {
            // Whoever asked may have been killed, and the mount taken away.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => bail!("the kernel does not take {header:?} for an answer: {error}"),
        }
        self.traffic.answered += 1;
        Ok(())
    }
}

/// Cuts `size` bytes at `start` into buffers as a guest's kernel does: fixed parts first, then pages.
fn cut(
    buffers: &mut Vec<Buffer>,
    start: u64,
    size: usize,
    fixed: &[usize],
    writable: bool,
) -> Result<()> {
    let page = usize::try_from(PAGE)?;
    let (mut at, mut left) = (start, size);
    let mut parts = fixed.iter().copied().filter(|&part| part > 0);
    while left > 0 {
        let length = parts.next().unwrap_or(page).min(left);
        buffers.push(Buffer {
            address: at,
            length: u32::try_from(length)?,
            writable,
        });
        at += length as u64;
        left -= length;
    }
    Ok(())
}

/// Makes the pump look at its commands.
pub(super) fn wake(event: &OwnedFd) -> Result<()> {
    match rustix::io::write(event, &1_u64.to_le_bytes()) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error).context("waking the bridge"),
    }
}
