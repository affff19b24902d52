//! The control queue: task management functions and asynchronous notification (virtio 1.3, 5.6.6.2).
//!
//! Knows what a function concerns, and how it is answered. What it waits for is a [`Sweep`]'s business.

use std::sync::Arc;

use common::device::{Guest, Hold};
use common::request::{CursorError, Request};
use common::ring::Ring;

use super::sweep::{Effect, Notice, Scope, Sweep};
use super::wire::{Address, Response, malformed};
use crate::engine::Workers;
use crate::scsi::attention::Attention;
use crate::target::Target;

/// Index of the control queue.
pub const CONTROL_RING: usize = 0;
/// Index of the first request queue.
pub const FIRST_REQUEST_RING: usize = 2;

/// Answers to task management functions (5.6.6.2).
const COMPLETE: u8 = 0;
const BAD_TARGET: u8 = 3;
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

/// A request of the control queue.
enum Control {
    /// A task management function.
    Task {
        function: u32,
        address: Address,
        id: u64,
    },
    /// Asynchronous notification: query or subscribe. There is none for disks: the answer is an empty set.
    Notification { address: Address },
    /// Another type.
    Unknown,
}

fn parse(request: &Request, target: u8) -> Result<Control, CursorError> {
    let mut reader = request.reader();
    let mut word = [0; 4];
    let mut lun = [0; 8];
    reader.read_exact(&mut word)?;
    match u32::from_le_bytes(word) {
        0 => {
            reader.read_exact(&mut word)?;
            reader.read_exact(&mut lun)?;
            let mut id = [0; 8];
            reader.read_exact(&mut id)?;
            Ok(Control::Task {
                function: u32::from_le_bytes(word),
                address: Address::decode(lun, target),
                id: u64::from_le_bytes(id),
            })
        }
        1 | 2 => {
            reader.read_exact(&mut lun)?;
            Ok(Control::Notification {
                address: Address::decode(lun, target),
            })
        }
        _ => Ok(Control::Unknown),
    }
}

/// Serves the control queue. A function that concerns request rings which are started, but not served for the moment, waits for
/// them on the ring.
pub(crate) fn serve(ring: &mut Ring<'_>, target: &Arc<Target>, workers: &Workers, guest: &Guest) {
    while let Some(request) = ring.pop() {
        match parse(&request, target.config().target) {
            Ok(Control::Task {
                function,
                address,
                id,
            }) => {
                let Some(holds) = workers.hold(guest) else {
                    // It is the one popped last.
                    if let Err(request) = ring.put_back(request) {
                        answer(ring, request, REJECTED);
                    }
                    return;
                };
                if let Some(sweep) = manage(ring, request, target, function, address, id) {
                    workers.sweep(&sweep, holds, guest);
                }
            }
            Ok(Control::Notification { address }) => {
                let response = match address {
                    Address::BadTarget => BAD_TARGET,
                    Address::Unit(_) | Address::ReportLuns => COMPLETE,
                };
                let bytes = [0, 0, 0, 0, response];
                let written = write(&request, &bytes);
                ring.complete(request, written);
            }
            Ok(Control::Unknown) => answer(ring, request, REJECTED),
            Err(error) => {
                malformed(CONTROL_RING, &error);
                ring.complete(request, 0);
            }
        }
    }
}

/// Answers a function at once, or makes a sweep that will.
fn manage(
    ring: &mut Ring<'_>,
    request: Request,
    target: &Arc<Target>,
    function: u32,
    address: Address,
    id: u64,
) -> Option<Arc<Sweep>> {
    let lun = match address {
        Address::BadTarget => {
            answer(ring, request, BAD_TARGET);
            return None;
        }
        Address::Unit(lun) if target.table().contains_key(&lun) => Some(lun),
        Address::Unit(_) | Address::ReportLuns => None,
    };
    // A nexus reset concerns all units, whatever unit it names.
    let Some(lun) = lun.or((function == 4).then_some(0)) else {
        answer(ring, request, INCORRECT_LUN);
        return None;
    };
    let task = Scope::Task { lun, id };
    let aborted = Effect::End(Response::Aborted);
    let reset = Effect::End(Response::Reset);
    let (scope, effect, cause) = match function {
        0 => (task, aborted, None),
        1 | 3 => (Scope::Unit(lun), aborted, None),
        4 => (Scope::Target, reset, Some(Attention::NEXUS_LOSS)),
        5 => (Scope::Unit(lun), reset, Some(Attention::UNIT_RESET)),
        6 => (task, Effect::Notice, None),
        7 => (Scope::Unit(lun), Effect::Notice, None),
        // 2, CLEAR ACA: NormACA is 0, so there is never an ACA.
        _ => {
            answer(ring, request, REJECTED);
            return None;
        }
    };
    let request = ring.detach(request);
    let target = Arc::clone(target);
    Some(Sweep::new(scope, effect, move |found| {
        if let Some(cause) = cause {
            target.reset_units(scope, cause);
        }
        let response = if found && effect == Effect::Notice {
            SUCCEEDED
        } else {
            COMPLETE
        };
        let written = write(request.request(), &[response]);
        request.complete(written);
    }))
}

fn answer(ring: &mut Ring<'_>, request: Request, response: u8) {
    let written = write(&request, &[response]);
    ring.complete(request, written);
}

fn write(request: &Request, bytes: &[u8]) -> u32 {
    match request.writer().write_all(bytes) {
        Ok(()) => u32::try_from(bytes.len()).unwrap_or(0),
        Err(error) => {
            malformed(CONTROL_RING, &error);
            0
        }
    }
}

/// Keeps all request rings from being drained. `None` if one is started but not served now: what is on it can neither be seen nor
/// ended, so a function has to wait.
pub(crate) fn hold(guest: &Guest, rings: usize) -> Option<Vec<(usize, common::gate::Token)>> {
    let mut held = Vec::new();
    for ring in FIRST_REQUEST_RING..rings {
        match guest.hold(ring) {
            Hold::Held(token) => held.push((ring, token)),
            Hold::Closed => return None,
            Hold::NotStarted => {}
        }
    }
    Some(held)
}

/// One sweep for each ring that is held.
pub(crate) fn notices(
    sweep: &Arc<Sweep>,
    held: Vec<(usize, common::gate::Token)>,
) -> impl Iterator<Item = (usize, Notice)> + use<> {
    let sweep = Arc::clone(sweep);
    held.into_iter().map(move |(ring, token)| {
        let sweep = Arc::clone(&sweep);
        (ring, Notice { sweep, token })
    })
}
