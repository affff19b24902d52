//! Moving what a guest knows of a share: ours beside virtiofsd in both of its modes, in turns.
//!
//! A guest has looked up so many files. Then, in each turn and for each participant: dirty logging is switched on, which starts
//! whatever the back-end prepares while the guest runs; the rings are stopped; SAVE and its CHECK; LOAD and its CHECK in a process
//! that has just been started. The last two are what a guest notices of it. Knows no byte of anybody's state.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use common::protocol::messages::{DirtyLog, feature};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tests::daemon_runner::{Daemon, built};
use tests::fuse_client::Client;
use tests::guest::Manner;
use tests::guest::machine::PROTOCOL_FEATURES;
use tests::many_files;
use tests::qemu::provision::target_folder;
use tests::tools::virtiofsd_as_released;

use super::cost::processor_seconds;
use crate::table::Table;

/// Bytes of the dirty log: enough for all of the guest's memory.
const LOG_BYTES: u64 = 1 << 20;
/// How long a preparation may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Between two looks at the threads of a process.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of files that the guest knows
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    files: Vec<u32>,

    /// Turns of each participant
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,

    /// Without virtiofsd, such as for a million files
    #[arg(long)]
    ours_only: bool,

    /// Limit of open files of all participants, as their `--rlimit-nofile`
    #[arg(long, default_value_t = 1_024)]
    rlimit_nofile: u32,

    /// Folder for the share, on the file system in question [default: below the target folder]
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// How a back-end is started.
struct Program {
    name: &'static str,
    path: PathBuf,
    arguments: Vec<String>,
}

/// What one turn came to, in milliseconds: how long it took, and how much processor time of the back-end.
#[derive(Clone, Copy)]
struct Turn {
    prepare: f64,
    save: f64,
    save_processor: f64,
    load: f64,
    load_processor: f64,
}

/// A back-end whose guest knows all files, and what became of it so far.
struct Participant {
    program: Program,
    daemon: Daemon,
    client: Client,
    /// The nodeid of the file that was looked up last.
    last: u64,
    /// Memory of its own that it needed for what the guest knows.
    known_kib: u64,
    /// The same in the process that has loaded the state last.
    loaded_kib: u64,
    state_bytes: usize,
    turns: Vec<Turn>,
}

impl Program {
    fn start(&self, share: &Path, limit: u32) -> Result<Daemon> {
        let limit = limit.to_string();
        let common = [
            OsStr::new("--shared-dir"),
            share.as_os_str(),
            OsStr::new("--rlimit-nofile"),
            OsStr::new(&limit),
            OsStr::new("--sandbox"),
            OsStr::new("none"),
        ];
        let own = self.arguments.iter().map(OsStr::new);
        Daemon::start_at(&self.path, common.into_iter().chain(own))
            .with_context(|| format!("starting {}", self.name))
    }
}

fn programs(options: &Options) -> Result<Vec<Program>> {
    let mut programs = vec![Program {
        name: "ours",
        // As with the tests: another build of it.
        path: env::var_os("VHOST_DEVICE_FS")
            .map_or_else(|| built("vhost-device-fs"), |path| Ok(path.into()))?,
        arguments: Vec::new(),
    }];
    if !options.ours_only {
        let path = virtiofsd_as_released()?;
        for (name, mode) in [
            ("virtiofsd, find-paths", "find-paths"),
            ("virtiofsd, file-handles", "file-handles"),
        ] {
            let arguments = ["--seccomp", "none", "--migration-mode", mode];
            programs.push(Program {
                name,
                path: path.clone(),
                arguments: arguments.map(str::to_owned).into(),
            });
        }
    }
    Ok(programs)
}

impl Participant {
    fn start(program: Program, share: &Path, files: u32, options: &Options) -> Result<Self> {
        let daemon = program.start(share, options.rlimit_nofile)?;
        let mut client = Client::boot(daemon.connect()?)?;
        client.init(u64::MAX)?;
        let before = daemon.resident_kib()?;
        let last = many_files::look_up(&mut client, files)?;
        Ok(Self {
            known_kib: daemon.resident_kib()?.saturating_sub(before),
            last: last.last().copied().context("at least one file")?,
            program,
            daemon,
            client,
            loaded_kib: 0,
            state_bytes: 0,
            turns: Vec::new(),
        })
    }

    fn turn(&mut self, share: &Path, limit: u32) -> Result<()> {
        let prepare = self.prepare()?;
        let destination = self.program.start(share, limit)?;
        let machine = self.client.machine();
        let bases = machine.stop()?;
        let mut state = Vec::new();
        let used = processor_seconds(self.daemon.id())?;
        let begin = Instant::now();
        machine.frontend().save(&mut state).context("SAVE")?;
        let save = milliseconds(begin);
        let save_processor = (processor_seconds(self.daemon.id())? - used) * 1e3;
        let mut frontend = destination.connect()?;
        frontend.negotiate(PROTOCOL_FEATURES)?;
        let before = destination.resident_kib()?;
        let used = processor_seconds(destination.id())?;
        let begin = Instant::now();
        frontend.load(&mut state.as_slice()).context("LOAD")?;
        let load = milliseconds(begin);
        let load_processor = (processor_seconds(destination.id())? - used) * 1e3;
        self.loaded_kib = destination.resident_kib()?.saturating_sub(before);
        self.state_bytes = state.len();
        self.turns.push(Turn {
            prepare,
            save,
            save_processor,
            load,
            load_processor,
        });
        machine.start(&bases)?;
        let features = machine.features();
        Ok(machine.frontend().set_features(features)?)
    }

    /// Switches dirty logging on, and waits until the threads that this has started are gone.
    fn prepare(&mut self) -> Result<f64> {
        let threads = self.threads()?;
        let log = memfd_create("dirty-log", MemfdFlags::CLOEXEC)?;
        ftruncate(&log, LOG_BYTES)?;
        let description = DirtyLog {
            size: LOG_BYTES,
            file_offset: 0,
        };
        let machine = self.client.machine();
        let features = machine.features() | feature::LOG_ALL;
        machine.frontend().set_log(description, &log)?;
        let begin = Instant::now();
        machine.frontend().set_features(features)?;
        while self.threads()? > threads {
            ensure!(begin.elapsed() < PATIENCE, "a preparation without end");
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(milliseconds(begin))
    }

    fn threads(&self) -> Result<usize> {
        let path = format!("/proc/{}/task", self.daemon.id().as_raw_nonzero());
        Ok(fs::read_dir(path)?.count())
    }

    /// Whether the guest finds at a destination what it knew: numbers about anything else would mean nothing.
    fn verify(&mut self, share: &Path, limit: u32) -> Result<()> {
        let destination = self.program.start(share, limit)?;
        let machine = self.client.machine();
        machine.migrate_to(destination.connect()?, Manner::QEMU)?;
        self.client
            .get_attr(self.last, None)
            .with_context(|| format!("{}: a file after the migration", self.program.name))?;
        Ok(())
    }

    /// All values of one number, sorted.
    fn sorted(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.turns.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// How many times as long as `ours` it took, turn by turn: the median, the least and the most.
    fn ratio(&self, ours: &Self, of: impl Fn(&Turn) -> f64) -> String {
        let pairs = self.turns.iter().zip(&ours.turns);
        let mut ratios: Vec<f64> = pairs.map(|(theirs, ours)| of(theirs) / of(ours)).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, median, most) = summary(&ratios);
        format!("{median:.1}x ({least:.1} to {most:.1})")
    }

    /// The mean of all turns: the kernel counts processor time in ticks of 10 ms, so one turn says little.
    fn mean(&self, of: impl Fn(&Turn) -> f64) -> f64 {
        let turns = u32::try_from(self.turns.len()).unwrap_or(u32::MAX);
        self.turns.iter().map(of).sum::<f64>() / f64::from(turns)
    }
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// Least, median and most of what is sorted.
fn summary(sorted: &[f64]) -> (f64, f64, f64) {
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let end = sorted.len().saturating_sub(1);
    (at(0), at(end / 2), at(end))
}

/// Median, and in brackets the least and the most.
fn spread(sorted: &[f64]) -> String {
    let (least, median, most) = summary(sorted);
    format!("{median:.1} ({least:.1} to {most:.1})")
}

fn rows(table: &mut Table<11>, files: u32, participants: &[Participant]) {
    for participant in participants {
        let ratio = |of: fn(&Turn) -> f64| match participants.first() {
            Some(ours) if ours.program.name != participant.program.name => {
                participant.ratio(ours, of)
            }
            _ => String::new(),
        };
        let per_file = |bytes: f64| format!("{:.0}", bytes / f64::from(files));
        #[expect(
            clippy::cast_precision_loss,
            reason = "sizes far below 2^52, to be divided and rounded"
        )]
        let (state, known, loaded) = (
            participant.state_bytes as f64,
            participant.known_kib as f64 * 1024.0,
            participant.loaded_kib as f64 * 1024.0,
        );
        table.row([
            &files.to_string(),
            participant.program.name,
            &spread(&participant.sorted(|turn| turn.prepare)),
            &spread(&participant.sorted(|turn| turn.save)),
            &ratio(|turn| turn.save),
            &format!("{:.0}", participant.mean(|turn| turn.save_processor)),
            &spread(&participant.sorted(|turn| turn.load)),
            &ratio(|turn| turn.load),
            &format!("{:.0}", participant.mean(|turn| turn.load_processor)),
            &per_file(state),
            &format!("{} / {}", per_file(known), per_file(loaded)),
        ]);
    }
}

fn measure(table: &mut Table<11>, files: u32, folder: &Path, options: &Options) -> Result<()> {
    eprintln!("bench: {files} files");
    let share = tempfile::Builder::new()
        .prefix("share-")
        .tempdir_in(folder)?;
    many_files::make(share.path(), files)?;
    let mut participants = Vec::new();
    for program in programs(options)? {
        participants.push(Participant::start(program, share.path(), files, options)?);
    }
    for _ in 0..options.turns {
        for participant in &mut participants {
            let turn = participant.turn(share.path(), options.rlimit_nofile);
            turn.with_context(|| participant.program.name)?;
        }
    }
    for participant in &mut participants {
        participant.verify(share.path(), options.rlimit_nofile)?;
    }
    rows(table, files, &participants);
    Ok(())
}

/// Measures, and prints a table.
pub(super) fn run(options: &Options) -> Result<()> {
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => target_folder()?.join("tmp"),
    };
    fs::create_dir_all(&folder)?;
    let mut table = Table::new([
        "files",
        "participant",
        "prepare, ms",
        "SAVE, ms",
        "to ours",
        "processor, ms",
        "LOAD and CHECK, ms",
        "to ours",
        "processor, ms",
        "state bytes",
        "memory, looked up / loaded",
    ]);
    for files in &options.files {
        measure(&mut table, *files, &folder, options)?;
    }
    let mut text = table.to_string();
    let _infallible = writeln!(
        text,
        "\nMedian, and the least and the most of all turns; the participants take turns. Processor time is the back-end's, the \
         mean of all turns. Bytes of state and of memory are for each \
         file that the guest knows."
    );
    println!("{text}");
    Ok(())
}
