//! Chains that are malformed, and headers and responses that are cut anywhere.

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::daemon_runner::DEADLINE;
use tests::guest::chain::{
    Buffer, DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, Table,
};

use crate::rig::{CONTROL, EVENTS, HEADER, LUNS, REQUESTS, RESPONSE, Rig, address, header, task};

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

#[test]
fn headers_and_responses_cut_anywhere_are_given_back() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let whole = header(address(0), &READ);
    for length in 1..HEADER {
        let (written, _) = rig.exchange(REQUESTS, &[&whole[..length]], &[RESPONSE, 512])?;
        ensure!(written == 0, "a header of {length} bytes");
    }
    for length in 0..RESPONSE {
        let writable: &[usize] = if length == 0 { &[] } else { &[length] };
        let (written, reply) = rig.exchange(REQUESTS, &[&whole], writable)?;
        ensure!(
            written == 0 && reply.iter().all(|byte| *byte == 0),
            "a response of {length} bytes"
        );
    }
    let manage = task(0, address(0), 7);
    for length in 1..manage.len() {
        let (written, _) = rig.exchange(CONTROL, &[&manage[..length]], &[1])?;
        ensure!(written <= 1, "a function of {length} bytes");
    }
    // No room for the answer.
    let (written, _) = rig.exchange(CONTROL, &[&manage], &[])?;
    ensure!(written == 0);
    let query = [&[1, 0, 0, 0], address(0).as_slice(), &[0; 4]].concat();
    for room in 0..5 {
        let writable: &[usize] = if room == 0 { &[] } else { &[room] };
        let (written, _) = rig.exchange(CONTROL, &[&query], writable)?;
        ensure!(written == 0, "a notification's answer of {room} bytes");
    }
    rig.survived()
}

#[test]
fn a_request_may_be_split_anywhere() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let block: Vec<u8> = (0..512).map(|at: usize| at.to_le_bytes()[0]).collect();
    let request = [header(address(0), &WRITE), block.clone()].concat();
    for at in 1..request.len() {
        let (head, tail) = request.split_at(at);
        let first = 1 + at % (RESPONSE - 1);
        let (written, reply) = rig.exchange(REQUESTS, &[head, tail], &[first, RESPONSE - first])?;
        ensure!(written as usize == RESPONSE, "split at {at}: {written}");
        ensure!(
            reply.get(10..12) == Some(&[0, 0]),
            "split at {at}: {:?}",
            reply.get(..12)
        );
    }
    let bytes: Vec<&[u8]> = request.chunks(7).collect();
    let single = [1; 104];
    let (written, _) = rig.exchange(REQUESTS, &bytes, &[&single[..], &[4]].concat())?;
    ensure!(written as usize == RESPONSE);
    let (response, status, data) = rig.command(0, &READ, &[], 512)?;
    ensure!((response, status, data) == (0, 0, block));
    rig.survived()
}

#[test]
fn data_in_the_wrong_direction_or_too_little_of_it_is_a_transport_error() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let four = |command: [u8; 10]| {
        let mut command = command;
        command[8] = 4;
        command
    };
    for (cdb, out, room) in [
        (READ, 0, 0),
        (READ, 0, 511),
        (READ, 512, 0),
        (four(READ), 0, 2047),
        (WRITE, 0, 0),
        (WRITE, 511, 0),
        (WRITE, 0, 512),
        (four(WRITE), 512, 0),
        // In both directions, which was not offered.
        (READ, 512, 512),
        (WRITE, 512, 512),
        ([0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0, 0),
        ([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 23, 0),
        ([0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], 8, 0),
        ([0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0], 100, 0),
        ([0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0], 10, 0),
        ([0x2e, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0], 512, 0),
    ] {
        let out = vec![0xee; out];
        let (response, status, data) = rig.command(0, &cdb, &out, room)?;
        ensure!(
            response != 0 || status == 2,
            "{cdb:02x?} with {} bytes for it and room for {room}: {response}, {status}",
            out.len()
        );
        ensure!(data.iter().all(|byte| *byte == 0), "{cdb:02x?}");
    }
    // More than is needed is no error.
    let (response, status, _) = rig.command(0, &WRITE, &[0; 4096], 0)?;
    ensure!((response, status) == (0, 0));
    let (response, status, _) = rig.command(0, &READ, &[], 4096)?;
    ensure!((response, status) == (0, 0));
    rig.survived()
}

fn descriptor(buffer: Buffer, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address: buffer.address,
        length: buffer.length,
        flags: flags | if buffer.writable { DESCRIPTOR_WRITE } else { 0 },
        next,
    }
}

#[test]
fn malformed_chains_are_given_back_on_every_ring() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let request = header(address(0), &READ);
    let sound = rig.buffers(&[&request], &[RESPONSE, 512])?;
    let [read, write, ..] = sound[..] else {
        anyhow::bail!("no buffers");
    };
    let indirect = |address, length| Descriptor {
        address,
        length,
        flags: DESCRIPTOR_INDIRECT,
        next: 0,
    };
    let place = rig.memory.allocate(64)?;
    for ring in [CONTROL, EVENTS, REQUESTS] {
        for round in 0..100 {
            let ring = rig.machine.ring(ring)?;
            // One for the head, which comes back, and another one for it to lead to; both are used up.
            let (head, other) = (ring.take_descriptor()?, ring.take_descriptor()?);
            let table: [(Descriptor, Descriptor); 10] = [
                // A loop.
                (
                    descriptor(read, DESCRIPTOR_NEXT, head),
                    descriptor(write, 0, 0),
                ),
                (
                    descriptor(read, DESCRIPTOR_NEXT, other),
                    descriptor(write, DESCRIPTOR_NEXT, head),
                ),
                // To where no descriptor is.
                (
                    descriptor(read, DESCRIPTOR_NEXT, 128),
                    descriptor(write, 0, 0),
                ),
                (
                    descriptor(read, DESCRIPTOR_NEXT, u16::MAX),
                    descriptor(write, 0, 0),
                ),
                // In the wrong order.
                (
                    descriptor(write, DESCRIPTOR_NEXT, other),
                    descriptor(read, 0, 0),
                ),
                // Outside of memory.
                (
                    descriptor(
                        Buffer {
                            address: u64::MAX - 8,
                            ..read
                        },
                        DESCRIPTOR_NEXT,
                        other,
                    ),
                    descriptor(write, 0, 0),
                ),
                (
                    descriptor(read, DESCRIPTOR_NEXT, other),
                    descriptor(
                        Buffer {
                            length: u32::MAX,
                            ..write
                        },
                        0,
                        0,
                    ),
                ),
                // Tables of half a descriptor, of none, and within themselves.
                (indirect(place, 24), descriptor(write, 0, 0)),
                (indirect(place, 0), descriptor(write, 0, 0)),
                (indirect(u64::MAX - 15, 16), descriptor(write, 0, 0)),
            ];
            let (first, second) = table[round % table.len()];
            ring.write_descriptor(head, first)?;
            ring.write_descriptor(other, second)?;
            ring.offer(head)?;
            ring.expect(head);
            ring.publish()?;
            let index = ring.index();
            // An event queue looks at its buffers only when it has an event for them.
            if index as usize != EVENTS {
                let used = ring.wait(DEADLINE)?;
                ensure!(
                    used.len() == 1 && used[0].written == 0,
                    "ring {index}, {round}: {used:?}"
                );
            }
            if round == 40 {
                break; // the ring's descriptors are at their end
            }
        }
    }
    rig.release(&sound);
    // What was found on the event ring must not be in the way of what comes after.
    rig.survived()
}

/// The ring is left alone then: which of the two is given back could not be told.
#[test]
fn a_head_that_is_in_flight_already_is_complained_about_once() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let before = rig.machine.snapshot()?;
    let request = header(address(LUNS[1]), &READ);
    let buffers = rig.buffers(&[&request], &[RESPONSE, 512])?;
    let ring = rig.machine.ring(REQUESTS)?;
    let head = ring.add(&buffers, Table::Direct)?;
    for _ in 0..60 {
        ring.offer(head)?;
    }
    ring.publish()?;
    let complaints = |rig: &Rig| -> Result<usize> {
        let log = rig.daemon.log()?;
        Ok(log.matches("or it is in flight").count())
    };
    let end = Instant::now() + DEADLINE;
    while complaints(&rig)? == 0 {
        ensure!(Instant::now() < end, "nobody complains");
        std::thread::yield_now();
    }
    for _ in 0..1000 {
        rig.machine.ring(REQUESTS)?.kick()?;
    }
    rig.machine.stop()?;
    ensure!(complaints(&rig)? == 1, "{}", rig.daemon.log()?);
    let mut state = Vec::new();
    rig.machine.frontend().save(&mut state)?;
    ensure!(state == before, "another state");
    ensure!(rig.daemon.status()?.is_none());
    Ok(())
}

#[test]
fn an_index_that_jumps_is_complained_about_once() -> Result<()> {
    for ring in [CONTROL, EVENTS, REQUESTS] {
        let mut rig = Rig::start(&[])?;
        let before = rig.machine.snapshot()?;
        let driver = rig.machine.ring(ring)?;
        for _ in 0..200 {
            driver.offer(0)?; // the ring has 128 places
        }
        driver.publish()?;
        for _ in 0..1000 {
            driver.kick()?;
        }
        // The other rings go on; the device as a whole does.
        let (alive, cdb): (usize, [u8; 6]) = (REQUESTS, [0; 6]);
        if ring != REQUESTS {
            rig.exchange(alive, &[&header(address(0), &cdb)], &[RESPONSE])?;
        }
        let end = Instant::now() + DEADLINE;
        let mentions = |rig: &Rig| -> Result<usize> {
            let log = rig.daemon.log()?;
            let name = format!("ring {ring}");
            Ok(log.lines().filter(|line| line.contains(&name)).count())
        };
        // An event ring is looked at when there is an event.
        while ring != EVENTS && mentions(&rig)? == 0 {
            ensure!(Instant::now() < end, "nobody complains about ring {ring}");
            std::thread::yield_now();
        }
        ensure!(mentions(&rig)? <= 1, "{}", rig.daemon.log()?);
        rig.machine.stop()?;
        let mut state = Vec::new();
        rig.machine.frontend().save(&mut state)?;
        ensure!(state == before, "another state");
        ensure!(rig.daemon.status()?.is_none());
    }
    Ok(())
}
