//! Requests that stay with the guest while their ring is drained and stopped, and that are taken up again by whoever serves the
//! ring next. Knows heads and indices; which heads were left is for the device to remember.

use std::sync::Arc;

use virtio_queue::QueueT as _;
use vm_memory::GuestAddress;

use super::chain::Chain;
use super::{Popped, Vring, parse};
use crate::memory::GuestMemory;
use crate::request::{Origin, Segments};

impl Vring {
    /// Lets `head` stay with the guest, unserved, until it is [taken up](Self::take_up).
    pub(crate) fn leave(&self, head: u16) {
        let mut locked = self.shared.tracked.lock();
        let (_, tracker) = locked.parts();
        tracker.leave(head);
    }

    /// Goes on with `head`, which was [left](Self::leave), here or by another back-end; nothing if the guest does not wait for it.
    pub(crate) fn take_up(&self, memory: &Arc<GuestMemory>, head: u16, spare: Segments) -> Popped {
        if self.is_closed() {
            return Popped::Nothing(spare);
        }
        let mut locked = self.shared.tracked.lock();
        let (queue, tracker) = locked.parts();
        // All that was popped and not given back, by whomever: the indices are the guest's and the front-end's.
        let position = queue.next_avail();
        let outstanding = position.wrapping_sub(queue.next_used());
        if !queue.ready() || !tracker.take_up(head, outstanding) {
            return Popped::Nothing(spare);
        }
        let table = GuestAddress(queue.desc_table());
        let chain = Chain::new(memory, table, queue.size(), head);
        drop(locked);
        let origin = Origin {
            head,
            position, // of none: it cannot be put back
            resubmitted: false,
        };
        parse(origin, chain, spare, memory)
    }

    /// The number of descriptors of the ring.
    pub(crate) fn size(&self) -> u16 {
        self.shared.tracked.lock().parts().0.size()
    }
}
