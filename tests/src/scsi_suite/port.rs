//! One initiator and the daemon that serves it now; it can be moved to another daemon at any time.
//!
//! Knows how daemons are started, not what the commands mean.

use std::path::PathBuf;

use anyhow::{Context, Result};
use common::frontend::Channel;

use super::initiator::Initiator;
use crate::daemon_runner::{Daemon, built};
use crate::guest::machine::{LoadOrder, Manner};

/// The environment variable that names another back-end to be tested instead of ours: a program with the same options.
pub const BACKEND_VARIABLE: &str = "SCSI_BACKEND";

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Backend {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Backend {
    /// Our daemon, with one request ring, and no image yet.
    pub fn new() -> Result<Self> {
        let program = match std::env::var_os(BACKEND_VARIABLE) {
            Some(program) => program.into(),
            None => built("vhost-device-scsi")?,
        };
        Ok(Self {
            program,
            arguments: vec!["--num-queues".to_owned(), "1".to_owned()],
        })
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with<A: Into<String>>(&self, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut with = self.clone();
        with.arguments.extend(arguments.into_iter().map(Into::into));
        with
    }

    /// A new daemon.
    pub fn start(&self) -> Result<Daemon> {
        Daemon::start_at(&self.program, &self.arguments)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Port {
    /// The guest's side.
    pub initiator: Initiator,
    daemon: Daemon,
    backend: Backend,
    migrations: u32,
}

impl Port {
    /// Starts a daemon, and a guest's driver for it.
    pub fn new(backend: Backend) -> Result<Self> {
        let daemon = backend.start()?;
        let initiator = Initiator::boot(daemon.connect()?)
            .with_context(|| format!("the daemon's log:\n{}", daemon.log().unwrap_or_default()))?;
        Ok(Self {
            initiator,
            daemon,
            backend,
            migrations: 0,
        })
    }

    /// Moves the device to a new daemon, in one of the ways that front-ends have.
    pub fn migrate(&mut self) -> Result<()> {
        let next = self.backend.start()?;
        let manner = manner(self.migrations);
        self.initiator
            .machine()
            .migrate_to(next.connect()?, manner)
            .with_context(|| {
                format!(
                    "{manner:?}; the source's log:\n{}\nthe destination's log:\n{}",
                    self.daemon.log().unwrap_or_default(),
                    next.log().unwrap_or_default()
                )
            })?;
        self.daemon = next;
        self.migrations += 1;
        Ok(())
    }

    /// The daemon that serves it now.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// How often it was moved.
    pub fn migrations(&self) -> u32 {
        self.migrations
    }
}

/// All manners, one after the other.
fn manner(number: u32) -> Manner {
    let order = [
        LoadOrder::BeforeFeatures,
        LoadOrder::BeforeMemory,
        LoadOrder::BeforeRings,
    ];
    let channel = [Channel::Pipe, Channel::SocketPair, Channel::File];
    let pick = |count: usize, divisor: u32| (number / divisor) as usize % count;
    Manner {
        order: order
            .get(pick(3, 1))
            .copied()
            .unwrap_or(LoadOrder::BeforeFeatures),
        channel: channel.get(pick(3, 3)).copied().unwrap_or(Channel::Pipe),
        suspend: number % 2 == 1,
    }
}
