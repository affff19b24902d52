//! A guest with a GPU: its memory, its two rings, and what a VMM does with the device.
//!
//! Sends any command, right or wrong, and takes answers apart; knows nothing of pictures.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use common::frontend::Frontend;

use super::display::{DEADLINE, Display};
use super::wire::{
    self, Answer, DISPLAY_INFO_SIZE, EDID_SIZE, FEATURE_EDID, FEATURE_RESOURCE_BLOB,
    FEATURE_RESOURCE_UUID, HEADER_SIZE, answer, command,
};
use crate::guest::machine::{Companion, Migrated};
use crate::guest::memory::PAGE;
use crate::guest::{Buffer, Machine, Manner, Memory, Table};

/// The ring for commands.
pub const CONTROL: usize = 0;

/// The ring for cursors.
pub const CURSOR: usize = 1;

/// Features of the device that this driver can do.
pub const FEATURES: u64 = FEATURE_EDID | FEATURE_RESOURCE_UUID | FEATURE_RESOURCE_BLOB;

/// Descriptors in each ring.
const RING_SIZE: u16 = 64;

/// Gives the device a new display socket before each start, and closes it before each stop, as QEMU does.
#[derive(Debug)]
struct Console(Display);

impl Companion for Console {
    fn before_start(&mut self, frontend: &mut Frontend) -> Result<()> {
        Ok(frontend.set_display_socket(self.0.connect()?)?)
    }

    fn before_stop(&mut self) {
        self.0.close();
    }
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Pending {
    ring: usize,
    head: u16,
    request: (u64, u64),
    reply: (u64, usize),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Driver {
    machine: Machine,
    display: Option<Display>,
    /// How many commands were sent: they do not all lie in memory in the same way.
    sent: usize,
}

impl Driver {
    /// A guest with 64 MiB, in two regions, that looks at `display`, or at nothing.
    pub fn start(frontend: Frontend, display: Option<&Display>) -> Result<Self> {
        let memory = Memory::new(&[12 << 10, 4 << 10].map(|pages| pages * PAGE))?;
        Self::start_in(&memory, FEATURES, frontend, display)
    }

    /// A guest in this memory, that wants these features of the device.
    pub fn start_in(
        memory: &Arc<Memory>,
        features: u64,
        frontend: Frontend,
        display: Option<&Display>,
    ) -> Result<Self> {
        let console = display.map(|display| Box::new(Console(display.clone())) as Box<_>);
        let machine = Machine::boot_with(console, frontend, memory, RING_SIZE, features)?;
        Ok(Self {
            machine,
            display: display.cloned(),
            sent: 0,
        })
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Guest memory.
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(self.machine.memory())
    }

    /// Puts a command on a ring and kicks.
    pub fn submit_on(&mut self, ring: usize, request: &[u8], reply_len: usize) -> Result<Pending> {
        let memory = self.memory();
        let size = request.len() as u64;
        let address = memory.allocate(size)?;
        memory.write(address, request)?;
        let reply = memory.allocate(reply_len as u64)?;
        // What a device does not write is not zero.
        memory.write(reply, &vec![0xa5; reply_len])?;
        self.sent += 1;
        // Linux puts the entries of a backing into a buffer of their own; a device must bear any other cut as well.
        let cut = match self.sent % 4 {
            0 => size,
            1 => size.min(32),
            2 => size / 2,
            _ => size.min(3),
        };
        let readable = [(address, cut), (address + cut, size - cut)];
        let writable = (reply, reply_len as u64);
        let parts = readable.map(|(address, size)| (address, size, false));
        let buffers = parts
            .into_iter()
            .chain([(writable.0, writable.1, true)])
            .filter(|(_, size, _)| *size > 0)
            .map(|(address, size, writable)| {
                let length = u32::try_from(size)?;
                Ok(Buffer {
                    address,
                    length,
                    writable,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let table = if self.sent.is_multiple_of(3) {
            Table::Direct
        } else {
            Table::Indirect
        };
        let ring_of = self.machine.ring(ring)?;
        let head = ring_of.add(&buffers, table)?;
        ring_of.publish()?;
        Ok(Pending {
            ring,
            head,
            request: (address, size),
            reply: (reply, reply_len),
        })
    }

    /// Puts a command on the control ring, with as much room for its answer as it needs.
    pub fn submit(&mut self, request: &[u8]) -> Result<Pending> {
        self.submit_on(CONTROL, request, reply_size(request))
    }

    /// Waits for a command, the only one on its ring; what the device wrote.
    pub fn finish_bytes(&mut self, pending: Pending) -> Result<Vec<u8>> {
        let used = self.machine.ring(pending.ring)?.wait(DEADLINE)?;
        let [used] = used.as_slice() else {
            bail!("{} commands completed, one was expected", used.len());
        };
        ensure!(used.head == pending.head, "another command completed");
        self.take(pending, used.written)
    }

    /// What the device wrote for a command that is used.
    pub fn take(&self, pending: Pending, written: u32) -> Result<Vec<u8>> {
        let memory = self.memory();
        let (reply, room) = pending.reply;
        let written = written as usize;
        ensure!(written <= room, "{written} bytes were written to {room}");
        let bytes = memory.read_vec(reply, room)?;
        let (answer, rest) = bytes.split_at(written);
        ensure!(
            rest.iter().all(|byte| *byte == 0xa5),
            "more was written than said"
        );
        memory.release(pending.request.0, pending.request.1);
        memory.release(reply, room as u64);
        Ok(answer.to_vec())
    }

    /// Waits for a command, the only one on its ring; the answer.
    pub fn finish(&mut self, pending: Pending) -> Result<Answer> {
        Answer::parse(&self.finish_bytes(pending)?)
    }

    /// Waits for all of these commands, which are all that is on their ring, in this order; what the device wrote for each.
    pub fn finish_all(&mut self, pending: Vec<Pending>) -> Result<Vec<Answer>> {
        let mut used = Vec::new();
        let ring = pending.first().context("nothing to wait for")?.ring;
        while used.len() < pending.len() {
            used.extend(self.machine.ring(ring)?.wait(DEADLINE)?);
        }
        let pairs = pending.into_iter().zip(used);
        let answers = pairs.map(|(pending, used)| {
            ensure!(used.head == pending.head, "another command completed");
            Answer::parse(&self.take(pending, used.written)?)
        });
        answers.collect()
    }

    /// A command to its end.
    pub fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        let pending = self.submit(request)?;
        self.finish(pending)
    }

    /// A command that must be answered with this kind.
    pub fn expect(&mut self, kind: u32, request: &[u8]) -> Result<Answer> {
        let answer = self.ask(request)?;
        let command = wire::word_at(request, 0)?;
        ensure!(
            answer.kind == kind,
            "command {command:#x} is answered by {:#x}, not {kind:#x}",
            answer.kind
        );
        Ok(answer)
    }

    /// A command that must succeed and has nothing to tell.
    pub fn succeed(&mut self, request: &[u8]) -> Result<()> {
        let answer = self.expect(answer::OK_NODATA, request)?;
        ensure!(
            answer.body.is_empty(),
            "an answer with {} bytes",
            answer.body.len()
        );
        Ok(())
    }

    /// A command that must be refused with this error.
    pub fn refuse(&mut self, kind: u32, request: &[u8]) -> Result<()> {
        self.expect(kind, request).map(drop)
    }

    /// A command about a cursor, on the ring for it; there is no answer.
    pub fn cursor(&mut self, request: &[u8]) -> Result<()> {
        let pending = self.submit_on(CURSOR, request, 0)?;
        let answer = self.finish_bytes(pending)?;
        ensure!(answer.is_empty(), "an answer where there is no room");
        Ok(())
    }

    /// Explicitly suspended, and the display expects silence.
    pub fn suspend(&mut self) -> Result<()> {
        self.machine.frontend().suspend()?;
        if let Some(display) = &self.display {
            display.expect_silence()?;
        }
        Ok(())
    }

    /// The end of [`suspend`](Self::suspend).
    pub fn resume(&mut self) -> Result<()> {
        if let Some(display) = &self.display {
            display.listen()?;
        }
        Ok(self.machine.frontend().resume()?)
    }

    /// Stopped and started, as `stop` and `cont` of QEMU do.
    pub fn stop_and_start(&mut self) -> Result<()> {
        let bases = self.machine.stop()?;
        self.machine.start(&bases)
    }

    /// Goes on in another daemon.
    pub fn migrate_to(&mut self, destination: Frontend, manner: Manner) -> Result<Migrated> {
        self.machine.migrate_to(destination, manner)
    }

    /// The state, of a device that goes on afterwards.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        self.machine.snapshot()
    }

    /// The guest reboots.
    pub fn reset(&mut self) -> Result<()> {
        self.machine.stop()?;
        let features = self.machine.features();
        self.machine.frontend().reset_device()?;
        self.machine.frontend().set_features(features)?;
        for ring in self.machine.rings() {
            ring.reset()?;
        }
        let bases = vec![0; self.machine.rings().len()];
        self.machine.start(&bases)
    }

    /// The display.
    pub fn display(&self) -> Result<&Display> {
        self.display.as_ref().context("nobody looks")
    }
}

/// How long the answer to a command is at most.
fn reply_size(request: &[u8]) -> usize {
    match wire::word_at(request, 0) {
        Ok(command::GET_DISPLAY_INFO) => DISPLAY_INFO_SIZE,
        Ok(command::GET_EDID) => EDID_SIZE,
        Ok(command::RESOURCE_ASSIGN_UUID) => HEADER_SIZE + 16,
        _ => HEADER_SIZE,
    }
}
