//! Task management of what there is not: functions, units, tags.

use anyhow::{Result, ensure};

use crate::rig::{CONTROL, LUNS, REQUESTS, RESPONSE, Rig, address, header, task};

/// COMPLETE, BAD TARGET, SUCCEEDED, REJECTED and INCORRECT LUN (virtio 1.3, 5.6.6.2).
const ANSWERS: [u8; 5] = [0, 3, 10, 11, 12];

/// Addresses of units that are there, that could be, and that make no sense.
const ADDRESSES: [[u8; 8]; 12] = [
    [1, 0, 0x40, 0, 0, 0, 0, 0],
    [1, 0, 0x40, 5, 0, 0, 0, 0],
    [1, 0, 0, 5, 0, 0, 0, 0],
    [1, 0, 0x40, 6, 0, 0, 0, 0],
    [1, 0, 0x7f, 0xff, 0, 0, 0, 0],
    [1, 0, 0x80, 0, 0, 0, 0, 0],
    [1, 0, 0xc1, 1, 0, 0, 0, 0],
    [1, 1, 0x40, 0, 0, 0, 0, 0],
    [1, 0xff, 0x40, 0, 0, 0, 0, 0],
    [0; 8],
    [0xc1, 1, 0, 0, 0, 0, 0, 0],
    [0xff; 8],
];

#[test]
fn every_function_on_every_unit_is_answered() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    for function in (0..12).chain([255, 1 << 31, u32::MAX]) {
        for lun in ADDRESSES {
            for id in [0, 7, 0x0707_0707_0707_0707, u64::MAX] {
                let (written, answer) = rig.exchange(CONTROL, &[&task(function, lun, id)], &[1])?;
                ensure!(
                    written == 1 && answer.iter().all(|byte| ANSWERS.contains(byte)),
                    "function {function}, {lun:02x?}, {id:#x}: {written}, {answer:?}"
                );
                if (8..).contains(&function) || function == 2 {
                    ensure!(answer != [0], "function {function} is there");
                }
            }
        }
    }
    // Of another type than a function.
    for kind in (1_u32..6).chain([255, u32::MAX]) {
        for lun in ADDRESSES {
            let request = [kind.to_le_bytes().as_slice(), &lun, &[0xff; 12]].concat();
            rig.exchange(CONTROL, &[&request], &[5])?;
        }
    }
    rig.survived()
}

#[test]
fn functions_amid_commands_lose_none_of_them() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let commands: [&[u8]; 4] = [
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 64, 0],
        &[0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0xff, 0, 0],
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0; 6],
    ];
    let room = [RESPONSE, 64 * 512];
    for round in 0..400_u32 {
        let lun = address(LUNS[(round % 2) as usize]);
        let mut sent = Vec::new();
        for number in 0..8 {
            let cdb = commands[(round as usize + number) % commands.len()];
            let buffers = rig.buffers(&[&header(lun, cdb)], &room)?;
            let ring = rig.machine.ring(REQUESTS)?;
            ring.add(&buffers, tests::guest::chain::Table::Indirect)?;
            sent.push(buffers);
        }
        rig.machine.ring(REQUESTS)?.publish()?;
        let function = [5, 4, 0, 1, 3, 6, 7][(round % 7) as usize];
        let (_, answer) = rig.exchange(
            CONTROL,
            &[&task(function, lun, 0x0707_0707_0707_0707)],
            &[1],
        )?;
        ensure!(
            matches!(answer[..], [0 | 10]),
            "function {function}: {answer:?}"
        );
        let ring = rig.machine.ring(REQUESTS)?;
        while ring.in_flight() > 0 {
            ring.wait(tests::daemon_runner::DEADLINE)?;
        }
        for buffers in sent {
            rig.release(&buffers);
        }
    }
    rig.survived()
}
