//! A store of reservations beside an image: several daemons, each with an initiator of its own, fence each other through it, and it
//! keeps reservations over a restart (APTPL).
//!
//! One file. Whoever changes it holds a lock on its first byte. There are two copies of the table; a change writes the one that does not
//! count, makes it durable, and then raises the generation, which says which one counts: a crash leaves the old table or the new one.
//! The generation is mapped into every daemon, so that each command sees with one load whether another daemon has changed something.
//!
//! Each daemon also has a slot, with a lock for as long as it lives and a count of its commands in flight: PREEMPT AND ABORT waits until
//! those of the preempted initiator are done.
//!
//! Knows files and tables; knows no command. Mappings are coherent on one host, and on no network file system: daemons on several hosts
//! cannot share a store, except one after the other, as a migration does.

mod format;
mod mapping;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::scsi::reservation::{Initiator, InvalidInitiator, Reservations};
use common::file_locks as locks;
pub use format::Damage;
use mapping::{Mapping, SLOTS};

/// How long PREEMPT AND ABORT waits for another daemon.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);
/// The lock of a change; the locks of the slots begin at [`SLOT_LOCKS`].
const CHANGE_LOCK: i64 = 0;
const SLOT_LOCKS: i64 = 64;

/// A store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("host: store of reservations {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error("store of reservations {} is damaged; remove it if no guest needs its reservations", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        #[source]
        source: Damage,
    },
    /// Too many daemons.
    #[error("store of reservations {} is used by {SLOTS} daemons already", path.display())]
    Full {
        /// Which.
        path: PathBuf,
    },
}

/// A name in a store is none.
pub(crate) type NameError = InvalidInitiator;

/// A store, and our slot in it.
pub struct Store {
    path: PathBuf,
    file: File,
    mapping: Arc<Mapping>,
    /// Number of our slot.
    slot: usize,
    /// The generation of the table that our unit has.
    seen: AtomicU64,
}

/// A command in flight: the daemon that preempts its initiator waits for it.
pub struct InFlight {
    mapping: Arc<Mapping>,
    slot: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(slot) = self.mapping.slot(self.slot) {
            slot.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Store {
    /// Opens the store at `path`, or makes one. If nobody else uses it, and its reservations were not to outlive a power loss, they are
    /// gone.
    pub fn open(path: &Path, initiator: &Initiator) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let (mapping, slot) = join(path, &file, initiator)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            mapping: Arc::new(mapping),
            slot,
            // None that there is: the first command takes the table over.
            seen: AtomicU64::new(u64::MAX),
        })
    }

    /// Whether another daemon has changed the table since our unit got it. One load.
    pub fn changed(&self) -> bool {
        self.mapping.generation().load(Ordering::SeqCst) != self.seen.load(Ordering::SeqCst)
    }

    /// A command begins. Before [`changed`](Self::changed) is asked for it: whoever changes the table afterwards sees it, and whoever
    /// changed it before is seen.
    pub fn enter(&self) -> InFlight {
        if let Some(slot) = self.mapping.slot(self.slot) {
            slot.in_flight.fetch_add(1, Ordering::SeqCst);
        }
        InFlight {
            mapping: Arc::clone(&self.mapping),
            slot: self.slot,
        }
    }

    /// Gives the table to `act`, which may change it. May wait for other daemons.
    pub fn transaction<R>(
        &self,
        act: impl FnOnce(&mut Reservations) -> R,
    ) -> Result<R, StoreError> {
        let _changing = ChangeLock::take(&self.file).map_err(|source| self.failed(source))?;
        let before = self.read()?;
        let mut table = before.clone();
        let result = act(&mut table);
        if table != before {
            self.write(&table)?;
        }
        let generation = self.mapping.generation().load(Ordering::SeqCst);
        self.seen.store(generation, Ordering::SeqCst);
        Ok(result)
    }

    /// Waits until no daemon of these initiators has a command in flight that it began before now. Returns whether that came to
    /// pass in time.
    pub fn wait_for(&self, initiators: &[Initiator]) -> bool {
        let names: Vec<u64> = initiators.iter().map(hash).collect();
        let deadline = Instant::now() + ABORT_PATIENCE;
        (0..SLOTS)
            .filter(|number| *number != self.slot)
            .all(|number| {
                let byte = lock_of(number);
                let Some(slot) = self.mapping.slot(number) else {
                    return true;
                };
                if !names.contains(&slot.initiator.load(Ordering::SeqCst)) {
                    return true;
                }
                loop {
                    let idle = slot.in_flight.load(Ordering::SeqCst) == 0;
                    // A daemon that has died has nothing in flight, whatever it has counted.
                    if idle || !locks::is_held(self.file.as_fd(), byte).unwrap_or(true) {
                        return true;
                    }
                    if Instant::now() >= deadline {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
    }

    fn read(&self) -> Result<Reservations, StoreError> {
        let generation = self.mapping.generation().load(Ordering::SeqCst);
        format::read(&self.file, generation).map_err(|source| StoreError::Damaged {
            path: self.path.clone(),
            source,
        })
    }

    fn write(&self, table: &Reservations) -> Result<(), StoreError> {
        write(&self.file, &self.mapping, table).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::File {
            path: self.path.clone(),
            source,
        }
    }
}

/// The new table first, and only then that it counts.
fn write(file: &File, mapping: &Mapping, table: &Reservations) -> io::Result<()> {
    let generation = mapping.generation();
    let next = generation.load(Ordering::SeqCst).wrapping_add(1);
    format::write(file, next, table)?;
    file.sync_data()?;
    generation.store(next, Ordering::SeqCst);
    file.sync_data()
}

/// Maps the store and takes a slot. Whoever is alone begins anew, unless the reservations were to stay.
fn join(path: &Path, file: &File, initiator: &Initiator) -> Result<(Mapping, usize), StoreError> {
    let failed = |source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    let damaged = |source| StoreError::Damaged {
        path: path.to_owned(),
        source,
    };
    let _changing = ChangeLock::take(file).map_err(failed)?;
    format::prepare(file).map_err(damaged)?;
    let mapping = Mapping::new(file).map_err(failed)?;
    let (mut alone, mut ours) = (true, None);
    for slot in 0..SLOTS {
        let byte = lock_of(slot);
        if ours.is_none() && locks::try_write(file.as_fd(), byte).map_err(failed)? {
            ours = Some(slot);
        } else if locks::is_held(file.as_fd(), byte).map_err(failed)? {
            alone = false;
        }
    }
    let number = ours.ok_or_else(|| StoreError::Full {
        path: path.to_owned(),
    })?;
    if let Some(slot) = mapping.slot(number) {
        slot.in_flight.store(0, Ordering::SeqCst);
        slot.initiator.store(hash(initiator), Ordering::SeqCst);
    }
    let generation = mapping.generation().load(Ordering::SeqCst);
    let table = format::read(file, generation).map_err(damaged)?;
    if alone && !table.aptpl && table != Reservations::default() {
        write(file, &mapping, &Reservations::default()).map_err(failed)?;
    }
    Ok((mapping, number))
}

/// The lock that a slot's daemon holds.
fn lock_of(slot: usize) -> i64 {
    SLOT_LOCKS + i64::try_from(slot).unwrap_or(0)
}

/// The lock of a change, until dropped.
struct ChangeLock<'a>(&'a File);

impl<'a> ChangeLock<'a> {
    fn take(file: &'a File) -> io::Result<Self> {
        locks::write(file.as_fd(), CHANGE_LOCK)?;
        Ok(Self(file))
    }
}

impl Drop for ChangeLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = locks::unlock(self.0.as_fd(), CHANGE_LOCK) {
            log::error!("host: the lock of a store of reservations cannot be given back: {error}");
        }
    }
}

/// A name in eight bytes (FNV-1a); who has the same waits once more than needed.
fn hash(initiator: &Initiator) -> u64 {
    initiator
        .transport_id()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests;
