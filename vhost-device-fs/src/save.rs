//! From the live file system to its state. Consumes nothing: the guest may go on, and the next one is saved the same
//! way.
//!
//! A walk of memory, but for what only lives in descriptors: the data of files without a name, and how far
//! directories were read.

mod configuration;
mod order;
mod orphans;

use std::collections::HashMap;

use common::device::SaveError;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::MigrationOnError;
use crate::fuse::session::SessionOptions;
use crate::operations::ROOT_NODEID;
use crate::passthrough::{
    Directory, FileSystem, Handle, LAST_BYTE, LockImage, Tables, Target, stat_descriptor,
};
use crate::state::{
    FsState, HandleV1, LocationV1, LockV1, MountV1, NameV1, NodeTable, NodeV1, SessionV1, ShareV1,
    WaiterV1,
};
use crate::store::{Numbered, Record};
pub(crate) use configuration::{configuration, id_maps};
use order::{Fate, Known};
use orphans::{Captured, OrphanError};

/// Greatest number of lookups that is believed; no guest gets there.
const LOOKUPS_MAX: u64 = 1 << 48;
/// Greatest size of the names that one directory still has to give, and of those of all, in bytes.
const REST_BYTES_MAX: usize = 4 << 20;
const REST_BYTES_TOTAL_MAX: usize = 32 << 20;

/// What the guest wrote is on stable storage when this returns, as far as it was written before.
pub(crate) fn prepare_save(file_system: &FileSystem) {
    if let Err(errno) = file_system.sync_changed() {
        log::warn!("host: what the guest wrote could not be synced ahead of a migration: {errno}");
    }
}

/// The state of the file system. What the guest wrote is on stable storage then.
pub(crate) fn save(file_system: &FileSystem) -> Result<FsState, SaveError> {
    file_system
        .sync_changed()
        .map_err(|errno| SaveError::Host(OrphanError::Sync(errno).into()))?;
    let tables = file_system.tables();
    let handles = tables.handles.all();
    let still = tables.nodes.still();
    let mut known = Known {
        records: still.records(),
        fates: HashMap::new(),
    };
    let mut captured = Captured::new(file_system.host().config.orphan_bytes_max);
    let mut open: HashMap<u64, &Handle> = HashMap::new();
    for (_, handle) in &handles {
        open.entry(handle.nodeid).or_insert(handle);
    }
    // What is open first: the rest is about to be forgotten by the guest, and takes the room that is left.
    let found = opened(&known, &open);
    capture_all(&tables, &mut known, found, &mut captured)?;
    let nodes = if let Some(nodes) = save_in_order(&known) {
        nodes
    } else {
        let found = nameless(&known, &open);
        capture_all(&tables, &mut known, found, &mut captured)?;
        save_nodes(&mut known, open.keys(), &mut captured)
    };
    drop(known);
    drop(still);
    let config = &file_system.host().config;
    Ok(FsState {
        share: ShareV1 {
            next_nodeid: tables.nodes.next(),
            next_handle: tables.handles.next(),
            xattr: config.xattr,
            readonly: config.readonly,
        },
        session: file_system.session().map(session),
        configuration: configuration(config),
        id_maps: id_maps(config),
        mounts: tables
            .mounts
            .all()
            .iter()
            .map(|mount| MountV1 {
                file_system: mount.file_system,
            })
            .collect(),
        nodes,
        handles: save_handles(&tables, &handles),
        orphans: captured.orphans,
        orphan_data: captured.data,
        locks: tables.locks.images().into_iter().map(lock).collect(),
        waiters: Vec::new(),
    })
}

/// Adds the rings and heads of requests that were left with the guest.
pub(crate) fn add_waiting(state: &mut FsState, waiting: Vec<(u16, u16)>) {
    state.waiters = waiting
        .into_iter()
        .map(|(ring, head)| WaiterV1 { ring, head })
        .collect();
}

fn lock(image: LockImage) -> LockV1 {
    let LockImage {
        nodeid: _, // the handle's
        handle,
        owner,
        pid,
        range,
        exclusive,
    } = image;
    let (start, end) = range.map_or((0, LAST_BYTE), |range| (range.start, range.end));
    LockV1 {
        owner,
        handle,
        pid,
        whole_file: range.is_none(),
        exclusive,
        start,
        end,
    }
}

fn session(options: SessionOptions) -> SessionV1 {
    let SessionOptions {
        minor,
        flags_offered,
        flags,
        max_readahead,
        max_write,
        max_pages,
        max_background,
        congestion_threshold,
        time_granularity_ns,
    } = options;
    SessionV1 {
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

/// An inode, and a handle by which it is open.
type Candidate<'r, 'h> = (&'r Record, Option<&'h Handle>);

/// The inodes that are open.
fn opened<'r, 'h>(known: &Known<'r>, open: &HashMap<u64, &'h Handle>) -> Vec<Candidate<'r, 'h>> {
    let candidate = |(nodeid, handle): (&u64, &&'h Handle)| {
        let record = known.get(*nodeid)?;
        Some((record, Some(*handle)))
    };
    let mut candidates: Vec<_> = open.iter().filter_map(candidate).collect();
    candidates.sort_unstable_by_key(|(record, _)| record.nodeid);
    candidates
}

/// The inodes without a name that we know of, and that are not open.
fn nameless<'r, 'h>(known: &Known<'r>, open: &HashMap<u64, &'h Handle>) -> Vec<Candidate<'r, 'h>> {
    let records = known.records.iter().copied();
    records
        .filter(|record| record.locations.is_empty() && !open.contains_key(&record.nodeid))
        .map(|record| (record, None))
        .collect()
}

/// Takes along those that have no name. What cannot be taken is lost, if it is not open or the operator allows it.
fn capture_all(
    tables: &Tables,
    known: &mut Known<'_>,
    candidates: Vec<Candidate<'_, '_>>,
    captured: &mut Captured,
) -> Result<(), SaveError> {
    let on_error = tables.host.config.migration_on_error;
    for (record, handle) in candidates {
        if record.nodeid == ROOT_NODEID || record.lost {
            continue;
        }
        let fate = match capture(tables, record, handle, captured) {
            Ok(None) => continue,
            Ok(Some(fate)) => fate,
            Err(error) if on_error == MigrationOnError::GuestError || handle.is_none() => {
                log::warn!("{error}; the guest will see errors on it");
                Fate::Lost
            }
            Err(error) => return Err(SaveError::Host(error.into())),
        };
        known.fates.insert(record.nodeid, fate);
    }
    Ok(())
}

/// Takes an inode along if it has no name; `None` if it has one.
fn capture(
    tables: &Tables,
    record: &Record,
    handle: Option<&Handle>,
    captured: &mut Captured,
) -> Result<Option<Fate>, OrphanError> {
    let Some(way) = orphans::find(tables, record, handle)? else {
        return Ok(None);
    };
    captured.take(tables, record, way.as_fd(), tables.host.config.xattr)?;
    Ok(Some(Fate::Orphan))
}

/// The inodes of most guests, in one walk: all have names, and were found after the directories that they are in. So each is in use, for
/// what kept it from being forgotten travels, too. `None` if one is not like that.
fn save_in_order(known: &Known<'_>) -> Option<NodeTable> {
    if !known.fates.is_empty() {
        return None;
    }
    let mut nodes = NodeTable::default();
    let mut finder = known.finder();
    for (index, record) in known.records.iter().enumerate() {
        let is_root = record.nodeid == ROOT_NODEID;
        let has_names = is_root || !record.locations.is_empty();
        let mut parents = record.locations.iter().map(|location| location.parent);
        let in_order = parents.all(|parent| finder.find(parent).is_some_and(|at| at < index));
        if !has_names || !in_order {
            return None;
        }
        nodes.push(node(known, record));
    }
    Some(nodes)
}

/// The inodes that the guest uses, parents first.
fn save_nodes<'o>(
    known: &mut Known<'_>,
    open: impl Iterator<Item = &'o u64>,
    captured: &mut Captured,
) -> NodeTable {
    let order = known.parents_first();
    let used = known.used(&order, open);
    let is_used = |index: &&usize| used.get(**index) == Some(&true);
    let records = order.iter().filter(is_used);
    let records = records.filter_map(|index| known.records.get(*index));
    let mut nodes = NodeTable::default();
    records.for_each(|record| nodes.push(node(known, record)));
    // A directory that only a name of another orphan kept alive. It has no data that would have to go with it.
    let mut finder = known.finder();
    captured.orphans.retain(|orphan| {
        let found = finder.find(orphan.nodeid);
        found.is_some_and(|index| used.get(index) == Some(&true))
    });
    nodes
}

fn node<'r>(
    known: &Known<'_>,
    record: &'r Record,
) -> NodeV1<impl ExactSizeIterator<Item = LocationV1<&'r [u8]>> + use<'r>> {
    let is_lost = record.lost || known.fates.get(&record.nodeid) == Some(&Fate::Lost);
    NodeV1 {
        nodeid: record.nodeid,
        kind: record.kind.mode_bits(),
        // What is lost is nowhere, which is no number of a mount.
        mount: if is_lost { 0 } else { record.identity.mount },
        ino: record.identity.ino,
        birth_ns: record.identity.birth_ns,
        ino_shown: record.ino_shown,
        lookups: record.lookups.min(LOOKUPS_MAX),
        locations: known.locations(record).iter().map(|location| LocationV1 {
            parent: location.parent,
            name: &*location.name,
        }),
        lost: is_lost,
    }
}

fn save_handles(tables: &Tables, handles: &[Numbered<Handle>]) -> Vec<HandleV1> {
    let mut budget = REST_BYTES_TOTAL_MAX;
    handles
        .iter()
        .map(|(number, handle)| {
            let (position, rest, only_rest) = match &handle.target {
                Target::Directory(directory) => {
                    let position = directory.position();
                    let rest = rest_of(tables, directory, position, &mut budget);
                    (position, rest, position != 0 && directory.is_list())
                }
                Target::File(_) | Target::Lost => (0, None, false),
            };
            let is_lost = matches!(handle.target, Target::Lost) || (only_rest && rest.is_none());
            HandleV1 {
                handle: *number,
                nodeid: handle.nodeid,
                flags: handle.flags.bits(),
                position,
                only_rest: only_rest && rest.is_some(),
                rest,
                lost: is_lost,
            }
        })
        .collect()
}

fn is_removed(directory: &Directory) -> bool {
    stat_descriptor(directory.descriptor()).is_ok_and(|stat| stat.stx_nlink == 0)
}

/// The names that are still to come from a directory that was read in part.
fn rest_of(
    tables: &Tables,
    directory: &Directory,
    position: u64,
    budget: &mut usize,
) -> Option<Vec<NameV1>> {
    if position == 0 {
        return None;
    }
    let again = tables
        .host
        .reopen_unnoticed(directory.descriptor(), OFlags::DIRECTORY);
    let bytes_max = REST_BYTES_MAX.min(*budget);
    let rest = match again.and_then(|again| directory.rest(again, bytes_max)) {
        Ok(rest) => rest?,
        // Removed: there is nothing more to come. ext4 even refuses the position.
        Err(Errno::NOENT) => Vec::new(),
        Err(Errno::INVAL) if is_removed(directory) => Vec::new(),
        Err(errno) => {
            log::warn!("host: a directory that the guest reads cannot be read on: {errno}");
            return None;
        }
    };
    *budget -= rest
        .iter()
        .map(|entry| entry.name.len() + 32)
        .sum::<usize>()
        .min(*budget);
    let names = rest.into_iter().map(|entry| NameV1 {
        ino: entry.ino,
        next_offset: entry.next_offset,
        kind: entry.kind,
        name: entry.name,
    });
    Some(names.collect())
}
