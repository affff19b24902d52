//! Carries out the lifecycle: closes and drains the gate, tells the device, opens again.
//!
//! Called by the control thread (rings start and stop) and by the relay (SUSPEND, RESUME), never by both at once: the
//! relay makes sure that every earlier message was handled before it calls. Knows no message; knows no state stream.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use super::owed::Owed;
use super::vring::RingObserver;
use crate::device::{Device, Guest, SuspendError};
use crate::gate::{Gate, Lane};
use crate::lifecycle::{Event, Lifecycle};
use crate::memory::GuestMemoryHandle;
use crate::report;

/// Time between two log lines about a drain that must end but does not.
const REMINDER: Duration = Duration::from_secs(5);
/// How soon such a drain notices that nobody waits for it any more.
const GLANCE: Duration = Duration::from_millis(100);

/// The lifecycle of one device, and the means to change it.
pub(crate) struct Control<D> {
    pub(super) device: Arc<D>,
    pub(super) guest: Guest,
    suspend_limit: Duration,
    /// The front-end has gone: what it was to be told when it is done is not waited for any longer.
    abandoned: AtomicBool,
    state: Mutex<State>,
}

struct State {
    lifecycle: Lifecycle,
    /// Bit per ring: started.
    started: u64,
    /// Bit per ring: enabled.
    enabled: u64,
    /// The rings were stopped, but the device did not become silent: what it would save is not to be trusted.
    restless: bool,
    /// That is so because the front-end left with requests in flight: the device was not told to become silent.
    unfinished: bool,
    /// What the rings owe that were started.
    owed: BTreeMap<usize, Arc<Owed>>,
}

impl State {
    /// Whether a ring is to be served in the current lifecycle.
    fn serves(&self, ring: usize) -> bool {
        self.lifecycle.is_started() && self.started & self.enabled & bit(ring) != 0
    }
}

/// The bit of a ring. A device has at most 64 (`DeviceInfo::rings`), so none is lost.
fn bit(ring: usize) -> u64 {
    u32::try_from(ring)
        .ok()
        .and_then(|ring| 1_u64.checked_shl(ring))
        .unwrap_or(0)
}

impl<D: Device> Control<D> {
    pub(crate) fn new(device: Arc<D>, suspend_limit: Duration) -> Self {
        let gate = Gate::new(device.info().rings);
        Self {
            device,
            guest: Guest {
                memory: GuestMemoryHandle::new(),
                gate,
                wakers: Arc::default(),
                started: Arc::default(),
            },
            suspend_limit,
            abandoned: AtomicBool::new(false),
            state: Mutex::new(State {
                lifecycle: Lifecycle::Stopped,
                started: 0,
                enabled: 0,
                restless: false,
                unfinished: false,
                owed: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.guest.gate
    }

    pub(super) fn memory(&self) -> &GuestMemoryHandle {
        &self.guest.memory
    }

    /// Whether the device works; if not, its state may be saved and loaded. A device that failed to become silent counts as
    /// working until it is resumed or suspended once more.
    pub(crate) fn is_started(&self) -> bool {
        let mut state = self.lock();
        self.finish_late(&mut state);
        state.lifecycle.is_started() || state.restless
    }

    /// What outlived its front-end may have ended by now: then the device becomes silent after all.
    fn finish_late(&self, state: &mut State) {
        let late = state.unfinished && state.restless && !state.lifecycle.is_started();
        if late && self.drain_all(Duration::ZERO).is_ok() {
            state.unfinished = false;
            state.restless = self.suspend_device().is_err();
        }
    }

    /// The events of a new connection's workers, one for each ring; none when the connection is gone.
    pub(crate) fn set_wakers(&self, events: Vec<OwnedFd>) {
        self.guest.wakers.set(events);
    }

    /// SUSPEND: everything in flight completes, then the device is silent. On an error it goes on as before.
    pub(crate) fn suspend(&self) -> Result<(), SuspendError> {
        let mut state = self.lock();
        if state.lifecycle.is_started() {
            self.close_all(&state);
            if let Err(error) = self.drain_all(self.suspend_limit) {
                self.start(&state);
                return Err(error);
            }
            if let Err(error) = self.suspend_device() {
                self.resume_device();
                self.start(&state);
                return Err(error);
            }
        } else if state.restless {
            self.suspend_device()?;
        }
        state.restless = false;
        state.lifecycle = state.lifecycle.next(Event::Suspend);
        Ok(())
    }

    /// RESUME: what is started by now is served again. Without a SUSPEND before it, changes nothing.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        let event = Event::Resume {
            rings: state.started != 0,
        };
        self.advance(&mut state, event);
    }

    /// `GET_VRING_BASE`, after the ring was closed: waits for what is in flight on it, however long it takes, since
    /// the front-end takes the ring to be ours no longer when it sees the reply.
    pub(super) fn ring_stopped(&self, ring: usize) {
        let mut state = self.lock();
        if !self.drain_patiently(Lane::Ring(ring)) || state.started & bit(ring) == 0 {
            return;
        }
        if state.started == bit(ring) && state.lifecycle.is_started() && !self.silence(&mut state) {
            return;
        }
        state.started &= !bit(ring);
        self.guest.started.set(state.started);
        if state.started == 0 {
            state.lifecycle = state.lifecycle.next(Event::LastRingStopped);
        }
    }

    /// `RESET_DEVICE`.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        if !self.silence(&mut state) {
            return;
        }
        self.device.reset();
        state.restless = false;
        // The stock handler has just disabled all rings; the device is new, hence suspended.
        state.lifecycle = Lifecycle::Stopped;
        let event = Event::Reset {
            rings: state.started != 0,
        };
        self.advance(&mut state, event);
    }

    /// A front-end has come.
    pub(crate) fn connect(&self) {
        self.abandoned.store(false, Ordering::Relaxed);
    }

    /// The front-end has gone, though its last message may still be worked on.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// The connection is gone, and the next front-end will be told what was in flight on it: that must not be still going on when
    /// it is begun once more. Waits for it, however long it takes, unless `stopped`.
    pub(crate) fn finish_unless(&self, stopped: impl Fn() -> bool) {
        let state = self.lock();
        state.owed.values().for_each(|owed| owed.let_go());
        self.close_all(&state);
        for lane in self.gate().lanes() {
            self.drain_while(lane, || !stopped());
        }
    }

    /// The connection is gone: nothing is started any more, and guest memory is given back.
    ///
    /// Returns false if something was still in flight after `limit`.
    pub(crate) fn disconnect(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        state.owed.values().for_each(|owed| owed.let_go());
        state.owed.clear();
        self.close_all(&state);
        let drained = self.drain_all(limit);
        state.unfinished = drained.is_err();
        let silent = drained.and_then(|()| self.suspend_device());
        if let Err(error) = &silent {
            log::error!("at disconnect: {}", report::chain(error));
        }
        let device = &*self.device;
        if catch_unwind(AssertUnwindSafe(|| device.front_end_left())).is_err() {
            log::error!("the device panicked as its front-end left; please report this");
        }
        state.restless = silent.is_err();
        state.lifecycle = state.lifecycle.next(Event::Disconnect);
        state.started = 0;
        self.guest.started.set(0);
        state.enabled = 0;
        if let Ok(table) = self.memory().table().lock() {
            table.replace(GuestMemoryMmap::default());
        }
        silent.is_ok()
    }

    /// Goes to the next state; on the way into *started* the device is resumed and the gate opened.
    fn advance(&self, state: &mut State, event: Event) {
        let before = state.lifecycle;
        state.lifecycle = before.next(event);
        if state.lifecycle.is_started() && !before.is_started() {
            self.resume_device();
            state.restless = false;
            state.unfinished = false;
            self.start(state);
        }
    }

    fn suspend_device(&self) -> Result<(), SuspendError> {
        let device = &*self.device;
        catch_unwind(AssertUnwindSafe(|| device.suspend())).unwrap_or_else(|_| {
            Err(SuspendError::Device(
                "it panicked; please report this".into(),
            ))
        })
    }

    fn resume_device(&self) {
        let (device, guest) = (&*self.device, &self.guest);
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| device.resume(guest))).is_err() {
            log::error!("the device panicked as it was resumed; please report this");
            return;
        }
        // Time that the guest has to wait for.
        log::info!(
            "state phase=resume result=ok ms={}",
            began.elapsed().as_millis()
        );
    }

    /// Opens the gate where the state allows, and has every worker look at its rings: kicks that were refused are
    /// not remembered.
    fn start(&self, state: &State) {
        if !state.lifecycle.is_started() {
            return;
        }
        self.gate().open(Lane::Background);
        for ring in 0..self.device.info().rings {
            if state.serves(ring) {
                self.open_lane(state, ring);
            }
        }
        self.guest.wakers.wake_all();
    }

    /// Opens a ring if it is to be served. All workers look at their rings then: one may have put off what concerns this ring.
    fn open(&self, state: &State, ring: usize) -> bool {
        let serves = state.serves(ring);
        if serves {
            self.open_lane(state, ring);
            self.guest.wakers.wake_all();
        }
        serves
    }

    fn open_lane(&self, state: &State, ring: usize) {
        let lane = Lane::Ring(ring);
        self.gate().open(lane);
        if let Some(owed) = state.owed.get(&ring) {
            owed.hold(|| self.gate().begin(lane));
        }
    }

    fn close_all(&self, state: &State) {
        for lane in self.gate().lanes() {
            self.gate().close(lane);
        }
        if state.owed.values().any(|owed| owed.is_any()) {
            self.guest.wakers.wake_all();
        }
    }

    fn drain_all(&self, limit: Duration) -> Result<(), SuspendError> {
        let started = Instant::now();
        for lane in self.gate().lanes() {
            let left = limit.saturating_sub(started.elapsed());
            if !self.gate().drain(lane, Some(left)) {
                return Err(SuspendError::Deadline {
                    what: lane.to_string(),
                    waited_ms: limit.as_millis(),
                });
            }
        }
        Ok(())
    }

    /// Closes everything, waits for it, and tells the device, where no refusal can be reported. False if the front-end
    /// left meanwhile; then `disconnect` does what is left to do.
    fn silence(&self, state: &mut State) -> bool {
        self.close_all(state);
        if !self.gate().lanes().all(|lane| self.drain_patiently(lane)) {
            return false;
        }
        let silent = self.suspend_device();
        if let Err(error) = &silent {
            log::error!("the rings are stopped, but: {}", report::chain(error));
        }
        state.restless = silent.is_err();
        true
    }

    /// Waits as long as it takes, or until the front-end is gone. Returns whether the lane is idle.
    fn drain_patiently(&self, lane: Lane) -> bool {
        self.drain_while(lane, || !self.abandoned.load(Ordering::Relaxed))
    }

    fn drain_while(&self, lane: Lane, wanted: impl Fn() -> bool) -> bool {
        let mut reminded = Instant::now();
        while !self.gate().drain(lane, Some(GLANCE)) {
            if !wanted() {
                return false;
            }
            if reminded.elapsed() >= REMINDER {
                reminded = Instant::now();
                log::warn!("{lane}: still waiting for requests in flight");
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device> RingObserver for Control<D> {
    fn started(&self, ring: usize, owed: &Arc<Owed>) {
        let mut state = self.lock();
        state.owed.insert(ring, Arc::clone(owed));
        state.started |= bit(ring);
        self.guest.started.set(state.started);
        self.advance(&mut state, Event::RingStarted);
        self.open(&state, ring);
    }

    /// What is owed is served once more: the worker may have put it off.
    fn stopping(&self, ring: usize, owed: &Owed) {
        self.gate().close(Lane::Ring(ring));
        if owed.is_any() {
            self.guest.wakers.wake(ring);
        }
    }

    fn enabled(&self, ring: usize, enabled: bool) {
        let mut state = self.lock();
        if enabled {
            state.enabled |= bit(ring);
        } else {
            state.enabled &= !bit(ring);
        }
        if !self.open(&state, ring) {
            self.gate().close(Lane::Ring(ring));
        }
    }
}
