//! The open files and directories of a state, opened again.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Failures;
use crate::operations::FsResult;
use crate::passthrough::{Directory, GuestFlags, Handle, PendingEntry, Tables, Target, host_flags};
use crate::state::{FsState, HandleV1, NameV1, Node};
use crate::store::{FileKind, Identity};

/// Fewer handles than this are opened by one thread.
const HANDLES_PER_THREAD_MIN: usize = 64;
/// More threads do not help: the host's file system is the same.
const THREADS_MAX: usize = 8;

/// Where the handles come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) state: &'a FsState,
    /// For each mount of the source, whether it is the very same file system here.
    pub(super) same_mounts: &'a [bool],
    /// The guest may hold back writes.
    pub(super) writeback: bool,
}

impl Source<'_> {
    /// Whether `identity` is the very inode that `node` was, so that offsets of a directory mean the same.
    fn is(&self, node: &Node<'_>, identity: Identity) -> bool {
        let mount = usize::try_from(node.mount).ok();
        let is_same = mount.and_then(|mount| self.same_mounts.get(mount));
        is_same == Some(&true) && (node.ino, node.birth_ns) == (identity.ino, identity.birth_ns)
    }
}

/// Opens all handles. What cannot be opened is put there as lost.
pub(super) fn open(tables: &Tables, source: &Source<'_>, failures: &mut Failures) {
    let state = source.state;
    if state.handles.is_empty() {
        return;
    }
    let nodes = nodes_of(state);
    let opened = open_all(tables, source, &nodes);
    for ((handle, node), result) in state.handles.iter().zip(&nodes).zip(opened) {
        // What an earlier migration lost is not this one's failure.
        let was_lost = handle.lost || node.is_none_or(|node| node.lost);
        let target = match result {
            Ok(target) => target,
            Err(_) if was_lost => Target::Lost,
            Err(errno) => {
                failures.add(|| {
                    format!(
                        "host: handle {} of nodeid {}: {errno}",
                        handle.handle, handle.nodeid
                    )
                });
                Target::Lost
            }
        };
        // Flags were checked with the state; without any there is no such handle.
        if let Some(flags) = GuestFlags::from_bits(handle.flags)
            && tables.nodes.hold(handle.nodeid).is_ok()
        {
            let number = handle.handle;
            tables
                .handles
                .place(number, Handle::new(handle.nodeid, flags, target));
        }
    }
}

/// For each handle, what is open.
fn nodes_of(state: &FsState) -> Vec<Option<Node<'_>>> {
    let nodeids = || state.handles.iter().map(|handle| handle.nodeid);
    let open: HashSet<u64> = nodeids().collect();
    let nodes = state.nodes.iter();
    let nodes = nodes.filter(|node| open.contains(&node.nodeid));
    let nodes: HashMap<u64, Node<'_>> = nodes.map(|node| (node.nodeid, node)).collect();
    nodeids()
        .map(|nodeid| nodes.get(&nodeid).copied())
        .collect()
}

fn open_all(
    tables: &Tables,
    source: &Source<'_>,
    nodes: &[Option<Node<'_>>],
) -> Vec<FsResult<Target>> {
    let open_some = |handles: &[HandleV1], nodes: &[Option<Node<'_>>]| -> Vec<FsResult<Target>> {
        let both = handles.iter().zip(nodes);
        both.map(|(handle, node)| open_one(tables, source, node.as_ref(), handle))
            .collect()
    };
    let handles = source.state.handles.as_slice();
    let share = handles
        .len()
        .div_ceil(THREADS_MAX)
        .max(HANDLES_PER_THREAD_MIN);
    if handles.len() <= share {
        return open_some(handles, nodes);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = handles
            .chunks(share)
            .zip(nodes.chunks(share))
            .map(|(some, nodes)| {
                let open_some = &open_some;
                (some.len(), scope.spawn(move || open_some(some, nodes)))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|(count, thread)| {
                let lost = |_| (0..count).map(|_| Err(Errno::IO)).collect();
                thread.join().unwrap_or_else(lost)
            })
            .collect()
    })
}

fn open_one(
    tables: &Tables,
    source: &Source<'_>,
    node: Option<&Node<'_>>,
    handle: &HandleV1,
) -> FsResult<Target> {
    if handle.lost {
        return Ok(Target::Lost);
    }
    let flags = GuestFlags::from_bits(handle.flags).ok_or(Errno::INVAL)?;
    let traits = tables.nodes.traits(handle.nodeid)?;
    let descriptor = tables.resolve(handle.nodeid)?;
    match traits.kind {
        FileKind::Regular => {
            if flags.contains(GuestFlags::WRITE) {
                tables.host.writable()?;
            }
            let flags = host_flags(flags, source.writeback, &tables.host.config);
            tables
                .host
                .reopen(descriptor.as_fd(), flags)
                .map(Target::File)
        }
        FileKind::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let file = tables.host.reopen(descriptor.as_fd(), flags)?;
            open_directory(tables, source, node, handle, file).map(Target::Directory)
        }
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharacterDevice
        | FileKind::BlockDevice => Err(Errno::INVAL),
    }
}

/// Where the source's offsets mean something else, the names that are left are given from the state.
fn open_directory(
    tables: &Tables,
    source: &Source<'_>,
    node: Option<&Node<'_>>,
    handle: &HandleV1,
    file: OwnedFd,
) -> FsResult<Directory> {
    if handle.position == 0 {
        return Ok(Directory::new(file));
    }
    let identity = tables.nodes.view(handle.nodeid)?.identity;
    let is_same = !handle.only_rest && node.is_some_and(|node| source.is(node, identity));
    match &handle.rest {
        Some(rest) if !is_same => {
            let rest: Vec<PendingEntry> = rest.iter().map(pending).collect();
            Ok(Directory::with_rest(file, handle.position, &rest))
        }
        None if !is_same => Err(Errno::STALE), // Too many names were left.
        _ => Directory::at_position(file, handle.position),
    }
}

fn pending(name: &NameV1) -> PendingEntry {
    let NameV1 {
        ino,
        next_offset,
        kind,
        name,
    } = name.clone();
    PendingEntry {
        ino,
        next_offset,
        kind,
        name,
    }
}
