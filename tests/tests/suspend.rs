//! What SUSPEND, RESUME, stopping, starting and resetting promise, against a device that does its best to break it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::frontend::FrontendError;
use common::lifecycle::Lifecycle;
use common::protocol::Options;
use common::protocol::messages::Request;
use tests::in_process::{DEADLINE, Host, Machine, Shape};
use tests::probe_device::{Order, ProbeDevice};

const NOW: Order = order(Order::NOW, 0);
const HELD: Order = order(Order::HELD, 0);
/// Guest address that the device's background work writes to.
const TICKS: u64 = 0x100;

const fn order(operation: u32, argument: u32) -> Order {
    Order {
        operation,
        argument,
    }
}

fn started() -> Result<(ProbeDevice, Host<ProbeDevice>, Machine)> {
    started_with(Options::default())
}

fn started_with(options: Options) -> Result<(ProbeDevice, Host<ProbeDevice>, Machine)> {
    let device = ProbeDevice::new();
    let host = Host::with_options(device.clone(), options);
    let mut machine = host.machine()?;
    machine.start()?;
    Ok((device, host, machine))
}

fn call(machine: &mut Machine, ring: usize, order: Order) -> Result<u64> {
    let reply = machine.call(ring, &order.bytes(), 8)?;
    Ok(u64::from_le_bytes(reply.as_slice().try_into()?))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "{what} never came");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_refused(result: &Result<(), FrontendError>) -> bool {
    matches!(result, Err(FrontendError::Refused { .. }))
}

/// Nothing happens for as long as `during` takes, and a little longer: memory stays as it is, and no ring notifies.
fn assert_still(
    machine: &mut Machine,
    during: impl FnOnce(&mut Machine) -> Result<()>,
) -> Result<()> {
    for ring in &machine.rings {
        ring.take_call()?;
    }
    let before = machine.memory.snapshot()?;
    during(machine)?;
    thread::sleep(Duration::from_millis(20));
    assert_eq!(machine.memory.changed_pages(&before)?, [0; 0]);
    for ring in &machine.rings {
        assert!(!ring.take_call()?, "ring {} notified", ring.index());
    }
    Ok(())
}

#[test]
fn requests_are_served_on_all_rings() -> Result<()> {
    let (_, _host, mut machine) = started()?;
    for number in 0..30 {
        assert_eq!(call(&mut machine, number % 3, NOW)?, number as u64);
    }
    machine.leave()??;
    Ok(())
}

#[test]
fn suspend_is_acknowledged_after_what_is_in_flight_and_nothing_moves_after_it() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    device.probe().ticking_at.store(TICKS, Ordering::SeqCst);
    until("background work", || {
        device.probe().ticks.load(Ordering::SeqCst) > 0
    });
    machine.submit(0, &HELD.bytes(), 8)?;
    machine.submit(1, &HELD.bytes(), 8)?;
    until("the requests", || device.held() == 2);
    let (sender, suspended) = channel();
    thread::scope(|scope| -> Result<()> {
        let machine = &mut machine;
        scope.spawn(move || sender.send(machine.frontend().suspend()));
        let early = suspended.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "acknowledged with requests in flight");
        device.release();
        Ok(suspended.recv_timeout(DEADLINE)??)
    })?;
    for ring in [0, 1] {
        assert!(machine.ring(ring)?.take_call()?, "the guest was not told");
        assert_eq!(machine.ring(ring)?.collect()?.len(), 1);
    }
    assert_still(&mut machine, |machine| {
        // Asked for while suspended, all answered.
        machine.frontend().features()?;
        assert_eq!(machine.frontend().ring_count()?, 3);
        Ok(())
    })?;
    machine.frontend().resume()?;
    let ticks = device.probe().ticks.load(Ordering::SeqCst);
    until("background work after RESUME", || {
        device.probe().ticks.load(Ordering::SeqCst) > ticks
    });
    call(&mut machine, 0, NOW)?;
    Ok(())
}

#[test]
fn completions_that_come_to_the_worker_itself_end_while_the_device_is_suspended_or_stopped()
-> Result<()> {
    let (device, _host, mut machine) = started()?;
    for ring in [0, 2] {
        let later = order(Order::SERVED_LATER, 20);
        let pending = machine.submit(ring, &later.bytes(), 8)?;
        until("the request", || {
            device.probe().taken_later.swap(false, Ordering::SeqCst)
        });
        machine.frontend().suspend()?;
        machine.finish(ring, pending)?;
        machine.frontend().resume()?;

        let pending = machine.submit(ring, &later.bytes(), 8)?;
        until("the request", || {
            device.probe().taken_later.swap(false, Ordering::SeqCst)
        });
        machine.stop()?;
        machine.finish(ring, pending)?;
        machine.start()?;
    }
    machine.leave()??;
    Ok(())
}

#[test]
fn kicks_while_suspended_are_served_by_resume_without_another_kick() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    machine.frontend().suspend()?;
    let kicked = machine.add(0, &NOW.bytes(), 8)?;
    let silent = machine.add(1, &NOW.bytes(), 8)?;
    machine.ring(0)?.publish()?;
    machine.ring(0)?.kick()?;
    machine.ring(1)?.publish_silently()?;
    assert_still(&mut machine, |_| Ok(()))?;
    assert_eq!(device.probe().completed.load(Ordering::SeqCst), 0);
    machine.frontend().resume()?;
    machine.finish(0, kicked)?;
    machine.finish(1, silent)?;
    Ok(())
}

#[test]
fn suspend_and_resume_may_be_repeated() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    machine.frontend().resume()?; // not suspended: no-op
    assert_eq!(call(&mut machine, 0, NOW)?, 0);
    for _ in 0..2 {
        machine.frontend().suspend()?;
    }
    assert_eq!(device.probe().suspended.load(Ordering::SeqCst), 1);
    for _ in 0..2 {
        machine.frontend().resume()?;
    }
    assert_eq!(call(&mut machine, 0, NOW)?, 1);
    Ok(())
}

#[test]
fn a_stopped_device_may_be_suspended_and_resumed_and_stays_stopped() -> Result<()> {
    let device = ProbeDevice::new();
    let host = Host::new(device.clone());
    let mut machine = host.machine()?;
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    assert_eq!(device.probe().resumed.load(Ordering::SeqCst), 0);
    machine.frontend().suspend()?;
    machine.start()?;
    let pending = machine.submit(0, &NOW.bytes(), 8)?;
    assert_still(&mut machine, |_| Ok(()))?;
    machine.frontend().resume()?;
    machine.finish(0, pending)?;
    Ok(())
}

#[test]
fn rings_stop_and_start_while_suspended_and_stay_still_until_resume() -> Result<()> {
    let (_, _host, mut machine) = started()?;
    call(&mut machine, 1, NOW)?;
    machine.frontend().suspend()?;
    machine.stop()?;
    assert_eq!(machine.bases, [0, 1, 0]);
    assert_eq!(machine.frontend().state(), Lifecycle::Suspended);
    let pending = machine.submit(1, &NOW.bytes(), 8)?;
    machine.start_ring(1)?;
    assert_still(&mut machine, |machine| machine.start_ring(2))?;
    machine.frontend().resume()?;
    machine.finish(1, pending)?;
    // And nothing at all if none was started again.
    machine.frontend().suspend()?;
    machine.stop()?;
    machine.frontend().resume()?;
    assert_eq!(machine.frontend().state(), Lifecycle::Stopped);
    machine.save()?;
    Ok(())
}

/// What is in flight ends before `GET_VRING_BASE` is answered, and is never answered after.
#[test]
fn a_held_request_ends_before_its_ring_is_stopped() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    machine.submit(0, &HELD.bytes(), 8)?;
    until("the request", || device.held() == 1);
    let (sender, stopped) = channel();
    thread::scope(|scope| -> Result<()> {
        let machine = &mut machine;
        scope.spawn(move || sender.send(machine.stop_ring(0)));
        assert!(
            stopped.recv_timeout(Duration::from_millis(50)).is_err(),
            "not drained"
        );
        device.release();
        stopped.recv_timeout(DEADLINE)?
    })?;
    assert_eq!(machine.bases[0], 1);
    assert_eq!(machine.ring(0)?.collect()?.len(), 1);
    Ok(())
}

#[test]
fn one_ring_stops_and_the_others_go_on() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    machine.submit(1, &HELD.bytes(), 8)?;
    until("the request", || device.held() == 1);
    machine.stop_ring(0)?;
    assert_eq!(call(&mut machine, 2, NOW)?, 0);
    assert!(device.probe().suspended.load(Ordering::SeqCst) == 0);
    device.release();
    machine.stop()?;
    assert_eq!(
        device.probe().suspended.load(Ordering::SeqCst),
        1,
        "implicitly"
    );
    Ok(())
}

#[test]
fn the_implicit_suspension_is_exact_at_the_last_reply() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    device.probe().ticking_at.store(TICKS, Ordering::SeqCst);
    for _ in 0..50 {
        let ticks = device.probe().ticks.load(Ordering::SeqCst);
        until("background work", || {
            device.probe().ticks.load(Ordering::SeqCst) > ticks
        });
        machine.stop()?;
        let before = machine.memory.snapshot()?;
        let ticks = device.probe().ticks.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
        assert_eq!(device.probe().ticks.load(Ordering::SeqCst), ticks);
        assert_eq!(machine.memory.changed_pages(&before)?, [0; 0]);
        machine.start()?;
    }
    Ok(())
}

#[test]
fn past_its_deadline_suspend_is_refused_and_the_device_lives_on() -> Result<()> {
    let options = Options {
        suspend_limit: Duration::from_millis(50),
        ..Options::default()
    };
    let (device, _host, mut machine) = started_with(options)?;
    let held = machine.submit(0, &HELD.bytes(), 8)?;
    until("the request", || device.held() == 1);
    assert!(is_refused(&machine.frontend().suspend()));
    assert_eq!(call(&mut machine, 1, NOW)?, 0, "the other ring");
    device.release();
    machine.finish(0, held)?;
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    call(&mut machine, 0, NOW)?;
    Ok(())
}

#[test]
fn a_device_that_refuses_to_suspend_lives_on() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    device.probe().refuse_suspend.store(true, Ordering::SeqCst);
    assert!(is_refused(&machine.frontend().suspend()));
    let ticks = device.probe().ticks.load(Ordering::SeqCst);
    until("background work", || {
        device.probe().ticks.load(Ordering::SeqCst) > ticks
    });
    call(&mut machine, 0, NOW)?;
    device.probe().refuse_suspend.store(false, Ordering::SeqCst);
    machine.frontend().suspend()?;
    Ok(())
}

#[test]
fn a_device_that_panics_as_it_is_suspended_lives_on() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    device
        .probe()
        .panic_in_suspend
        .store(true, Ordering::SeqCst);
    assert!(is_refused(&machine.frontend().suspend()));
    call(&mut machine, 0, NOW)?;
    device
        .probe()
        .panic_in_suspend
        .store(false, Ordering::SeqCst);
    machine.frontend().suspend()?;
    Ok(())
}

/// The rings are stopped all the same; but what a device that did not become silent would save is not to be trusted.
#[test]
fn a_device_that_fails_to_become_silent_is_not_saved() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    device.probe().refuse_suspend.store(true, Ordering::SeqCst);
    machine.stop()?;
    assert!(machine.save().is_err());
    device.probe().refuse_suspend.store(false, Ordering::SeqCst);
    assert!(machine.save().is_err(), "nobody asked it again");
    machine.start()?;
    call(&mut machine, 0, NOW)?;
    machine.stop()?;
    machine.save()?;
    Ok(())
}

#[test]
fn reset_leaves_the_suspension_and_disables_the_rings() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    call(&mut machine, 0, NOW)?;
    machine.frontend().suspend()?;
    machine.frontend().reset_device()?;
    assert_eq!(device.probe().reset.load(Ordering::SeqCst), 1);
    let pending = machine.submit(0, &NOW.bytes(), 8)?;
    assert_still(&mut machine, |_| Ok(()))?;
    let features = machine.features();
    machine.frontend().set_features(features)?;
    for ring in 0..3 {
        machine.frontend().set_ring_enabled(ring, true)?;
    }
    let reply = machine.finish(0, pending)?;
    assert_eq!(reply, [0; 8], "it counts from the start");
    Ok(())
}

#[test]
fn a_disabled_ring_is_not_served_and_an_enabled_one_is_looked_at() -> Result<()> {
    let (_, _host, mut machine) = started()?;
    machine.frontend().set_ring_enabled(1, false)?;
    let pending = machine.submit(1, &NOW.bytes(), 8)?;
    assert_still(&mut machine, |_| Ok(()))?;
    machine.frontend().set_ring_enabled(1, true)?;
    machine.finish(1, pending)?;
    Ok(())
}

#[test]
fn a_disconnect_ends_everything_and_the_next_front_end_starts_anew() -> Result<()> {
    let (device, host, mut machine) = started()?;
    machine.frontend().suspend()?;
    machine.leave()??;
    for event_idx in [false, true] {
        let shape = Shape {
            event_idx,
            ..Shape::default()
        };
        let mut machine = host.machine_with(shape)?;
        machine.start()?;
        call(&mut machine, 0, NOW)?;
        machine.leave()??;
    }
    let ticks = device.probe().ticks.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(
        device.probe().ticks.load(Ordering::SeqCst),
        ticks,
        "silent between guests"
    );
    Ok(())
}

/// Neither the end of the connection nor the next guest waits for it, nor sees it.
#[test]
fn a_request_that_never_ends_does_not_keep_the_connection() -> Result<()> {
    let (device, host, mut machine) = started()?;
    machine.submit(0, &HELD.bytes(), 8)?;
    until("the request", || device.held() == 1);
    // Asks for the ring back and leaves without waiting.
    let body = common::protocol::messages::RingState { index: 0, value: 0 }.encode();
    let header = common::protocol::messages::Header {
        request: Request::GET_VRING_BASE,
        flags: 1,
        size: 8,
    };
    let bytes = [header.encode().as_slice(), &body].concat();
    machine.frontend().send_raw(&bytes, &[])?;
    machine.leave()??;
    let mut next = host.machine()?;
    next.start()?;
    assert_eq!(call(&mut next, 1, NOW)?, 0);
    next.stop_ring(1)?;
    let before = next.memory.snapshot()?;
    device.release();
    assert_eq!(next.memory.changed_pages(&before)?, [0; 0]);
    call(&mut next, 0, NOW)?;
    next.leave()??;
    Ok(())
}

/// The worker is stuck inside the device as its guest crashes, and comes back when another guest's memory is there, at the
/// same addresses.
#[test]
fn a_worker_of_a_crashed_guest_leaves_the_next_one_alone() -> Result<()> {
    let (device, host, mut machine) = started()?;
    machine.submit(0, &order(Order::SLOWLY, 4_000).bytes(), 8)?;
    thread::sleep(Duration::from_millis(200));
    machine.leave()??;
    let mut next = host.machine()?;
    next.start()?;
    for _ in 0..2 {
        next.submit(0, &order(Order::PUT_BACK, 0).bytes(), 8)?;
    }
    thread::sleep(Duration::from_millis(200));
    let before = next.memory.snapshot()?;
    until("the end of the crashed guest's request", || {
        device.probe().completed.load(Ordering::SeqCst) == 1
    });
    thread::sleep(Duration::from_millis(50));
    assert_eq!(next.memory.changed_pages(&before)?, [0; 0]);
    device.accept();
    next.stop()?;
    next.start()?;
    next.leave()??;
    Ok(())
}

#[test]
fn a_panic_of_the_device_costs_one_request() -> Result<()> {
    let (device, _host, mut machine) = started()?;
    machine.add(0, &order(Order::PANIC, 0).bytes(), 8)?;
    let next = machine.submit(0, &NOW.bytes(), 8)?;
    machine.finish(0, next)?;
    call(&mut machine, 0, NOW)?;
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    call(&mut machine, 0, NOW)?;
    assert_eq!(device.probe().completed.load(Ordering::SeqCst), 3);
    Ok(())
}

#[test]
fn a_request_put_back_is_served_after_a_resume_or_by_the_next_device() -> Result<()> {
    let (device, host, mut machine) = started()?;
    let first = machine.submit(0, &order(Order::PUT_BACK, 0).bytes(), 8)?;
    machine.frontend().suspend()?;
    device.accept();
    machine.frontend().resume()?;
    machine.finish(0, first)?;

    let other = ProbeDevice::new();
    let destination = Host::new(other.clone());
    let mut machine = machine.move_to(&destination, true)?;
    drop(host);
    machine.bases[0] = 1;
    machine.start()?;
    let second = machine.submit(0, &order(Order::PUT_BACK, 0).bytes(), 8)?;
    until("a look at the ring", || {
        other.probe().resumed.load(Ordering::SeqCst) == 1
    });
    machine.stop()?;
    ensure!(machine.bases[0] == 1, "it was not put back");
    other.accept();
    let state = machine.save()?;
    let last = ProbeDevice::new();
    last.accept();
    let destination = Host::new(last);
    let mut machine = machine.move_to(&destination, false)?;
    machine.frontend().load(&mut state.as_slice())?;
    machine.make_ready()?;
    machine.start()?;
    machine.finish(0, second)?;
    machine.leave()??;
    Ok(())
}
