//! The bare system calls: what a program on the host gets that does the same without a guest, in one thread.
//!
//! What the operations are is decided by the load generator; here they are done at once. Knows no device.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags, openat, statx, unlinkat};
use rustix::io::{pread, pwrite};
use rustix::time::{ClockId, clock_gettime};
use tests::load::fs::{DATA, DATA_BYTES, KNOWN, KNOWN_FILES, LISTED, NEW, Operation, known_name};

use super::super::report::Sample;

/// A program on the host.
pub(super) struct Program {
    known: OwnedFd,
    files: Vec<OwnedFd>,
    listed: OwnedFd,
    new: OwnedFd,
    data: OwnedFd,
    names: Vec<String>,
    buffer: Vec<u8>,
    /// Files that were made.
    made: u64,
    turn: u64,
}

impl Program {
    pub(super) fn new(share: &Path) -> Result<Self> {
        let open = |name: &str, flags| {
            let path = share.join(name);
            openat(CWD, &path, flags | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| format!("opening {}", path.display()))
        };
        let names: Vec<_> = (0..KNOWN_FILES).map(known_name).collect();
        let file = |name| open(&format!("{KNOWN}/{name}"), OFlags::PATH);
        Ok(Self {
            files: names.iter().map(file).collect::<Result<_>>()?,
            known: open(KNOWN, OFlags::PATH)?,
            listed: open(LISTED, OFlags::PATH)?,
            new: open(NEW, OFlags::PATH)?,
            data: open(DATA, OFlags::RDWR)?,
            names,
            buffer: vec![0x5a; 1 << 20],
            made: 0,
            turn: 0,
        })
    }

    /// Does an operation for `time`; to remove files, until there are none.
    pub(super) fn sample(&mut self, operation: Operation, time: Duration) -> Result<Sample> {
        let (start, used) = (Instant::now(), processor_time());
        let mut count = 0_u32;
        loop {
            let over = if operation == Operation::Unlink {
                self.made == 0
            } else {
                start.elapsed() >= time
            };
            if over && count > 0 {
                break;
            }
            self.act(operation)?;
            count += 1;
        }
        let elapsed = start.elapsed().as_secs_f64();
        let each_us = elapsed * 1e6 / f64::from(count);
        Ok(Sample {
            rate: f64::from(count) / elapsed,
            p50_us: each_us,
            p99_us: f64::NAN,
            p999_us: f64::NAN,
            cpu_us: (processor_time() - used) * 1e6 / f64::from(count),
        })
    }

    fn act(&mut self, operation: Operation) -> Result<()> {
        self.turn = self.turn.wrapping_add(7919); // a prime: all of them, in no order that anybody could guess
        let index = usize::try_from(self.turn)? % KNOWN_FILES;
        let name = self.names.get(index).context("no such name")?.as_str();
        let wanted = StatxFlags::BASIC_STATS;
        match operation {
            Operation::Lookup => {
                statx(&self.known, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
            }
            Operation::GetAttr => {
                let file = self.files.get(index).context("no such file")?;
                statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
            }
            Operation::OpenClose => {
                drop(openat(&self.known, name, OFlags::RDONLY, Mode::empty())?);
            }
            Operation::Create => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                let mode = Mode::from_raw_mode(0o644);
                drop(openat(&self.new, made_name(self.made), flags, mode)?);
                self.made += 1;
            }
            Operation::Unlink => {
                self.made = self.made.saturating_sub(1);
                unlinkat(&self.new, made_name(self.made), AtFlags::empty())?;
            }
            Operation::List => list(&self.listed)?,
            Operation::RandomRead | Operation::SequentialRead => {
                let (at, len) = self.place(operation);
                let buffer = self.buffer.get_mut(..len).context("too long")?;
                pread(&self.data, buffer, at)?;
            }
            Operation::RandomWrite | Operation::SequentialWrite | Operation::WriteSync => {
                let (at, len) = self.place(operation);
                pwrite(&self.data, self.buffer.get(..len).context("too long")?, at)?;
                if operation == Operation::WriteSync {
                    rustix::fs::fsync(&self.data)?;
                }
            }
        }
        Ok(())
    }

    fn place(&self, operation: Operation) -> (u64, usize) {
        let large = matches!(
            operation,
            Operation::SequentialRead | Operation::SequentialWrite
        );
        let len = if large { 1 << 20 } else { 4096 };
        let at = self.turn % (DATA_BYTES / len) * len;
        (at, usize::try_from(len).unwrap_or(0))
    }
}

fn list(folder: &OwnedFd) -> Result<()> {
    let opened = openat(
        folder,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(opened.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        statx(folder, entry?.file_name(), flags, StatxFlags::BASIC_STATS)?;
    }
    Ok(())
}

fn made_name(number: u64) -> String {
    format!("bare-{number}")
}

/// Processor time of this thread, in seconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}
