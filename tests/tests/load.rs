//! Does the load generator of `cargo xtask bench` do what it says? Against our daemon, with every byte looked at.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::daemon_runner::Daemon;
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
