//! A device whose every weakness can be asked for: slow requests, requests that end elsewhere or never, background work, refusals.
//!
//! For the tests of `common`: what the lifecycle promises is shown with a device that works against it as hard as a device
//! can. Its state is the one of the [null device](crate::null_device).
//!
//! A request is an [`Order`] to read and eight bytes to write: the number of requests that were completed before it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
};
use common::ring::{Completions, DetachedRequest, Ring};
use common::state::DeviceKind;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::null_device::NullState;

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// One of the constants of this type.
    pub operation: u32,
    /// Its argument; milliseconds where time is meant.
    pub argument: u32,
}

impl Order {
    /// Complete at once.
    pub const NOW: u32 = 0;
    /// Complete on the ring's own thread, after a time.
    pub const SLOWLY: u32 = 1;
    /// Complete on another thread, after a time.
    pub const ELSEWHERE: u32 = 2;
    /// Complete when [`ProbeDevice::release`] is called.
    pub const HELD: u32 = 3;
    /// Put back until [`ProbeDevice::accept`] is called.
    pub const PUT_BACK: u32 = 4;
    /// Panic.
    pub const PANIC: u32 = 5;
    /// Complete when the ring is served again, after a time: what a worker with completions of its own does.
    pub const SERVED_LATER: u32 = 6;

    /// As the guest writes it.
    pub fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.operation.to_le_bytes());
        bytes[4..].copy_from_slice(&self.argument.to_le_bytes());
        bytes
    }

    fn parse(bytes: [u8; 8]) -> Self {
        let number = u64::from_le_bytes(bytes);
        Self {
            operation: u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default(),
            argument: u32::try_from(number >> 32).unwrap_or_default(),
        }
    }
}

/// The device; clones are the same device, so that a test keeps a hand on it.
#[derive(Clone)]
pub struct ProbeDevice(Arc<Probe>);

/// What tests look at and change.
#[derive(Default)]
pub struct Probe {
    /// Requests completed.
    pub completed: AtomicU64,
    /// Calls of [`Device::suspend`].
    pub suspended: AtomicU64,
    /// Calls of [`Device::resume`].
    pub resumed: AtomicU64,
    /// Calls of [`Device::reset`].
    pub reset: AtomicU64,
    /// Calls of [`Device::prepare_save`].
    pub prepared: AtomicU64,
    /// [`Device::suspend`] fails.
    pub refuse_suspend: AtomicBool,
    /// [`Device::suspend`] panics.
    pub panic_in_suspend: AtomicBool,
    /// [`Device::save`] fails.
    pub refuse_save: AtomicBool,
    /// [`Device::load`] fails.
    pub refuse_load: AtomicBool,
    /// The device says that it cannot be saved.
    pub cannot_be_saved: AtomicBool,
    /// Guest address that background work counts up at; 0 for none.
    pub ticking_at: AtomicU64,
    /// Background work done.
    pub ticks: AtomicU64,
    /// A request that is to be served later was taken.
    pub taken_later: AtomicBool,
    /// Requests that another process had popped before.
    pub resubmitted: AtomicU64,
    accepting: AtomicBool,
    held: Mutex<Vec<DetachedRequest>>,
    /// Requests to be completed by the worker of their ring.
    due: Mutex<Vec<(usize, DetachedRequest)>>,
    guest: Mutex<Option<Guest>>,
}

impl ProbeDevice {
    /// A device with a thread that does background work whenever it may.
    #[expect(clippy::new_without_default, reason = "it starts a thread")]
    pub fn new() -> Self {
        let device = Self(Arc::new(Probe::default()));
        let weak = Arc::downgrade(&device.0);
        thread::spawn(move || {
            while let Some(probe) = weak.upgrade() {
                probe.tick();
                drop(probe);
                thread::sleep(Duration::from_micros(200));
            }
        });
        device
    }

    /// What tests look at and change.
    pub fn probe(&self) -> &Probe {
        &self.0
    }

    /// Completes the requests that were to be held.
    pub fn release(&self) {
        for request in lock(&self.0.held).drain(..) {
            self.finish(request);
        }
    }

    /// Requests that are held.
    pub fn held(&self) -> usize {
        lock(&self.0.held).len()
    }

    /// Stops putting requests back.
    pub fn accept(&self) {
        self.0.accepting.store(true, Ordering::SeqCst);
    }

    fn finish(&self, request: DetachedRequest) {
        let number = self.0.completed.fetch_add(1, Ordering::SeqCst);
        let written = request.request().writer().write_all(&number.to_le_bytes());
        request.complete(if written.is_ok() { 8 } else { 0 });
    }

    /// Has `request` completed by the next call of `process` for its ring, after `time`.
    fn serve_later(&self, ring: usize, request: DetachedRequest, time: Duration) {
        self.0.taken_later.store(true, Ordering::SeqCst);
        let device = self.clone();
        thread::spawn(move || {
            thread::sleep(time);
            lock(&device.0.due).push((ring, request));
            if let Some(guest) = &*lock(&device.0.guest) {
                guest.serve(ring);
            }
        });
    }

    fn complete_due(&self, ring: usize) {
        let mut completions = Completions::default();
        let due: Vec<_> = lock(&self.0.due)
            .extract_if(.., |(of, _)| *of == ring)
            .collect();
        for (_, request) in due {
            let number = self.0.completed.fetch_add(1, Ordering::SeqCst);
            let written = request.request().writer().write_all(&number.to_le_bytes());
            completions.complete(request, if written.is_ok() { 8 } else { 0 });
        }
    }

    fn complete(&self, ring: &mut Ring<'_>, request: common::request::Request) {
        let number = self.0.completed.fetch_add(1, Ordering::SeqCst);
        let written = request.writer().write_all(&number.to_le_bytes());
        ring.complete(request, if written.is_ok() { 8 } else { 0 });
    }
}

impl Probe {
    fn tick(&self) {
        let Some(guest) = lock(&self.guest).clone() else {
            return;
        };
        let Some(_token) = guest.background() else {
            return;
        };
        let ticks = self.ticks.fetch_add(1, Ordering::SeqCst);
        let address = self.ticking_at.load(Ordering::SeqCst);
        if address != 0 {
            let written = guest
                .memory()
                .write_slice(ticks.as_slice(), GuestAddress(address));
            if let Err(error) = written {
                log::error!("the test gave an address outside of guest memory: {error}");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for ProbeDevice {
    type State = NullState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "probe",
            kind: DeviceKind::Null,
            rings: 3,
            ring_size_max: 1024,
            features: 0,
            config_space: true,
            dirty_log: true,
            resubmits: true,
        }
    }

    fn state_support(&self) -> StateSupport {
        if self.0.cannot_be_saved.load(Ordering::SeqCst) {
            StateSupport::CannotBeSaved {
                reason: "the test wants it so".into(),
            }
        } else {
            StateSupport::Savable
        }
    }

    fn ack_features(&self, _features: u64) {
        // Offers none of its own.
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (byte, position) in data.iter_mut().zip(offset..) {
            *byte = position.to_le_bytes()[0];
        }
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "it is read-only",
        })
    }

    /// The second and the third ring share a worker.
    fn worker_of(&self, ring: usize) -> usize {
        ring.min(1)
    }

    fn process(&self, ring: &mut Ring<'_>) {
        self.complete_due(ring.index());
        while let Some(request) = ring.pop() {
            if request.is_resubmitted() {
                self.0.resubmitted.fetch_add(1, Ordering::SeqCst);
            }
            let mut bytes = [0; 8];
            if let Err(error) = request.reader().read_exact(&mut bytes) {
                log::warn!("ring {}: {error}", ring.index());
                ring.complete(request, 0);
                continue;
            }
            let order = Order::parse(bytes);
            let time = Duration::from_millis(u64::from(order.argument));
            match order.operation {
                Order::SLOWLY => {
                    ring.flush();
                    thread::sleep(time);
                    self.complete(ring, request);
                }
                Order::ELSEWHERE => {
                    let (device, request) = (self.clone(), ring.detach(request));
                    thread::spawn(move || {
                        thread::sleep(time);
                        device.finish(request);
                    });
                }
                Order::SERVED_LATER => {
                    self.serve_later(ring.index(), ring.detach(request), time);
                }
                Order::HELD => lock(&self.0.held).push(ring.detach(request)),
                Order::PUT_BACK if !self.0.accepting.load(Ordering::SeqCst) => {
                    if ring.put_back(request).is_err() {
                        log::error!("the request popped last could not be put back");
                    }
                    return;
                }
                #[expect(clippy::panic, reason = "the test wants it so")]
                Order::PANIC => panic!("the guest asked for it"),
                _ => self.complete(ring, request),
            }
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        self.0.suspended.fetch_add(1, Ordering::SeqCst);
        assert!(
            !self.0.panic_in_suspend.load(Ordering::SeqCst),
            "the test wants it so"
        );
        if self.0.refuse_suspend.load(Ordering::SeqCst) {
            return Err(SuspendError::Device("the test wants it so".into()));
        }
        *lock(&self.0.guest) = None;
        Ok(())
    }

    fn resume(&self, guest: &Guest) {
        self.0.resumed.fetch_add(1, Ordering::SeqCst);
        *lock(&self.0.guest) = Some(guest.clone());
    }

    fn prepare_save(&self) {
        self.0.prepared.fetch_add(1, Ordering::SeqCst);
    }

    fn save(&self) -> Result<NullState, SaveError> {
        if self.0.refuse_save.load(Ordering::SeqCst) {
            return Err(SaveError::Host("the test wants it so".into()));
        }
        Ok(NullState {
            sum: self.0.completed.load(Ordering::SeqCst),
        })
    }

    fn check(&self, _state: &NullState) -> Result<(), LoadError> {
        Ok(())
    }

    fn load(&self, state: NullState) -> Result<(), LoadError> {
        if self.0.refuse_load.load(Ordering::SeqCst) {
            return Err(LoadError::Host("the test wants it so".into()));
        }
        self.0.completed.store(state.sum, Ordering::SeqCst);
        Ok(())
    }

    fn reset(&self) {
        self.0.reset.fetch_add(1, Ordering::SeqCst);
        self.0.completed.store(0, Ordering::SeqCst);
    }
}
