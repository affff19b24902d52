//! A live logical unit: what it is to the initiator, and the file behind it.
//!
//! Knows the SCSI core and the backing; knows no ring. The hot path asks [`LogicalUnit::geometry`] and takes no lock; everything
//! else goes through [`LogicalUnit::with`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::report::Sparse;

use crate::backing::{Backing, BackingError};
use crate::config::UnitConfig;
use crate::reservations::{InFlight, Store};
use crate::scsi::attention::Attention;
use crate::scsi::fast::Geometry;
use crate::scsi::unit::Unit;
use crate::scsi::{Action, Failure, Reply, opcode};

/// A logical unit.
pub struct LogicalUnit {
    config: UnitConfig,
    backing: Backing,
    core: Mutex<Unit>,
    store: Option<Store>,
    /// Whether plain reads and writes need nothing of the core.
    plain: AtomicBool,
    /// Copies of what the core says, for the hot path.
    blocks: AtomicU64,
    write_through: AtomicBool,
    block_shift: u8,
    /// Whether the file is ours: its lock is held, or was not asked for.
    owned: AtomicBool,
}

impl LogicalUnit {
    /// A unit from its parts; `core` is as large as `backing`.
    pub fn new(config: UnitConfig, backing: Backing, core: Unit, store: Option<Store>) -> Self {
        let unit = Self {
            block_shift: u8::try_from(config.block_size.trailing_zeros()).unwrap_or(9),
            owned: AtomicBool::new(!config.lock),
            config,
            backing,
            plain: AtomicBool::new(false),
            blocks: AtomicU64::new(core.state.blocks),
            write_through: AtomicBool::new(false),
            core: Mutex::new(core),
            store,
        };
        unit.with(|_| ());
        unit
    }

    /// What the operator wanted.
    pub fn config(&self) -> &UnitConfig {
        &self.config
    }

    /// The file.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The store of its reservations, if there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// What the hot path needs, if there is nothing that a plain read or write must hear of, or wait for.
    pub fn geometry(&self) -> Option<Geometry> {
        let plain = self.plain.load(Ordering::Acquire)
            && self.store.as_ref().is_none_or(|store| !store.changed());
        plain.then(|| Geometry {
            block_shift: self.block_shift,
            blocks: self.blocks.load(Ordering::Relaxed),
            readonly: self.config.readonly,
            write_through: self.write_through.load(Ordering::Relaxed),
        })
    }

    /// Uses or changes the core; the hot path's copies follow.
    pub fn with<R>(&self, act: impl FnOnce(&mut Unit) -> R) -> R {
        let mut core = self.lock();
        let result = act(&mut core);
        self.publish(&core);
        result
    }

    /// Begins a command. Not for a unit with a store of reservations, where it may wait: see [`Self::store`].
    pub fn begin(&self, cdb: &[u8]) -> Action {
        let action = self.with(|unit| unit.begin(cdb));
        self.refuse_unowned(cdb, action)
    }

    /// Goes on with a command whose parameter list is there.
    pub fn begin_with(&self, cdb: &[u8], parameters: &[u8]) -> Action {
        let action = self.with(|unit| unit.begin_with(cdb, parameters));
        self.refuse_unowned(cdb, action)
    }

    /// [`begin`](Self::begin) under the lock of the unit's store; may wait for other daemons.
    pub fn begin_shared(&self, cdb: &[u8]) -> Action {
        let action = self.share(|unit| unit.begin(cdb));
        self.refuse_unowned(cdb, action)
    }

    /// [`begin_with`](Self::begin_with) under the lock of the unit's store. PREEMPT AND ABORT also waits for what the preempted
    /// initiators have in flight.
    pub fn begin_with_shared(&self, cdb: &[u8], parameters: &[u8]) -> Action {
        let mut preempted = Vec::new();
        let action = self.share(|unit| {
            let action = unit.begin_with(cdb, parameters);
            preempted = unit.state.reservations.preempted();
            action
        });
        let aborts = opcode::is_preempt_and_abort(cdb);
        if aborts
            && let Some(store) = &self.store
            && !store.wait_for(&preempted)
        {
            log::warn!(
                "logical unit {}: commands of a preempted initiator do not end",
                self.config.lun
            );
        }
        self.refuse_unowned(cdb, action)
    }

    /// Uses the core with the table of all daemons.
    fn share(&self, act: impl FnOnce(&mut Unit) -> Action) -> Action {
        let Some(store) = &self.store else {
            return self.with(act);
        };
        let done = store.transaction(|table| {
            self.with(|unit| {
                unit.state.reservations = table.clone();
                unit.hear();
                let action = act(unit);
                *table = unit.state.reservations.clone();
                action
            })
        });
        done.unwrap_or_else(|error| {
            static BROKEN: Sparse = Sparse::new();
            if let Some(count) = BROKEN.count() {
                log::error!("{} ({count} times)", common::report::chain(&error));
            }
            Action::Reply(self.with(|unit| unit.broken()))
        })
    }

    /// The unit is reset, or the nexus lost.
    pub fn reset(&self, cause: Attention) {
        self.share(|unit| {
            unit.reset(cause);
            Action::Reply(Reply::good(Vec::new(), 0))
        });
    }

    /// A command begins, of which daemons that share reservations with us want to know.
    pub fn enter(&self) -> Option<InFlight> {
        self.store.as_ref().map(Store::enter)
    }

    /// The medium of a file that is another's is not there.
    fn refuse_unowned(&self, cdb: &[u8], action: Action) -> Action {
        match action {
            Action::Operation(operation) if !self.is_owned() => {
                let result = Err(Failure::NotReady);
                Action::Reply(self.with(|unit| unit.finish(cdb, &operation, result)))
            }
            Action::Reply(_) | Action::Parameters { .. } | Action::Operation(_) => action,
        }
    }

    /// Ends a command that needed the medium.
    pub fn finish(
        &self,
        cdb: &[u8],
        operation: &crate::scsi::Operation,
        result: Result<crate::scsi::Completion, Failure>,
    ) -> Reply {
        self.with(|unit| unit.finish(cdb, operation, result))
    }

    /// Makes the file ours, before the first I/O. `moved` if another back-end may have written to it: what the host has cached
    /// of it is dropped then.
    pub fn take(&self, moved: bool) -> Result<(), BackingError> {
        let taken = if self.config.lock {
            self.backing.lock()
        } else {
            Ok(())
        };
        if taken.is_ok() && moved {
            self.backing.drop_caches();
        }
        self.owned.store(taken.is_ok(), Ordering::Release);
        self.with(|_| ());
        taken
    }

    /// Makes the file, to which nothing is written any more, free for the next owner.
    pub fn release(&self) {
        if self.config.lock {
            self.backing.unlock();
            self.owned.store(false, Ordering::Release);
        }
    }

    /// Whether the file is ours; if not, tries once more to make it so.
    fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire) || self.take(true).is_ok()
    }

    fn publish(&self, core: &Unit) {
        let geometry = core.fast().filter(|_| self.owned.load(Ordering::Acquire));
        if let Some(geometry) = geometry {
            self.blocks.store(geometry.blocks, Ordering::Relaxed);
            self.write_through
                .store(geometry.write_through, Ordering::Relaxed);
        }
        self.plain.store(geometry.is_some(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Unit> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
