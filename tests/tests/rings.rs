//! What guests do with rings, rightly and wrongly: batches, notifications, indices, chains.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use tests::guest::chain::{DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor};
use tests::in_process::{DEADLINE, Host, Machine, Pending, Shape, add};
use tests::null_device::NullDevice;
use tests::probe_device::{Order, ProbeDevice};

fn now() -> [u8; 8] {
    Order::default().bytes()
}

fn both_ways(test: impl Fn(Machine) -> Result<()>) -> Result<()> {
    for event_idx in [false, true] {
        let shape = Shape {
            event_idx,
            ..Shape::default()
        };
        let host = Host::new(ProbeDevice::new());
        let mut machine = host.machine_with(shape)?;
        machine.start()?;
        test(machine)?;
    }
    Ok(())
}

fn until_used(machine: &mut Machine, ring: usize, count: usize) -> Result<Vec<u16>> {
    let end = Instant::now() + DEADLINE;
    let mut heads = Vec::new();
    while heads.len() < count {
        assert!(Instant::now() < end, "{} of {count} came back", heads.len());
        let used = machine.ring(ring)?.collect()?;
        heads.extend(used.into_iter().map(|used| used.head));
        thread::yield_now();
    }
    Ok(heads)
}

#[test]
fn a_thousand_requests_in_batches_of_every_size() -> Result<()> {
    both_ways(|mut machine| {
        for size in (1..=10).cycle().take(180) {
            let mut pending = Vec::new();
            for _ in 0..size {
                pending.push(machine.add(0, &now(), 8)?);
            }
            machine.ring(0)?.publish()?;
            let mut used = Vec::new();
            while used.len() < size {
                used.extend(machine.ring(0)?.wait(DEADLINE)?);
            }
            let memory = std::sync::Arc::clone(&machine.memory);
            for (used, pending) in used.into_iter().zip(pending) {
                assert_eq!(used.head, pending.head(), "in order");
                pending.take(&memory, used.written)?;
            }
        }
        Ok(())
    })
}

/// The call eventfd counts the notifications.
#[test]
fn a_batch_is_notified_of_once() -> Result<()> {
    both_ways(|mut machine| {
        // The device is busy with the first while the others arrive.
        let slow = Order {
            operation: Order::SLOWLY,
            argument: 30,
        };
        machine.submit(0, &slow.bytes(), 8)?;
        for _ in 0..9 {
            machine.add(0, &now(), 8)?;
        }
        machine.ring(0)?.publish_silently()?;
        until_used(&mut machine, 0, 10)?;
        machine.stop()?;
        let mut count = [0; 8];
        rustix::io::read(machine.ring(0)?.call(), &mut count)?;
        assert_eq!(u64::from_le_bytes(count), 1);
        Ok(())
    })
}

#[test]
fn with_event_idx_a_guest_that_does_not_listen_is_not_notified() -> Result<()> {
    let host = Host::new(ProbeDevice::new());
    let mut machine = host.machine()?;
    machine.start()?;
    for count in 1..=5 {
        machine.submit(0, &now(), 8)?;
        until_used(&mut machine, 0, 1)?;
        machine.stop_ring(0)?;
        machine.start_ring(0)?;
        // used_event is still 0: only the first used element crosses it.
        assert_eq!(machine.ring(0)?.take_call()?, count == 1, "request {count}");
    }
    Ok(())
}

/// QEMU enables rings before it hands over the call descriptors that the guest listens to. Until then there is none if the ring was
/// stopped before, and on a migration's destination one that it does not look at.
#[test]
fn a_notification_is_repeated_for_a_late_call_descriptor() -> Result<()> {
    let event_idx = [false, true].map(|event_idx| Shape {
        event_idx,
        ..Shape::default()
    });
    for (shape, deaf) in event_idx
        .into_iter()
        .flat_map(|shape| [(shape, false), (shape, true)])
    {
        let host = Host::new(ProbeDevice::new());
        let mut machine = host.machine_with(shape)?;
        machine.add(0, &now(), 8)?;
        machine.ring(0)?.publish_silently()?;
        let setup = machine.ring(0)?.setup(0);
        let (size, address) = (setup.size, setup.address);
        let kick = setup.kick.try_clone_to_owned()?;
        let call = setup.call.try_clone_to_owned()?;
        let frontend = machine.frontend();
        if deaf {
            frontend.set_ring_call(0, eventfd(0, EventfdFlags::CLOEXEC)?)?;
        }
        frontend.set_ring_size(0, size)?;
        frontend.set_ring_base(0, 0)?;
        frontend.set_ring_address(address)?;
        frontend.set_ring_kick(0, kick)?;
        frontend.set_ring_enabled(0, true)?;
        until_used(&mut machine, 0, 1)?;
        // The guest would have been notified by the end of this.
        machine.frontend().suspend()?;
        machine.frontend().resume()?;
        assert!(!machine.ring(0)?.take_call()?, "by what?");
        machine.frontend().set_ring_call(0, &call)?;
        assert!(machine.ring(0)?.take_call()?, "{shape:?} {deaf}");
        // Nothing to be repeated for a ring that is stopped, or that has just been started.
        machine.stop_ring(0)?;
        machine.frontend().set_ring_call(0, &call)?;
        machine.start_ring(0)?;
        assert!(!machine.ring(0)?.take_call()?);
    }
    Ok(())
}

/// A guest that boots puts requests on its rings before they start, and does not kick again.
#[test]
fn what_is_on_a_ring_when_it_starts_is_served() -> Result<()> {
    for event_idx in [false, true] {
        let shape = Shape {
            event_idx,
            ..Shape::default()
        };
        let host = Host::new(ProbeDevice::new());
        let mut machine = host.machine_with(shape)?;
        for _ in 0..20 {
            let pending = [0, 1, 2].map(|ring| machine.add(ring, &now(), 8));
            for ring in 0..3 {
                machine.ring(ring)?.publish_silently()?;
            }
            machine.start()?;
            for (ring, pending) in pending.into_iter().enumerate() {
                machine.finish(ring, pending?)?;
            }
            machine.stop()?;
        }
    }
    Ok(())
}

#[test]
fn malformed_chains_come_back_empty_and_the_next_request_is_served() -> Result<()> {
    both_ways(|mut machine| {
        let page = machine.memory.allocate(4096)?;
        let outside = 1 << 40;
        let descriptor = |address, length, flags, next| Descriptor {
            address,
            length,
            flags,
            next,
        };
        let cases = [
            descriptor(outside, 8, 0, 0),
            descriptor(u64::MAX - 3, 8, DESCRIPTOR_WRITE, 0),
            descriptor(page, 8, DESCRIPTOR_NEXT, 9_999),
            descriptor(page, 24, DESCRIPTOR_INDIRECT, 0),
            descriptor(outside, 16, DESCRIPTOR_INDIRECT, 0),
            descriptor(page, u32::MAX, 0, 0),
        ];
        for malformed in cases {
            let ring = machine.ring(0)?;
            let head = ring.take_descriptor()?;
            ring.write_descriptor(head, malformed)?;
            ring.expect(head);
            ring.offer(head)?;
            ring.publish()?;
            let used = ring.wait(DEADLINE)?;
            assert_eq!((used[0].head, used[0].written), (head, 0), "{malformed:?}");
            // A loop, of the same descriptor.
            let ring = machine.ring(0)?;
            ring.write_descriptor(head, descriptor(page, 1, DESCRIPTOR_NEXT, head))?;
            ring.expect(head);
            ring.offer(head)?;
            ring.publish()?;
            assert_eq!(ring.wait(DEADLINE)?[0].written, 0);
        }
        assert_eq!(machine.call(0, &now(), 8)?.len(), 8);
        Ok(())
    })
}

/// Requests that are too short for the device are the device's to answer.
#[test]
fn a_short_request_and_a_small_reply_are_answered() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut machine = host.machine()?;
    machine.start()?;
    assert_eq!(machine.call(0, &[1; 7], 8)?, [0; 0]);
    assert_eq!(machine.call(0, &[0; 8], 7)?, [0; 0]);
    assert_eq!(
        machine.call(0, &1_u64.to_le_bytes(), 8)?,
        1_u64.to_le_bytes()
    );
    Ok(())
}

/// The ring that makes no sense does nothing, costs nothing, and is in nobody's way.
#[test]
fn an_index_out_of_reach_stops_its_ring_only() -> Result<()> {
    let device = ProbeDevice::new();
    let host = Host::new(device.clone());
    let mut machine = host.machine()?;
    machine.start()?;
    machine.call(0, &now(), 8)?;
    for _ in 0..=64 {
        machine.ring(0)?.offer(0)?;
    }
    machine.ring(0)?.publish_silently()?;
    machine.ring(0)?.kick()?;
    for _ in 0..10 {
        machine.call(1, &now(), 8)?;
    }
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    machine.call(2, &now(), 8)?;
    assert_eq!(device.probe().completed.load(Ordering::SeqCst), 12);
    // Set up anew it works again.
    machine.stop()?;
    machine.ring(0)?.reset()?;
    machine.bases = vec![0, 10, 1];
    machine.start()?;
    machine.call(0, &now(), 8)?;
    Ok(())
}

/// Trap 6 of the stock crates: the kick descriptor is replaced under a running ring.
#[test]
fn a_kick_descriptor_may_be_replaced() -> Result<()> {
    let host = Host::new(ProbeDevice::new());
    let mut machine = host.machine()?;
    machine.start()?;
    machine.call(0, &now(), 8)?;
    for _ in 0..20 {
        machine.stop_ring(0)?;
        machine.start_ring(0)?;
        machine.call(0, &now(), 8)?;
    }
    Ok(())
}

/// Traps 2 to 4: events that come late, kicks that somebody else has read. No worker dies of them.
#[test]
fn rings_that_stop_and_start_under_a_storm_of_kicks_go_on() -> Result<()> {
    let host = Host::new(ProbeDevice::new());
    let mut machine = host.machine()?;
    machine.start()?;
    let kicks = [0, 1, 2].map(|ring| {
        let setup = machine.rings[ring].setup(0);
        setup.kick.try_clone_to_owned().unwrap()
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for kick in &kicks {
                    let _full = rustix::io::write(kick, &1_u64.to_le_bytes());
                    let _read_by_the_device = rustix::io::read(kick, &mut [0; 8]);
                    let _full = rustix::io::write(kick, &1_u64.to_le_bytes());
                }
                thread::sleep(Duration::from_micros(50));
            }
        });
        let result = (|| {
            for round in 0..100 {
                machine.stop_ring(round % 3)?;
                machine.start_ring(round % 3)?;
                machine.call((round + 1) % 3, &now(), 8)?;
                machine.call(round % 3, &now(), 8)?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// QEMU does so for every ring when a migration begins, and when one fails, while the guest runs: with dirty logging on, or off again.
#[test]
fn addresses_that_are_set_again_on_a_running_ring_lose_nothing() -> Result<()> {
    let host = Host::new(NullDevice::default());
    let mut machine = host.machine()?;
    machine.start()?;
    let mut ring = machine.rings.remove(0);
    let address = ring.setup(0).address;
    let memory = std::sync::Arc::clone(&machine.memory);
    thread::scope(|scope| {
        let guest = scope.spawn(move || -> Result<()> {
            for _ in 0..3_000 {
                let pending: Vec<_> = (0..8)
                    .map(|_| add(&memory, &mut ring, &now(), 8))
                    .collect::<Result<_>>()?;
                ring.publish()?;
                let mut heads: Vec<_> = pending.iter().map(Pending::head).collect();
                while !heads.is_empty() {
                    for used in ring.wait(DEADLINE)? {
                        let place = heads.iter().position(|head| *head == used.head);
                        heads.remove(place.context("it came back twice")?);
                    }
                }
                for pending in pending {
                    pending.take(&memory, 0)?;
                }
            }
            Ok(())
        });
        while !guest.is_finished() {
            machine.frontend().set_ring_address(address)?;
        }
        guest.join().expect("the guest")
    })?;
    machine.leave()??;
    Ok(())
}
