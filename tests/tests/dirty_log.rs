//! The dirty log against a byte comparison of guest memory: every page that the device changed is marked.
//!
//! Guests write first and then hold still, so that every change between two snapshots is the device's.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::protocol::messages::{DirtyLog, feature};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tests::guest::memory::{PAGE, Snapshot};
use tests::in_process::{DEADLINE, Host, Machine, Shape};
use tests::probe_device::{Order, ProbeDevice};

/// In the second region of memory, whose first page no driver uses.
const TICKS: u64 = (1 << 32) + 0x100;
/// Covers memory to the end of the second region, one bit for each page.
const LOG_BYTES: u64 = ((1 << 32) + 64 * PAGE) / PAGE / 8;
/// Requests on each ring.
const REQUESTS: usize = 30;

struct Log(File);

impl Log {
    fn new(bytes: u64) -> Result<Self> {
        let file = memfd_create("log", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, bytes)?;
        Ok(Self(file.into()))
    }

    fn give_to(&self, machine: &mut Machine) -> Result<()> {
        let log = DirtyLog {
            size: self.0.metadata()?.len(),
            file_offset: 0,
        };
        machine.frontend().set_log(log, &self.0)?;
        Ok(())
    }

    fn pages(&mut self) -> Result<BTreeSet<u64>> {
        let mut bytes = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.read_to_end(&mut bytes)?;
        let mut pages = BTreeSet::new();
        for (byte, bits) in (0..).zip(bytes) {
            let marked = (0..8).filter(|bit| bits >> bit & 1 != 0);
            pages.extend(marked.map(|bit| (byte * 8 + bit) * PAGE));
        }
        Ok(pages)
    }
}

struct Rig {
    device: ProbeDevice,
    _host: Host<ProbeDevice>,
    machine: Machine,
    log: Log,
}

/// Logging is on, nothing is started.
fn rig() -> Result<Rig> {
    let device = ProbeDevice::new();
    let host = Host::new(device.clone());
    let shape = Shape {
        event_idx: false,
        ..Shape::default()
    };
    let mut rig = Rig {
        machine: host.machine_with(shape)?,
        _host: host,
        device,
        log: Log::new(LOG_BYTES)?,
    };
    rig.log.give_to(&mut rig.machine)?;
    rig.switch(true)?;
    Ok(rig)
}

impl Rig {
    fn switch(&mut self, on: bool) -> Result<()> {
        let logging = if on { feature::LOG_ALL } else { 0 };
        let features = self.machine.features() | logging;
        self.machine.frontend().set_features(features)?;
        Ok(())
    }

    /// Requests on all rings, before these are started.
    fn add(&mut self, operation: u32) -> Result<()> {
        let order = Order {
            operation,
            argument: 1,
        };
        for ring in 0..3 {
            for _ in 0..REQUESTS {
                self.machine.add(ring, &order.bytes(), 8)?;
            }
            self.machine.ring(ring)?.publish_silently()?;
        }
        Ok(())
    }

    fn tick(&self) {
        self.device
            .probe()
            .ticking_at
            .store(TICKS, Ordering::SeqCst);
    }

    /// Until everything has come back and, if it ticks, a tick has come since.
    fn finish(&mut self) -> Result<()> {
        let mut used = 0;
        let ticks = || self.device.probe().ticks.load(Ordering::SeqCst);
        let first = ticks();
        let ticking = self.device.probe().ticking_at.load(Ordering::SeqCst) != 0;
        let end = Instant::now() + DEADLINE;
        while used < 3 * REQUESTS || ticking && ticks() < first + 2 {
            assert!(Instant::now() < end, "{used} requests came back");
            for ring in &mut self.machine.rings {
                used += ring.collect()?.len();
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.machine.stop()
    }

    /// The pages that changed since `before`; all of them must be marked.
    fn compare(&mut self, before: &Snapshot) -> Result<BTreeSet<u64>> {
        let changed = self.machine.memory.changed_pages(before)?;
        let changed = BTreeSet::from_iter(changed);
        let marked = self.log.pages()?;
        let missing: Vec<_> = changed.difference(&marked).collect();
        assert!(missing.is_empty(), "changed and not marked: {missing:x?}");
        assert!(!changed.is_empty(), "nothing happened");
        Ok(changed)
    }

    /// Everything from the start of the rings to their end, with `meanwhile` in between.
    fn compared(mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.tick();
        self.add(Order::ELSEWHERE)?;
        let before = self.machine.memory.snapshot()?;
        self.machine.start()?;
        meanwhile(&mut self)?;
        self.finish()?;
        let changed = self.compare(&before)?;
        assert!(changed.contains(&(TICKS / PAGE * PAGE)), "no tick came");
        Ok(())
    }
}

#[test]
fn used_rings_answers_and_background_work_are_marked() -> Result<()> {
    let mut rig = rig()?;
    assert!(rig.log.pages()?.is_empty());
    rig.compared(|_| Ok(()))
}

#[test]
fn only_what_was_written_is_marked() -> Result<()> {
    let mut rig = rig()?;
    rig.add(Order::NOW)?;
    let before = rig.machine.memory.snapshot()?;
    rig.machine.start()?;
    rig.finish()?;
    let changed = rig.compare(&before)?;
    // The flags of a used ring are written and mostly stay what they were.
    let marked = rig.log.pages()?;
    assert!(
        marked.len() <= changed.len() + 3,
        "{marked:x?} for {changed:x?}"
    );
    Ok(())
}

/// At rest, when nothing has marked the pages yet, and again under load.
fn before_and_during(change: impl Fn(&mut Machine) -> Result<()>) -> Result<()> {
    let mut rig = rig()?;
    change(&mut rig.machine)?;
    rig.compared(|rig| (0..20).try_for_each(|_| change(&mut rig.machine)))
}

#[test]
fn a_new_memory_table_keeps_the_log() -> Result<()> {
    before_and_during(|machine| {
        let memory = Arc::clone(&machine.memory);
        Ok(machine.frontend().set_memory(&memory.regions())?)
    })
}

#[test]
fn a_region_that_goes_and_comes_keeps_the_log() -> Result<()> {
    before_and_during(|machine| {
        let memory = Arc::clone(&machine.memory);
        let region = *memory.regions().last().context("no region")?;
        machine.frontend().remove_memory(region.layout)?;
        Ok(machine.frontend().add_memory(region)?)
    })
}

#[test]
fn memory_that_was_empty_in_between_keeps_the_log() -> Result<()> {
    let mut rig = rig()?;
    let memory = Arc::clone(&rig.machine.memory);
    for region in memory.regions() {
        rig.machine.frontend().remove_memory(region.layout)?;
    }
    for region in memory.regions() {
        rig.machine.frontend().add_memory(region)?;
    }
    rig.compared(|_| Ok(()))
}

/// A request holds on to the table that it was popped with.
#[test]
fn what_is_in_flight_across_a_new_table_is_marked() -> Result<()> {
    let mut rig = rig()?;
    rig.switch(false)?;
    rig.add(Order::HELD)?;
    rig.machine.start()?;
    let end = Instant::now() + DEADLINE;
    while rig.device.held() < 3 * REQUESTS {
        assert!(Instant::now() < end, "{} are held", rig.device.held());
        thread::sleep(Duration::from_millis(1));
    }
    let memory = Arc::clone(&rig.machine.memory);
    rig.machine.frontend().set_memory(&memory.regions())?;
    rig.switch(true)?;
    for ring in 0..3 {
        // What the worker writes when it leaves a ring is not what is asked about.
        rig.machine.frontend().set_ring_enabled(ring, false)?;
    }
    let before = rig.machine.memory.snapshot()?;
    rig.device.release();
    rig.finish()?;
    rig.compare(&before)?;
    Ok(())
}

#[test]
fn off_is_off_and_on_is_on_again() -> Result<()> {
    let mut rig = rig()?;
    rig.switch(false)?;
    rig.tick();
    rig.add(Order::NOW)?;
    rig.machine.start()?;
    rig.finish()?;
    assert_eq!(rig.log.pages()?, BTreeSet::new());
    rig.switch(true)?;
    rig.compared(|_| Ok(()))
}

/// A migration that begins while the device works hard: after the reply to `SET_FEATURES` nothing is missed.
#[test]
fn what_is_written_after_the_reply_is_marked() -> Result<()> {
    for _ in 0..10 {
        let mut rig = rig()?;
        rig.switch(false)?;
        rig.tick();
        rig.add(Order::ELSEWHERE)?;
        rig.machine.start()?;
        rig.switch(true)?;
        // As a VMM does: it sends what it sees from now on, and then what was marked.
        let before = rig.machine.memory.snapshot()?;
        rig.finish()?;
        rig.compare(&before)?;
    }
    Ok(())
}

#[test]
fn a_new_log_takes_the_place_of_the_old_one() -> Result<()> {
    let mut rig = rig()?;
    rig.add(Order::NOW)?;
    rig.machine.start()?;
    rig.finish()?;
    let new = Log::new(LOG_BYTES * 2)?;
    new.give_to(&mut rig.machine)?;
    let mut old = std::mem::replace(&mut rig.log, new);
    let before = old.pages()?;
    assert!(!before.is_empty());
    rig.compared(|_| Ok(()))?;
    assert_eq!(old.pages()?, before);
    Ok(())
}
