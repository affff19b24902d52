//! Parameter lists whose lengths lie, and fields at their ends.

use anyhow::{Result, ensure};
use tests::random::Random;

use crate::rig::{LUNS, Rig};

/// A command, and a list for it that is sound.
type Sample = (Vec<u8>, Vec<u8>);

/// Commands that say that their list has this length.
fn sound(length: usize) -> Result<[Sample; 5]> {
    let short = u16::try_from(length)?.to_be_bytes();
    let [high, low] = short;
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0]);
    let mut modes = vec![0; 8];
    modes.extend([0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
    let mut few_modes = vec![0; 4];
    few_modes.extend([0x08, 0x12, 4]);
    few_modes.resize(24, 0);
    let mut reservation = vec![0; 24];
    if let Some(key) = reservation.get_mut(15) {
        *key = 9;
    }
    Ok([
        (vec![0x42, 0, 0, 0, 0, 0, 0, high, low, 0], unmap),
        (vec![0x55, 0x10, 0, 0, 0, 0, 0, high, low, 0], modes),
        (vec![0x15, 0x10, 0, 0, low, 0], few_modes),
        (
            vec![0x5f, 0, 0, 0, 0, 0, 0, high, low, 0],
            reservation.clone(),
        ),
        (vec![0x5f, 6, 0, 0, 0, 0, 0, high, low, 0], reservation),
    ])
}

#[test]
fn lists_of_every_length_but_the_right_one() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    for told in (0..64).chain([255, 256, 4096, 65_535]) {
        for (cdb, list) in sound(told)? {
            for given in [0, 1, 7, 8, 23, 24, 64, told] {
                let mut list = list.clone();
                list.resize(given, 0);
                let (response, status, _) = rig.command(0, &cdb, &list, 0)?;
                ensure!(
                    response <= 1 && matches!(status, 0 | 2 | 0x18),
                    "{cdb:02x?}, {told} told and {given} given: {response}, {status}"
                );
            }
        }
    }
    rig.survived()
}

#[test]
fn each_byte_of_a_list_at_its_extremes() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let lengths = sound(0)?.map(|(_, list)| list.len());
    for (which, length) in lengths.into_iter().enumerate() {
        let all = sound(length)?;
        let Some((cdb, list)) = all.get(which) else {
            continue;
        };
        for at in 0..list.len() {
            for value in [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xff] {
                let mut list = list.clone();
                list.iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = value);
                let (response, status, _) = rig.command(LUNS[1], cdb, &list, 0)?;
                ensure!(
                    response == 0 && matches!(status, 0 | 2 | 0x18),
                    "{cdb:02x?}, byte {at} is {value:#x}: {response}, {status}"
                );
            }
        }
    }
    rig.survived()
}

/// Counts and addresses whose sum is more than 64 bits, or whose bytes are.
#[test]
fn ranges_at_the_ends_of_numbers() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let mut random = Random::new(1);
    let blocks = [
        0,
        1,
        8191,
        8192,
        1 << 31,
        (1 << 32) - 1,
        1 << 55,
        1 << 63,
        u64::MAX,
    ];
    let counts = [0, 1, 255, 65_535, 1 << 23, 1 << 31, u32::MAX];
    for code in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93, 0x89, 0x9e] {
        for block in blocks {
            for count in counts {
                for flags in [0, 2, 6, 8, 0x12, random.byte()] {
                    let mut cdb = vec![code, flags];
                    cdb.extend(block.to_be_bytes());
                    cdb.extend(count.to_be_bytes());
                    cdb.resize(16, 0);
                    let (response, status, _) = rig.command(0, &cdb, &[], 64)?;
                    ensure!(
                        response <= 1 && matches!(status, 0 | 2),
                        "{cdb:02x?}: {response}, {status}"
                    );
                }
            }
        }
    }
    rig.survived()
}
