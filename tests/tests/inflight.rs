//! Does a request outlive the back-end that has popped it? With a region for requests in flight it does, and ends once.
//!
//! Back-ends are threads here, so that one can be caught in any state: a crash is a back-end that is not asked any more. Real
//! crashes are in `scsi_crash.rs`.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use common::frontend::{FrontendError, InflightRegion};
use common::lifecycle::Lifecycle;
use common::protocol::messages::{Inflight, Request, protocol_feature};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tests::daemon_runner::Daemon;
use tests::in_process::{DEADLINE, Host, Machine};
use tests::null_device::NullDevice;
use tests::probe_device::{Order, ProbeDevice};

const RINGS: u16 = 3;
const RING_SIZE: u16 = 64;

fn order(operation: u32) -> [u8; 8] {
    Order {
        operation,
        argument: 0,
    }
    .bytes()
}

/// A device that is started and writes down what is in flight.
fn tracked(device: &ProbeDevice) -> Result<(Host<ProbeDevice>, Machine, InflightRegion)> {
    let host = Host::new(device.clone());
    let mut machine = host.machine()?;
    let region = machine.frontend().new_inflight(RINGS, RING_SIZE)?;
    machine.frontend().set_inflight(&region)?;
    machine.start()?;
    Ok((host, machine, region))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Takes `count` requests off ring 0; fails if one comes back that the driver does not wait for.
fn collect(machine: &mut Machine, count: usize) -> Result<()> {
    let mut used = 0;
    while used < count {
        used += machine.ring(0)?.wait(DEADLINE)?.len();
    }
    assert_eq!(used, count);
    Ok(())
}

#[test]
fn it_is_offered_by_devices_that_can_do_it() -> Result<()> {
    let offered = |daemon: &Daemon| -> Result<bool> {
        let offer = daemon.connect()?.negotiate(0)?;
        Ok(offer.protocol_features & protocol_feature::INFLIGHT_SHMFD != 0)
    };
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len(1 << 20)?;
    assert!(offered(&Daemon::start("vhost-device-scsi", [&image])?)?);
    let shared = ["--shared-dir".as_ref(), folder.path().as_os_str()];
    assert!(!offered(&Daemon::start("vhost-device-fs", shared)?)?);
    Ok(())
}

/// A device that does not want it has no such message, and the stock answer to that is to hang up.
#[test]
fn where_it_is_not_offered_nobody_answers() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut machine = host.machine()?;
    assert!(matches!(
        machine.frontend().new_inflight(1, RING_SIZE),
        Err(FrontendError::NotNegotiated { .. })
    ));
    let body = Inflight {
        rings: 1,
        ring_size: RING_SIZE,
        ..Inflight::default()
    };
    let asked = machine
        .frontend()
        .query(Request::GET_INFLIGHT_FD, &body.encode(), &[]);
    assert!(asked.is_err());
    Ok(())
}

#[test]
fn what_a_back_end_left_in_flight_the_next_one_finishes_once() -> Result<()> {
    let (first, next) = (ProbeDevice::new(), ProbeDevice::new());
    let (_host, mut machine, region) = tracked(&first)?;
    for operation in [Order::HELD, Order::NOW, Order::HELD, Order::NOW] {
        machine.add(0, &order(operation), 8)?;
    }
    machine.ring(0)?.publish()?;
    until("two are held", || first.held() == 2);
    until("two are done", || {
        first.probe().completed.load(Ordering::SeqCst) == 2
    });
    collect(&mut machine, 2)?;

    let host = Host::new(next.clone());
    let (mut machine, _crashed) = machine.take_over(&host)?;
    machine.frontend().set_inflight(&region)?;
    // One more, which comes after them.
    machine.submit(0, &order(Order::NOW), 8)?;
    machine.start()?;
    until("they are held once more", || next.held() == 2);
    collect(&mut machine, 1)?;
    assert_eq!(next.probe().resubmitted.load(Ordering::SeqCst), 2);
    next.release();
    collect(&mut machine, 2)?;
    assert_eq!(machine.ring(0)?.in_flight(), 0);
    machine.stop()?;
    assert_eq!(machine.bases[0], 5);
    Ok(())
}

/// The same requests are in flight in one process after the other; new ones come, old ones end.
#[test]
fn crash_after_crash_every_request_ends_once() -> Result<()> {
    let mut device = ProbeDevice::new();
    let (_host, mut machine, region) = tracked(&device)?;
    let mut crashed = Vec::new();
    let mut most = 0;
    for round in 0..50_u32 {
        for number in 0..4 {
            let held = (round + number) % 3 == 0;
            machine.add(0, &order(if held { Order::HELD } else { Order::NOW }), 8)?;
        }
        machine.ring(0)?.publish()?;
        until_held(&mut machine, &device)?;
        most = most.max(device.held());
        if round % 5 == 4 {
            device.release();
        }
        let next = ProbeDevice::new();
        let host = Host::new(next.clone());
        let (taken_over, connection) = machine.take_over(&host)?;
        machine = taken_over;
        machine.frontend().set_inflight(&region)?;
        machine.start()?;
        crashed.push((std::mem::replace(&mut device, next), connection, host));
    }
    until_held(&mut machine, &device)?;
    device.release();
    assert_eq!(
        machine.ring(0)?.in_flight(),
        machine.ring(0)?.collect()?.len()
    );
    assert!(most > 5, "{most} in flight at most");
    Ok(())
}

/// Everything is popped, and has come back or is held.
fn until_held(machine: &mut Machine, device: &ProbeDevice) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while machine.ring(0)?.in_flight() != device.held() {
        assert!(Instant::now() < end, "something is lost");
        machine.ring(0)?.collect()?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// `GET_VRING_BASE` tells the next back-end where to go on, which may be on another host and know of no region.
#[test]
fn a_ring_stops_after_what_it_owes() -> Result<()> {
    for suspend in [false, true] {
        let (first, next) = (ProbeDevice::new(), ProbeDevice::new());
        let (_host, mut machine, region) = tracked(&first)?;
        for _ in 0..20 {
            machine.add(0, &order(Order::HELD), 8)?;
        }
        machine.ring(0)?.publish()?;
        until("all are held", || first.held() == 20);
        let host = Host::new(next.clone());
        let (mut machine, _crashed) = machine.take_over(&host)?;
        machine.frontend().set_inflight(&region)?;
        machine.start()?;
        let releaser = thread::spawn({
            let next = next.clone();
            move || {
                until("all are held once more", || next.held() == 20);
                next.release();
            }
        });
        if suspend {
            machine.frontend().suspend()?;
        }
        machine.stop()?;
        assert_eq!(machine.ring(0)?.collect()?.len(), 20, "suspend: {suspend}");
        assert_eq!(machine.bases[0], 20);
        let _panicked = releaser.join();
        // With the base alone it goes on elsewhere.
        let elsewhere = Host::new(ProbeDevice::new());
        let mut machine = machine.move_to(&elsewhere, true)?;
        machine.start()?;
        machine.call(0, &order(Order::NOW), 8)?;
    }
    Ok(())
}

/// Its worker is busy with another ring, and has not even looked.
#[test]
fn a_ring_stops_after_what_it_owes_and_nobody_has_looked_at() -> Result<()> {
    let (first, next) = (ProbeDevice::new(), ProbeDevice::new());
    let (_host, mut machine, region) = tracked(&first)?;
    machine.submit(2, &order(Order::HELD), 8)?;
    until("it is held", || first.held() == 1);
    let host = Host::new(next.clone());
    let (mut machine, _crashed) = machine.take_over(&host)?;
    machine.frontend().set_inflight(&region)?;
    let slow = Order {
        operation: Order::SLOWLY,
        argument: 300,
    };
    machine.submit(1, &slow.bytes(), 8)?;
    machine.start()?;
    let releaser = thread::spawn({
        let next = next.clone();
        move || {
            until("it is held once more", || next.held() == 1);
            next.release();
        }
    });
    machine.stop_ring(2)?;
    assert_eq!(machine.ring(2)?.collect()?.len(), 1);
    assert_eq!(machine.bases[2], 1);
    assert!(releaser.join().is_ok());
    Ok(())
}

/// A device that is resumed later is resubmitted to later.
#[test]
fn what_is_owed_waits_for_resume() -> Result<()> {
    let (first, next) = (ProbeDevice::new(), ProbeDevice::new());
    let (_host, mut machine, region) = tracked(&first)?;
    machine.submit(0, &order(Order::HELD), 8)?;
    until("it is held", || first.held() == 1);
    let host = Host::new(next.clone());
    let (mut machine, _crashed) = machine.take_over(&host)?;
    machine.frontend().suspend()?;
    machine.frontend().set_inflight(&region)?;
    machine.start()?;
    machine.stop()?;
    assert_eq!(next.held(), 0);
    assert_eq!(machine.frontend().state(), Lifecycle::Suspended);
    machine.frontend().set_inflight(&region)?;
    machine.start()?;
    machine.frontend().resume()?;
    until("it is held once more", || next.held() == 1);
    next.release();
    collect(&mut machine, 1)
}

#[test]
fn a_region_is_good_for_many_starts_and_a_new_one_for_a_used_ring() -> Result<()> {
    let device = ProbeDevice::new();
    let (_host, mut machine, region) = tracked(&device)?;
    for round in 0..20 {
        machine.call(0, &order(Order::NOW), 8)?;
        machine.stop()?;
        assert_eq!(machine.bases[0], round + 1);
        machine.frontend().set_inflight(&region)?;
        machine.start()?;
    }
    // As after a migration: the ring was used, the region was not (SPDK#3766).
    let next = ProbeDevice::new();
    let host = Host::new(next.clone());
    machine.stop()?;
    let mut machine = machine.move_to(&host, true)?;
    let fresh = machine.frontend().new_inflight(RINGS, RING_SIZE)?;
    machine.frontend().set_inflight(&fresh)?;
    machine.start()?;
    machine.submit(0, &order(Order::HELD), 8)?;
    until("it is held", || next.held() == 1);
    let last = ProbeDevice::new();
    let host = Host::new(last.clone());
    let (mut machine, _crashed) = machine.take_over(&host)?;
    machine.frontend().set_inflight(&fresh)?;
    machine.start()?;
    until("it is held once more", || last.held() == 1);
    last.release();
    collect(&mut machine, 1)
}

/// The daemon lives, and the front-end comes back: what is still going on must not be begun once more beside it.
#[test]
fn a_front_end_that_left_is_followed_when_its_requests_have_ended() -> Result<()> {
    let device = ProbeDevice::new();
    let (host, mut machine, region) = tracked(&device)?;
    machine.submit(0, &order(Order::HELD), 8)?;
    until("it is held", || device.held() == 1);
    let releaser = thread::spawn({
        let device = device.clone();
        move || {
            // Longer than requests get otherwise.
            thread::sleep(Duration::from_secs(3));
            assert_eq!(device.held(), 1);
            device.release();
        }
    });
    let mut machine = machine.move_to(&host, true)?;
    assert_eq!(device.held(), 0, "the next front-end is served beside it");
    assert!(releaser.join().is_ok());
    let used = machine.ring(0)?.collect()?.len();
    assert_eq!(used, 1, "it ended before the next front-end could come");
    machine.bases[0] = 1;
    machine.frontend().set_inflight(&region)?;
    machine.start()?;
    machine.call(0, &order(Order::NOW), 8)?;
    assert_eq!(device.probe().resubmitted.load(Ordering::SeqCst), 0);
    Ok(())
}

#[test]
fn regions_that_are_none_are_refused_and_the_device_goes_on() -> Result<()> {
    let device = ProbeDevice::new();
    let (_host, mut machine, region) = tracked(&device)?;
    for (rings, ring_size) in [(0, 64), (4, 64), (3, 0), (3, 1025), (u16::MAX, u16::MAX)] {
        assert!(matches!(
            machine.frontend().new_inflight(rings, ring_size),
            Err(FrontendError::Refused { .. })
        ));
    }
    let short = memfd_create("short", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&short, 100)?;
    let forged = InflightRegion {
        layout: region.layout,
        file: short,
    };
    assert!(matches!(
        machine.frontend().set_inflight(&forged),
        Err(FrontendError::Refused { .. })
    ));
    machine.call(0, &order(Order::NOW), 8)?;
    // Cut short after it was handed over.
    assert!(ftruncate(&region.file, 0).is_err());
    machine.call(0, &order(Order::NOW), 8)?;
    // Without a file, or of another length, it is no message.
    for body in [&region.layout.encode()[..], &[0; 19], &[0; 25]] {
        let refused = machine
            .frontend()
            .command(Request::SET_INFLIGHT_FD, body, &[]);
        assert!(refused.is_err());
    }
    machine.call(0, &order(Order::NOW), 8)?;
    Ok(())
}

/// What the front-end writes into the region while it is in use, or before: at worst its ring is left alone.
#[test]
fn a_region_full_of_anything_harms_nobody() -> Result<()> {
    for byte in [0x01, 0x55, 0xff] {
        let device = ProbeDevice::new();
        let (_host, mut machine, region) = tracked(&device)?;
        machine.call(0, &order(Order::NOW), 8)?;
        let size = usize::try_from(region.layout.size)?;
        rustix::io::pwrite(&region.file, &vec![byte; size], 0)?;
        machine.call(0, &order(Order::NOW), 8)?;
        machine.stop()?;
        let refused = machine.frontend().set_inflight(&region);
        assert!(matches!(refused, Err(FrontendError::Refused { .. })));
        machine.start()?;
        // Left alone, which nobody has to wait for.
        machine.submit(0, &order(Order::NOW), 8)?;
        machine.frontend().suspend()?;
        machine.frontend().resume()?;
        machine.stop()?;
        let fresh = machine.frontend().new_inflight(RINGS, RING_SIZE)?;
        machine.frontend().set_inflight(&fresh)?;
        machine.start()?;
        collect(&mut machine, 1)?;
    }
    Ok(())
}
