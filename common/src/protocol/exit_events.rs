//! The descriptors by which the stock daemon's workers are told to end, closed once the workers have ended.
//!
//! The stock event loop takes each one's number out of its owner and never closes it; a daemon that serves one
//! front-end after another would run out of descriptors.

#![expect(
    unsafe_code,
    reason = "the stock event loop gives up ownership of a descriptor without passing it on"
)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::event::EventConsumer;

/// Exit descriptors of the workers of one daemon.
#[derive(Debug, Default)]
pub(crate) struct ExitEvents(Mutex<Vec<RawFd>>);

impl ExitEvents {
    pub(super) fn remember(&self, consumer: &EventConsumer) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(consumer.as_raw_fd());
    }
}

impl Drop for ExitEvents {
    /// Each worker holds on to the adapter that these belong to, so by now they have ended.
    fn drop(&mut self) {
        let descriptors = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for descriptor in descriptors.drain(..) {
            // SAFETY: `VringEpollHandler::new` took the descriptor out of its `EventConsumer` by `into_raw_fd` and only
            // added it to an epoll set; the workers have ended, so the number is ours alone.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}
