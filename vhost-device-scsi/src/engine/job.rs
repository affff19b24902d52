//! A command that is being worked on: its request, its unit, and what ends it early.
//!
//! Knows where the data lies; does not know who does the work.

use std::sync::Arc;

use common::request::Request;
use common::ring::DetachedRequest;

use crate::reservations::InFlight;
use crate::scsi::{CDB_BYTES_MAX, Completion, Failure, Operation, Reply};
use crate::target::unit::LogicalUnit;
use crate::virtio::sweep::Sweep;
use crate::virtio::wire::{Frame, Incoming};

/// A command whose request is in our hands.
pub(crate) struct Job {
    /// Index of its ring.
    pub(crate) ring: usize,
    pub(crate) request: DetachedRequest,
    pub(crate) command: Command,
    /// Task management that waits for its end: its answer is not the command's own then.
    pub(crate) sweeps: Vec<Arc<Sweep>>,
}

/// A command, and what is to be done about it.
pub(crate) struct Command {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) lun: u16,
    pub(crate) id: u64,
    pub(crate) cdb: [u8; CDB_BYTES_MAX],
    pub(crate) frame: Frame,
    pub(crate) work: Work,
    /// Others who share reservations see it until it is done.
    pub(crate) in_flight: Option<InFlight>,
}

/// What is to be done.
pub(crate) enum Work {
    /// Something with the medium.
    Operation(Operation),
    /// All of it, off the worker's thread: its unit shares reservations with others, and may have to wait for them.
    Shared,
}

/// What came of a job.
pub(crate) enum Outcome {
    /// Of an operation. Data that was read is in the guest's memory.
    Operation(Result<Completion, Failure>),
    /// The whole command.
    Reply(Reply, usize),
    /// The answer is not a reply of the unit's.
    Response(crate::virtio::wire::Response),
}

/// A job that has come out of the pool.
pub(crate) struct Finished {
    pub(crate) job: Job,
    /// Its number among the worker's jobs in the pool.
    pub(crate) number: usize,
    pub(crate) outcome: Outcome,
}

impl Command {
    pub(crate) fn new(unit: Arc<LogicalUnit>, lun: u16, incoming: &Incoming, work: Work) -> Self {
        Self {
            unit,
            lun,
            id: incoming.id,
            cdb: incoming.cdb,
            frame: incoming.frame,
            work,
            in_flight: None,
        }
    }
}

impl Job {
    pub(crate) fn request(&self) -> &Request {
        self.request.request()
    }
}
