//! Events: what the guest hears without having asked (virtio 1.3, 5.6.6.3).
//!
//! Knows the event queue; knows nothing of why an event came. Buffers of the guest are taken only when there is something to put
//! into them. While the device is suspended events wait; nothing is lost without saying so.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::device::Guest;
use common::request::{CursorError, Request};
use common::ring::Ring;

use super::wire::{event_lun, malformed};
use crate::scsi::attention::Attention;

/// Index of the event queue.
pub const EVENT_RING: usize = 1;
/// Events that wait, at most.
pub const EVENTS_MAX: usize = 1024;
/// Length of an event in bytes: `event_info_size`.
pub const EVENT_BYTES: u32 = 16;

/// `VIRTIO_SCSI_F_HOTPLUG`: the driver wants to know of units that come and go.
pub const FEATURE_HOTPLUG: u64 = 1 << 1;
/// `VIRTIO_SCSI_F_CHANGE`: the driver wants to know of parameters that change.
pub const FEATURE_CHANGE: u64 = 1 << 2;

const EVENTS_MISSED: u32 = 1 << 31;

/// What happened to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It came: `TRANSPORT_RESET`, RESCAN.
    Rescan,
    /// It went: `TRANSPORT_RESET`, REMOVED.
    Removed,
    /// A parameter changed: `PARAM_CHANGE` with the sense codes of the unit attention that says the same.
    Changed(Attention),
}

impl EventKind {
    /// `event` and `reason`.
    fn encode(self) -> (u32, u32) {
        match self {
            Self::Rescan => (1, 1),
            Self::Removed => (1, 2),
            Self::Changed(attention) => {
                (3, u32::from(attention.asc) | u32::from(attention.ascq) << 8)
            }
        }
    }

    fn feature(self) -> u64 {
        match self {
            Self::Rescan | Self::Removed => FEATURE_HOTPLUG,
            Self::Changed(_) => FEATURE_CHANGE,
        }
    }
}

/// An event that waits for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Logical unit number.
    pub lun: u16,
}

/// Events that the guest has not got yet. Plain; [`save`](crate::save) and [`load`](crate::load) copy it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Oldest first, at most [`EVENTS_MAX`].
    pub events: VecDeque<Event>,
    /// One was lost: the guest will be told to look for itself.
    pub missed: bool,
}

/// The event queue's side of the device.
#[derive(Default)]
pub struct Events {
    pending: Mutex<Pending>,
    /// Our way to the queue, from the first resume on.
    guest: Mutex<Option<Guest>>,
}

impl Events {
    /// The device may work: what waits is delivered.
    pub fn resume(&self, guest: &Guest) {
        *lock(&self.guest) = Some(guest.clone());
        guest.serve(EVENT_RING);
    }

    /// Adds an event; delivers it if the guest has a buffer, now or when it has one.
    pub fn add(&self, event: Event) {
        let mut pending = lock(&self.pending);
        // A second one of the same would tell nothing new.
        if pending.events.back() != Some(&event) {
            if pending.events.len() < EVENTS_MAX {
                pending.events.push_back(event);
            } else {
                pending.missed = true;
            }
        }
        drop(pending);
        self.wake();
    }

    /// The guest may have missed something.
    pub fn miss(&self) {
        lock(&self.pending).missed = true;
        self.wake();
    }

    /// What waits.
    pub fn pending(&self) -> Pending {
        lock(&self.pending).clone()
    }

    /// Replaces what waits.
    pub fn set_pending(&self, pending: Pending) {
        *lock(&self.pending) = pending;
    }

    fn wake(&self) {
        if let Some(guest) = &*lock(&self.guest) {
            guest.serve(EVENT_RING);
        }
    }

    /// Puts what waits into the guest's buffers. Events that the driver has not accepted `features` for are dropped.
    pub fn deliver(&self, ring: &mut Ring<'_>, target: u8, features: u64) {
        let mut pending = lock(&self.pending);
        loop {
            while pending
                .events
                .front()
                .is_some_and(|event| event.kind.feature() & features == 0)
            {
                pending.events.pop_front();
            }
            if pending.events.is_empty() && !pending.missed {
                return;
            }
            let Some(request) = ring.pop() else {
                return;
            };
            let event = pending.events.front().copied();
            let written = match write(&request, event, target, pending.missed) {
                Ok(written) => {
                    pending.events.pop_front();
                    pending.missed = false;
                    written
                }
                Err(error) => {
                    // 5.6.6.3: a buffer that is too small is used up, and the event lost; the next one says so.
                    malformed(EVENT_RING, &error);
                    pending.events.pop_front();
                    pending.missed = true;
                    0
                }
            };
            ring.complete(request, written);
        }
    }
}

/// Without an event, says only that one was missed.
fn write(
    request: &Request,
    event: Option<Event>,
    target: u8,
    missed: bool,
) -> Result<u32, CursorError> {
    let (kind, reason) = event.map_or((0, 0), |event| event.kind.encode());
    let kind = if missed { kind | EVENTS_MISSED } else { kind };
    let lun = event.map_or([0; 8], |event| event_lun(target, event.lun));
    let mut writer = request.writer();
    if writer.remaining() < EVENT_BYTES as usize {
        return Err(CursorError::ReplyTooSmall {
            available: writer.remaining(),
            wanted: EVENT_BYTES as usize,
        });
    }
    writer.write_all(&kind.to_le_bytes())?;
    writer.write_all(&lun)?;
    writer.write_all(&reason.to_le_bytes())?;
    Ok(EVENT_BYTES)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
