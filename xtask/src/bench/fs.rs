//! `cargo xtask bench fs`: which operations are measured, in which turns, and what was aimed at.

pub(super) mod layers;
mod limits;
mod peers;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tests::load::Measured;
use tests::load::fs::{self, FsWork, LISTED_FILES, Operation, Until};

use super::cost::{Counter, processor_seconds};
use super::report::{self, Cell, Sample, Turns};
use super::scsi::seconds;
use limits::Program;
use peers::Backend;
use summary::{Row, Shape};

/// How long a participant warms up before each turn, as a part of the turn.
const WARM_UP_DIVISOR: u32 = 8;
/// How long files are made, as a part of the turn: virtiofsd without file handles needs a descriptor for each.
const MAKING_DIVISOR: u32 = 3;
/// How long system calls are counted.
const COUNTING: Duration = Duration::from_millis(100);
/// Who has no guest.
const LIMIT: &str = "bare system calls";
/// Programs at once on each ring, and rings.
const SHAPES: [Shape; 3] = [(1, 1), (32, 1), (32, 4)];

#[derive(Args)]
pub(crate) struct Options {
    /// Length of a turn
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    seconds: f64,

    /// Turns of each participant at each kind of work
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// One short turn each: to see that everything works
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,

    /// Folder for the share, on the file system in question [default: below the target folder]
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Only work whose title contains this, such as "lookup" or "queues 1"
    #[arg(long)]
    only: Option<String>,

    /// Another build of our daemon, to be compared with this one
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,

    /// Without virtiofsd
    #[arg(long)]
    ours_only: bool,
}

/// What is done in one turn, one after the other: what was made is removed again.
fn all_operations() -> Vec<Vec<(Operation, String, Aim)>> {
    use Operation as Op;
    let one = |operation, title: &str, aim| vec![(operation, title.to_owned(), aim)];
    vec![
        one(Op::Lookup, "lookup, known", Aim::Metadata),
        one(Op::GetAttr, "getattr", Aim::Metadata),
        one(Op::OpenClose, "open, close", Aim::Metadata),
        vec![
            (Op::Create, "create, close".to_owned(), Aim::Metadata),
            (Op::Unlink, "unlink".to_owned(), Aim::Metadata),
        ],
        one(Op::List, &format!("list {LISTED_FILES}"), Aim::Metadata),
        one(Op::RandomRead, "4k random read", Aim::Data),
        one(Op::RandomWrite, "4k random write", Aim::Data),
        one(Op::SequentialRead, "1M sequential read", Aim::Rest),
        one(Op::SequentialWrite, "1M sequential write", Aim::Rest),
        one(Op::WriteSync, "4k write, fsync", Aim::Rest),
    ]
}

/// How many times as fast as virtiofsd, at its best, ours was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Metadata,
    Data,
    Rest,
}

impl Aim {
    fn ratio(self) -> f64 {
        match self {
            Self::Metadata => 2.0,
            Self::Data => 1.5,
            Self::Rest => 1.0,
        }
    }
}

/// Measures and prints.
pub(super) fn run(options: &Options) -> Result<()> {
    let (time, rounds) = if options.quick {
        (Duration::from_millis(50), 1)
    } else {
        (Duration::from_secs_f64(options.seconds), options.rounds)
    };
    let folder = super::folder_in(options.folder.as_deref())?;
    fs::make(folder.path())?;
    let counter = Counter::find();
    match counter {
        Some(counter) => eprintln!("bench: system calls are counted by {counter:?}"),
        None => eprintln!("bench: neither perf nor strace works here: no system calls"),
    }
    let mut bench = Bench {
        backends: peers::start(folder.path(), options.beside.as_deref(), options.ours_only)?,
        limit: Program::new(folder.path())?,
        counter,
        time,
        rounds,
    };
    let mut rows = Vec::new();
    let mut aims = Vec::new();
    for (depth, rings) in SHAPES {
        for operations in all_operations() {
            let title = |title: &str| format!("{title}, depth {depth}, queues {rings}");
            let titles: Vec<_> = operations.iter().map(|(_, name, _)| title(name)).collect();
            let titles = titles.join("; ");
            if options
                .only
                .as_ref()
                .is_some_and(|only| !titles.contains(only.as_str()))
            {
                continue;
            }
            eprintln!("bench: {titles}");
            let work = |&(operation, _, _): &(Operation, String, Aim)| FsWork {
                operation,
                depth,
                rings,
            };
            let phases: Vec<_> = operations.iter().map(work).collect();
            for ((_, operation, aim), turns) in operations.into_iter().zip(bench.measure(&phases)?)
            {
                let title = title(&operation);
                let cell = Cell { title, turns };
                aims.extend(verdict(&cell, aim));
                rows.push(Row {
                    operation,
                    shape: (depth, rings),
                    cell,
                });
            }
        }
    }
    println!("\n{}", report::table(rows.iter().map(|row| &row.cell)));
    println!("{}\n", aims.join("\n"));
    println!("{}", summary::tables(&rows));
    Ok(())
}

type AllTurns = Vec<(&'static str, Option<Turns>)>;

struct Bench {
    backends: Vec<Backend>,
    limit: Program,
    counter: Option<Counter>,
    time: Duration,
    rounds: u32,
}

impl Bench {
    /// All participants in turns: A B C, A B C, ... Returns those of each phase.
    fn measure(&mut self, phases: &[FsWork]) -> Result<Vec<AllTurns>> {
        let mut all: Vec<AllTurns> = phases
            .iter()
            .map(|_| {
                let names = self.backends.iter().map(|backend| backend.name);
                let all = names.chain([LIMIT]);
                all.map(|name| (name, Some(Turns::default()))).collect()
            })
            .collect();
        for round in 0..=self.rounds {
            // At last, system calls are counted.
            let counter = if round == self.rounds {
                self.counter
            } else {
                None
            };
            if round == self.rounds && counter.is_none() {
                break;
            }
            for index in 0..self.backends.len() {
                for (work, turns) in phases.iter().zip(&mut all) {
                    let (name, turns) = turns.get_mut(index).context("no such participant")?;
                    let backend = self
                        .backends
                        .get_mut(index)
                        .context("no such participant")?;
                    let Some(turns) = turns else { continue };
                    let work = fitting(work, backend.rings)?;
                    let turn = turn(backend, &work, self.time, counter, turns);
                    turn.with_context(|| (*name).to_owned())?;
                }
            }
            if counter.is_none() {
                for (work, turns) in phases.iter().zip(&mut all) {
                    let sample = self.limit.sample(work.operation, self.time)?;
                    if let Some((_, Some(turns))) = turns.last_mut() {
                        turns.samples.push(sample);
                    }
                }
            }
        }
        Ok(all)
    }
}

/// The same number of programs, on as many rings as there are.
fn fitting(work: &FsWork, rings: usize) -> Result<FsWork> {
    let rings = work.rings.min(rings);
    Ok(FsWork {
        depth: work.depth * u16::try_from(work.rings / rings)?,
        rings,
        ..*work
    })
}

/// One turn of a participant at one phase.
fn turn(
    backend: &mut Backend,
    work: &FsWork,
    time: Duration,
    counter: Option<Counter>,
    turns: &mut Turns,
) -> Result<()> {
    let id = backend.id();
    let load = &mut backend.load;
    let until = |load: &fs::FsLoad, time| {
        if work.operation == Operation::Unlink {
            Until::Count(load.made())
        } else if work.operation == Operation::Create {
            Until::Time(time / MAKING_DIVISOR)
        } else {
            Until::Time(time)
        }
    };
    if let Some(counter) = counter {
        let until = until(load, COUNTING.min(time));
        let (calls, measured) = counter.count(id, || load.measure(work, until))?;
        turns.calls = Some(each(calls, measured.requests));
        return Ok(());
    }
    let makes = matches!(work.operation, Operation::Create | Operation::Unlink);
    if !makes {
        load.measure(work, Until::Time(time / WARM_UP_DIVISOR))?;
    }
    let before = processor_seconds(id)?;
    let until = until(load, time);
    let measured = load.measure(work, until)?;
    let used = processor_seconds(id)? - before;
    turns.samples.push(sample(&measured, used));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^52 nanoseconds")]
fn sample(measured: &Measured, processor_seconds: f64) -> Sample {
    let percentile = |quantile| measured.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    Sample {
        rate: measured.rate(),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        cpu_us: processor_seconds * 1e6 / measured.requests as f64,
    }
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^52 of both")]
fn each(calls: u64, operations: u64) -> f64 {
    calls as f64 / operations as f64
}

/// What became of the aim, against whichever way of running virtiofsd was the fastest.
fn verdict(cell: &Cell, aim: Aim) -> Option<String> {
    let (name, ratio) = summary::best(cell)?;
    let verdict = if ratio >= aim.ratio() {
        "reached"
    } else {
        "missed "
    };
    let (aim, title) = (aim.ratio(), &cell.title);
    Some(format!(
        "{verdict}  {title}: {aim:.1} x {name}; is {ratio:.2} x"
    ))
}
