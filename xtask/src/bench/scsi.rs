//! `cargo xtask bench scsi`: which work is measured, in which turns, and what was aimed at.
//!
//! The image is written in pieces of one page, so that the page cache holds it in single pages: in larger ones, ext4 pays for
//! every buffer of a folio on each small write, and all participants would measure that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tests::load::{Direction, Order, Work};
use tests::qemu::provision::{Program, scsi_tools};

use super::cost::{Counter, processor_seconds};
use super::fio::{self, Engine};
use super::peers::{Backend, Image};
use super::report::{self, Cell, Sample, Turns};

/// Bytes of the image: fits into every page cache.
const IMAGE_BYTES: u64 = 256 << 20;
const PAGE_BYTES: usize = 4096;
/// How long a participant warms up before each turn, as a part of the turn.
const WARM_UP_DIVISOR: u32 = 8;
/// How long system calls are counted.
const COUNTING: Duration = Duration::from_millis(200);

/// What follows the daemons in each round.
const LIMITS: [Engine; 2] = [Engine::IoUring, Engine::Calls];

#[derive(Args)]
pub(crate) struct Options {
    /// Length of a turn
    #[arg(long, default_value_t = 0.4, value_parser = seconds)]
    seconds: f64,

    /// Turns of each participant at each kind of work
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// One short turn each: to see that everything works
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,

    /// Bypass the page cache; rust-vmm's daemon cannot
    #[arg(long)]
    direct: bool,

    /// Folder for the image, on the file system in question [default: below the target folder]
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Only work whose title contains this, such as "4k random read"
    #[arg(long)]
    only: Option<String>,
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.01 to 3600 seconds".to_owned()),
    }
}

/// All work, with its title.
fn all_work() -> Vec<(String, Work)> {
    let directions = [(Direction::Read, "read"), (Direction::Write, "write")];
    let mut all = Vec::new();
    for rings in [1, 4] {
        for depth in [1, 32] {
            for (direction, verb) in directions {
                let work = Work {
                    direction,
                    order: Order::Random,
                    request_bytes: 4096,
                    depth,
                    rings,
                };
                all.push((
                    format!("4k random {verb}, depth {depth}, queues {rings}"),
                    work,
                ));
            }
        }
    }
    for (direction, verb) in directions {
        let work = Work {
            direction,
            order: Order::Sequential,
            request_bytes: 128 << 10,
            depth: 8,
            rings: 1,
        };
        all.push((format!("128k sequential {verb}, depth 8, queues 1"), work));
    }
    all
}

/// Measures and prints.
pub(super) fn run(options: &Options) -> Result<()> {
    let (time, rounds) = if options.quick {
        (Duration::from_millis(200), 1)
    } else {
        (Duration::from_secs_f64(options.seconds), options.rounds)
    };
    let tools = scsi_tools()?;
    let fio = tools.program("usr/bin/fio")?;
    let folder = super::folder_in(options.folder.as_deref())?;
    let path = folder.path().join("image");
    write_image(&path)?;
    let image = Image {
        path: &path,
        bytes: IMAGE_BYTES,
        direct: options.direct,
    };
    let mut backends = vec![Backend::ours(image)?];
    if !options.direct {
        backends.push(Backend::rust_vmm(image)?);
    }
    backends.push(Backend::qemu(&tools, image)?);
    let counter = Counter::find();
    match counter {
        Some(counter) => eprintln!("bench: system calls are counted by {counter:?}"),
        None => eprintln!("bench: neither perf nor strace works here: no system calls"),
    }
    let mut cells = Vec::new();
    for (title, work) in all_work() {
        if options
            .only
            .as_ref()
            .is_some_and(|only| !title.contains(only.as_str()))
        {
            continue;
        }
        eprintln!("bench: {title}");
        warm_up(image)?;
        let turns = measure(&mut backends, &fio, image, &work, (time, rounds), counter)?;
        cells.push(Cell { title, turns });
    }
    println!("\n{}", report::table(&cells));
    for line in aims(&cells) {
        println!("{line}");
    }
    Ok(())
}

fn write_image(path: &PathBuf) -> Result<()> {
    let file = File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    let page = [0xa5; PAGE_BYTES];
    for at in (0..IMAGE_BYTES).step_by(PAGE_BYTES) {
        file.write_all_at(&page, at)?;
    }
    Ok(file.sync_data()?)
}

type AllTurns = Vec<(&'static str, Option<Turns>)>;

/// Everything is in the page cache when a kind of work begins: else whoever comes first waits for the disk.
fn warm_up(image: Image<'_>) -> Result<()> {
    if !image.direct {
        io::copy(&mut File::open(image.path)?, &mut io::sink())?;
    }
    Ok(())
}

/// All participants in turns: A B C D, A B C D, ...
fn measure(
    backends: &mut [Backend],
    fio: &Program,
    image: Image<'_>,
    work: &Work,
    (time, rounds): (Duration, u32),
    counter: Option<Counter>,
) -> Result<AllTurns> {
    let mut turns: AllTurns = backends
        .iter()
        .map(|backend| {
            let can = backend.rings >= work.rings;
            (backend.name, can.then(Turns::default))
        })
        .chain(LIMITS.map(|engine| (engine.name(), Some(Turns::default()))))
        .collect();
    for _ in 0..rounds {
        for ((name, turns), backend) in turns.iter_mut().zip(&mut *backends) {
            if let Some(turns) = turns {
                let sample = sample(backend, work, time);
                turns.samples.push(sample.with_context(|| name.to_owned())?);
            }
        }
        let limits = turns.iter_mut().skip(backends.len());
        for (engine, (_, turns)) in LIMITS.into_iter().zip(limits) {
            let sample = fio::run(fio, engine, image, work, time)?;
            turns.get_or_insert_default().samples.push(sample);
        }
    }
    if let Some(counter) = counter {
        for ((_, turns), backend) in turns.iter_mut().zip(backends) {
            if let Some(turns) = turns {
                let id = backend.id();
                let load = &mut backend.load;
                let (calls, measured) =
                    counter.count(id, || load.measure(work, COUNTING.min(time)))?;
                turns.calls = Some(per_request(calls, measured.requests));
            }
        }
    }
    Ok(turns)
}

fn sample(backend: &mut Backend, work: &Work, time: Duration) -> Result<Sample> {
    backend.load.measure(work, time / WARM_UP_DIVISOR)?;
    let before = processor_seconds(backend.id())?;
    let measured = backend.load.measure(work, time)?;
    let used = processor_seconds(backend.id())? - before;
    #[expect(clippy::cast_precision_loss, reason = "less than 2^52 nanoseconds")]
    let percentile = |quantile| measured.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Sample {
        rate: measured.rate(),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        cpu_us: used * 1e6 / (measured.rate() * measured.elapsed.as_secs_f64()),
    })
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^52 of both")]
fn per_request(calls: u64, requests: u64) -> f64 {
    calls as f64 / requests as f64
}

/// What was aimed at, and what became of it. With one request in flight, the way to the daemon and back is most of what is measured,
/// and a bare file has none: no aim there.
fn aims(cells: &[Cell]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |cell: &Cell, aim: &str, reached: bool| {
        let verdict = if reached { "reached" } else { "missed " };
        lines.push(format!("{verdict}  {}: {aim}", cell.title));
    };
    for cell in cells {
        let deep = cell.title.contains("depth 32");
        let alone = cell.title.contains("depth 1,");
        for (name, _) in cell.turns.iter().skip(1) {
            let aim = match *name {
                name if name == Engine::IoUring.name() && !alone => 0.8,
                name if LIMITS.iter().any(|engine| engine.name() == name) => continue,
                _ if deep => 2.0,
                _ => 1.0,
            };
            if let Some(ratio) = cell.ratio(name) {
                let text = format!("{aim:.1} x {name}; is {ratio:.2} x");
                line(cell, &text, ratio >= aim);
            }
        }
        let calls = cell
            .turns
            .first()
            .and_then(|(_, ours)| ours.as_ref()?.calls);
        if let Some(calls) = calls.filter(|_| deep) {
            let text = format!("at most 0.2 system calls for a request; are {calls:.2}");
            line(cell, &text, calls <= 0.2);
        }
    }
    lines
}
