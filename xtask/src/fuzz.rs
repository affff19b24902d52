//! `cargo xtask fuzz`: runs the fuzz targets of the file system device, and keeps what they find.
//!
//! Knows how they are built and where their files are, not what they do: that is in `tests/src/fs_fuzz/`. New inputs are kept below
//! `target/fuzz`; `--minimize` takes those among them that reach something new into the corpus that is part of the sources.
//!
//! Exit codes: 0 nothing was found, 1 an input that the device does not stand; its name was printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use tests::qemu::provision::target_folder;
use tests::tools::CARGO_FUZZ;

/// The compiler that libFuzzer's instrumentation takes.
const TOOLCHAIN: &str = "nightly";
/// An input that takes longer, or that makes the process larger, is a finding.
const SECONDS_MAX: u32 = 30;
const MIB_MAX: u32 = 2048;
/// Greatest input in bytes.
const INPUT_BYTES_MAX: u32 = 4 << 10;

#[derive(Args)]
pub(crate) struct Options {
    /// What is fuzzed; all, one after the other, if it is not said
    #[arg(value_enum)]
    target: Option<Target>,

    /// For how long each
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    minutes: u32,

    /// Watch memory as well, at a fraction of the speed
    #[arg(long)]
    address_sanitizer: bool,

    /// Instead, make the corpus as small as it can be with what was found so far
    #[arg(long)]
    minimize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// What a guest sends
    Requests,
    /// A state that somebody sends
    States,
}

impl Target {
    const ALL: [Self; 2] = [Self::Requests, Self::States];

    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::States => "states",
        }
    }
}

/// Where the files of a target are.
struct Folders {
    /// The crate of the targets.
    fuzz: PathBuf,
    /// Below the target folder.
    own: PathBuf,
    /// Inputs that were found by the runs on this machine.
    found: PathBuf,
    /// Those that are part of the sources.
    corpus: PathBuf,
}

impl Folders {
    fn of(target: Target) -> Result<Self> {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vhost-device-fs/fuzz");
        let fuzz = fuzz.canonicalize().context("no fuzz targets")?;
        let own = target_folder()?.join("fuzz");
        let folders = Self {
            found: own.join("corpus").join(target.name()),
            corpus: fuzz.join("corpus").join(target.name()),
            fuzz,
            own,
        };
        for folder in [&folders.found, &folders.corpus, &folders.own.join("tmp")] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(folders)
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let targets = options.target.map_or(Target::ALL.to_vec(), |one| vec![one]);
    let mut failed = false;
    for target in targets {
        if options.minimize {
            minimize(target)?;
        } else {
            let sanitizer = if options.address_sanitizer {
                "address"
            } else {
                "none"
            };
            let folders = Folders::of(target)?;
            let seconds = options.minutes * 60;
            let status = fuzzer(
                target,
                sanitizer,
                &folders,
                &[&folders.found, &folders.corpus],
            )?
            .arg(format!("-max_total_time={seconds}"))
            .arg("-print_final_stats=1")
            .status()?;
            failed |= !status.success();
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// A run on `corpora`, the first of which gets what is new. Mounts are the target's own, so that nothing stays if it dies.
fn fuzzer(
    target: Target,
    sanitizer: &str,
    folders: &Folders,
    corpora: &[&Path],
) -> Result<Command> {
    let program = CARGO_FUZZ.provide()?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(["fuzz", "run", "--sanitizer", sanitizer, target.name()])
        .arg("--fuzz-dir")
        .arg(&folders.fuzz)
        .arg("--target-dir")
        .arg(&folders.own)
        .args(corpora)
        .arg("--")
        .arg(format!(
            "-artifact_prefix={}/{}-",
            folders.own.display(),
            target.name()
        ))
        .arg(format!("-timeout={SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .current_dir(&folders.fuzz)
        .env("TMPDIR", folders.own.join("tmp"))
        .env("RUSTUP_TOOLCHAIN", TOOLCHAIN)
        // Cargo sets these for us, and they are not meant for another workspace or compiler.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("CARGO_TARGET_DIR");
    Ok(command)
}

/// Takes into the corpus what reaches something that nothing smaller reaches.
fn minimize(target: Target) -> Result<()> {
    let folders = Folders::of(target)?;
    let merged = folders.own.join("merged").join(target.name());
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    // By what is reached, and not by how often: that is a fifth of the size.
    let status = fuzzer(
        target,
        "none",
        &folders,
        &[&merged, &folders.corpus, &folders.found],
    )?
    .args(["-set_cover_merge=1", "-use_counters=0"])
    .status()?;
    ensure!(status.success(), "merging: {status}");
    for old in fs::read_dir(&folders.corpus)? {
        fs::remove_file(old?.path())?;
    }
    for new in fs::read_dir(&merged)? {
        let new = new?;
        fs::copy(new.path(), folders.corpus.join(new.file_name()))?;
    }
    Ok(())
}
