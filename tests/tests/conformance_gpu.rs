//! The GPU passes the suite that every device must pass.
//!
//! Without a display: what is said to one, and when, is asked by the GPU's own tests.

use anyhow::{Result, ensure};
use tests::conformance::{self, Load, Subject};
use tests::in_process::{Host, Machine};
use vhost_device_gpu::config::Config;
use vhost_device_gpu::device::GpuDevice;

const CONTROL_RING: usize = 0;
const CURSOR_RING: usize = 1;

const CREATE: u32 = 0x101;
const UNREF: u32 = 0x102;
const SET_SCANOUT: u32 = 0x103;
const FLUSH: u32 = 0x104;
const TRANSFER: u32 = 0x105;
const ATTACH: u32 = 0x106;
const DISPLAY_INFO: u32 = 0x100;
const UPDATE_CURSOR: u32 = 0x300;
const MOVE_CURSOR: u32 = 0x301;

const OK: u32 = 0x1100;
const OK_DISPLAY_INFO: u32 = 0x1101;
const INVALID_RESOURCE_ID: u32 = 0x1203;

const HEADER_BYTES: usize = 24;
/// Width and height of every resource, in pixels.
const SIDE: u32 = 64;
/// Resources that the exercises do not touch.
const PREPARED: u32 = 1 << 20;

struct Gpu;

impl Gpu {
    fn config() -> Config {
        Config {
            headless: true,
            outputs_max: 2,
            ..Config::default()
        }
    }
}

/// The bytes of a command.
fn command(kind: u32, words: &[u32]) -> Vec<u8> {
    let header = [kind, 0, 0, 0, 0, 0];
    let all = header.iter().chain(words);
    all.flat_map(|word| word.to_le_bytes()).collect()
}

/// The number of an answer.
fn number(answer: &[u8]) -> u32 {
    let first = answer.first_chunk().copied().unwrap_or_default();
    u32::from_le_bytes(first)
}

fn ask(guest: &mut Machine, kind: u32, words: &[u32], expected: u32) -> Result<()> {
    let ring = if kind >= UPDATE_CURSOR {
        CURSOR_RING
    } else {
        CONTROL_RING
    };
    let answer = guest.call(ring, &command(kind, words), HEADER_BYTES)?;
    let found = number(&answer);
    ensure!(
        found == expected,
        "command {kind:#x} {words:?}: {found:#x}, and not {expected:#x}"
    );
    Ok(())
}

/// Creates a resource and gives it a backing with a pattern.
fn create(guest: &mut Machine, id: u32, seed: u64) -> Result<()> {
    ask(guest, CREATE, &[id, 1, SIDE, SIDE], OK)?;
    let pattern: Vec<u8> = (0..u64::from(SIDE * SIDE * 4))
        .map(|at| u8::try_from((at * 7 + seed) % 251).unwrap_or(0))
        .collect();
    let address = guest.memory.allocate(pattern.len() as u64)?;
    guest.memory.write(address, &pattern)?;
    let (low, high) = (address & 0xffff_ffff, address >> 32);
    let entry = [
        u32::try_from(low)?,
        u32::try_from(high)?,
        SIDE * SIDE * 4,
        0,
    ];
    ask(guest, ATTACH, &[&[id, 1][..], &entry].concat(), OK)
}

fn show(guest: &mut Machine, head: u32, id: u32) -> Result<()> {
    let whole = [0, 0, SIDE, SIDE];
    let words = [&whole[..], &[0, 0, id, 0]].concat();
    ask(guest, TRANSFER, &words, OK)?;
    ask(guest, SET_SCANOUT, &[&whole[..], &[head, id]].concat(), OK)?;
    ask(guest, FLUSH, &[&whole[..], &[id, 0]].concat(), OK)
}

impl Subject for Gpu {
    type Device = GpuDevice;

    fn create(&self) -> Result<GpuDevice> {
        Ok(GpuDevice::new(Self::config())?)
    }

    fn prepare(&self, guest: &mut Machine) -> Result<()> {
        create(guest, PREPARED, 1)?;
        show(guest, 1, PREPARED)
    }

    /// A new resource on the screen each time; the one before it is still there, the one before that is not.
    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        let id = u32::try_from(number)? + 1;
        create(guest, id, number)?;
        show(guest, 0, id)?;
        let cursor = [0, id, id, 0, id, 3, 4, 0];
        ask(guest, UPDATE_CURSOR, &cursor, OK)?;
        if let Some(before) = id.checked_sub(1).filter(|before| *before > 0) {
            ask(guest, CREATE, &[before, 1, 1, 1], INVALID_RESOURCE_ID)?;
            ask(guest, UNREF, &[before, 0], OK)?;
            ask(guest, UNREF, &[before, 0], INVALID_RESOURCE_ID)?;
        }
        Ok(())
    }

    fn loads(&self) -> Vec<Load> {
        let part = [8, 4, 16, 8];
        let offset = (4 * SIDE + 8) * 4;
        let transfer = command(TRANSFER, &[&part[..], &[offset, 0, PREPARED, 0]].concat());
        let flush = command(FLUSH, &[&part[..], &[PREPARED, 0]].concat());
        let cursor = command(MOVE_CURSOR, &[0, 7, 8, 0, PREPARED, 0, 0, 0]);
        let info = command(DISPLAY_INFO, &[]);
        vec![
            Load {
                ring: CONTROL_RING,
                requests: vec![transfer, flush, info],
                reply_len: HEADER_BYTES + 16 * 24,
                is_answer: |answer| match number(answer) {
                    OK => answer.len() == HEADER_BYTES,
                    OK_DISPLAY_INFO => answer.len() == HEADER_BYTES + 16 * 24,
                    _ => false,
                },
            },
            Load {
                ring: CURSOR_RING,
                requests: vec![cursor],
                reply_len: HEADER_BYTES,
                is_answer: |answer| number(answer) == OK,
            },
        ]
    }

    /// A screen that these devices do not have.
    fn refused_states(&self, _good: &[u8]) -> Result<Vec<Vec<u8>>> {
        let config = Config {
            outputs_max: 3,
            ..Self::config()
        };
        let host = Host::new(GpuDevice::new(config)?);
        let mut machine = host.machine_with(self.shape())?;
        machine.start()?;
        create(&mut machine, 1, 1)?;
        show(&mut machine, 2, 1)?;
        machine.stop()?;
        let state = machine.save()?;
        machine.leave()??;
        Ok(vec![state])
    }
}

#[test]
fn the_gpu_conforms() -> Result<()> {
    conformance::run(&Gpu)
}
