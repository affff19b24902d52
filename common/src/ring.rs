//! A ring as a device sees it while it serves it: pop requests, complete them, notify once per batch.
//!
//! Knows the gate and guest memory; does not know how rings are set up, nor what is in a request.

use std::sync::Arc;

use crate::gate::{Gate, Lane, Token};
use crate::memory::{GuestMemory, GuestMemoryHandle};
use crate::protocol::vring::{Popped, Vring, Which};
use crate::request::{Request, Segments};

/// Requests completed before the guest is told, at most. Bounds how long the first waits for the last, and lets the guest work while
/// the device does. One that is at work already does not ask to be told (`VIRTIO_F_EVENT_IDX`).
const BATCH_MAX: u32 = 16;

/// One ring, for the time of one call of [`Device::process`](crate::device::Device::process).
///
/// Completions are gathered and the guest is notified when the ring is empty, after a batch, or by
/// [`flush`](Self::flush).
pub struct Ring<'a> {
    vring: &'a Vring,
    memory: &'a GuestMemoryHandle,
    gate: &'a Gate,
    token: &'a Token,
    spare: Segments,
    unannounced: u32,
    last: Last,
}

/// What the last look at the ring came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// A request, which the device has or has completed.
    Request,
    /// Nothing there.
    Empty,
    /// The device did not look, was not let, or put back what it got.
    Nothing,
}

impl<'a> Ring<'a> {
    pub(crate) fn new(
        vring: &'a Vring,
        memory: &'a GuestMemoryHandle,
        gate: &'a Gate,
        token: &'a Token,
    ) -> Self {
        Self {
            vring,
            memory,
            gate,
            token,
            spare: Segments::default(),
            unannounced: 0,
            last: Last::Nothing,
        }
    }

    /// Index of the ring among the device's rings.
    pub fn index(&self) -> usize {
        self.vring.index()
    }

    /// The available index at which the ring was started. It is 0 for a driver that begins anew; another one means that the
    /// guest has used the ring before, with this back-end or another.
    pub fn base(&self) -> u16 {
        self.vring.base()
    }

    /// Whether requests may be begun: the device is not being suspended, nor the ring stopped; or there are still some that were
    /// begun before a crash, which [`pop`](Self::pop) gives even then.
    pub fn is_open(&self) -> bool {
        self.is_admitted() || self.vring.owes()
    }

    fn is_admitted(&self) -> bool {
        self.gate.is_open(Lane::Ring(self.index()))
    }

    /// The next request, or `None` if there is none, or if the device is being suspended. First come those that a process before
    /// this one did not live to give back ([`Request::is_resubmitted`]), in their order.
    ///
    /// Malformed chains are logged and given back to the guest with nothing written; a ring whose indices make no
    /// sense is logged once and yields nothing until it is set up again.
    pub fn pop(&mut self) -> Option<Request> {
        if self.is_admitted() {
            self.pop_any(Which::Any)
        } else if self.vring.owes() {
            self.pop_any(Which::Owed)
        } else {
            self.last = Last::Nothing;
            None
        }
    }

    /// Like [`pop`](Self::pop), and also while the ring is being drained: for a request that ends others, whose end the drain
    /// waits for. Bounded by the size of the ring only if the caller bounds it.
    pub fn pop_closing(&mut self) -> Option<Request> {
        self.pop_any(Which::Any)
    }

    fn pop_any(&mut self, which: Which) -> Option<Request> {
        self.last = Last::Nothing;
        loop {
            let memory: Arc<GuestMemory> = self.memory.snapshot();
            let spare = std::mem::take(&mut self.spare);
            match self.vring.pop(&memory, spare, which) {
                Popped::Request(request) => {
                    self.last = Last::Request;
                    return Some(request);
                }
                Popped::Malformed { head, error, spare } => {
                    self.vring.complain(&error);
                    self.spare = spare;
                    self.add_used(&memory, head, 0);
                }
                Popped::Nothing(spare) => {
                    self.spare = spare;
                    self.last = Last::Empty;
                    return None;
                }
            }
        }
    }

    /// Gives `request` back to the guest with `written` bytes written to it.
    pub fn complete(&mut self, request: Request, written: u32) {
        self.add_used(request.memory(), request.head(), written);
        self.spare = request.segments;
    }

    /// Takes back a request that the device popped but does not want to start: it will be popped again, here or
    /// after a migration. Only the request popped last can be put back, then the one before it, and so on; and none that was
    /// resubmitted once the device is being suspended or the ring stopped, for those have no place to go back to.
    pub fn put_back(&mut self, request: Request) -> Result<(), Request> {
        let has_place = !request.is_resubmitted() || self.is_admitted();
        if has_place && self.vring.put_back(&request, self.token) {
            self.last = Last::Nothing;
            self.spare = request.segments;
            Ok(())
        } else {
            Err(request)
        }
    }

    /// Goes on with a request that was [left](DetachedRequest::leave) with the guest, by this back-end or by the one whose state
    /// was loaded. `None` if the guest does not wait for it (any more): the ring was set up anew since.
    pub fn take_up(&mut self, head: u16) -> Option<Request> {
        let memory: Arc<GuestMemory> = self.memory.snapshot();
        let spare = std::mem::take(&mut self.spare);
        match self.vring.take_up(&memory, head, spare) {
            Popped::Request(request) => Some(request),
            Popped::Malformed { head, error, spare } => {
                self.vring.complain(&error);
                self.spare = spare;
                self.add_used(&memory, head, 0);
                None
            }
            Popped::Nothing(spare) => {
                self.spare = spare;
                None
            }
        }
    }

    /// Whether [`pop`](Self::pop) would give a request now.
    pub fn has_more(&self) -> bool {
        self.vring.owes() || (self.is_admitted() && self.vring.has_more(&self.memory.snapshot()))
    }

    /// Number of descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.vring.size()
    }

    /// Lets `request` complete on another thread, later; suspension waits for it.
    pub fn detach(&self, request: Request) -> DetachedRequest {
        DetachedRequest {
            request,
            vring: self.vring.clone(),
            token: self.token.split(),
        }
    }

    /// Takes the room of a request that has ended for the next one, so that popping it allocates nothing.
    pub fn reuse(&mut self, completions: &mut Completions) {
        if !self.spare.has_room()
            && let Some(spare) = completions.spares.pop()
        {
            self.spare = spare;
        }
    }

    /// Tells the guest of what was completed so far: before something slow.
    pub fn flush(&mut self) {
        if self.unannounced > 0 {
            self.unannounced = 0;
            self.vring.notify();
        }
    }

    /// Asks the guest not to kick while the ring is being served.
    pub(crate) fn disable_notification(&self) {
        self.vring.disable_notification(&self.memory.snapshot());
    }

    /// Asks the guest for kicks again; returns whether the ring must be looked at once more, because the guest
    /// added something after [`pop`](Self::pop) saw it empty and did not kick, or because the device `panicked` over
    /// one request and others follow.
    pub(crate) fn enable_notification(&self, panicked: bool) -> bool {
        let more = self.vring.enable_notification(&self.memory.snapshot()) || self.vring.owes();
        match self.last {
            Last::Empty => more,
            Last::Request => more && panicked,
            Last::Nothing => false,
        }
    }

    fn add_used(&mut self, memory: &GuestMemory, head: u16, written: u32) {
        self.vring.add_used(memory, head, written);
        self.unannounced += 1;
        if self.unannounced >= BATCH_MAX {
            self.flush();
        }
    }
}

/// A request that ends on a thread of the device's own.
#[derive(Debug)]
#[must_use = "a request that is never completed is lost to the guest"]
pub struct DetachedRequest {
    request: Request,
    vring: Vring,
    token: Token,
}

impl DetachedRequest {
    /// The request itself.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Whether the ring is being drained: the request is to end soon, one way or the other.
    pub fn is_waited_for(&self) -> bool {
        self.token.is_waited_for()
    }

    /// Does not answer the request now, and lets the ring be drained without it: for one that waits for something that may never
    /// come. The guest goes on waiting. Returns the head of its chain, by which it is [taken up](Ring::take_up) when the ring is
    /// served again, here or elsewhere; that it is not forgotten is the device's business, and part of its state.
    pub fn leave(self) -> u16 {
        let Self {
            request,
            vring,
            token,
        } = self;
        let head = request.head();
        vring.leave(head);
        drop(token);
        head
    }

    /// Gives the request back to the guest, with `written` bytes written to it, and notifies the guest.
    pub fn complete(self, written: u32) {
        let Self {
            request,
            vring,
            token,
        } = self;
        vring.add_used(request.memory(), request.head(), written);
        vring.notify();
        drop(token);
    }
}

/// Detached requests that end together, of any rings: each guest is notified once for all of them.
///
/// What was completed and not announced is announced when this is dropped.
#[derive(Debug, Default)]
pub struct Completions {
    /// For each ring with something to announce: the ring, and leave to do so.
    unannounced: Vec<(Vring, Token)>,
    count: u32,
    spares: Vec<Segments>,
}

/// Spares that are kept.
const SPARES_MAX: usize = 256;

impl Completions {
    /// Gives `request` back to the guest with `written` bytes written to it. The guest is told by
    /// [`announce`](Self::announce), or after a batch.
    pub fn complete(&mut self, request: DetachedRequest, written: u32) {
        let DetachedRequest {
            request,
            vring,
            token,
        } = request;
        vring.add_used(request.memory(), request.head(), written);
        let known = self
            .unannounced
            .iter()
            .any(|(other, _)| other.is_same(&vring));
        if known {
            drop(token); // the one that was kept is there until the announcement
        } else {
            self.unannounced.push((vring, token));
        }
        if self.spares.len() < SPARES_MAX {
            self.spares.push(request.segments);
        }
        self.count += 1;
        if self.count >= BATCH_MAX {
            self.announce();
        }
    }

    /// Notifies the guest of all that was completed.
    pub fn announce(&mut self) {
        self.count = 0;
        for (vring, token) in self.unannounced.drain(..) {
            vring.notify();
            drop(token);
        }
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        self.announce();
    }
}

#[cfg(test)]
mod tests;
