//! Runs programs for which `/dev/sgN` are SCSI devices, or an iSCSI target on the loopback interface is, and carries their commands to ports.
//!
//! Knows neither the commands nor the programs. Everything happens in the thread that calls [`Gateway::run`], so that between two programs the
//! ports are the caller's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
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
use super::iscsi::target::{Event, Session};
use super::port::Port;
use super::wire::{ANSWER_SIZE, Answer, Kind, REQUEST_SIZE, Request, SENSE_MAX, SOCKET_VARIABLE};
use crate::daemon_runner::library;
use crate::qemu::process::Process;
use crate::random::Random;

/// `/dev/sgN` is unit `N % UNITS` of port `N / UNITS`.
pub const UNITS: u8 = 16;

/// When ports are migrated while a program runs: at random, and less and less often, so that a long program is not all migration.
#[derive(Clone, Debug)]
pub struct Moves {
    random: Random,
    every: u64,
}

impl Moves {
    /// Before about one command in `every` at first.
    pub fn new(seed: u64, every: u64) -> Self {
        Self {
            random: Random::new(seed),
            every: every.max(1),
        }
    }

    /// Whether to migrate now.
    fn next(&mut self) -> bool {
        let now = self.random.number().is_multiple_of(self.every);
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
    /// Which port is whose, among sessions over iSCSI.
    leases: Vec<Lease>,
    shim: PathBuf,
    devices: UnixListener,
    portal: TcpListener,
    folder: TempDir,
}

/// The use of a port by a session.
#[derive(Debug, Default)]
struct Lease {
    /// The initiator's name; empty before the first session.
    name: String,
    in_use: bool,
}

/// What a program has opened.
enum Connection {
    Device { stream: UnixStream, number: u8 },
    Session { session: Session, port: usize },
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Device { stream, .. } => stream.as_fd(),
            Self::Session { session, .. } => session.stream().as_fd(),
        }
    }
}

impl Gateway {
    /// A gateway to `ports`.
    pub fn new(ports: Vec<Port>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("gateway-").tempdir()?;
        Ok(Self {
            leases: ports.iter().map(|_| Lease::default()).collect(),
            ports,
            moves: None,
            shim: shim()?,
            devices: UnixListener::bind(folder.path().join("socket"))?,
            portal: TcpListener::bind("127.0.0.1:0")?,
            folder,
        })
    }

    /// The iSCSI URL of unit 0. Each session gets a port of its own, if possible the one that the initiator of this name had before.
    pub fn url(&self) -> Result<String> {
        let address = self.portal.local_addr()?;
        Ok(format!(
            "iscsi://{address}/iqn.2026-01.org.vhost-device:tests/0"
        ))
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
                // Programs that crash do not log out.
                for (port, lease) in self.ports.iter_mut().zip(&mut self.leases) {
                    if std::mem::take(&mut lease.in_use) {
                        port.initiator.manage(0, TaskManagement::NexusReset)?;
                    }
                }
                return Ok(status);
            }
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
            let mut events: Vec<_> = connections
                .iter()
                .map(|connection| PollFd::new(connection, PollFlags::IN))
                .collect();
            events.push(PollFd::new(&self.devices, PollFlags::IN));
            events.push(PollFd::new(&self.portal, PollFlags::IN));
            events.push(PollFd::new(&exited, PollFlags::IN));
            if poll(&mut events, Some(&left))? == 0 {
                bail!("the program has not come to its end");
            }
            let ready: Vec<_> = events
                .iter()
                .map(|event| !event.revents().is_empty())
                .collect();
            drop(events);
            let is_ready = |index: usize| ready.get(index) == Some(&true);
            let mut open = Vec::new();
            let before = connections.len();
            // What has ended makes room for what begins.
            for (index, mut connection) in connections.into_iter().enumerate() {
                if !is_ready(index) || self.serve_one(&mut connection)? {
                    open.push(connection);
                }
            }
            if is_ready(before) {
                open.push(self.accept_device()?);
            }
            if is_ready(before + 1) {
                open.push(self.accept_session()?);
            }
            connections = open;
        }
    }

    fn accept_device(&self) -> Result<Connection> {
        let (mut stream, _) = self.devices.accept()?;
        // The library writes a request at once.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut number = [0];
        stream.read_exact(&mut number)?;
        let [number] = number;
        Ok(Connection::Device { stream, number })
    }

    fn accept_session(&mut self) -> Result<Connection> {
        let (session, name) = Session::accept(self.portal.accept()?.0)?;
        let free = || {
            let leases = self.leases.iter().enumerate();
            leases.filter(|(_, lease)| !lease.in_use)
        };
        let port = free()
            .find(|(_, lease)| lease.name == name)
            .or_else(|| free().find(|(_, lease)| lease.name.is_empty()))
            .map(|(port, _)| port)
            .with_context(|| format!("there is no port for a session of {name}"))?;
        if let Some(lease) = self.leases.get_mut(port) {
            *lease = Lease { name, in_use: true };
        }
        Ok(Connection::Session { session, port })
    }

    /// Serves what has arrived; tells whether there can be more.
    fn serve_one(&mut self, connection: &mut Connection) -> Result<bool> {
        let (session, port) = match connection {
            Connection::Device { stream, number } => return self.answer(stream, *number),
            Connection::Session { session, port } => (session, *port),
        };
        let initiator = &mut self.port(port)?.initiator;
        match session.serve(initiator)? {
            Event::Open => Ok(true),
            Event::ResetTarget => {
                for port in &mut self.ports {
                    port.initiator.manage(0, TaskManagement::UnitReset)?;
                }
                Ok(true)
            }
            Event::Closed => {
                initiator.manage(0, TaskManagement::NexusReset)?;
                if let Some(lease) = self.leases.get_mut(port) {
                    lease.in_use = false;
                }
                Ok(false)
            }
        }
    }

    /// A port, migrated before if it is time.
    fn port(&mut self, index: usize) -> Result<&mut Port> {
        let move_now = self.moves.as_mut().is_some_and(Moves::next);
        let port = self.ports.get_mut(index);
        let port = port.with_context(|| format!("there is no port {index}"))?;
        if move_now {
            port.migrate().context("migrating between two commands")?;
        }
        Ok(port)
    }

    /// Carries one request of a device; tells whether there can be more.
    fn answer(&mut self, mut stream: &UnixStream, number: u8) -> Result<bool> {
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
        let outcome = self.carry(number, &request, &data)?;
        let mut reply: Vec<u8> = Vec::with_capacity(ANSWER_SIZE + outcome.data.len());
        reply.extend(answer(&outcome).encode());
        reply.extend(outcome.data);
        // A program that has ended in the meantime wants no answer.
        Ok(stream.write_all(&reply).is_ok())
    }

    fn carry(&mut self, number: u8, request: &Request, data: &[u8]) -> Result<Outcome> {
        let initiator = &mut self.port(usize::from(number / UNITS))?.initiator;
        let lun = u16::from(number % UNITS);
        let cdb = request
            .cdb
            .get(..request.cdb_length.into())
            .unwrap_or_default();
        let outcome = match request.kind {
            Kind::Command => initiator.command(lun, cdb, Data::None),
            Kind::CommandOut => initiator.command(lun, cdb, Data::Out(data)),
            Kind::CommandIn => initiator.command(lun, cdb, Data::In(data.len())),
            Kind::ResetUnit => return reset(initiator.manage(lun, TaskManagement::UnitReset)),
            Kind::ResetNexus => return reset(initiator.manage(lun, TaskManagement::NexusReset)),
        };
        outcome.with_context(|| format!("LUN {lun}, command {cdb:02x?}"))
    }
}

/// The outcome of task management.
fn reset(response: Result<u8>) -> Result<Outcome> {
    Ok(Outcome {
        response: response?,
        status: 0,
        sense: Vec::new(),
        residual: 0,
        data: Vec::new(),
    })
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
