//! A sweep: one task management function on its way through all workers (SAM-5, clause 7).
//!
//! Every worker marks the commands that it concerns with a reference to the sweep, and each reference is given up only when its
//! command has been given back to the guest. So the last reference ends after the last victim: dropping it answers the function. None
//! can be lost, and none can be answered too early (virtio 1.3, 5.6.6.2: the device MUST complete affected commands before).
//!
//! Knows what a function concerns; knows neither workers nor rings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::gate::Token;

use super::wire::Response;

/// Commands that a sweep concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Task {
        /// Its unit.
        lun: u16,
        /// The driver's name for it.
        id: u64,
    },
    /// All of a unit.
    Unit(u16),
    /// All.
    Target,
}

impl Scope {
    /// Whether a command is concerned.
    pub fn contains(self, lun: u16, id: u64) -> bool {
        match self {
            Self::Task { lun: of, id: name } => of == lun && name == id,
            Self::Unit(of) => of == lun,
            Self::Target => true,
        }
    }
}

/// What happens to a command that is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It ends with this response.
    End(Response),
    /// It is waited for.
    Await,
    /// It is only noticed.
    Notice,
}

/// What is done when the sweep is over; gets whether a command was concerned.
type Finish = Box<dyn FnOnce(bool) + Send>;

/// See the [module](self).
pub struct Sweep {
    /// Which commands.
    pub scope: Scope,
    /// What happens to them.
    pub effect: Effect,
    found: AtomicBool,
    finish: Mutex<Option<Finish>>,
}

impl Sweep {
    /// A sweep that ends with `finish`, on whatever thread that is.
    pub fn new(
        scope: Scope,
        effect: Effect,
        finish: impl FnOnce(bool) + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            scope,
            effect,
            found: AtomicBool::new(false),
            finish: Mutex::new(Some(Box::new(finish))),
        })
    }

    /// A command is concerned. Returns whether it has to keep a reference.
    pub fn find(&self) -> bool {
        self.found.store(true, Ordering::Relaxed);
        self.effect != Effect::Notice
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let finish = self
            .finish
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(finish) = finish {
            finish(self.found.load(Ordering::Relaxed));
        }
    }
}

/// A sweep as it waits for the worker of one ring. What is on the ring by now was there before the function, or came with it.
pub struct Notice {
    /// The sweep.
    pub sweep: Arc<Sweep>,
    /// The ring is not drained before the worker has looked at it.
    pub token: Token,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_sweep_ends_with_its_last_reference() {
        let (sender, receiver) = mpsc::channel();
        let sweep = Sweep::new(Scope::Unit(3), Effect::End(Response::Reset), move |found| {
            sender.send(found).unwrap();
        });
        let victim = Arc::clone(&sweep);
        assert!(victim.find());
        drop(sweep);
        assert!(receiver.try_recv().is_err());
        drop(victim);
        assert_eq!(receiver.try_recv(), Ok(true));
    }

    #[test]
    fn scopes() {
        assert!(Scope::Task { lun: 1, id: 2 }.contains(1, 2));
        assert!(!Scope::Task { lun: 1, id: 2 }.contains(1, 3));
        assert!(!Scope::Task { lun: 1, id: 2 }.contains(2, 2));
        assert!(Scope::Unit(1).contains(1, 9) && !Scope::Unit(1).contains(2, 9));
        assert!(Scope::Target.contains(7, 7));
    }
}
