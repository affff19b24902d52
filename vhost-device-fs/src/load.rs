//! From a state to the live file system. Builds everything aside; nothing of the old is touched until all is well.
//!
//! An inode is found by its names, and never opened by anything else that a state stream says. On the very file system
//! that the source had, its number and time of birth say whether it is the right one: that is looked at when it is
//! used, and by a thread in the background. On another one, such as a copy, every inode is found now.

mod handles;
mod locks;
mod nodes;
mod orphans;

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use common::device::LoadError;

use crate::config::{Config, MigrationOnError};
use crate::fuse::session::{SessionMismatch, SessionOptions};
use crate::passthrough::{FileSystem, Tables};
use crate::save::{configuration, id_maps};
use crate::state::{Difference, FsState, SessionV1};

/// Reasons that are told; the rest is counted.
const REASONS_MAX: usize = 10;

/// The state is sound, but this back-end is not configured for it.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// The guest agreed on something that this configuration does not have.
    #[error("the guest's session does not fit")]
    Session(#[source] SessionMismatch),
    /// Extended attributes.
    #[error("the source has --xattr, and this back-end has not")]
    Xattr,
    /// Names or numbers of the guest's would mean something else on this host.
    #[error("{} of the source is not this back-end's: {}", .0.option, entry(.0))]
    Configuration(Difference),
    /// An attribute of an unlinked file that no guest of the source's has set.
    #[error(
        "state stream: unlinked file {nodeid} has an attribute that --xattrmap keeps from the guest: {name:?}"
    )]
    HiddenXattr {
        /// The guest's name for the file.
        nodeid: u64,
        /// The attribute's name on the host.
        name: String,
    },
    /// A guest that may write would not be able to.
    #[error("this back-end has --readonly, and the source has not")]
    ReadOnly,
    /// More data of unlinked files than the operator allows.
    #[error(
        "the state has {bytes} bytes of unlinked files and their attributes, and --migration-orphan-bytes-max is {bytes_max}"
    )]
    OrphanBytes {
        /// Bytes in the state.
        bytes: u64,
        /// The limit of this back-end.
        bytes_max: u64,
    },
    /// Requests that wait on a ring that this back-end does not have.
    #[error(
        "a request waits on ring {ring}, and this back-end has {rings} request rings (--num-request-queues)"
    )]
    Ring {
        /// Index of the ring.
        ring: u16,
        /// Number of request rings here.
        rings: u16,
    },
    /// More open files than this back-end has descriptors for.
    #[error(
        "the state has {descriptors} open files, unlinked inodes that are not open, and owners of locks, and this back-end keeps descriptors for {descriptors_max} (about a half of --rlimit-nofile)"
    )]
    Descriptors {
        /// Handles, orphans that are not open, and owners of locks in the state, without those that are lost.
        descriptors: usize,
        /// The limit of this back-end.
        descriptors_max: u32,
    },
}

/// Which entry makes the difference, for the operator.
fn entry(difference: &Difference) -> String {
    let Difference {
        option: _,
        entry,
        at_source,
        here,
    } = *difference;
    match (at_source, here) {
        (true, false) => format!("entry {entry} is only at the source"),
        (false, true) => format!("entry {entry} is only here"),
        _ => format!("entry {entry} is another one"),
    }
}

/// Inodes and handles that could not be carried over, with the first reasons.
#[derive(Debug, Default, thiserror::Error)]
#[error("{count} inodes and handles cannot be carried over (--migration-on-error=abort): {}", .reasons.join("; "))]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// The first reasons, at most 10.
    pub reasons: Vec<String>,
}

impl Failures {
    fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        if self.reasons.len() < REASONS_MAX {
            let reason = reason();
            log::warn!("{reason}");
            self.reasons.push(reason);
        }
    }
}

/// Whether `state` could be loaded, as far as can be told without looking at files.
pub(crate) fn check(config: &Config, state: &FsState) -> Result<(), LoadError> {
    state
        .validate()
        .map_err(|forged| LoadError::Stream(forged.into()))?;
    fits(config, state).map_err(|mismatch| LoadError::Mismatch(mismatch.into()))
}

fn fits(config: &Config, state: &FsState) -> Result<(), Mismatch> {
    if let Some(options) = &state.session {
        session(options).fits(config).map_err(Mismatch::Session)?;
    }
    let xattrs = state.orphans.iter().flat_map(|orphan| &orphan.xattrs);
    let of_xattrs: usize = xattrs
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum();
    let bytes = (state.orphan_data.len() + of_xattrs) as u64;
    let bytes_max = config.orphan_bytes_max;
    let held = Held::by(state);
    let descriptors = held.descriptors() - held.open_orphans.len();
    let descriptors_max = config.descriptors_held_max();
    if state.share.xattr && !config.xattr {
        Err(Mismatch::Xattr)
    } else if let Some(difference) = state.configuration.difference(&configuration(config)) {
        Err(Mismatch::Configuration(difference))
    } else if let Some(hidden) = hidden_xattr(config, state) {
        Err(hidden)
    } else if config.readonly && !state.share.readonly {
        Err(Mismatch::ReadOnly)
    } else if let Some(ring) = ring_beyond(config, state) {
        Err(Mismatch::Ring {
            ring,
            rings: config.request_rings,
        })
    } else if bytes > bytes_max {
        Err(Mismatch::OrphanBytes { bytes, bytes_max })
    } else if descriptors as u64 > u64::from(descriptors_max) {
        Err(Mismatch::Descriptors {
            descriptors,
            descriptors_max,
        })
    } else {
        Ok(())
    }
}

/// What the guest holds descriptors by, when all is loaded.
struct Held {
    handles: usize,
    /// Nodeids of unlinked inodes that handles lead to as well.
    open_orphans: Vec<u64>,
    other_orphans: usize,
    lock_owners: usize,
}

impl Held {
    fn by(state: &FsState) -> Self {
        let handles = state.handles.iter().filter(|handle| !handle.lost);
        // Orphans are few, and most guests have none; handles may be a hundred thousand.
        let orphans = state.orphans.iter().map(|orphan| orphan.nodeid);
        let unlinked: HashSet<u64> = orphans.clone().collect();
        let of_handles = handles.clone().map(|handle| handle.nodeid);
        let open: HashSet<u64> = of_handles
            .filter(|nodeid| unlinked.contains(nodeid))
            .collect();
        let open_orphans: Vec<_> = orphans.filter(|nodeid| open.contains(nodeid)).collect();
        let locks = state.locks.iter().filter(|lock| !lock.whole_file);
        let owners: HashSet<_> = locks.map(|lock| (lock.handle, lock.owner)).collect();
        Self {
            handles: handles.count(),
            other_orphans: state.orphans.len() - open_orphans.len(),
            open_orphans,
            lock_owners: owners.len(),
        }
    }

    fn descriptors(&self) -> usize {
        self.handles + self.open_orphans.len() + self.other_orphans + self.lock_owners
    }
}

/// A state could set by it what the guest itself could not.
fn hidden_xattr(config: &Config, state: &FsState) -> Option<Mismatch> {
    let map = config.xattr_map.as_ref()?;
    let xattrs = state.orphans.iter().flat_map(|orphan| {
        let names = orphan.xattrs.iter().map(|xattr| &xattr.name);
        names.map(|name| (orphan.nodeid, name))
    });
    xattrs
        .filter(|(_, name)| map.to_guest(name).is_none())
        .map(|(nodeid, name)| Mismatch::HiddenXattr {
            nodeid,
            name: name.escape_ascii().to_string(),
        })
        .next()
}

fn ring_beyond(config: &Config, state: &FsState) -> Option<u16> {
    let rings = state.waiters.iter().map(|waiter| waiter.ring);
    rings.into_iter().find(|ring| *ring > config.request_rings)
}

/// The rings and heads of requests that the source has left with the guest.
pub(crate) fn left_of(state: &FsState) -> impl Iterator<Item = (u16, u16)> + '_ {
    let waiters = state.waiters.iter();
    waiters.map(|waiter| (waiter.ring, waiter.head))
}

/// Takes over `state`, which has passed [`check`]: handles are open when this returns. On an error nothing has changed.
pub(crate) fn load(file_system: &FileSystem, state: &FsState) -> Result<(), LoadError> {
    let host = file_system.host();
    let mut tables = Tables::new(host, state.share.next_handle)
        .map_err(|errno| LoadError::Host(Box::new(errno)))?;
    tables.nodes.set_next(state.share.next_nodeid);
    let mut failures = Failures::default();
    let same_mounts = nodes::place(&mut tables, state, &mut failures);
    // On a copy, who made it has seen to the owners.
    if same_mounts.contains(&true)
        && let Some(difference) = state.id_maps.difference(&id_maps(&host.config))
    {
        return Err(LoadError::Mismatch(
            Mismatch::Configuration(difference).into(),
        ));
    }
    let session = state.session.as_ref().map(session);
    let writeback = session.is_some_and(|session| session.writeback());
    let source = handles::Source {
        state,
        same_mounts: &same_mounts,
        writeback,
    };
    handles::open(&tables, &source, &mut failures);
    unpin_what_is_open(&tables, state);
    locks::take(&tables, state, &mut failures);
    if failures.count > 0 {
        match host.config.migration_on_error {
            MigrationOnError::Abort => return Err(LoadError::Host(failures.into())),
            MigrationOnError::GuestError => log::warn!(
                "{} inodes and handles could not be carried over; the guest will see errors on them",
                failures.count
            ),
        }
    }
    let tables = file_system.adopt(tables, session);
    verify_in_background(&tables, state);
    Ok(())
}

/// A guest that has as many files open as it may has them unlinked without a descriptor beside that of the handle
/// (`passthrough/names.rs`). So it is here.
fn unpin_what_is_open(tables: &Tables, state: &FsState) {
    let held = Held::by(state);
    let descriptors_max = tables.host.config.descriptors_held_max();
    let descriptors_max = usize::try_from(descriptors_max).unwrap_or(usize::MAX);
    let too_many = held.descriptors().saturating_sub(descriptors_max);
    for nodeid in held.open_orphans.iter().take(too_many) {
        tables.nodes.unpin(*nodeid);
    }
}

fn session(state: &SessionV1) -> SessionOptions {
    let SessionV1 {
        minor,
        flags_offered,
        flags,
        max_readahead,
        max_write,
        max_pages,
        max_background,
        congestion_threshold,
        time_granularity_ns,
    } = *state;
    SessionOptions {
        minor,
        flags_offered,
        flags,
        max_readahead,
        max_write,
        max_pages,
        max_background,
        congestion_threshold,
        time_granularity_ns,
    }
}

/// Finds each inode once, so that the operator hears of those that are not there, before a guest does. Ends by itself
/// when the tables are replaced or dropped.
fn verify_in_background(tables: &Arc<Tables>, state: &FsState) {
    let nodeids: Vec<u64> = state.nodes.iter().map(|node| node.nodeid).collect();
    let tables = Arc::downgrade(tables);
    let spawned = std::thread::Builder::new()
        .name("fs-verify".to_owned())
        .spawn(move || verify(&tables, &nodeids));
    if let Err(error) = spawned {
        log::warn!("host: loaded inodes are not verified ahead of their use: {error}");
    }
}

fn verify(tables: &Weak<Tables>, nodeids: &[u64]) {
    let mut missing: u64 = 0;
    for nodeid in nodeids {
        let Some(tables) = tables.upgrade() else {
            return;
        };
        // What the guest forgot in the meantime is not missing.
        let is_missing = tables.resolve(*nodeid).is_err() && tables.nodes.traits(*nodeid).is_ok();
        if is_missing {
            missing += 1;
            if missing <= REASONS_MAX as u64 {
                log::warn!(
                    "host: {} is not there any more",
                    nodes::describe(&tables, *nodeid)
                );
            }
        }
    }
    let count = nodeids.len();
    if missing > 0 {
        log::warn!(
            "host: {missing} of {count} loaded inodes are not there; the guest will see ESTALE"
        );
    } else {
        log::info!("all {count} loaded inodes are there");
    }
}

#[cfg(test)]
mod tests;
