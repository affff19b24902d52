//! What a device author writes: the trait [`Device`], and the few types it speaks in.
//!
//! Knows nothing of vhost-user, of sockets and of how state travels: a device is asked to do one
//! thing at a time, on a thread that `common` owns, and `common` keeps the promises below.
//!
//! # Who calls what, and when
//!
//! | method | thread | the device is |
//! |---|---|---|
//! | `process` | one worker per ring, rings in parallel | started |
//! | `resume` | control or relay | suspended; becomes started when it returns |
//! | `suspend` | control or relay | drained: no request and no background work is in flight |
//! | `prepare_save` | a thread of its own | started (logging of dirty pages was just switched on) |
//! | `save` | transfer | suspended |
//! | `check`, `load` | transfer | suspended; perhaps without features and without guest memory |
//! | `reset` | control | drained |
//! | `front_end_left` | control | suspended |
//! | the rest | control | anything |
//!
//! A device is born suspended. `suspend` and `resume` are idempotent. Between `suspend` and
//! `resume` a device touches neither guest memory, nor the front-end, nor the host's persistent
//! data on its own (vhost-user.rst, "Suspended device state").

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::gate::{Gate, Lane, StartedRings, Token};
use crate::memory::{GuestMemory, GuestMemoryHandle};
use crate::ring::Ring;
use crate::state::{DeviceKind, StateSchema};
use crate::wakers::Wakers;

/// An error of a device's own layers, kept whole as the source of one of the errors below.
pub type DeviceError = Box<dyn std::error::Error + Send + Sync>;

/// What a device is, independent of how it is configured by the guest. Constant while it lives.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// Short name for logs and thread names, such as `"fs"`.
    pub name: &'static str,
    /// The virtio device id, which also marks the device's state streams.
    pub kind: DeviceKind,
    /// Number of rings, at most 64.
    pub rings: usize,
    /// Greatest number of descriptors in a ring; a power of two, at most 32768.
    pub ring_size_max: u16,
    /// Device-specific virtio feature bits to offer. The transport's bits (`VERSION_1`, `INDIRECT_DESC`,
    /// `EVENT_IDX`, `LOG_ALL`, `PROTOCOL_FEATURES`) are added by `common`. A device may add others that its front-end accepts
    /// unasked: the stock handler ends a connection over a feature that was not offered.
    pub features: u64,
    /// Whether the front-end may read the config space from this back-end (protocol feature CONFIG).
    pub config_space: bool,
    /// Whether what is written to guest memory can be logged, if the device can be saved. Without that QEMU refuses to migrate the
    /// guest while it runs.
    pub dirty_log: bool,
    /// Whether requests that a crash has interrupted can be popped once more by the next process
    /// ([`Request::is_resubmitted`](crate::request::Request::is_resubmitted)). Then the front-end may keep a record of those in
    /// flight (protocol feature `INFLIGHT_SHMFD`). Not for a device whose requests rest on what a crash destroys.
    pub resubmits: bool,
}

/// Whether this device, as configured, can be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateSupport {
    /// It can: `DEVICE_STATE` is offered.
    Savable,
    /// It cannot: `DEVICE_STATE` is not offered, and the reason goes to the log.
    CannotBeSaved {
        /// Why, for the operator.
        reason: String,
    },
}

/// The device could not become silent.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// Requests or background work did not end before the deadline.
    #[error("{what} still in flight after {waited_ms} ms; the device goes on running")]
    Deadline {
        /// What did not end: a ring, or background work.
        what: String,
        /// The deadline in milliseconds.
        waited_ms: u128,
    },
    /// The device itself refused.
    #[error("the device could not be suspended")]
    Device(#[source] DeviceError),
}

/// The device could not produce its state. It is unchanged, and resumes where it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It is configured in a way that has state nobody can save.
    #[error("this device cannot be saved: {reason}")]
    CannotBeSaved {
        /// Why, for the operator.
        reason: String,
    },
    /// The host refused something that saving needs.
    #[error("the host refused what saving needs")]
    Host(#[source] DeviceError),
}

/// A state was refused. The device is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The state stream is damaged, forged, or of a version that is not read.
    #[error("the state stream is not acceptable")]
    Stream(#[source] DeviceError),
    /// The state is sound, but this back-end is configured in a way that does not fit it.
    #[error("the state does not fit this back-end's configuration")]
    Mismatch(#[source] DeviceError),
    /// The host does not have, or does not let us open, what the state refers to.
    #[error("the host does not have what the state refers to")]
    Host(#[source] DeviceError),
}

/// The front-end wrote something into the config space that the device refuses.
#[derive(Debug, thiserror::Error)]
#[error("front-end: write of {len} bytes at offset {offset} of the config space refused: {reason}")]
pub struct ConfigError {
    /// Offset in bytes.
    pub offset: u32,
    /// Length in bytes.
    pub len: usize,
    /// Why, for the operator.
    pub reason: &'static str,
}

/// The front-end handed over a display socket that the device has no use for.
#[derive(Debug, thiserror::Error)]
#[error("front-end: a display socket for a device that has no display")]
pub struct NoDisplay;

/// The device's way to the guest outside of its rings: guest memory as it is now, and leave to work.
///
/// Handed to [`Device::resume`]; cheap to clone. A thread, timer or sender of the device's own does
/// nothing that a guest or front-end could see unless it holds a [`Token`] from [`Guest::background`].
#[derive(Clone)]
pub struct Guest {
    pub(crate) memory: GuestMemoryHandle,
    pub(crate) gate: Arc<Gate>,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) started: Arc<StartedRings>,
}

impl Guest {
    /// Guest memory as the front-end last described it.
    pub fn memory(&self) -> Arc<GuestMemory> {
        self.memory.snapshot()
    }

    /// Leave to do background work until the token is dropped; `None` while the device is not started.
    ///
    /// Never hold a token while waiting for the front-end: it may be waiting for our suspension.
    pub fn background(&self) -> Option<Token> {
        self.gate.begin_background()
    }

    /// Has [`Device::process`] called for `ring` soon, on the ring's own thread, as if the guest had kicked: for a device
    /// that has left requests on a ring until it has an answer. Does nothing while the ring is not served; a ring that
    /// starts is looked at anyway.
    pub fn serve(&self, ring: usize) {
        self.wakers.wake(ring);
    }

    /// The event behind [`serve`](Self::serve), an eventfd, for what signals it without us: `io_uring`. It is another one for
    /// each connection; `None` between connections.
    pub fn waker(&self, ring: usize) -> Option<OwnedFd> {
        self.wakers.event(ring)
    }

    /// Keeps another ring than the one that is being served from being drained, for a request that concerns both.
    pub fn hold(&self, ring: usize) -> Hold {
        match self.gate.begin(Lane::Ring(ring)) {
            Some(token) => Hold::Held(token),
            None if self.started.contains(ring) => Hold::Closed,
            None => Hold::NotStarted,
        }
    }
}

/// What came of [`Guest::hold`].
#[derive(Debug)]
pub enum Hold {
    /// The ring is served; it is not drained before the token is dropped.
    Held(Token),
    /// The ring is started, but suspended, disabled, or about to be stopped.
    Closed,
    /// The ring is not started.
    NotStarted,
}

/// What a config space of these bytes says from `offset` on, for [`Device::read_config`]: beyond its end are zeros.
pub fn read_config_space(space: &[u8], offset: u32, data: &mut [u8]) {
    data.fill(0);
    let there = usize::try_from(offset)
        .ok()
        .and_then(|offset| space.get(offset..))
        .unwrap_or_default();
    for (byte, of_space) in data.iter_mut().zip(there) {
        *byte = *of_space;
    }
}

/// A virtio device behind vhost-user. See the [module](self) for who calls what, and when.
pub trait Device: Send + Sync + 'static {
    /// The device's state as plain data; [`NoState`](crate::state::NoState) if it has none, and
    /// [`NotMigratable`](crate::state::NotMigratable) if it has state that nobody can save yet.
    type State: StateSchema;

    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// Whether the device can be saved as the operator configured it.
    fn state_support(&self) -> StateSupport;

    /// The guest's choice among the offered features, device-specific and transport bits alike.
    fn ack_features(&self, features: u64);

    /// Fills `data` from the config space; bytes beyond its end read as zero (virtio 1.3, 2.5).
    fn read_config(&self, offset: u32, data: &mut [u8]);

    /// The driver wrote to the config space.
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError>;

    /// The front-end gives the device a socket for what it shows (`VHOST_USER_GPU_SET_SOCKET`, vhost-user-gpu.rst), in place of the
    /// one before. Comes at any time, also while the device is suspended: then it is kept, and silent. Earlier messages were
    /// handled.
    fn set_display_socket(&self, socket: UnixStream) -> Result<(), NoDisplay> {
        drop(socket);
        Err(NoDisplay)
    }

    /// Which worker thread serves a ring: rings with the same number share one. Less than [`DeviceInfo::rings`], and without gaps.
    fn worker_of(&self, ring: usize) -> usize {
        ring
    }

    /// Serves `ring` until [`Ring::pop`] has nothing more to give, and finishes what it can of the requests that were
    /// [detached](Ring::detach) earlier. While the ring is being drained it is called for the latter only.
    fn process(&self, ring: &mut Ring<'_>);

    /// Becomes silent outside the rings too: stops or drains timers, watchers and senders, and writes
    /// out what the next owner of the host's data must see. Idempotent.
    fn suspend(&self) -> Result<(), SuspendError>;

    /// May work again. Called when the first ring starts, or by RESUME. Idempotent.
    fn resume(&self, guest: &Guest);

    /// A migration has probably begun: a chance to do slow work while the guest still runs.
    fn prepare_save(&self) {}

    /// The device's state. Consumes nothing: the device may resume afterwards, and be saved again.
    fn save(&self) -> Result<Self::State, SaveError>;

    /// Whether `state` could be loaded, as far as can be told without changing anything.
    fn check(&self, state: &Self::State) -> Result<(), LoadError>;

    /// Takes over `state`, which has passed [`check`](Self::check): builds the new device beside the
    /// old one and swaps at the end. On an error the device is unchanged.
    fn load(&self, state: Self::State) -> Result<(), LoadError>;

    /// The front-end has gone, and nobody says what becomes of the guest: lets go of what others may be waiting for. The device
    /// is suspended. It may be resumed by another front-end.
    fn front_end_left(&self) {}

    /// Back to how the device was created: the guest rebooted, or another guest came.
    fn reset(&self);
}
