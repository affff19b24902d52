//! The target: which logical units there are, and what happens to them outside of commands.
//!
//! Knows units and events; knows no ring but the event queue. The inventory is an immutable table behind a generation: workers
//! keep a copy, and look for a new one only when the generation has changed.

mod error;
mod sync;
pub mod unit;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::device::Guest;
use common::report;

use crate::backing::{Backing, BackingError};
use crate::config::{Config, UnitConfig};
use crate::reservations::Store;
use crate::scsi::attention::Attention;
use crate::scsi::identity::Identity;
use crate::scsi::reservation::Initiator;
use crate::scsi::unit::Unit;
use crate::virtio::events::{Event, EventKind, Events, Pending};
use crate::virtio::sweep::Scope;
use crate::virtio::wire::{COMMAND_BYTES_DEFAULT, SENSE_BYTES_DEFAULT, Sizes};
pub use error::TargetError;
use sync::Sync;
use unit::LogicalUnit;

/// How long a file may be another's that is to be made ours: a daemon that was killed has its files until the kernel has ended its
/// `io_uring`, and what it had in flight there must not come to an end beside us.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Units by number.
pub type Table = BTreeMap<u16, Arc<LogicalUnit>>;

/// The units, and what all of them share.
pub struct Target {
    config: Config,
    initiator: Initiator,
    table: Mutex<Arc<Table>>,
    generation: AtomicU64,
    /// Events for the guest.
    pub events: Events,
    /// Features that the driver accepted.
    features: AtomicU64,
    command_bytes: AtomicU32,
    sense_bytes: AtomicU32,
    /// We know what the guest has been told: its state was loaded, or it was told that it is lost.
    acquainted: AtomicBool,
    /// Another back-end may have written to the files since we last had them.
    moved: AtomicBool,
    sync: Sync,
    /// A bit for each ring that a driver has begun to use with us.
    begun: AtomicU64,
    /// Suspended, or never started: nothing is in flight.
    silent: AtomicBool,
}

impl Target {
    /// A target that no guest has used. Opens all files; locks none, since the source of a migration may still have them.
    pub fn new(config: Config) -> Result<Self, TargetError> {
        let initiator = Initiator::parse(&config.initiator).map_err(TargetError::Initiator)?;
        let mut table = Table::new();
        for unit in &config.units {
            let opened = open(unit, config.target, &initiator)?;
            if table.insert(unit.lun, Arc::new(opened)).is_some() {
                return Err(TargetError::Taken { lun: unit.lun });
            }
        }
        Ok(Self {
            config,
            initiator,
            table: Mutex::new(Arc::new(table)),
            generation: AtomicU64::new(0),
            events: Events::default(),
            features: AtomicU64::new(0),
            command_bytes: AtomicU32::new(COMMAND_BYTES_DEFAULT),
            sense_bytes: AtomicU32::new(SENSE_BYTES_DEFAULT),
            acquainted: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            sync: Sync::default(),
            begun: AtomicU64::new(0),
            silent: AtomicBool::new(true),
        })
    }

    /// What the operator wanted at start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The initiator's name.
    pub fn initiator(&self) -> &Initiator {
        &self.initiator
    }

    /// The inventory as it is now.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.lock())
    }

    /// Changes whenever the inventory does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the inventory.
    pub fn set_table(&self, table: Table) {
        *self.lock() = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Features that the driver accepted.
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    /// The driver accepted `features`.
    pub fn set_features(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// `cdb_size` and `sense_size` as the driver chose them.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            command: self.command_bytes.load(Ordering::Relaxed) as usize,
            sense: self.sense_bytes.load(Ordering::Relaxed) as usize,
        }
    }

    /// The driver chose `cdb_size`, in bytes.
    pub fn set_command_bytes(&self, bytes: u32) {
        self.command_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The driver chose `sense_size`, in bytes.
    pub fn set_sense_bytes(&self, bytes: u32) {
        self.sense_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A state was loaded: the guest is known, and the files may have been written to elsewhere.
    pub fn loaded(&self) {
        self.acquainted.store(true, Ordering::Relaxed);
        self.moved.store(true, Ordering::Relaxed);
    }

    /// A request ring was started at this available index. If the guest has used it before, with another back-end, and nothing
    /// was loaded, then what the guest was to be told, and what it had reserved, is lost: it is told that.
    pub fn meet(&self, ring: usize, base: u16) {
        let ring_bit = 1_u64 << (ring % 64);
        if base == 0 {
            self.begun.fetch_or(ring_bit, Ordering::Relaxed);
            return;
        }
        if self.begun.load(Ordering::Relaxed) & ring_bit != 0
            || self.acquainted.swap(true, Ordering::Relaxed)
        {
            return;
        }
        log::error!(
            "front-end: ring {ring} is in use already (it starts at {base}) and no state was loaded: reservations and undelivered events of the guest are lost; the guest is told to expect that (unit attention 29/00, 2a/04, events missed)"
        );
        for unit in self.table().values() {
            unit.backing().drop_caches();
            unit.with(|unit| {
                unit.attend(Attention::POWER_ON);
                unit.attend(Attention::RESERVATIONS_RELEASED);
            });
        }
        self.events.miss();
    }

    /// The device may work: the files are made ours, and events flow.
    pub fn resume(&self, guest: &Guest) {
        self.silent.store(false, Ordering::Release);
        let moved = self.moved.swap(false, Ordering::Relaxed);
        let end = Instant::now() + LOCK_PATIENCE;
        for (lun, unit) in &*self.table() {
            let mut taken = unit.take(moved);
            while matches!(taken, Err(BackingError::Locked)) && Instant::now() < end {
                std::thread::sleep(LOCK_INTERVAL);
                taken = unit.take(moved);
            }
            if let Err(error) = taken {
                log::error!(
                    "logical unit {lun} is not ready, until its file can be locked: {}",
                    report::chain(&error)
                );
            }
        }
        self.events.resume(guest);
    }

    /// The device is silent: what was written is durable, and the files are free for the next owner. On an error nothing was
    /// given away.
    pub fn suspend(&self) -> Result<(), TargetError> {
        let table = self.table();
        self.sync.all(&table, self.config.sync_limit)?;
        table.values().for_each(|unit| unit.release());
        self.silent.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the device is suspended, or was never started: nothing is in flight then.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// As after a reset of the whole device.
    pub fn reset(&self) {
        for unit in self.table().values() {
            unit.reset(Attention::POWER_ON);
        }
        self.events.set_pending(Pending::default());
        self.set_command_bytes(COMMAND_BYTES_DEFAULT);
        self.set_sense_bytes(SENSE_BYTES_DEFAULT);
        self.set_features(0);
        self.acquainted.store(false, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
    }

    /// Units are reset by task management.
    pub fn reset_units(&self, scope: Scope, cause: Attention) {
        for (lun, unit) in &*self.table() {
            let concerned = match scope {
                Scope::Target => true,
                Scope::Unit(of) | Scope::Task { lun: of, .. } => of == *lun,
            };
            if concerned {
                unit.reset(cause);
            }
        }
    }

    /// Adds a unit; the guest hears of it. If the device is `started`, the file is made ours at once: no other back-end is
    /// about to hand it over.
    pub fn add(&self, config: &UnitConfig, started: bool) -> Result<(), TargetError> {
        let unit = open(config, self.config.target, &self.initiator)?;
        if started {
            unit.take(false).map_err(|source| TargetError::Backing {
                lun: config.lun,
                path: config.path.clone(),
                source,
            })?;
        }
        self.change_table(|table| {
            if table.contains_key(&config.lun) {
                return Err(TargetError::Taken { lun: config.lun });
            }
            table.insert(config.lun, Arc::new(unit));
            Ok(())
        })?;
        self.inventory_changed(Event {
            kind: EventKind::Rescan,
            lun: config.lun,
        });
        Ok(())
    }

    /// Takes a unit away from new commands; the guest hears of it by [`inventory_changed`](Self::inventory_changed), when what was in
    /// flight has ended.
    pub fn take_away(&self, lun: u16) -> Result<Arc<LogicalUnit>, TargetError> {
        self.change_table(|table| table.remove(&lun).ok_or(TargetError::Absent { lun }))
    }

    /// The guest is told that a unit came or went.
    pub fn inventory_changed(&self, event: Event) {
        for unit in self.table().values() {
            unit.with(|unit| unit.attend(Attention::LUNS_CHANGED));
        }
        self.events.add(event);
    }

    /// Looks at the size of a unit's file again, or gives it `blocks` of it; the guest hears of a change. Returns the blocks.
    pub fn resize(&self, lun: u16, blocks: Option<u64>) -> Result<u64, TargetError> {
        let table = self.table();
        let unit = table.get(&lun).ok_or(TargetError::Absent { lun })?;
        let size = unit
            .backing()
            .size()
            .map_err(|source| TargetError::Backing {
                lun,
                path: unit.config().path.clone(),
                source,
            })?;
        let found = size / u64::from(unit.config().block_size);
        let wanted = blocks.unwrap_or(found);
        if wanted > found || wanted == 0 {
            return Err(TargetError::TooFewBlocks { lun, wanted, found });
        }
        let changed = unit.with(|unit| {
            let before = unit.state.blocks;
            unit.resized(wanted);
            before != wanted
        });
        if changed {
            self.events.add(Event {
                kind: EventKind::Changed(Attention::CAPACITY_CHANGED),
                lun,
            });
        }
        Ok(wanted)
    }

    fn change_table<R>(
        &self,
        change: impl FnOnce(&mut Table) -> Result<R, TargetError>,
    ) -> Result<R, TargetError> {
        let mut current = self.lock();
        let mut table = Table::clone(&current);
        let result = change(&mut table)?;
        *current = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Table>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file of a unit, and its store of reservations.
pub fn open(
    config: &UnitConfig,
    target: u8,
    initiator: &Initiator,
) -> Result<LogicalUnit, TargetError> {
    let failed = |source| TargetError::Backing {
        lun: config.lun,
        path: config.path.clone(),
        source,
    };
    let backing = Backing::open(config).map_err(failed)?;
    let blocks = backing.size().map_err(failed)? / u64::from(config.block_size);
    let store = config
        .reservations
        .as_ref()
        .map(|path| Store::open(path, initiator))
        .transpose()
        .map_err(|source| TargetError::Store {
            lun: config.lun,
            source,
        })?;
    let identity = Identity::new(config, target, initiator.clone(), store.is_some());
    let core = Unit::new(identity, blocks, config.write_cache);
    Ok(LogicalUnit::new(config.clone(), backing, core, store))
}
