//! Requests of which each may be anything, tens of thousands of them, on all three kinds of rings.
//!
//! Knows the shape of requests just well enough to get past the first check now and then. One seed is always the same; another one is
//! made of the time, and told if the test fails.

use anyhow::{Context, Result, ensure};
use tests::guest::chain::{Buffer, Table};
use tests::random::Random;

use crate::events::Operator;
use crate::rig::{CONTROL, EVENTS, LUNS, REQUESTS, RESPONSE, Rig, address, header, task};

const REQUESTS_SENT: usize = 15_000;
/// Event buffers that the device has, at most: they come back only with events.
const EVENT_BUFFERS: usize = 40;

/// Operation codes that do something; any other one comes as well.
const CODES: &[u8] = &[
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35,
    0x37, 0x41, 0x42, 0x4d, 0x55, 0x5a, 0x5e, 0x5f, 0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91,
    0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf, 0xb7,
];

fn lun(random: &mut Random) -> [u8; 8] {
    match random.below(12) {
        0 => random.number().to_le_bytes(),
        1 => [0xc1, 1, 0, 0, 0, 0, 0, 0],
        2 => address(random.byte().into()),
        _ => address(random.one_of(&LUNS, 0)),
    }
}

/// Mostly small numbers, so that ranges are within the medium.
fn command(random: &mut Random) -> Vec<u8> {
    let code = if random.one_in(20) {
        random.byte()
    } else {
        random.one_of(CODES, 0)
    };
    let mut cdb = vec![code];
    for _ in 1..16 {
        cdb.push(match random.below(12) {
            0 => random.byte(),
            1 => random.one_of(&[1, 8, 0x10, 0x12, 24, 0xff], 0),
            _ => 0,
        });
    }
    // A few blocks from somewhere in the first ones.
    if random.one_in(2) {
        let blocks_at = match code >> 5 {
            0 => 4,
            1 | 2 => 8,
            5 => 9,
            _ => 13,
        };
        let few = random.byte() & 0x0f;
        cdb.iter_mut()
            .skip(blocks_at)
            .take(1)
            .for_each(|byte| *byte = few);
    }
    cdb
}

/// Cuts bytes into buffers, or leaves them whole.
fn split<'a>(random: &mut Random, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while random.one_in(3) && bytes.len() > 1 && parts.len() < 20 {
        let (head, tail) = bytes.split_at(1 + random.below(bytes.len() - 1));
        parts.push(head);
        bytes = tail;
    }
    parts.push(bytes);
    parts
}

fn request(random: &mut Random) -> (usize, Vec<u8>, Vec<usize>) {
    if random.one_in(10) {
        let mut bytes = task(
            u32::from(random.byte() % 9),
            lun(random),
            0x0707_0707_0707_0707,
        );
        if random.one_in(4) {
            let length = 1 + random.below(40);
            bytes = random.bytes(length);
        }
        return (CONTROL, bytes, vec![random.below(8)]);
    }
    let mut bytes = header(lun(random), &command(random));
    if random.one_in(30) {
        let length = 1 + random.below(80);
        bytes = random.bytes(length);
    } else if random.one_in(2) {
        let length = random.one_of(&[8, 24, 512, 512, 1024, 4096, 8192], 512);
        // Lists are mostly zeros.
        let mut data = vec![0; length];
        for _ in 0..random.below(12) {
            let (at, byte) = (random.below(64.min(length)), random.byte());
            data.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
        }
        bytes.extend(data);
        return (REQUESTS, bytes, vec![RESPONSE]);
    }
    let writable = match random.below(8) {
        0 => vec![random.below(2 * RESPONSE)],
        1 => vec![1, random.below(RESPONSE), 3, random.below(5000), 1],
        2 => Vec::new(),
        _ => vec![RESPONSE, random.one_of(&[8, 36, 96, 512, 4096, 8192], 512)],
    };
    (REQUESTS, bytes, writable)
}

fn attack(rig: &mut Rig, operator: &mut Operator, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut answered = 0;
    for number in 0..REQUESTS_SENT {
        if random.one_in(40) {
            operator.resize(random.one_of(&LUNS, 0), 4096 + random.below(100))?;
            give_event_buffer(rig, &mut random)?;
        }
        let (ring, bytes, writable) = request(&mut random);
        let writable: Vec<usize> = writable.into_iter().filter(|size| *size > 0).collect();
        let readable = split(&mut random, &bytes);
        let (written, reply) = rig
            .exchange(ring, &readable, &writable)
            .with_context(|| format!("request {number}: {bytes:02x?}, {writable:?}"))?;
        answered += usize::from(written > 0);
        if ring == REQUESTS && written > 0 {
            let response = reply.get(11).copied().unwrap_or(0xff);
            ensure!(response <= 9, "request {number}: response {response}");
        }
    }
    ensure!(answered > REQUESTS_SENT / 2, "{answered} were answered");
    Ok(())
}

/// One more buffer of whatever size for the events that nobody waits for.
fn give_event_buffer(rig: &mut Rig, random: &mut Random) -> Result<()> {
    let room = random.one_of(&[1, 15, 16, 16, 16, 100], 16);
    let ring = rig.machine.ring(EVENTS)?;
    ring.collect()?;
    if ring.in_flight() < EVENT_BUFFERS {
        let buffers: Vec<Buffer> = rig.buffers(&[], &[room])?;
        let ring = rig.machine.ring(EVENTS)?;
        ring.add(&buffers, Table::Direct)?;
        ring.publish()?;
    }
    Ok(())
}

#[test]
fn whatever_the_guest_sends() -> Result<()> {
    for seed in [1, Random::seed_of_the_time()] {
        let (mut rig, mut operator) = Operator::with_rig()?;
        attack(&mut rig, &mut operator, seed)
            .and_then(|()| operator.restore())
            .and_then(|()| rig.survived())
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
