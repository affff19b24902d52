//! How fast: requests for a time, with the time that each of them took.
//!
//! Knows nothing of what a process costs its host; whoever asks counts that around [`Load::measure`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use super::request::Slot;
use super::{DESCRIPTORS, Load, Prepared, Work};
use crate::guest::Memory;

/// Longest time that is told apart, in nanoseconds.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What a time of load came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests that were answered.
    pub requests: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// What each request took, in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

impl Measured {
    /// Requests in a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let requests = self.requests as f64;
        requests / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Requests on their way.
struct Loop {
    prepared: Prepared,
    began: Vec<Instant>,
    memory: Arc<Memory>,
    work: Work,
    measured: Measured,
}

impl Load {
    /// Loads the device for `time`, and waits for what is in flight then.
    pub fn measure(&mut self, work: &Work, time: Duration) -> Result<Measured> {
        let prepared = self.prepare(work)?;
        let now = Instant::now();
        let mut state = Loop {
            began: vec![now; prepared.slots.len()],
            prepared,
            memory: Arc::clone(self.machine.memory()),
            work: *work,
            measured: Measured {
                requests: 0,
                elapsed: Duration::ZERO,
                latency_ns: Histogram::new_with_max(LATENCY_NS_MAX, 3)
                    .context("making a histogram")?,
            },
        };
        for ring in 0..work.rings {
            for number in 0..work.depth {
                self.offer(&mut state, ring, number, now)?;
            }
            self.machine
                .ring(self.kind.first_ring() + ring)?
                .publish()?;
        }
        let end = now + time;
        let mut in_flight = state.prepared.slots.len();
        while in_flight > 0 {
            let mut idle = true;
            for ring in 0..work.rings {
                let (used, ended) = self.turn(&mut state, ring, end)?;
                idle &= used == 0;
                in_flight -= ended;
            }
            if idle {
                self.wait(work.rings)?;
            }
        }
        state.measured.elapsed = now.elapsed();
        self.release(&state.prepared);
        Ok(state.measured)
    }

    /// Takes what one ring has used, and offers it again before `end`. Returns how many there were, and how many were not offered.
    fn turn(&mut self, state: &mut Loop, ring: usize, end: Instant) -> Result<(usize, usize)> {
        let index = self.kind.first_ring() + ring;
        let (mut count, mut ended) = (0, 0);
        let mut now = None;
        while let Some(used) = self.machine.ring(index)?.take_used()? {
            // One look at the clock for all that was there.
            let now = *now.get_or_insert_with(Instant::now);
            let number = used.head / DESCRIPTORS;
            let (slot, began) = state.slot(ring, number)?;
            slot.check(&state.memory, self.kind)?;
            let latency = u64::try_from((now - began).as_nanos())?;
            state.measured.latency_ns.saturating_record(latency);
            state.measured.requests += 1;
            count += 1;
            if now < end {
                self.offer(state, ring, number, now)?;
            } else {
                ended += 1;
            }
        }
        if count > ended {
            self.machine.ring(index)?.publish()?;
        }
        Ok((count, ended))
    }

    fn offer(&mut self, state: &mut Loop, ring: usize, number: u16, now: Instant) -> Result<()> {
        let Work {
            direction,
            order,
            request_bytes,
            ..
        } = state.work;
        let (slot, _) = state.slot(ring, number)?;
        let block = self.places.next(order, state.prepared.blocks);
        let part = (block * u64::from(request_bytes), request_bytes);
        let tag = state.measured.requests;
        slot.fill(&state.memory, self.kind, direction, tag, part)?;
        *state.began_mut(ring, number)? = now;
        self.machine
            .ring(self.kind.first_ring() + ring)?
            .offer(number * DESCRIPTORS)
    }
}

impl Loop {
    fn index(&self, ring: usize, number: u16) -> usize {
        ring * usize::from(self.work.depth) + usize::from(number)
    }

    fn slot(&self, ring: usize, number: u16) -> Result<(Slot, Instant)> {
        let index = self.index(ring, number);
        let slot = self.prepared.slots.get(index).copied();
        slot.zip(self.began.get(index).copied())
            .context("the device used what was not offered")
    }

    fn began_mut(&mut self, ring: usize, number: u16) -> Result<&mut Instant> {
        let index = self.index(ring, number);
        self.began.get_mut(index).context("no such request")
    }
}
