//! The driver's half of a split ring (virtio 1.3, 2.7): puts chains on it, takes them off when used.
//!
//! The driver is part of the guest, so it survives a migration: [`Ring::setup`] describes the ring to the next back-end, and
//! [`Ring::position`] lets a driver in another memory go on from a copy. [`Ring::write_descriptor`] and [`Ring::offer`] do the rest.

mod prepared;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::frontend::RingSetup;
use common::protocol::messages::RingAddress;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::chain::{
    Buffer, DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_SIZE, DESCRIPTOR_WRITE, Descriptor,
    Table, Used,
};
use super::memory::Memory;

const NO_NOTIFICATION: u16 = 1;

/// Where a driver stands: all of it that is not in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    index: u32,
    size: u16,
    event_idx: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    published: u16,
    next_used: u16,
    free: Vec<u16>,
    in_flight: BTreeMap<u16, InFlight>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct InFlight {
    descriptors: Vec<u16>,
    /// Address and size of an indirect table.
    table: Option<(u64, u64)>,
}

/// The driver of one ring.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<Memory>,
    kick: OwnedFd,
    call: OwnedFd,
    at: Position,
}

impl Ring {
    /// A new ring with the number `index` and `size` descriptors, a power of two.
    pub fn new(memory: &Arc<Memory>, index: u32, size: u16, event_idx: bool) -> Result<Self> {
        ensure!(
            size.is_power_of_two() && size <= 0x8000,
            "a ring of {size} descriptors"
        );
        let bytes = u64::from(size);
        let at = Position {
            index,
            size,
            event_idx,
            descriptors: memory.allocate(bytes * DESCRIPTOR_SIZE)?,
            available: memory.allocate(6 + 2 * bytes)?,
            used: memory.allocate(6 + 8 * bytes)?,
            next_available: 0,
            published: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
            in_flight: BTreeMap::new(),
        };
        memory.write(at.available, &vec![0; 6 + 2 * usize::from(size)])?;
        memory.write(at.used, &vec![0; 6 + 8 * usize::from(size)])?;
        Self::at(memory, at)
    }

    /// A driver that goes on from `position`, in the same memory or in a copy.
    pub fn at(memory: &Arc<Memory>, position: Position) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            memory: Arc::clone(memory),
            kick: eventfd(0, flags)?,
            call: eventfd(0, flags)?,
            at: position,
        })
    }

    /// Where the driver stands.
    pub fn position(&self) -> Position {
        self.at.clone()
    }

    /// The ring's number.
    pub fn index(&self) -> u32 {
        self.at.index
    }

    /// Chains that the device has not used yet.
    pub fn in_flight(&self) -> usize {
        self.at.in_flight.len()
    }

    /// Descriptors that are free.
    pub fn free_descriptors(&self) -> usize {
        self.at.free.len()
    }

    /// The index up to which chains were used, as far as this driver has seen.
    pub fn next_used(&self) -> u16 {
        self.at.next_used
    }

    /// The used index in memory: how far the device has come, whether or not the driver has looked.
    pub fn used_index(&self) -> Result<u16> {
        self.memory.load(self.at.used + 2).map(u16::from_le)
    }

    /// The eventfd by which the device notifies, for a poll loop.
    pub fn call(&self) -> &OwnedFd {
        &self.call
    }

    /// The ring for [`Frontend::start`](common::frontend::Frontend::start); `base` is what the last
    /// back-end answered when it was stopped.
    pub fn setup(&self, base: u32) -> RingSetup<'_> {
        RingSetup {
            size: self.at.size,
            base,
            address: RingAddress {
                index: self.at.index,
                flags: 0,
                descriptors: Memory::user_address(self.at.descriptors),
                used: Memory::user_address(self.at.used),
                available: Memory::user_address(self.at.available),
                log: self.at.used,
            },
            kick: self.kick.as_fd(),
            call: self.call.as_fd(),
        }
    }

    /// As after a reset of the device: empty. Indirect tables of what was in flight are given back, not its buffers.
    pub fn reset(&mut self) -> Result<()> {
        let fresh = Position {
            next_available: 0,
            published: 0,
            next_used: 0,
            free: (0..self.at.size).rev().collect(),
            in_flight: BTreeMap::new(),
            ..self.at.clone()
        };
        for (address, size) in self.at.in_flight.values().filter_map(|chain| chain.table) {
            self.memory.release(address, size);
        }
        self.memory
            .write(fresh.available, &vec![0; 6 + 2 * usize::from(fresh.size)])?;
        self.memory
            .write(fresh.used, &vec![0; 6 + 8 * usize::from(fresh.size)])?;
        self.at = fresh;
        Ok(())
    }

    /// Puts a chain on the ring without telling the device: [`publish`](Self::publish) does, for all
    /// chains since the last time. Buffers are chained in the given order, whatever it is.
    pub fn add(&mut self, buffers: &[Buffer], table: Table) -> Result<u16> {
        ensure!(!buffers.is_empty(), "a chain without buffers");
        let needed = if table == Table::Indirect {
            1
        } else {
            buffers.len()
        };
        let kept =
            self.at.free.len().checked_sub(needed).with_context(|| {
                format!("ring {} has no {needed} descriptors left", self.at.index)
            })?;
        let in_flight = match table {
            Table::Direct => {
                let descriptors = self.at.free.split_off(kept);
                self.write_chain(self.at.descriptors, &descriptors, buffers)?;
                InFlight {
                    descriptors,
                    table: None,
                }
            }
            Table::Indirect => {
                let size = buffers.len() as u64 * DESCRIPTOR_SIZE;
                let address = self.memory.allocate(size)?;
                let numbers: Vec<u16> = (0..u16::try_from(buffers.len())?).collect();
                self.write_chain(address, &numbers, buffers)?;
                let descriptors = self.at.free.split_off(kept);
                let descriptor = Descriptor {
                    address,
                    length: u32::try_from(size)?,
                    flags: DESCRIPTOR_INDIRECT,
                    next: 0,
                };
                for &number in &descriptors {
                    self.write_descriptor(number, descriptor)?;
                }
                InFlight {
                    descriptors,
                    table: Some((address, size)),
                }
            }
        };
        let head = *in_flight
            .descriptors
            .first()
            .context("a chain without descriptors")?;
        self.at.in_flight.insert(head, in_flight);
        self.offer(head)?;
        Ok(head)
    }

    /// Writes one descriptor of the ring's table, right or wrong.
    pub fn write_descriptor(&self, number: u16, descriptor: Descriptor) -> Result<()> {
        let address = self.at.descriptors + u64::from(number) * DESCRIPTOR_SIZE;
        self.memory.write(address, &descriptor.encode())
    }

    /// Takes a descriptor for [`write_descriptor`](Self::write_descriptor) that no chain will use.
    pub fn take_descriptor(&mut self) -> Result<u16> {
        self.at.free.pop().context("no descriptor left")
    }

    /// Puts `head` into the available ring without telling the device, right or wrong. A head that was
    /// not added is never taken for used: [`collect`](Self::collect) fails if the device returns it.
    pub fn offer(&mut self, head: u16) -> Result<()> {
        let slot = u64::from(self.at.next_available % self.at.size);
        self.memory
            .write(self.at.available + 4 + 2 * slot, &head.to_le_bytes())?;
        self.at.next_available = self.at.next_available.wrapping_add(1);
        Ok(())
    }

    /// Expects `head`, which was only [offered](Self::offer), to come back.
    pub fn expect(&mut self, head: u16) {
        let nothing = InFlight {
            descriptors: Vec::new(),
            table: None,
        };
        self.at.in_flight.insert(head, nothing);
    }

    /// Makes what was added visible to the device, and kicks it if it wants to be kicked.
    pub fn publish(&mut self) -> Result<()> {
        let (old, new) = (self.at.published, self.at.next_available);
        self.memory.store(self.at.available + 2, new.to_le())?;
        self.at.published = new;
        // The device writes its wish, then looks at the index; we do it the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.at.event_idx {
            let event = self.at.used + 4 + 8 * u64::from(self.at.size);
            let event = u16::from_le(self.memory.load(event)?);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u16::from_le(self.memory.load(self.at.used)?) & NO_NOTIFICATION == 0
        };
        if wanted {
            self.kick()?;
        }
        Ok(())
    }

    /// Makes what was added visible to the device, and tells it nothing.
    pub fn publish_silently(&mut self) -> Result<()> {
        self.at.published = self.at.next_available;
        self.memory
            .store(self.at.available + 2, self.at.published.to_le())
    }

    /// Kicks the device, whether or not it wants to be kicked.
    pub fn kick(&self) -> Result<()> {
        match rustix::io::write(&self.kick, &1_u64.to_le_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context("kicking the device"),
        }
    }

    /// Takes all chains that are used by now off the ring.
    pub fn collect(&mut self) -> Result<Vec<Used>> {
        let mut collected = Vec::new();
        let end = self.used_index()?;
        while self.at.next_used != end {
            let slot = u64::from(self.at.next_used % self.at.size);
            let element = self.at.used + 4 + 8 * slot;
            let number = u32::from_le(self.memory.load(element)?);
            let written = u32::from_le(self.memory.load(element + 4)?);
            let chain = u16::try_from(number)
                .ok()
                .and_then(|head| Some((head, self.at.in_flight.remove(&head)?)));
            let Some((head, chain)) = chain else {
                bail!(
                    "ring {}: the device used {number}, not in flight",
                    self.at.index
                );
            };
            self.at.free.extend(chain.descriptors);
            if let Some((address, size)) = chain.table {
                self.memory.release(address, size);
            }
            self.at.next_used = self.at.next_used.wrapping_add(1);
            collected.push(Used { head, written });
        }
        Ok(collected)
    }

    /// [`collect`](Self::collect), and asks to be notified of the next chain that is used.
    pub fn collect_and_listen(&mut self) -> Result<Vec<Used>> {
        let mut collected = Vec::new();
        loop {
            self.ask_for_call()?;
            // What was used before the device could see the wish is not notified of; and a wish is void
            // when chains were collected after it.
            let more = self.collect()?;
            if more.is_empty() {
                return Ok(collected);
            }
            collected.extend(more);
        }
    }

    /// Whether the device has notified since the last time.
    pub fn take_call(&self) -> Result<bool> {
        match rustix::io::read(&self.call, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error).context("reading the call eventfd"),
        }
    }

    /// Waits for the device to use at least one chain and to say so; a device that forgets to notify is
    /// found out by `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<Vec<Used>> {
        let end = Instant::now() + deadline;
        loop {
            let collected = self.collect_and_listen()?;
            if !collected.is_empty() {
                return Ok(collected);
            }
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left)?;
            match poll(
                &mut [PollFd::new(&self.call, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(0) => {
                    let (index, before) = (self.at.index, self.at.in_flight.len());
                    let used = self.collect()?.len();
                    bail!(
                        "ring {index}: no call within {deadline:?}; of {before} chains in flight \
                         {used} are used"
                    );
                }
                Ok(_) => self.take_call().map(drop)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for a call"),
            }
        }
    }

    /// Asks to be notified of the next chain that is used.
    fn ask_for_call(&self) -> Result<()> {
        if self.at.event_idx {
            let event = self.at.available + 4 + 2 * u64::from(self.at.size);
            self.memory.store(event, self.at.next_used.to_le())?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn write_chain(&self, table: u64, numbers: &[u16], buffers: &[Buffer]) -> Result<()> {
        let following = numbers.iter().skip(1).map(Some).chain([None]);
        for ((number, next), buffer) in numbers.iter().zip(following).zip(buffers) {
            let mut flags = if buffer.writable { DESCRIPTOR_WRITE } else { 0 };
            if next.is_some() {
                flags |= DESCRIPTOR_NEXT;
            }
            let descriptor = Descriptor {
                address: buffer.address,
                length: buffer.length,
                flags,
                next: next.copied().unwrap_or(0),
            };
            let address = table + u64::from(*number) * DESCRIPTOR_SIZE;
            self.memory.write(address, &descriptor.encode())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
