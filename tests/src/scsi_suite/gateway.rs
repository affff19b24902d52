//! Runs programs for which `/dev/sgN` are SCSI devices, and carries their commands to ports.
//!
//! Knows neither the commands nor the programs. Everything happens in the thread that calls [`Gateway::run`], so that between two programs the
//! ports are the caller's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;

use super::initiator::{Data, Outcome, TaskManagement};
use super::port::Port;
use super::wire::{ANSWER_SIZE, Answer, Kind, REQUEST_SIZE, Request, SENSE_MAX, SOCKET_VARIABLE};
use crate::daemon_runner::library;
use crate::qemu::process::Process;

/// `/dev/sgN` is unit `N % UNITS` of port `N / UNITS`.
pub const UNITS: u8 = 16;

/// When ports are migrated while a program runs: at random, and less and less often, so that a long program is not all migration.
#[derive(Clone, Debug)]
pub struct Moves {
    random: u64,
    every: u64,
}

impl Moves {
    /// Before about one command in `every` at first.
    pub fn new(seed: u64, every: u64) -> Self {
        Self {
            random: seed,
            every: every.max(1),
        }
    }

    /// Whether to migrate now. The numbers are Sebastiano Vigna's `SplitMix64`: any seed is a good one.
    fn next(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let now = (mixed ^ (mixed >> 31)).is_multiple_of(self.every);
        if now {
            self.every += self.every / 2 + 1;
        }
        now
    }
}

/// What became of a program.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub output: String,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Gateway {
    /// The initiators behind the devices.
    pub ports: Vec<Port>,
    /// When they are migrated.
    pub moves: Option<Moves>,
    shim: PathBuf,
    listener: UnixListener,
    folder: TempDir,
}

/// An open device of the program.
struct Connection {
    stream: UnixStream,
    number: u8,
}

impl Gateway {
    /// A gateway to `ports`.
    pub fn new(ports: Vec<Port>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("gateway-").tempdir()?;
        let listener = UnixListener::bind(folder.path().join("socket"))?;
        Ok(Self {
            ports,
            moves: None,
            shim: shim()?,
            listener,
            folder,
        })
    }

    /// Runs a program to its end. It is an error if that does not come within `limit`, or if a back-end gives no answer.
    pub fn run(&mut self, command: &mut Command, limit: Duration) -> Result<Finished> {
        let log = self.folder.path().join("output");
        command
            .env("LD_PRELOAD", &self.shim)
            .env(SOCKET_VARIABLE, self.folder.path().join("socket"))
            .current_dir(self.folder.path());
        let mut process = Process::start("a SCSI tool", command, &log)?;
        let output = || fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let status = self
            .serve(&mut process, Instant::now() + limit)
            .with_context(|| format!("{command:?}\n{}", output().unwrap_or_default()))?;
        Ok(Finished {
            status,
            output: output()?,
        })
    }

    fn serve(&mut self, process: &mut Process, end: Instant) -> Result<ExitStatus> {
        let exited = pidfd_open(process.id(), PidfdFlags::empty())?;
        let mut connections: Vec<Connection> = Vec::new();
        loop {
            if let Some(status) = process.status()? {
                return Ok(status);
            }
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
            let streams = connections.iter().map(|connection| &connection.stream);
            let mut events: Vec<_> = streams
                .map(|stream| PollFd::new(stream, PollFlags::IN))
                .collect();
            events.push(PollFd::new(&self.listener, PollFlags::IN));
            events.push(PollFd::new(&exited, PollFlags::IN));
            if poll(&mut events, Some(&left))? == 0 {
                bail!("the program has not come to its end");
            }
            let ready: Vec<_> = events
                .iter()
                .map(|event| !event.revents().is_empty())
                .collect();
            drop(events);
            if ready.get(connections.len()) == Some(&true) {
                connections.push(self.accept()?);
            }
            let mut open = Vec::new();
            for (index, connection) in connections.into_iter().enumerate() {
                if ready.get(index) != Some(&true) || self.answer(&connection)? {
                    open.push(connection);
                }
            }
            connections = open;
        }
    }

    fn accept(&self) -> Result<Connection> {
        let (mut stream, _) = self.listener.accept()?;
        // The library writes a request at once.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut number = [0];
        stream.read_exact(&mut number)?;
        let [number] = number;
        Ok(Connection { stream, number })
    }

    /// Carries one request; tells whether there can be more.
    fn answer(&mut self, connection: &Connection) -> Result<bool> {
        let mut stream = &connection.stream;
        let mut bytes = [0; REQUEST_SIZE];
        match stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let request = Request::decode(&bytes).context("a request of another version of sgshim")?;
        let mut data = vec![0; request.length as usize];
        if request.kind == Kind::CommandOut {
            stream.read_exact(&mut data)?;
        }
        let (answer, data) = self.carry(connection.number, &request, &data)?;
        let mut reply: Vec<u8> = Vec::with_capacity(ANSWER_SIZE + data.len());
        reply.extend(answer.encode());
        reply.extend(data);
        // A program that has ended in the meantime wants no answer.
        Ok(stream.write_all(&reply).is_ok())
    }

    fn carry(&mut self, number: u8, request: &Request, data: &[u8]) -> Result<(Answer, Vec<u8>)> {
        let move_now = self.moves.as_mut().is_some_and(Moves::next);
        let port = self
            .ports
            .get_mut(usize::from(number / UNITS))
            .with_context(|| format!("/dev/sg{number} has no port"))?;
        if move_now {
            port.migrate().context("migrating between two commands")?;
        }
        let lun = u16::from(number % UNITS);
        let function = match request.kind {
            Kind::ResetUnit => Some(TaskManagement::UnitReset),
            Kind::ResetNexus => Some(TaskManagement::NexusReset),
            Kind::Command | Kind::CommandOut | Kind::CommandIn => None,
        };
        if let Some(function) = function {
            let outcome = Outcome {
                response: port.initiator.manage(lun, function)?,
                status: 0,
                sense: Vec::new(),
                residual: 0,
                data: Vec::new(),
            };
            return Ok((answer(&outcome), outcome.data));
        }
        let cdb = request
            .cdb
            .get(..request.cdb_length.into())
            .unwrap_or_default();
        let data = match request.kind {
            Kind::CommandOut => Data::Out(data),
            Kind::CommandIn => Data::In(data.len()),
            Kind::Command | Kind::ResetUnit | Kind::ResetNexus => Data::None,
        };
        let outcome = port
            .initiator
            .command(lun, cdb, data)
            .with_context(|| format!("LUN {lun}, command {cdb:02x?}"))?;
        Ok((answer(&outcome), outcome.data))
    }
}

/// The library, brought up to date once.
fn shim() -> Result<PathBuf> {
    static SHIM: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut shim = SHIM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*shim {
        return Ok(path.clone());
    }
    Ok(shim.insert(library("sgshim")?).clone())
}

fn answer(outcome: &Outcome) -> Answer {
    let mut sense = [0; SENSE_MAX];
    for (to, from) in sense.iter_mut().zip(&outcome.sense) {
        *to = *from;
    }
    Answer {
        status: outcome.status,
        response: outcome.response,
        sense_length: u8::try_from(outcome.sense.len().min(SENSE_MAX)).unwrap_or(0),
        residual: outcome.residual,
        sense,
    }
}
