//! The engine: how commands get done, without a worker ever waiting.
//!
//! ```text
//! ring -- worker -- service -- inline        at once, on the worker's thread
//!                           -- uring         straight between file and guest memory
//!                           -- pool -- perform -- blocking
//! ```
//!
//! Knows rings and jobs; SCSI is in [`scsi`](crate::scsi), addresses and layouts are in [`virtio`](crate::virtio).

pub mod blocking;
mod buffer;
mod inline;
pub(crate) mod job;
mod perform;
pub mod pool;
pub(crate) mod service;
mod uring;
pub(crate) mod worker;

use std::sync::Arc;

use common::device::Guest;
use common::gate::Token;
use common::ring::Ring;

use crate::config::{Config, Engine, OTHER_RINGS};
use crate::target::Target;
use crate::virtio::sweep::Sweep;
use crate::virtio::tasks::{self, FIRST_REQUEST_RING};
use pool::{Pool, PoolError};
use service::Service;
use worker::Worker;

/// The engine cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `--engine io-uring`, and the host does not allow it.
    #[error("host: io_uring is not allowed or not there")]
    IoUring(#[source] std::io::Error),
    /// No threads.
    #[error("host: no threads for what may wait")]
    Pool(#[source] PoolError),
}

/// All workers, and the threads for what may wait.
pub(crate) struct Workers {
    all: Vec<Worker>,
    rings: usize,
    pool: Pool,
}

impl Workers {
    pub(crate) fn new(config: &Config, target: &Target) -> Result<Self, EngineError> {
        if config.engine == Engine::IoUring {
            uring::probe().map_err(EngineError::IoUring)?;
        }
        let count = config.workers.clamp(1, config.request_rings.max(1));
        Ok(Self {
            all: (0..count)
                .map(|_| Worker::new(Service::new(config.engine, target)))
                .collect(),
            rings: usize::from(OTHER_RINGS + config.request_rings),
            pool: Pool::new(usize::from(config.threads.max(1))).map_err(EngineError::Pool)?,
        })
    }

    /// Which thread serves a ring: control and event queue have one of their own, so that task management never waits behind what
    /// it is to end.
    pub(crate) fn thread_of(&self, ring: usize) -> usize {
        match ring.checked_sub(FIRST_REQUEST_RING) {
            Some(request_ring) => 1 + request_ring % self.all.len().max(1),
            None => 0,
        }
    }

    /// Serves a request ring.
    pub(crate) fn serve(&self, ring: &mut Ring<'_>, target: &Target, guest: &Guest) {
        if let Some(worker) = self.worker_of(ring.index()) {
            worker.serve(ring, target, &self.pool, guest);
        }
    }

    /// Keeps all request rings from being drained; see [`tasks::hold`].
    pub(crate) fn hold(&self, guest: &Guest) -> Option<Vec<(usize, Token)>> {
        tasks::hold(guest, self.rings)
    }

    /// Sends a sweep to the workers of all rings that are held.
    pub(crate) fn sweep(&self, sweep: &Arc<Sweep>, held: Vec<(usize, Token)>, guest: &Guest) {
        for (ring, notice) in tasks::notices(sweep, held) {
            if let Some(worker) = self.worker_of(ring) {
                worker.notify(ring, notice);
                guest.serve(ring);
            }
        }
    }

    fn worker_of(&self, ring: usize) -> Option<&Worker> {
        self.all.get(self.thread_of(ring).checked_sub(1)?)
    }
}
