//! What the stock handler does with a vring: passed on to the stock one, but for what we must know of, or do better.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};

use super::locked::Tracked;
use super::{CREATING, Connection, Shared, Table, Vring};
use crate::report::Sparse;

impl<'a> VringStateGuard<'a, Table> for Vring {
    type G = MutexGuard<'a, VringState<Table>>;
}

impl<'a> VringStateMutGuard<'a, Table> for Vring {
    type G = MutexGuard<'a, VringState<Table>>;
}

impl VringT<Table> for Vring {
    fn new(memory: Table, max_queue_size: u16) -> Result<Self, QueueError> {
        let (observer, connection, index) = CREATING.with_borrow_mut(|creating| match creating {
            Some(creating) => {
                let index = creating.next;
                creating.next += 1;
                let observer = Weak::clone(&creating.observer);
                (Some(observer), creating.connection.clone(), index)
            }
            None => (None, Connection::default(), 0),
        });
        Ok(Self {
            shared: Arc::new(Shared {
                tracked: Tracked::new(VringMutex::new(memory.clone(), max_queue_size)?),
                memory,
                index,
                observer,
                connection,
                owed: Arc::default(),
                broken: AtomicBool::new(false),
                base: AtomicU16::new(0),
                notified: AtomicBool::new(false),
                malformed: Sparse::default(),
                unheard: Sparse::default(),
            }),
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Table>> {
        self.stock().get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Table>> {
        self.stock().get_mut()
    }

    fn add_used(&self, head: u16, written: u32) -> Result<(), QueueError> {
        VringT::add_used(self.stock(), head, written)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.stock().signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        VringT::enable_notification(self.stock())
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        VringT::disable_notification(self.stock())
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.stock().needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.stock().set_enabled(enabled);
        self.observe(|observer| observer.enabled(self.index(), enabled));
    }

    fn set_queue_info(
        &self,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), QueueError> {
        self.stock().set_queue_info(descriptors, available, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.stock().queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.stock().set_queue_next_avail(base);
    }

    /// A ring that runs knows better: QEMU sends the addresses again when dirty logging begins or ends, and what the stock handler
    /// has just read of the used index may be old by now.
    fn set_queue_next_used(&self, index: u16) {
        if !self.stock().get_ref().get_queue().ready() {
            self.stock().set_queue_next_used(index);
        }
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.stock().queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.stock().set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.stock().set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        if ready {
            self.shared.broken.store(false, Ordering::Relaxed);
            self.shared.notified.store(false, Ordering::Relaxed);
            self.track();
            let base = self.stock().queue_next_avail();
            self.shared.base.store(base, Ordering::Relaxed);
            self.stock().set_queue_ready(true);
            self.observe(|observer| observer.started(self.index(), &self.shared.owed));
        } else {
            // First nothing new may be popped; what was popped is waited for in `stop_vring`, which follows.
            self.observe(|observer| observer.stopping(self.index(), &self.shared.owed));
            self.stock().set_queue_ready(false);
        }
    }

    fn set_kick(&self, file: Option<File>) {
        self.unblock(file.as_ref(), "kick");
        self.stock().set_kick(file);
    }

    /// The stock event loop ends for ever on an error here, even on one that only says that somebody else read the
    /// kick, or that it was replaced.
    fn read_kick(&self) -> io::Result<bool> {
        let state = self.stock().get_ref();
        if let Some(kick) = state.get_kick()
            && let Err(error) = kick.consume()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::debug!("ring {}: kick cannot be read: {error}", self.index());
        }
        Ok(state.is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        self.unblock(file.as_ref(), "call");
        let comes = file.is_some();
        self.stock().set_call(file);
        if comes {
            self.repeat_notification();
        }
    }

    fn set_err(&self, file: Option<File>) {
        self.stock().set_err(file);
    }
}
