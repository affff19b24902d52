//! Guests hammer the device while the VMM suspends, resumes, stops and starts it at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Load, Subject, started};
use crate::guest::{Memory, Ring};
use crate::in_process::{DEADLINE, Machine, add};
use crate::random::Random;

/// Requests that a guest has in flight, at most.
const IN_FLIGHT_MAX: usize = 8;

pub(super) fn run<S: Subject>(subject: &S, cycles: u32) -> Result<()> {
    let (_host, mut machine) = started(subject)?;
    let mut guests: Vec<_> = subject
        .loads()
        .into_iter()
        .map(|load| Guest::take(&mut machine, load))
        .collect::<Result<_>>()?;
    let watched: Vec<_> = guests.iter().map(|guest| guest.used_index).collect();
    let stop = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = guests
            .iter_mut()
            .map(|guest| scope.spawn(|| guest.hammer(&stop)))
            .collect();
        let cycled = cycle(&mut machine, &watched, cycles);
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<_> = threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        cycled.map(|()| counts)
    })?;
    for (index, count) in counts.into_iter().enumerate() {
        let Ok(count) = count else {
            bail!("the guest of load {index} panicked");
        };
        let count = count.with_context(|| format!("the guest of load {index}"))?;
        ensure!(
            count > u64::from(cycles / 100),
            "load {index} hardly moved: {count} requests"
        );
    }
    machine.leave()??;
    Ok(())
}

fn cycle(machine: &mut Machine, watched: &[u64], cycles: u32) -> Result<()> {
    let mut random = Random::new(0x5eed);
    for cycle in 0..cycles {
        let kind = random.below(4);
        let done = match kind {
            0 => machine.frontend().suspend().map_err(Into::into),
            1 => machine.stop(),
            2 => machine
                .frontend()
                .suspend()
                .map_err(Into::into)
                .and_then(|()| machine.stop())
                .and_then(|()| machine.start()),
            _ => machine
                .stop()
                .and_then(|()| Ok(machine.frontend().suspend()?))
                .and_then(|()| machine.start()),
        };
        done.with_context(|| format!("cycle {cycle} of kind {kind}"))?;
        let before = used_indices(&machine.memory, watched)?;
        thread::sleep(Duration::from_micros(random.between(0, 300).into()));
        let after = used_indices(&machine.memory, watched)?;
        ensure!(
            before == after,
            "cycle {cycle} of kind {kind}: answers while silent"
        );
        if kind == 1 {
            machine.start()?;
        } else {
            machine.frontend().resume()?;
        }
        thread::sleep(Duration::from_micros(random.between(0, 500).into()));
    }
    Ok(())
}

fn used_indices(memory: &Memory, watched: &[u64]) -> Result<Vec<u16>> {
    watched
        .iter()
        .map(|address| memory.load(*address))
        .collect()
}

/// A guest's thread: one ring, and what it asks on it.
struct Guest {
    ring: Ring,
    memory: Arc<Memory>,
    load: Load,
    /// Guest address of the ring's used index.
    used_index: u64,
}

impl Guest {
    fn take(machine: &mut Machine, load: Load) -> Result<Self> {
        let wanted = u32::try_from(load.ring)?;
        let position = machine.rings.iter().position(|ring| ring.index() == wanted);
        let ring = machine.rings.remove(position.context("no such ring")?);
        Ok(Self {
            used_index: ring.setup(0).address.log + 2,
            memory: Arc::clone(&machine.memory),
            ring,
            load,
        })
    }

    /// Asks and checks the answers until `stop`; how many were answered. A request that is lost is missed at the latest here.
    fn hammer(&mut self, stop: &AtomicBool) -> Result<u64> {
        let mut random = Random::new(u64::from(self.ring.index()) + 0xfeed);
        let mut answered = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut pending = Vec::new();
            for _ in 0..=random.below(IN_FLIGHT_MAX) {
                let request = random.choose(&self.load.requests).context("no request")?;
                pending.push(add(
                    &self.memory,
                    &mut self.ring,
                    request,
                    self.load.reply_len,
                )?);
            }
            self.ring.publish()?;
            while !pending.is_empty() {
                for used in self.ring.wait(DEADLINE)? {
                    let of = pending
                        .iter()
                        .position(|pending| pending.head() == used.head);
                    let pending = pending.remove(of.context("an answer to nothing")?);
                    let answer = pending.take(&self.memory, used.written)?;
                    ensure!((self.load.is_answer)(&answer), "wrong answer {answer:x?}");
                    answered += 1;
                }
            }
        }
        Ok(answered)
    }
}
