//! Who tells whom: the guest of what was used, and the guest's kicks when nobody looks at the ring.
//!
//! Knows nothing of what is on the ring.

use std::io;
use std::sync::atomic::Ordering;

use vhost_user_backend::{VringState, VringT};
use virtio_queue::QueueT;

use super::{Table, Vring};
use crate::memory::GuestMemory;

impl Vring {
    /// Signals the guest if it wants to be signalled for what was added since the last time.
    pub(crate) fn notify(&self) {
        let mut state = self.stock().get_mut();
        match state.needs_notification() {
            Ok(true) => {
                self.shared.notified.store(true, Ordering::Relaxed);
                self.signal(&state);
            }
            Ok(false) => {}
            Err(error) => {
                drop(state);
                self.broke("guest", &error);
            }
        }
    }

    /// A call descriptor has come. QEMU hands over the one that the guest listens to after it has enabled the ring: on a machine that
    /// goes on there was none before, and on a migration's destination one that it does not look at. What the guest was notified of
    /// by then is told again, for a device that has nothing more to say would not.
    pub(super) fn repeat_notification(&self) {
        let state = self.stock().get_ref();
        if state.get_queue().ready() && self.shared.notified.load(Ordering::Relaxed) {
            self.signal(&state);
        }
    }

    fn signal(&self, state: &VringState<Table>) {
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

    pub(crate) fn disable_notification(&self, memory: &GuestMemory) {
        if self.is_closed() {
            return;
        }
        let disabled = self
            .stock()
            .get_mut()
            .get_queue_mut()
            .disable_notification(memory);
        if let Err(error) = disabled {
            self.broke("guest", &error);
        }
    }

    /// Returns whether there is something on the ring by now. What is on a broken ring cannot be popped: whoever looked again
    /// would look for ever.
    pub(crate) fn enable_notification(&self, memory: &GuestMemory) -> bool {
        if self.is_closed() {
            return false;
        }
        let enabled = self
            .stock()
            .get_mut()
            .get_queue_mut()
            .enable_notification(memory);
        enabled.unwrap_or_else(|error| {
            self.broke("guest", &error);
            false
        })
    }
}
