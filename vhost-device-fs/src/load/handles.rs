//! The open files and directories of a state, opened again.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Failures;
use crate::operations::FsResult;
use crate::passthrough::{Directory, GuestFlags, Handle, PendingEntry, Tables, Target, host_flags};
use crate::state::{FsState, HandleV1, NameV1, NodeV1};
use crate::store::FileKind;

/// Fewer handles than this are opened by one thread.
const HANDLES_PER_THREAD_MIN: usize = 64;
/// More threads do not help: the host's file system is the same.
const THREADS_MAX: usize = 8;

/// Opens all handles. What cannot be opened is put there as lost.
pub(super) fn open(tables: &Tables, state: &FsState, writeback: bool, failures: &mut Failures) {
    let nodes: HashMap<u64, &NodeV1> = state.nodes.iter().map(|node| (node.nodeid, node)).collect();
    let opened = open_all(tables, state, &nodes, writeback);
    for (handle, result) in state.handles.iter().zip(opened) {
        // What an earlier migration lost is not this one's failure.
        let was_lost = handle.lost || nodes.get(&handle.nodeid).is_none_or(|node| node.lost);
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

fn open_all(
    tables: &Tables,
    state: &FsState,
    nodes: &HashMap<u64, &NodeV1>,
    writeback: bool,
) -> Vec<FsResult<Target>> {
    let open_some = |handles: &[HandleV1]| -> Vec<FsResult<Target>> {
        handles
            .iter()
            .map(|handle| {
                open_one(
                    tables,
                    nodes.get(&handle.nodeid).copied(),
                    handle,
                    writeback,
                )
            })
            .collect()
    };
    let handles = state.handles.as_slice();
    let share = handles
        .len()
        .div_ceil(THREADS_MAX)
        .max(HANDLES_PER_THREAD_MIN);
    if handles.len() <= share {
        return open_some(handles);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = handles
            .chunks(share)
            .map(|some| {
                let open_some = &open_some;
                (some.len(), scope.spawn(move || open_some(some)))
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
    node: Option<&NodeV1>,
    handle: &HandleV1,
    writeback: bool,
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
            let flags = host_flags(flags, writeback, &tables.host.config);
            tables
                .host
                .reopen(descriptor.as_fd(), flags)
                .map(Target::File)
        }
        FileKind::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let file = tables.host.reopen(descriptor.as_fd(), flags)?;
            open_directory(tables, node, handle, file).map(Target::Directory)
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
    node: Option<&NodeV1>,
    handle: &HandleV1,
    file: OwnedFd,
) -> FsResult<Directory> {
    if handle.position == 0 {
        return Ok(Directory::new(file));
    }
    let identity = tables.nodes.view(handle.nodeid)?.identity;
    let is_source = |node: &NodeV1| (node.ino, node.birth_ns) == (identity.ino, identity.birth_ns);
    let is_same = !handle.only_rest && node.is_some_and(is_source);
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
