//! Does a ring's thread that looks for more before it sleeps keep anybody waiting: whoever stops the device, or a request that comes in the
//! moment in which it gives up?

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::fuse_client::{ROOT, encode, init_arguments, outcome, request};
use tests::in_process::{DEADLINE, Host, Machine, Pending, Shape};
use tests::random::Random;
use vhost_device_fs::config::Config;
use vhost_device_fs::device::FsDevice;
use vhost_device_fs::fuse::abi::{GetAttrIn, Opcode, OutHeader};
use vhost_device_fs::fuse::wire::Wire;

/// The first ring for requests.
const RING: usize = 1;
/// Enough for each reply.
const ROOM: usize = 256;
/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_hours(1);

fn get_attr() -> Vec<u8> {
    request(Opcode::GetAttr, ROOT, 2, &encode(&GetAttrIn::default()))
}

/// A guest of a device that looks for `busy_poll`; INIT is done.
fn guest(share: &tempfile::TempDir, busy_poll: Duration, event_idx: bool) -> Result<Machine> {
    let mut config = Config::new(share.path());
    config.busy_poll = busy_poll;
    let host = Host::new(FsDevice::new(config)?);
    let mut machine = host.machine_with(Shape {
        event_idx,
        ..Shape::default()
    })?;
    machine.start()?;
    let init = request(Opcode::Init, 0, 2, &init_arguments(0));
    ensure!(outcome(&machine.call(RING, &init, ROOM)?, 2)? == 0);
    Ok(machine)
}

/// A request that nobody tells the device of.
fn add_silently(machine: &mut Machine) -> Result<Pending> {
    let pending = machine.add(RING, &get_attr(), ROOM)?;
    machine.ring(RING)?.publish_silently()?;
    Ok(pending)
}

/// Its answer, which the guest looks for as the device does, if it comes by `end`.
fn answer_by(machine: &mut Machine, end: Instant) -> Result<bool> {
    while Instant::now() < end {
        if let Some(used) = machine.ring(RING)?.collect()?.first() {
            ensure!(used.written as usize > OutHeader::SIZE, "{used:?}");
            return Ok(true);
        }
        thread::yield_now();
    }
    Ok(false)
}

fn answer(machine: &mut Machine, pending: Pending) -> Result<()> {
    ensure!(
        answer_by(machine, Instant::now() + DEADLINE)?,
        "it is never answered"
    );
    pending.take(&machine.memory, 0)?;
    Ok(())
}

/// One that looks for ever finds what it is not told of.
fn until_it_looks(machine: &mut Machine) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let pending = add_silently(machine)?;
        let looked = answer_by(machine, Instant::now() + Duration::from_millis(20))?;
        if looked {
            pending.take(&machine.memory, 0)?;
            return Ok(());
        }
        ensure!(Instant::now() < end, "it never looks");
        // It was asleep, or very slow. From the next one on it has had a short pause.
        machine.ring(RING)?.kick()?;
        answer(machine, pending)?;
    }
}

#[test]
fn whoever_stops_the_device_does_not_wait_for_one_who_looks() -> Result<()> {
    for event_idx in [false, true] {
        let share = tempfile::tempdir()?;
        let mut machine = guest(&share, FOR_EVER, event_idx)?;
        until_it_looks(&mut machine)?;
        machine.frontend().suspend()?;
        let pending = add_silently(&mut machine)?;
        let before = machine.memory.snapshot()?;
        thread::sleep(Duration::from_millis(20));
        ensure!(machine.memory.changed_pages(&before)?.is_empty());
        machine.frontend().resume()?;
        answer(&mut machine, pending)?;
        until_it_looks(&mut machine)?;
        machine.stop()?;
        let pending = add_silently(&mut machine)?;
        let before = machine.memory.snapshot()?;
        thread::sleep(Duration::from_millis(20));
        ensure!(machine.memory.changed_pages(&before)?.is_empty());
        machine.start()?;
        answer(&mut machine, pending)?;
        until_it_looks(&mut machine)?;
        machine.leave()??;
    }
    Ok(())
}

/// The guest kicks only if it is asked to, and pauses for about as long as it is looked for.
#[test]
fn no_request_is_lost_when_looking_ends() -> Result<()> {
    const LOOK: Duration = Duration::from_micros(20);
    for event_idx in [false, true] {
        let share = tempfile::tempdir()?;
        let mut machine = guest(&share, LOOK, event_idx)?;
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let pause = Instant::now();
            let length = LOOK * u32::try_from(random.below(200))? / 100;
            while pause.elapsed() < length {
                std::hint::spin_loop();
            }
            let pending = machine.submit(RING, &get_attr(), ROOM)?;
            answer(&mut machine, pending)?;
        }
    }
    Ok(())
}
