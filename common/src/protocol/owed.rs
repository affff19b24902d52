//! What a ring owes its guest from before a crash: that it is not drained before those requests are served.
//!
//! They cannot go back to the available ring, as others do that are popped and not started: their places there are lost. So from
//! the moment that the ring may be served they count as in flight. Written by the ring, and by `control.rs`; knows neither
//! requests nor regions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gate::Token;

/// One ring's.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    any: AtomicBool,
    token: Mutex<Option<Token>>,
}

impl Owed {
    /// Whether there is anything.
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// The ring was started with, or without.
    pub(crate) fn set(&self, any: bool) {
        let mut token = self.lock();
        self.any.store(any, Ordering::Relaxed);
        *token = None;
    }

    /// The ring may be served: it is not drained before everything is popped.
    pub(crate) fn hold(&self, begin: impl FnOnce() -> Option<Token>) {
        let mut token = self.lock();
        if self.is_any() && token.is_none() {
            *token = begin();
        }
    }

    /// Something was put back after all.
    pub(crate) fn renew(&self, token: Token) {
        let mut held = self.lock();
        self.any.store(true, Ordering::Relaxed);
        held.get_or_insert(token);
    }

    /// The connection is gone: what is owed is the next one's.
    pub(crate) fn let_go(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
