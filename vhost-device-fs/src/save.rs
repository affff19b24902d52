//! From the live file system to its state. Consumes nothing: the guest may go on, and the next one is saved the same
//! way.
//!
//! A walk of memory, but for what only lives in descriptors: the data of files without a name, and how far
//! directories were read.

mod configuration;
mod orphans;

use std::collections::{HashMap, HashSet, VecDeque};

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
    FsState, HandleV1, LocationV1, LockV1, MountV1, NameV1, NodeV1, SessionV1, ShareV1, WaiterV1,
};
use crate::store::{NodeImage, Numbered};
pub(crate) use configuration::configuration;
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
    let mut images = tables.nodes.images();
    let mut captured = capture_orphans(file_system, &tables, &mut images, &handles)?;
    let open: HashSet<u64> = handles.iter().map(|(_, handle)| handle.nodeid).collect();
    let nodes = without_unused(parents_first(images), &open);
    // A directory that only a name of another orphan kept alive. It has no data that would have to go with it.
    let kept: HashSet<u64> = nodes.iter().map(|node| node.nodeid).collect();
    captured
        .orphans
        .retain(|orphan| kept.contains(&orphan.nodeid));
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

/// Finds the inodes without a name and takes them along. What cannot be taken is lost, if the operator allows it.
fn capture_orphans(
    file_system: &FileSystem,
    tables: &Tables,
    images: &mut [NodeImage],
    handles: &[Numbered<Handle>],
) -> Result<Captured, SaveError> {
    let config = &file_system.host().config;
    let mut captured = Captured::new(config.orphan_bytes_max);
    let mut open: HashMap<u64, &Handle> = HashMap::new();
    for (_, handle) in handles {
        open.entry(handle.nodeid).or_insert(handle);
    }
    // What is open first: the rest is about to be forgotten by the guest, and takes the room that is left.
    let (of_open, others): (Vec<_>, Vec<_>) = images
        .iter_mut()
        .filter(|image| image.nodeid != ROOT_NODEID && !image.lost)
        .partition(|image| open.contains_key(&image.nodeid));
    for image in of_open.into_iter().chain(others) {
        let handle = open.get(&image.nodeid).copied();
        match orphans::find(image, handle) {
            Ok(None) => {}
            Ok(Some(way)) => {
                image.locations.clear();
                let result = captured.take(tables, image, way.as_fd(), config.xattr);
                if let Err(error) = result {
                    let goes_on = config.migration_on_error == MigrationOnError::GuestError
                        || handle.is_none();
                    lose(image, &error, goes_on)?;
                }
            }
            Err(error) => {
                let goes_on = config.migration_on_error == MigrationOnError::GuestError;
                lose(image, &error, goes_on || handle.is_none())?;
            }
        }
    }
    Ok(captured)
}

fn lose(image: &mut NodeImage, error: &OrphanError, goes_on: bool) -> Result<(), SaveError> {
    if !goes_on {
        return Err(SaveError::Host(error.clone().into()));
    }
    log::warn!("{error}; the guest will see errors on it");
    image.locations.clear();
    image.lost = true;
    Ok(())
}

/// The root, then directories before what is in them, so that a reader can tell that nobody is his own ancestor.
fn parents_first(images: Vec<NodeImage>) -> Vec<NodeImage> {
    let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut missing: Vec<usize> = Vec::with_capacity(images.len());
    for (index, image) in images.iter().enumerate() {
        missing.push(image.locations.len());
        for location in &image.locations {
            children.entry(location.parent).or_default().push(index);
        }
    }
    let mut ready: VecDeque<usize> = (0..images.len())
        .filter(|index| missing.get(*index) == Some(&0))
        .collect();
    let mut images: Vec<Option<NodeImage>> = images.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(images.len());
    while let Some(image) = ready
        .pop_front()
        .and_then(|index| images.get_mut(index).and_then(Option::take))
    {
        for child in children.remove(&image.nodeid).unwrap_or_default() {
            if let Some(missing) = missing.get_mut(child) {
                *missing -= 1;
                if *missing == 0 {
                    ready.push_back(child);
                }
            }
        }
        ordered.push(image);
    }
    // What was moved around on the host until our names lead in a circle cannot be found by them.
    for mut image in images.into_iter().flatten() {
        log::warn!(
            "host: nodeid {} was moved behind our back, and is lost",
            image.nodeid
        );
        image.locations.clear();
        image.lost = true;
        ordered.push(image);
    }
    ordered
}

/// Leaves out what only an inode that was an orphan in the end kept alive.
fn without_unused(images: Vec<NodeImage>, open: &HashSet<u64>) -> Vec<NodeV1> {
    let mut used: HashSet<u64> = open.clone();
    let mut nodes: Vec<NodeV1> = Vec::with_capacity(images.len());
    for image in images.into_iter().rev() {
        if image.nodeid == ROOT_NODEID || image.lookups > 0 || used.contains(&image.nodeid) {
            used.extend(image.locations.iter().map(|location| location.parent));
            nodes.push(node(image));
        }
    }
    nodes.reverse();
    nodes
}

fn node(image: NodeImage) -> NodeV1 {
    let NodeImage {
        nodeid,
        identity,
        kind,
        ino_shown,
        lookups,
        locations,
        pinned: _, // an orphan, or the root
        lost,
    } = image;
    NodeV1 {
        nodeid,
        kind: kind.mode_bits(),
        // What is lost is nowhere, which is no number of a mount.
        mount: if lost { 0 } else { identity.mount },
        ino: identity.ino,
        birth_ns: identity.birth_ns,
        ino_shown,
        lookups: lookups.min(LOOKUPS_MAX),
        locations: locations
            .into_iter()
            .map(|location| LocationV1 {
                parent: location.parent,
                name: location.name.into(),
            })
            .collect(),
        lost,
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
