//! The inodes of a state, put into new tables.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Failures;
use super::orphans::{self, Data};
use crate::operations::{FsResult, ROOT_NODEID};
use crate::passthrough::Tables;
use crate::state::{FsState, Node, NodeV1};
use crate::store::{FileKind, Identity, Location, Name, Record, Sighting};

/// Inodes that are looked at to tell a file system from a copy of it, if it does not know times of birth.
const SAMPLES: usize = 16;

/// Where a mount of the source is on this host.
#[derive(Clone, Copy)]
struct Place {
    mount: u32,
    /// It is the very file system of the source, so inode numbers mean the same.
    is_same: bool,
}

/// Puts all inodes into `tables`. What cannot be found is put there as lost. Returns for each mount of the source whether
/// it is the very same file system here.
pub(super) fn place(tables: &mut Tables, state: &FsState, failures: &mut Failures) -> Vec<bool> {
    let mut places: Vec<Option<Place>> = vec![None; state.mounts.len()];
    let orphans: HashMap<u64, _> = Data::of(state).collect();
    tables.nodes.reserve(state.nodes.len());
    for node in state.nodes.iter() {
        let found = if node.lost {
            Ok(lost(&node))
        } else if let Some((orphan, data)) = orphans.get(&node.nodeid) {
            orphans::recreate(tables, orphan, data).map(|(descriptor, found)| Record {
                pinned: Some(descriptor),
                ..record(&node, found)
            })
        } else {
            find(tables, state, &node, &mut places).map(|found| Record {
                pinned: (node.nodeid == ROOT_NODEID).then(|| tables.host.root.clone()),
                ..record(&node, found)
            })
        };
        let record = found.unwrap_or_else(|errno| {
            failures.add(|| format!("host: {}: {errno}", describe_state(&node)));
            lost(&node)
        });
        tables.nodes.place(record);
    }
    places
        .iter()
        .map(|place| place.is_some_and(|place| place.is_same))
        .collect()
}

/// Which inode of this host `node` is: by what the state says, if that can be, and else by its names.
fn find(
    tables: &Tables,
    state: &FsState,
    node: &Node<'_>,
    places: &mut [Option<Place>],
) -> FsResult<Identity> {
    let place = usize::try_from(node.mount)
        .ok()
        .and_then(|index| places.get_mut(index));
    let Some(place) = place else {
        return Err(Errno::INVAL);
    };
    if let Some(Place {
        mount,
        is_same: true,
    }) = *place
    {
        return Ok(Identity {
            mount,
            ino: node.ino,
            birth_ns: node.birth_ns,
        });
    }
    let found = find_by_name(tables, node)?;
    if place.is_none() {
        *place = Some(Place {
            mount: found.mount,
            is_same: is_same(tables, state, node, found),
        });
    } else if node.nodeid != ROOT_NODEID && tables.nodes.nodeid(&found).is_some() {
        return Err(Errno::EXIST); // Two inodes of the source are one here.
    }
    Ok(found)
}

fn find_by_name(tables: &Tables, node: &Node<'_>) -> FsResult<Identity> {
    if node.nodeid == ROOT_NODEID {
        return Ok(tables.see_descriptor(tables.host.root.as_fd())?.0.identity);
    }
    let mut result = Err(Errno::NOENT);
    let locations: Vec<_> = node.locations.iter().collect();
    for location in locations.iter().rev() {
        let seen = tables.resolve(location.parent).and_then(|directory| {
            let name = Name::new(location.name)?;
            let (Sighting { identity, kind }, _) = tables.see_name(directory.as_fd(), name)?;
            if kind.mode_bits() == node.kind {
                Ok(identity)
            } else {
                Err(Errno::STALE)
            }
        });
        if seen.is_ok() {
            return seen;
        }
        result = seen;
    }
    result
}

/// Whether `found` is the source's `witness`, the first inode that we have on its mount, and not a copy of it.
fn is_same(tables: &Tables, state: &FsState, witness: &Node<'_>, found: Identity) -> bool {
    let of_source = usize::try_from(witness.mount).ok();
    let of_source = of_source.and_then(|index| state.mounts.get(index));
    let same_type = of_source.map(|mount| mount.file_system) == tables.file_system(found.mount);
    if !same_type || (witness.ino, witness.birth_ns) != (found.ino, found.birth_ns) {
        return false;
    }
    // The root of a copy may well have the same number: without times of birth, more have to agree. A submount is
    // taken as it is, and verified when it is used.
    found.birth_ns != 0 || witness.nodeid != ROOT_NODEID || samples_agree(tables, state)
}

fn samples_agree(tables: &Tables, state: &FsState) -> bool {
    let samples = state.nodes.iter().filter_map(|node| {
        let location = node.locations.last()?;
        (location.parent == ROOT_NODEID && node.mount == 0 && !node.lost)
            .then_some((node, location))
    });
    samples.take(SAMPLES).all(|(node, location)| {
        let seen = Name::new(location.name)
            .and_then(|name| tables.see_name(tables.host.root.as_fd(), name));
        // One that is gone says nothing.
        seen.map_or(true, |(sighting, _)| sighting.identity.ino == node.ino)
    })
}

fn record(node: &Node<'_>, identity: Identity) -> Record {
    let NodeV1 {
        nodeid,
        kind,
        mount: _, // of the source
        ino: _,   // likewise
        birth_ns: _,
        ino_shown,
        lookups,
        locations,
        lost,
    } = *node;
    let kind = FileKind::from_mode(kind).unwrap_or(FileKind::Regular);
    Record {
        lost,
        ino_shown,
        lookups,
        locations: locations
            .iter()
            .filter_map(|location| {
                let name = Name::new(location.name).ok()?;
                Some(Location::new(location.parent, name))
            })
            .collect(),
        ..Record::new(nodeid, Sighting { identity, kind })
    }
}

fn lost(node: &Node<'_>) -> Record {
    let nowhere = Identity {
        mount: u32::MAX,
        ino: node.nodeid,
        birth_ns: 0,
    };
    Record {
        lost: true,
        ..record(node, nowhere)
    }
}

/// An inode, for a person: its nodeid and its newest name.
pub(super) fn describe(tables: &Tables, nodeid: u64) -> String {
    let name = tables
        .nodes
        .view(nodeid)
        .ok()
        .and_then(|view| view.locations.last().map(|location| location.name.to_vec()));
    describe_name(nodeid, name.as_deref())
}

/// Like [`describe`], from the state.
fn describe_state(node: &Node<'_>) -> String {
    let name = node.locations.last().map(|location| location.name);
    describe_name(node.nodeid, name)
}

fn describe_name(nodeid: u64, name: Option<&[u8]>) -> String {
    match name {
        Some(name) => format!("nodeid {nodeid} (\"{}\")", name.escape_ascii()),
        None => format!("nodeid {nodeid}"),
    }
}
