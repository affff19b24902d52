//! The guest memory behind a resource, in pieces, with a copy of what the guest has put there.
//!
//! Knows no pixels.

use anyhow::{Context, Result, ensure};

use crate::guest::Memory;
use crate::random::Random;

/// Guest memory behind a resource.
#[derive(Debug)]
pub(super) struct Backing {
    /// Address and length of each piece.
    pub(super) pieces: Vec<(u64, u32)>,
    /// What the guest has written there.
    pub(super) bytes: Vec<u8>,
}

impl Backing {
    /// Memory for `bytes`, in pieces that are cut at random.
    pub(super) fn allocate(memory: &Memory, random: &mut Random, bytes: Vec<u8>) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut left = u32::try_from(bytes.len())?;
        for _ in 0..random.below(5) {
            // Pixels and rows need not begin where a piece does.
            let length = random.between(1, left / 2);
            pieces.push((memory.allocate(length.into())?, length));
            left -= length;
        }
        pieces.push((memory.allocate(left.into())?, left));
        let backing = Self { pieces, bytes };
        backing.write(memory, 0, backing.bytes.len())?;
        Ok(backing)
    }

    /// Brings a range to guest memory.
    pub(super) fn write(&self, memory: &Memory, start: usize, length: usize) -> Result<()> {
        let mut begin = 0;
        for &(address, size) in &self.pieces {
            let end = begin + size as usize;
            let (from, to) = (start.max(begin), (start + length).min(end));
            if from < to {
                let bytes = self.bytes.get(from..to).context("outside of a backing")?;
                memory.write(address + (from - begin) as u64, bytes)?;
            }
            begin = end;
        }
        Ok(())
    }

    /// Whether guest memory is as the guest left it.
    pub(super) fn check(&self, memory: &Memory) -> Result<()> {
        let mut rest = self.bytes.as_slice();
        for &(address, size) in &self.pieces {
            let (mine, after) = rest.split_at(size as usize);
            let there = memory.read_vec(address, mine.len())?;
            ensure!(
                there == mine,
                "the device wrote to a backing at {address:#x}"
            );
            rest = after;
        }
        Ok(())
    }

    pub(super) fn release(self, memory: &Memory) {
        for (address, size) in self.pieces {
            memory.release(address, size.into());
        }
    }
}
