//! Do the load generators of `cargo xtask bench` do what they say? Against our daemons, with what has become of the disk and the share
//! looked at.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::daemon_runner::Daemon;
use tests::fs_daemon;
use tests::load::fs::{DATA, FsLoad, FsWork, NEW, Operation, Until, WRITTEN, make};
use tests::load::{Direction, Kind, Load, Order, Work, pattern};

const DISK_BYTES: u64 = 4 << 20;

fn work(direction: Direction, order: Order, request_bytes: u32, rings: usize) -> Work {
    Work {
        direction,
        order,
        request_bytes,
        depth: 8,
        rings,
    }
}

#[test]
fn what_it_writes_is_there_and_what_it_reads_was_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("image");
    let image = File::create_new(&path)?;
    image.set_len(DISK_BYTES)?;
    let image = File::open(&path)?;
    for engine in ["auto", "threads"] {
        let unit = format!("path={}", path.display());
        let daemon = Daemon::start(
            "vhost-device-scsi",
            ["--num-queues", "2", "--engine", engine, "--lun", &unit],
        )?;
        let mut load = Load::boot(daemon.connect()?, Kind::Scsi, DISK_BYTES)?;
        ensure!(load.request_rings() == 2);
        for (request_bytes, requests) in [(4096, 400), (131_072, 40)] {
            let work = work(Direction::Read, Order::Random, request_bytes, 2);
            let written = load.verify(&work, requests)?;
            ensure!(!written.is_empty());
            for (block, version) in written {
                let mut bytes = vec![0; usize::try_from(request_bytes)?];
                image.read_exact_at(&mut bytes, block * u64::from(request_bytes))?;
                ensure!(
                    bytes == pattern(block, version, request_bytes),
                    "the image does not have write {version} in block {block}"
                );
            }
        }
        for direction in [Direction::Read, Direction::Write] {
            let work = work(direction, Order::Sequential, 4096, 1);
            let measured = load.measure(&work, Duration::from_millis(20))?;
            ensure!(measured.requests >= u64::from(work.depth) && measured.rate() > 0.0);
            ensure!(measured.latency_ns.len() == measured.requests);
        }
    }
    Ok(())
}

/// Every operation of a file system, as often as it was asked for, by programs on two rings.
#[test]
fn programs_do_what_they_are_told_to() -> Result<()> {
    use Operation as Op;
    let share = tempfile::tempdir()?;
    make(share.path())?;
    let daemon = fs_daemon::start(share.path(), "auto")?;
    let mut load = FsLoad::boot(daemon.connect()?)?;
    let rings = 2;
    ensure!(load.request_rings() >= rings);
    let mut act = |operation, depth, count| -> Result<u64> {
        let work = FsWork {
            operation,
            depth,
            rings,
        };
        let measured = load.measure(&work, Until::Count(count))?;
        ensure!(measured.requests == count && measured.latency_ns.len() == count);
        Ok(load.made())
    };
    let made = || -> Result<Vec<_>> {
        let entries = fs::read_dir(share.path().join(NEW))?;
        entries.map(|entry| Ok(entry?.metadata()?.uid())).collect()
    };
    for operation in [Op::Lookup, Op::GetAttr, Op::OpenClose, Op::RandomRead] {
        act(operation, 8, 100)?;
    }
    act(Op::List, 1, 3)?;
    ensure!(act(Op::Create, 8, 50)? == 50);
    ensure!(made()? == [1000; 50], "{:?}", made()?);
    ensure!(act(Op::Unlink, 8, 20)? == 30);
    ensure!(made()?.len() == 30);
    act(Op::SequentialRead, 1, 4)?;

    let pages_written = || -> Result<usize> {
        let data = fs::read(share.path().join(DATA))?;
        let written = |page: &&[u8]| page.starts_with(&[WRITTEN]) && page.ends_with(&[WRITTEN]);
        Ok(data.chunks(4096).filter(written).count())
    };
    ensure!(pages_written()? == 0);
    act(Op::SequentialWrite, 1, 3)?;
    ensure!(pages_written()? == 3 * 256);
    act(Op::WriteSync, 4, 10)?;
    act(Op::RandomWrite, 8, 100)?;
    let all = pages_written()?;
    ensure!((3 * 256 + 90..=3 * 256 + 110).contains(&all), "{all}");
    Ok(())
}
