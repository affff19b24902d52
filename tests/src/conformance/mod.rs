//! What every device must do, in one call: [`run`] with a [`Subject`] that knows how to make and to use one.
//!
//! | check | question |
//! |---|---|
//! | repeated | are SUSPEND and RESUME idempotent, and is the device alive after them? |
//! | silent | are guest memory and interrupts untouched while suspended, and while stopped? |
//! | saved | is what is saved whole: does another device go on from it, and save the same? Does saving consume anything? |
//! | refused | does a load that fails leave the device as it was? |
//! | reset | is a device that was reset like a new one? |
//! | cycles | under load, through 1,000 random suspensions and stops, is every request answered, and none while silent? |
//!
//! Knows no device. The null device shows a device author the least that passes.

mod cycles;

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::device::Device;

use crate::in_process::{Host, Machine, Shape};

/// How long a silent device is watched.
const WATCH: Duration = Duration::from_millis(20);

/// A device under test, with its driver.
pub trait Subject: Sync {
    /// The device.
    type Device: Device;

    /// A new device; several live at once, and use the same host resources as a source and a destination do.
    fn create(&self) -> Result<Self::Device>;

    /// What the guest chooses.
    fn shape(&self) -> Shape {
        Shape::default()
    }

    /// What a driver does once, on the rings of a new device; a destination that is loaded is past it.
    fn prepare(&self, _guest: &mut Machine) -> Result<()> {
        Ok(())
    }

    /// One or more requests that change the state, with the answers checked: on one device, or on a chain of devices each
    /// loaded from the one before, called for 0, 1, 2 and so on. The answers are to depend on what the earlier calls left.
    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()>;

    /// Requests that may come at any time, in any order and any number; one thread for each of these. No two use the same
    /// ring.
    fn loads(&self) -> Vec<Load>;

    /// Streams that are sound, made from a `good` one or not, whose content the device must refuse.
    fn refused_states(&self, _good: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

/// Requests for one ring.
#[derive(Clone, Debug)]
pub struct Load {
    /// Which ring.
    pub ring: usize,
    /// Requests to choose from.
    pub requests: Vec<Vec<u8>>,
    /// Room for the answer of each.
    pub reply_len: usize,
    /// Whether an answer is right.
    pub is_answer: fn(&[u8]) -> bool,
}

/// Runs all checks; the error says which one failed.
pub fn run<S: Subject>(subject: &S) -> Result<()> {
    repeated(subject).context("SUSPEND and RESUME, each twice")?;
    silent(subject).context("silence while suspended and while stopped")?;
    saved(subject).context("save, load, save")?;
    refused(subject).context("loads that are refused")?;
    reset(subject).context("reset")?;
    cycles::run(subject, 1_000).context("random cycles under load")
}

fn started<S: Subject>(subject: &S) -> Result<(Host<S::Device>, Machine)> {
    let host = Host::new(subject.create()?);
    let mut machine = host.machine_with(subject.shape())?;
    machine.start()?;
    subject.prepare(&mut machine).context("preparing")?;
    Ok((host, machine))
}

fn repeated<S: Subject>(subject: &S) -> Result<()> {
    let (_host, mut machine) = started(subject)?;
    subject.exercise(&mut machine, 0)?;
    for number in 1..4 {
        machine.frontend().suspend()?;
        machine.frontend().suspend()?;
        machine.frontend().resume()?;
        machine.frontend().resume()?;
        subject.exercise(&mut machine, number)?;
    }
    machine.leave()??;
    Ok(())
}

fn silent<S: Subject>(subject: &S) -> Result<()> {
    let (_host, mut machine) = started(subject)?;
    subject.exercise(&mut machine, 0)?;
    let load = subject.loads().into_iter().next().context("no load")?;
    let request = load.requests.first().context("no request")?;

    machine.frontend().suspend()?;
    let pending = machine.submit(load.ring, request, load.reply_len)?;
    watch(&mut machine).context("suspended")?;
    machine.frontend().resume()?;
    let answer = machine.finish(load.ring, pending)?;
    ensure!((load.is_answer)(&answer), "wrong answer after RESUME");

    machine.stop()?;
    let pending = machine.submit(load.ring, request, load.reply_len)?;
    watch(&mut machine).context("stopped")?;
    machine.start()?;
    let answer = machine.finish(load.ring, pending)?;
    ensure!((load.is_answer)(&answer), "wrong answer after a start");
    machine.leave()??;
    Ok(())
}

/// The device is silent: whatever is asked of it meanwhile, and for a little longer.
fn watch(machine: &mut Machine) -> Result<()> {
    for ring in &machine.rings {
        ring.take_call()?;
    }
    let before = machine.memory.snapshot()?;
    machine.frontend().features()?;
    machine.save()?;
    thread::sleep(WATCH);
    let changed = machine.memory.changed_pages(&before)?;
    ensure!(
        changed.is_empty(),
        "it wrote to guest memory at {changed:x?}"
    );
    for ring in &machine.rings {
        ensure!(!ring.take_call()?, "it notified on ring {}", ring.index());
    }
    Ok(())
}

fn saved<S: Subject>(subject: &S) -> Result<()> {
    let (mut host, mut machine) = started(subject)?;
    let mut number = 0;
    for generation in 0..3 {
        for _ in 0..3 {
            subject.exercise(&mut machine, number)?;
            number += 1;
        }
        machine.frontend().suspend()?;
        let first = machine.save()?;
        ensure!(machine.save()? == first, "two saves in a row differ");
        machine.frontend().resume()?;
        subject
            .exercise(&mut machine, number)
            .context("on the source, after SAVE and RESUME")?;
        number += 1;
        machine.stop()?;
        let state = machine.save()?;
        ensure!(state != first, "the state does not tell what was done");

        let destination = Host::new(subject.create()?);
        // The order of QEMU; any other is easier.
        machine = machine.move_to(&destination, false)?;
        machine.frontend().load(&mut state.as_slice())?;
        ensure!(
            machine.save()? == state,
            "what was loaded is saved differently"
        );
        machine.make_ready()?;
        machine.start()?;
        subject
            .exercise(&mut machine, number)
            .with_context(|| format!("on destination {generation}"))?;
        number += 1;
        host = destination;
    }
    machine.leave()??;
    drop(host);
    Ok(())
}

fn refused<S: Subject>(subject: &S) -> Result<()> {
    let (_host, mut machine) = started(subject)?;
    subject.exercise(&mut machine, 0)?;
    machine.stop()?;
    let good = machine.save()?;
    machine.start()?;
    subject.exercise(&mut machine, 1)?;
    machine.frontend().suspend()?;
    let before = machine.save()?;
    let mut bad = subject.refused_states(&good)?;
    bad.extend((0..8).map(|part| good.iter().take(good.len() * part / 8).copied().collect()));
    for part in 0..32 {
        let mut damaged = good.clone();
        let at = damaged.len() * part / 32;
        damaged
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 0x10);
        bad.push(damaged);
    }
    for (index, state) in bad.iter().enumerate() {
        let loaded = machine.frontend().load(&mut state.as_slice());
        ensure!(loaded.is_err(), "bad state {index} was loaded");
        ensure!(machine.save()? == before, "bad state {index} left its mark");
    }
    machine.frontend().resume()?;
    subject.exercise(&mut machine, 2)?;
    machine.leave()??;
    Ok(())
}

fn reset<S: Subject>(subject: &S) -> Result<()> {
    let fresh = Host::new(subject.create()?);
    let mut machine = fresh.machine_with(subject.shape())?;
    let new = machine.save()?;
    machine.leave()??;

    let (_host, mut machine) = started(subject)?;
    subject.exercise(&mut machine, 0)?;
    machine.frontend().reset_device()?;
    let features = machine.features();
    machine.frontend().set_features(features)?;
    machine.stop()?;
    ensure!(
        machine.save()? == new,
        "it is saved differently from a new one"
    );
    for ring in &mut machine.rings {
        ring.reset()?;
    }
    machine.bases.fill(0);
    machine.start()?;
    subject
        .prepare(&mut machine)
        .context("preparing it again")?;
    subject.exercise(&mut machine, 0)?;
    machine.leave()??;
    Ok(())
}
