//! Whether it is right: random reads and writes, and every byte compared with what was written there last.
//!
//! Each write leaves a pattern that says which block it is of and which write it was; a block is never asked for twice at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::request::Slot;
use super::{DESCRIPTORS, Direction, Load, Order, Work};

/// What is in flight at one place.
#[derive(Clone, Copy)]
struct Pending {
    direction: Direction,
    block: u64,
    /// The write whose data the block has, or will have.
    version: u64,
}

/// Data of one block.
pub fn pattern(block: u64, version: u64, bytes: u32) -> Vec<u8> {
    let word = block
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(17)
        .wrapping_add(version);
    let words = (0..u64::from(bytes) / 8).map(|index| word.wrapping_add(index).to_le_bytes());
    words.flatten().collect()
}

impl Load {
    /// Does `requests` requests, reads and writes in turn as chance wants it. Returns the number of the write that each block has its data from.
    ///
    /// Blocks that were never written are not looked at.
    pub fn verify(&mut self, work: &Work, requests: u64) -> Result<BTreeMap<u64, u64>> {
        let prepared = self.prepare(work)?;
        let memory = Arc::clone(self.machine.memory());
        let mut written: BTreeMap<u64, u64> = BTreeMap::new();
        let mut pending: BTreeMap<(usize, u16), Pending> = BTreeMap::new();
        let (mut begun, mut done) = (0, 0);
        while done < requests {
            for ring in 0..work.rings {
                for number in 0..work.depth {
                    if begun == requests || pending.contains_key(&(ring, number)) {
                        continue;
                    }
                    let block = self.places.next(Order::Random, prepared.blocks);
                    if pending.values().any(|other| other.block == block) {
                        continue;
                    }
                    let known = written.get(&block).copied();
                    let reads = self.places.next(Order::Random, 2) == 0;
                    let (direction, version) = match known {
                        Some(version) if reads => (Direction::Read, version),
                        _ => (Direction::Write, begun + 1),
                    };
                    let slot = slot_of(&prepared.slots, work, ring, number)?;
                    let data = match direction {
                        Direction::Read => vec![0; usize::try_from(work.request_bytes)?],
                        Direction::Write => pattern(block, version, work.request_bytes),
                    };
                    memory.write(slot.data, &data)?;
                    let at = block * u64::from(work.request_bytes);
                    let part = (at, work.request_bytes);
                    slot.fill(&memory, self.kind, direction, begun, part)?;
                    let buffers = slot.buffers(self.kind, direction, work.request_bytes);
                    let driver = self.machine.ring(self.kind.first_ring() + ring)?;
                    driver.prepare(number * DESCRIPTORS, &buffers)?;
                    driver.offer(number * DESCRIPTORS)?;
                    let request = Pending {
                        direction,
                        block,
                        version,
                    };
                    pending.insert((ring, number), request);
                    begun += 1;
                }
                self.machine
                    .ring(self.kind.first_ring() + ring)?
                    .publish()?;
            }
            done += self.settle(work, &prepared.slots, &mut pending, &mut written)?;
        }
        ensure!(pending.is_empty(), "requests are left");
        self.release(&prepared);
        Ok(written)
    }

    /// Waits for answers, and looks at them.
    fn settle(
        &mut self,
        work: &Work,
        slots: &[Slot],
        pending: &mut BTreeMap<(usize, u16), Pending>,
        written: &mut BTreeMap<u64, u64>,
    ) -> Result<u64> {
        let memory = Arc::clone(self.machine.memory());
        self.wait(work.rings)?;
        let mut done = 0;
        for ring in 0..work.rings {
            while let Some(used) = self
                .machine
                .ring(self.kind.first_ring() + ring)?
                .take_used()?
            {
                let number = used.head / DESCRIPTORS;
                let Pending {
                    direction,
                    block,
                    version,
                } = pending
                    .remove(&(ring, number))
                    .context("the device used what is not in flight")?;
                let slot = slot_of(slots, work, ring, number)?;
                slot.check(&memory, self.kind)?;
                if direction == Direction::Write {
                    written.insert(block, version);
                } else {
                    let data = memory.read_vec(slot.data, usize::try_from(work.request_bytes)?)?;
                    ensure!(
                        data == pattern(block, version, work.request_bytes),
                        "block {block} does not have the data of write {version}"
                    );
                }
                done += 1;
            }
        }
        Ok(done)
    }
}

fn slot_of(slots: &[Slot], work: &Work, ring: usize, number: u16) -> Result<Slot> {
    slots
        .get(ring * usize::from(work.depth) + usize::from(number))
        .copied()
        .context("the device used what was not offered")
}
