//! Our vring: the stock one, plus an observer that learns of every start and stop at once.
//!
//! The stock handler tells a back-end nothing when a ring starts; but it calls `set_queue_ready` on the back-end's
//! own vring type from the very messages that start and stop rings, so that is where we listen. Everything that
//! touches the ring in guest memory goes through here; what the ring is for is not known here.

mod chain;
mod left;
mod locked;
mod notification;
mod stock;
mod tracker;

use std::cell::RefCell;
use std::fs::File;
use std::num::Wrapping;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};

use super::inflight::Regions;
use super::owed::Owed;
use crate::gate::Token;
use crate::memory::GuestMemory;
use crate::report::Sparse;
use crate::request::{ChainError, Origin, Request, Segments};
use chain::Chain;
use locked::Tracked;
use tracker::Indices;

type Table = GuestMemoryAtomic<GuestMemory>;

/// What is ahead of the heads in the available ring (virtio 1.3, 2.7.6): flags and index.
const AVAILABLE_HEADER_BYTES: u64 = 4;

/// Learns of the starts and stops of rings, on the thread that handles the message.
pub(crate) trait RingObserver: Send + Sync {
    /// The ring was started: its kick descriptor is there. What it owes is served before it is drained.
    fn started(&self, ring: usize, owed: &Arc<Owed>);
    /// The ring is being stopped: nothing new may be popped from it.
    fn stopping(&self, ring: usize, owed: &Owed);
    /// The front-end enabled or disabled the ring.
    fn enabled(&self, ring: usize, enabled: bool);
}

thread_local! {
    /// What the stock handler's constructor cannot pass on to `VringT::new`.
    static CREATING: RefCell<Option<Creating>> = const { RefCell::new(None) };
}

struct Creating {
    observer: Weak<dyn RingObserver>,
    connection: Connection,
    next: usize,
}

/// What the rings of one connection share.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) retired: Retired,
    /// The region for requests in flight, if the device wants one.
    pub(super) regions: Option<Regions>,
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
    connection: &Connection,
    create: impl FnOnce() -> R,
) -> R {
    CREATING.set(Some(Creating {
        observer,
        connection: connection.clone(),
        next: 0,
    }));
    let result = create();
    CREATING.set(None);
    result
}

/// A ring; clones are the same ring.
#[derive(Clone)]
pub(crate) struct Vring {
    shared: Arc<Shared>,
}

struct Shared {
    tracked: Tracked,
    memory: Table,
    index: usize,
    observer: Option<Weak<dyn RingObserver>>,
    connection: Connection,
    owed: Arc<Owed>,
    /// The guest's indices made no sense: nothing is popped until the ring is started again.
    broken: AtomicBool,
    /// The available index at which it was started last.
    base: AtomicU16,
    /// The guest was notified since the ring was started, if only by a call descriptor that nobody listened to.
    notified: AtomicBool,
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

/// What may be popped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Anything; what is owed first.
    Any,
    /// What is owed from before a crash.
    Owed,
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
        let state = self.stock().get_ref();
        state.is_enabled() && state.get_queue().ready() && !self.shared.connection.retired.is_set()
    }

    /// Whether something is to be served that was in flight when a process before this one crashed.
    pub(crate) fn owes(&self) -> bool {
        self.shared.owed.is_any() && !self.is_closed()
    }

    /// Whether the ring must not be touched: it makes no sense, or belongs to a guest that is gone.
    fn is_closed(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed) || self.shared.connection.retired.is_set()
    }

    pub(crate) fn pop(&self, memory: &Arc<GuestMemory>, spare: Segments, which: Which) -> Popped {
        if self.is_closed() {
            return Popped::Nothing(spare);
        }
        let mut locked = self.shared.tracked.lock();
        let (queue, tracker) = locked.parts();
        if let Some((head, position)) = tracker.pop_owed() {
            if !tracker.owes() {
                self.shared.owed.set(false);
            }
            let table = GuestAddress(queue.desc_table());
            let chain = Chain::new(memory, table, queue.size(), head);
            drop(locked);
            let origin = Origin {
                head,
                position,
                resubmitted: true,
            };
            return parse(origin, chain, spare, memory);
        }
        if which == Which::Owed {
            return Popped::Nothing(spare);
        }
        let position = queue.next_avail();
        let head = match next_head(queue, memory) {
            Ok(Some(head)) => head,
            Ok(None) => return Popped::Nothing(spare),
            Err(error) => {
                drop(locked);
                self.broke("guest", &error);
                return Popped::Nothing(spare);
            }
        };
        if !tracker.pop(head) {
            queue.go_to_previous_position();
            drop(locked);
            self.broke(
                "guest",
                &format_args!(
                    "descriptor {head} is available, but there is none, or it is in flight"
                ),
            );
            return Popped::Nothing(spare);
        }
        let table = GuestAddress(queue.desc_table());
        let chain = Chain::new(memory, table, queue.size(), head);
        drop(locked);
        let origin = Origin {
            head,
            position,
            resubmitted: false,
        };
        parse(origin, chain, spare, memory)
    }

    /// Whether there is a chain to pop.
    pub(crate) fn has_more(&self, memory: &GuestMemory) -> bool {
        let state = self.stock().get_ref();
        let queue = state.get_queue();
        !self.is_closed()
            && queue.ready()
            && queue
                .avail_idx(memory, Ordering::Acquire)
                .is_ok_and(|index| index.0 != queue.next_avail())
    }

    /// Steps back over `request`, if it is the one popped last. What was resubmitted is owed again, and `token` held for it.
    pub(crate) fn put_back(&self, request: &Request, token: &Token) -> bool {
        let mut locked = self.shared.tracked.lock();
        let (queue, tracker) = locked.parts();
        if request.is_resubmitted() {
            let last = tracker.owe(request.head(), request.position());
            if last {
                self.shared.owed.renew(token.split());
            }
            return last;
        }
        let last = queue.next_avail() == request.position().wrapping_add(1);
        if last {
            queue.go_to_previous_position();
            tracker.put_back(request.head());
        }
        last
    }

    /// Gives `head` back through the memory that it was popped from: a request that outlives its connection must not
    /// end up in the memory of the next guest.
    pub(crate) fn add_used(&self, memory: &GuestMemory, head: u16, written: u32) {
        let mut locked = self.shared.tracked.lock();
        let (queue, tracker) = locked.parts();
        tracker.giving_back(head);
        let added = queue.add_used(memory, head, written);
        match added {
            Ok(()) => tracker.gave_back(head, queue.next_used()),
            Err(error) => {
                drop(locked);
                self.broke("guest", &error);
            }
        }
    }

    /// The ring is being started: what is in flight on it, and where to go on, is found out.
    fn track(&self) {
        let mut locked = self.shared.tracked.lock();
        let (queue, tracker) = locked.parts();
        tracker.start(queue.size());
        let regions = self.shared.connection.regions.as_ref();
        let part = regions.and_then(|regions| regions.part(self.index()));
        let recovered = part.map_or(Ok(None), |part| {
            let memory = self.shared.memory.memory();
            let index = |index: Result<Wrapping<u16>, QueueError>| {
                index
                    .map(|index| index.0)
                    .map_err(|error| error.to_string())
            };
            let indices = Indices {
                used: index(queue.used_idx(&*memory, Ordering::Acquire))?,
                available: index(queue.avail_idx(&*memory, Ordering::Acquire))?,
            };
            tracker
                .recover(indices, part)
                .map_err(|error| error.to_string())
        });
        self.shared.owed.set(tracker.owes());
        match recovered {
            Ok(base) => base.into_iter().for_each(|base| queue.set_next_avail(base)),
            Err(error) => {
                drop(locked);
                self.broke("front-end: the region for requests in flight", &error);
            }
        }
    }

    fn broke(&self, who: &str, why: &dyn std::fmt::Display) {
        if !self.shared.broken.swap(true, Ordering::Relaxed) {
            self.shared.owed.let_go();
            log::error!(
                "{who}: ring {} makes no sense and is left alone until it is set up again: {why}",
                self.index()
            );
        }
    }

    fn stock(&self) -> &VringMutex<Table> {
        self.shared.tracked.stock()
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

fn parse(
    origin: Origin,
    chain: impl Iterator<Item = Descriptor>,
    spare: Segments,
    memory: &Arc<GuestMemory>,
) -> Popped {
    let head = origin.head;
    match Request::parse(origin, chain, spare, memory) {
        Ok(request) => Popped::Request(request),
        Err((error, spare)) => Popped::Malformed { head, error, spare },
    }
}

/// The head of the next chain, which is taken off the ring; `None` if there is none.
fn next_head(queue: &mut Queue, memory: &GuestMemory) -> Result<Option<u16>, QueueError> {
    // Not ready: the event came too late, the ring was stopped since.
    if !queue.ready() {
        return Ok(None);
    }
    let next = queue.next_avail();
    let available = queue.avail_idx(memory, Ordering::Acquire)?.0;
    match available.wrapping_sub(next) {
        0 => return Ok(None),
        count if count > queue.size() => return Err(QueueError::InvalidAvailRingIndex),
        _ => {}
    }
    let slot = AVAILABLE_HEADER_BYTES + 2 * u64::from(next % queue.size().max(1));
    let address = GuestAddress(queue.avail_ring()).checked_add(slot);
    let address = address.ok_or(QueueError::AddressOverflow)?;
    let head = memory.load(address, Ordering::Acquire);
    let head = u16::from_le(head.map_err(QueueError::GuestMemory)?);
    queue.set_next_avail(next.wrapping_add(1));
    Ok(Some(head))
}
