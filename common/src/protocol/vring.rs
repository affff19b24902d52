//! Our vring: the stock one, plus an observer that learns of every start and stop at once.
//!
//! The stock handler tells a back-end nothing when a ring starts; but it calls `set_queue_ready` on the back-end's
//! own vring type from the very messages that start and stop rings, so that is where we listen. Everything that
//! touches the ring in guest memory goes through here; what the ring is for is not known here.

mod stock;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryAtomic;

use crate::memory::GuestMemory;
use crate::report::Sparse;
use crate::request::{ChainError, Request, Segments};

type Table = GuestMemoryAtomic<GuestMemory>;

/// Learns of the starts and stops of rings, on the thread that handles the message.
pub(crate) trait RingObserver: Send + Sync {
    /// The ring was started: its kick descriptor is there.
    fn started(&self, ring: usize);
    /// The ring is being stopped: nothing new may be popped from it.
    fn stopping(&self, ring: usize);
    /// The front-end enabled or disabled the ring.
    fn enabled(&self, ring: usize, enabled: bool);
}

thread_local! {
    /// What the stock handler's constructor cannot pass on to `VringT::new`.
    static CREATING: RefCell<Option<Creating>> = const { RefCell::new(None) };
}

struct Creating {
    observer: Weak<dyn RingObserver>,
    retired: Retired,
    next: usize,
}

/// Set when a connection has ended: a worker that is still stuck in a request of its guest must not go on to the memory of
/// the next one. Set before that memory can be there, and looked at after a snapshot of memory was taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired(Arc<AtomicBool>);

impl Retired {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs `create`, which makes the stock daemon: the vrings it makes report to `observer`, numbered in the order of
/// their creation, until they are retired.
pub(super) fn observed<R>(
    observer: Weak<dyn RingObserver>,
    retired: &Retired,
    create: impl FnOnce() -> R,
) -> R {
    CREATING.set(Some(Creating {
        observer,
        retired: retired.clone(),
        next: 0,
    }));
    let result = create();
    CREATING.set(None);
    result
}

/// A ring; clones are the same ring.
#[derive(Clone)]
pub(crate) struct Vring {
    stock: VringMutex<Table>,
    shared: Arc<Shared>,
}

struct Shared {
    index: usize,
    observer: Option<Weak<dyn RingObserver>>,
    retired: Retired,
    /// The guest's indices made no sense: nothing is popped until the ring is started again.
    broken: AtomicBool,
    /// The available index at which it was started last.
    base: AtomicU16,
    /// Malformed chains.
    malformed: Sparse,
    /// Notifications that could not be given.
    unheard: Sparse,
}

impl std::fmt::Debug for Vring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Vring({})", self.shared.index)
    }
}

/// What came of looking at the ring.
pub(crate) enum Popped {
    /// A request.
    Request(Request),
    /// A chain that is not served; its head can be given back.
    Malformed {
        head: u16,
        error: ChainError,
        spare: Segments,
    },
    /// Nothing there, or nothing that can be read.
    Nothing(Segments),
}

impl Vring {
    pub(crate) fn index(&self) -> usize {
        self.shared.index
    }

    /// Whether both are the same ring of the same connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The available index at which the ring was started.
    pub(crate) fn base(&self) -> u16 {
        self.shared.base.load(Ordering::Relaxed)
    }

    /// Tells the operator of a malformed chain, if it is not the thousandth.
    pub(crate) fn complain(&self, error: &ChainError) {
        if let Some(count) = self.shared.malformed.count() {
            log::warn!(
                "ring {}: {error}; given back unserved ({count} so far)",
                self.index()
            );
        }
    }

    /// Whether the ring is started and enabled.
    pub(crate) fn is_running(&self) -> bool {
        let state = self.stock.get_ref();
        state.is_enabled() && state.get_queue().ready() && !self.shared.retired.is_set()
    }

    /// Whether the ring, in `memory`, must not be touched: it makes no sense, or belongs to a guest that is gone.
    fn is_closed(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed) || self.shared.retired.is_set()
    }

    pub(crate) fn pop(&self, memory: &Arc<GuestMemory>, spare: Segments) -> Popped {
        if self.is_closed() {
            return Popped::Nothing(spare);
        }
        let mut state = self.stock.get_mut();
        let queue = state.get_queue_mut();
        let position = queue.next_avail();
        let chain = next_chain(queue, memory);
        drop(state);
        let chain = match chain {
            Ok(Some(chain)) => chain,
            Ok(None) => return Popped::Nothing(spare),
            Err(error) => {
                self.broke(&error);
                return Popped::Nothing(spare);
            }
        };
        let head = chain.head_index();
        match Request::parse(chain, position, spare, memory) {
            Ok(request) => Popped::Request(request),
            Err((error, spare)) => Popped::Malformed { head, error, spare },
        }
    }

    /// Steps back over `request`, if it is the one popped last.
    pub(crate) fn put_back(&self, request: &Request) -> bool {
        let mut state = self.stock.get_mut();
        let queue = state.get_queue_mut();
        let last = queue.next_avail() == request.position().wrapping_add(1);
        if last {
            queue.go_to_previous_position();
        }
        last
    }

    /// Gives `head` back through the memory that it was popped from: a request that outlives its connection must not
    /// end up in the memory of the next guest.
    pub(crate) fn add_used(&self, memory: &GuestMemory, head: u16, written: u32) {
        let mut state = self.stock.get_mut();
        let added = state.get_queue_mut().add_used(memory, head, written);
        drop(state);
        if let Err(error) = added {
            self.broke(&error);
        }
    }

    /// Signals the guest if it wants to be signalled for what was added since the last time.
    pub(crate) fn notify(&self) {
        let mut state = self.stock.get_mut();
        match state.needs_notification() {
            Ok(true) => {
                // A counter that is full has been signalled, and not read yet.
                if let Err(error) = state.signal_used_queue()
                    && error.kind() != io::ErrorKind::WouldBlock
                    && let Some(count) = self.shared.unheard.count()
                {
                    log::error!(
                        "ring {}: front-end's call descriptor cannot be written: {error} ({count} times)",
                        self.index()
                    );
                }
            }
            Ok(false) => {}
            Err(error) => {
                drop(state);
                self.broke(&error);
            }
        }
    }

    pub(crate) fn disable_notification(&self, memory: &GuestMemory) {
        if self.is_closed() {
            return;
        }
        let disabled = self
            .stock
            .get_mut()
            .get_queue_mut()
            .disable_notification(memory);
        if let Err(error) = disabled {
            self.broke(&error);
        }
    }

    /// Returns whether there is something on the ring by now. What is on a broken ring cannot be popped: whoever looked again
    /// would look for ever.
    pub(crate) fn enable_notification(&self, memory: &GuestMemory) -> bool {
        if self.is_closed() {
            return false;
        }
        let enabled = self
            .stock
            .get_mut()
            .get_queue_mut()
            .enable_notification(memory);
        enabled.unwrap_or_else(|error| {
            self.broke(&error);
            false
        })
    }

    fn broke(&self, error: &QueueError) {
        if !self.shared.broken.swap(true, Ordering::Relaxed) {
            log::error!(
                "guest: ring {} makes no sense and is left alone until it is set up again: {error}",
                self.index()
            );
        }
    }

    /// A kick or call descriptor that blocks would block us under the ring's lock.
    fn unblock(&self, file: Option<&File>, purpose: &str) {
        if let Some(file) = file
            && let Err(error) = rustix::io::ioctl_fionbio(file, true)
        {
            log::error!(
                "front-end: {purpose} descriptor of ring {}: {error}",
                self.index()
            );
        }
    }

    fn observe(&self, tell: impl FnOnce(&dyn RingObserver)) {
        if let Some(observer) = self.shared.observer.as_ref().and_then(Weak::upgrade) {
            tell(&*observer);
        }
    }
}

/// The next chain; `None` if there is none. That there should be one and none can be read is an error, which the stock
/// iterator keeps to itself.
fn next_chain<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemory,
) -> Result<Option<DescriptorChain<&'a GuestMemory>>, QueueError> {
    // Not ready: the event came too late, the ring was stopped since.
    if !queue.ready() || queue.avail_idx(memory, Ordering::Acquire)?.0 == queue.next_avail() {
        return Ok(None);
    }
    match queue.iter(memory)?.next() {
        Some(chain) => Ok(Some(chain)),
        None => Err(QueueError::InvalidAvailRingIndex),
    }
}
