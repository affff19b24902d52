//! Our vring: the stock one, plus an observer that learns of every start and stop at once.
//!
//! The stock handler tells a back-end nothing when a ring starts; but it calls `set_queue_ready` on the back-end's
//! own vring type from the very messages that start and stop rings, so that is where we listen. Everything that
//! touches the ring in guest memory goes through here; what the ring is for is not known here.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
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
    static CREATING: RefCell<Option<(Weak<dyn RingObserver>, usize)>> = const { RefCell::new(None) };
}

/// Runs `create`, which makes the stock daemon: the vrings it makes report to `observer`, numbered in the order of
/// their creation.
pub(super) fn observed<R>(observer: Weak<dyn RingObserver>, create: impl FnOnce() -> R) -> R {
    CREATING.set(Some((observer, 0)));
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
    /// The guest's indices made no sense: nothing is popped until the ring is started again.
    broken: AtomicBool,
    /// Malformed chains.
    malformed: Sparse,
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
        state.is_enabled() && state.get_queue().ready()
    }

    pub(crate) fn pop(&self, memory: &Arc<GuestMemory>, spare: Segments) -> Popped {
        if self.shared.broken.load(Ordering::Relaxed) {
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
                if let Err(error) = state.signal_used_queue() {
                    log::error!(
                        "ring {}: front-end's call descriptor cannot be written: {error}",
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

    pub(crate) fn disable_notification(&self) {
        if let Err(error) = VringT::disable_notification(&self.stock) {
            self.broke(&error);
        }
    }

    /// Returns whether there is something on the ring by now.
    pub(crate) fn enable_notification(&self) -> bool {
        let more = VringT::enable_notification(&self.stock).unwrap_or_else(|error| {
            self.broke(&error);
            false
        });
        // What is on a broken ring cannot be popped: whoever looked again would look for ever.
        more && !self.shared.broken.load(Ordering::Relaxed)
    }

    fn broke(&self, error: &QueueError) {
        if !self.shared.broken.swap(true, Ordering::Relaxed) {
            log::error!(
                "guest: ring {} makes no sense and is left alone until it is set up again: {error}",
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

impl<'a> VringStateGuard<'a, Table> for Vring {
    type G = MutexGuard<'a, VringState<Table>>;
}

impl<'a> VringStateMutGuard<'a, Table> for Vring {
    type G = MutexGuard<'a, VringState<Table>>;
}

impl VringT<Table> for Vring {
    fn new(memory: Table, max_queue_size: u16) -> Result<Self, QueueError> {
        let (observer, index) = CREATING.with_borrow_mut(|creating| match creating {
            Some((observer, next)) => {
                let index = *next;
                *next += 1;
                (Some(Weak::clone(observer)), index)
            }
            None => (None, 0),
        });
        Ok(Self {
            stock: VringMutex::new(memory, max_queue_size)?,
            shared: Arc::new(Shared {
                index,
                observer,
                broken: AtomicBool::new(false),
                malformed: Sparse::default(),
            }),
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Table>> {
        self.stock.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Table>> {
        self.stock.get_mut()
    }

    fn add_used(&self, head: u16, written: u32) -> Result<(), QueueError> {
        VringT::add_used(&self.stock, head, written)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.stock.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        VringT::enable_notification(&self.stock)
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        VringT::disable_notification(&self.stock)
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.stock.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.stock.set_enabled(enabled);
        self.observe(|observer| observer.enabled(self.index(), enabled));
    }

    fn set_queue_info(
        &self,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), QueueError> {
        self.stock.set_queue_info(descriptors, available, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.stock.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.stock.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.stock.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.stock.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.stock.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.stock.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        if ready {
            self.shared.broken.store(false, Ordering::Relaxed);
            self.stock.set_queue_ready(true);
            self.observe(|observer| observer.started(self.index()));
        } else {
            // First nothing new may be popped; what was popped is waited for in `stop_vring`, which follows.
            self.observe(|observer| observer.stopping(self.index()));
            self.stock.set_queue_ready(false);
        }
    }

    /// A kick descriptor that blocks would block us under the ring's lock.
    fn set_kick(&self, file: Option<File>) {
        if let Some(file) = &file
            && let Err(error) = rustix::io::ioctl_fionbio(file, true)
        {
            log::error!(
                "front-end: kick descriptor of ring {}: {error}",
                self.index()
            );
        }
        self.stock.set_kick(file);
    }

    /// The stock event loop ends for ever on an error here, even on one that only says that somebody else read the
    /// kick, or that it was replaced.
    fn read_kick(&self) -> io::Result<bool> {
        let state = self.stock.get_ref();
        if let Some(kick) = state.get_kick()
            && let Err(error) = kick.consume()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::debug!("ring {}: kick cannot be read: {error}", self.index());
        }
        Ok(state.is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        self.stock.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.stock.set_err(file);
    }
}
