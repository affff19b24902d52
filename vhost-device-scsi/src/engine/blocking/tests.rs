//! Operations on real files, against a model in memory.

use std::io::Write as _;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use crate::config::UnitConfig;

const BLOCKS: u64 = 64;
const BLOCK: u64 = 512;
const BYTES: u64 = BLOCKS * BLOCK;

/// The whole medium, of one byte.
fn medium(byte: u8) -> Vec<u8> {
    vec![byte; length(BYTES)]
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

fn backing(contents: &[u8]) -> (NamedTempFile, Backing) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(contents).unwrap();
    let backing = Backing::open(&UnitConfig::new(file.path(), 0)).unwrap();
    (file, backing)
}

/// A request with some bytes before its data, as requests have; its data-out buffer in two parts.
fn request(out: &[u8], into: usize) -> Request {
    let (one, other) = out.split_at(out.len() / 3);
    Request::in_memory(&[&[0xee; 19], one, other], &[12, into / 2, into - into / 2])
}

fn do_it(
    operation: &Operation,
    backing: &Backing,
    out: &[u8],
    into: usize,
) -> (Result<Completion, Failure>, Vec<u8>) {
    let request = request(out, into);
    let data = Data {
        request: &request,
        data_out_at: 19,
        data_in_at: 12,
    };
    let result = run(operation, backing, &data);
    (result, request.written(12 + into)[12..].to_vec())
}

fn extent(block: u64, blocks: u64) -> Extent {
    Extent {
        at: block * BLOCK,
        len: blocks * BLOCK,
    }
}

#[test]
fn a_medium_that_got_shorter_fails_where_it_ends() {
    let (file, backing) = backing(&medium(1));
    file.as_file().set_len(10 * BLOCK).unwrap();
    let (result, read) = do_it(&Operation::Read(extent(8, 4)), &backing, &[], 2048);
    assert_eq!(result, Err(Failure::Read { at: 10 * BLOCK }));
    assert_eq!(read[..1024], [1; 1024]);
    for operation in [
        Operation::Verify(extent(8, 4)),
        Operation::CompareAndWrite {
            extent: extent(8, 4),
            durable: false,
        },
    ] {
        let (result, _) = do_it(&operation, &backing, &[1; 4096], 0);
        assert_eq!(result, Err(Failure::Read { at: 10 * BLOCK }));
    }
}

#[test]
fn differences_are_found_where_they_are_and_nothing_is_written() {
    let (file, backing) = backing(&medium(3));
    let mut out = [vec![3; 1024], vec![4; 1024]].concat();
    out[1000] = 9;
    let write = Operation::CompareAndWrite {
        extent: extent(2, 2),
        durable: true,
    };
    let (result, _) = do_it(&write, &backing, &out, 0);
    assert_eq!(result, Err(Failure::Miscompare { offset: 1000 }));
    assert!(
        std::fs::read(file.path())
            .unwrap()
            .iter()
            .all(|byte| *byte == 3)
    );
    out[1000] = 3;
    let (result, _) = do_it(&write, &backing, &out, 0);
    assert_eq!(result, Ok(Completion::Done));
    let compare = Operation::Compare {
        extent: extent(0, 8),
        repeated: Some(512),
    };
    let (result, _) = do_it(&compare, &backing, &[3; 512], 0);
    assert_eq!(result, Err(Failure::Miscompare { offset: 0 }));
}

#[test]
fn a_host_without_room_says_so() {
    let (_file, backing) = backing(&medium(3));
    let error = io::Error::from_raw_os_error(libc::ENOSPC);
    assert_eq!(write_failure(&error, 7), Failure::NoSpace { at: 7 });
    drop(backing);
}

#[test]
fn holes_are_reported_in_whole_granules() {
    let (_file, backing) = backing(&vec![5; 1 << 20]);
    let hole = Extent {
        at: 8192,
        len: 65536,
    };
    run(
        &Operation::Unmap(vec![hole]),
        &backing,
        &Data {
            request: &request(&[], 0),
            data_out_at: 0,
            data_in_at: 0,
        },
    )
    .unwrap();
    let whole = Extent {
        at: 512,
        len: (1 << 20) - 512,
    };
    let expected = [
        (512, 7680, true),
        (8192, 65536, false),
        (73728, (1 << 20) - 73728, true),
    ];
    let expected = expected.map(|(at, len, allocated)| (Extent { at, len }, allocated));
    assert_eq!(allocation(&backing, whole).unwrap(), expected);
}

fn any_extent() -> impl Strategy<Value = Extent> {
    (0..BLOCKS)
        .prop_flat_map(|block| (Just(block), 1..=BLOCKS - block))
        .prop_map(|(block, blocks)| extent(block, blocks))
}

proptest! {
    #[test]
    fn the_medium_is_what_the_commands_made_it(
        steps in proptest::collection::vec((0_u8..8, any_extent(), any::<u8>(), any::<bool>()), 1..30)
    ) {
        let mut model = medium(0xa5);
        let (file, backing) = backing(&model);
        for (kind, extent, byte, flag) in steps {
            let range = length(extent.at)..length(extent.at + extent.len);
            let fill = vec![byte; length(extent.len)];
            let (operation, out) = match kind {
                0 => (Operation::Write { extent, durable: flag }, fill.clone()),
                1 => (Operation::WriteAndVerify { extent, compare: flag }, fill.clone()),
                2 => (Operation::CompareAndWrite { extent, durable: flag }, [&model[range.clone()], &fill].concat()),
                3 => (Operation::OrWrite { extent, durable: flag }, fill.clone()),
                4 => (Operation::WriteSame { extent, block: Some(vec![byte; 512]), unmap: flag, durable: false }, vec![]),
                5 => (Operation::WriteSame { extent, block: None, unmap: flag, durable: flag }, vec![]),
                6 => (Operation::Unmap(vec![extent]), vec![]),
                _ => (Operation::Read(extent), vec![]),
            };
            let into = if kind == 7 { length(extent.len) } else { 0 };
            let (result, read) = do_it(&operation, &backing, &out, into);
            prop_assert_eq!(result, Ok(Completion::Done));
            match kind {
                3 => model[range].iter_mut().for_each(|of_model| *of_model |= byte),
                5 | 6 => model[range].fill(0),
                7 => prop_assert_eq!(&read, &model[range]),
                _ => model[range].fill(byte),
            }
            prop_assert_eq!(&std::fs::read(file.path()).unwrap(), &model);
        }
    }
}
