//! What a state must be like to be believed, whoever wrote it. Knows the plain data only: no file is looked at.

use super::nodes::LOCATIONS_MAX;
use super::{Found, FsState, HandleV1, NameV1, Node, NodeFinder, NodeV1, OrphanV1};

const ROOT: u64 = 1;
pub(super) const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const KINDS: [u32; 7] = [
    REGULAR, DIRECTORY, SYMLINK, 0o010_000, 0o140_000, 0o020_000, 0o060_000,
];

/// More lookups than a guest can hold.
const LOOKUPS_MAX: u64 = 1 << 48;
/// More nodeids and handles than were ever given: from there on, counting does not come to its end.
const GIVEN_MAX: u64 = 1 << 63;
/// Mounts below one share.
const MOUNTS_MAX: usize = 1 << 16;
/// Greatest size of a file (`loff_t` of Linux), and of the target of a link (`PATH_MAX`), in bytes.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;
const LINK_BYTES_MAX: u64 = 4096;
/// All symbols of an open file.
const FLAGS: u32 = (1 << 8) - 1;
const FLAGS_ACCESS: u32 = 3;

/// The state contradicts itself: nobody who follows the rules writes such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ForgedState {
    #[error("state stream: {0} mounts, where there are 1 to {MOUNTS_MAX}")]
    Mounts(usize),
    #[error(
        "state stream: nodeid {nodeid} or handle {handle} is given next, which is 2^63 or more"
    )]
    Given { nodeid: u64, handle: u64 },
    #[error("state stream: the first inode is not a sound root")]
    Root,
    #[error("state stream: nodeid {0} is there twice")]
    NodeTwice(u64),
    #[error("state stream: nodeid {nodeid} is not below {next}, which is given next")]
    NodeidNotGiven { nodeid: u64, next: u64 },
    #[error("state stream: nodeid {nodeid} is of type {kind:#o}, which does not exist")]
    Kind { nodeid: u64, kind: u32 },
    #[error("state stream: nodeid {nodeid} is on mount {mount}, of {mounts}")]
    Mount {
        nodeid: u64,
        mount: u32,
        mounts: usize,
    },
    #[error("state stream: nodeid {nodeid} has {lookups} lookups, more than {LOOKUPS_MAX}")]
    Lookups { nodeid: u64, lookups: u64 },
    #[error("state stream: nodeid {0} is neither looked up, nor open, nor the way to anything")]
    Unused(u64),
    #[error("state stream: nodeid {nodeid} has {names} names")]
    Locations { nodeid: u64, names: usize },
    #[error("state stream: nodeid {0} has a name that is none")]
    Name(u64),
    #[error(
        "state stream: nodeid {nodeid} is in {parent}, which is no directory that comes before it"
    )]
    Parent { nodeid: u64, parent: u64 },
    #[error("state stream: handle {0} is there twice")]
    HandleTwice(u64),
    #[error("state stream: handle {handle} is not below {next}, which is given next")]
    HandleNotGiven { handle: u64, next: u64 },
    #[error(
        "state stream: handle {handle} is of nodeid {nodeid}, which is no file and no directory"
    )]
    HandleTarget { handle: u64, nodeid: u64 },
    #[error("state stream: handle {handle} has flags {flags:#x}")]
    HandleFlags { handle: u64, flags: u32 },
    #[error("state stream: handle {0} has a position that it cannot have")]
    HandlePosition(u64),
    #[error("state stream: orphan {0} is there twice, or is no inode without a name")]
    Orphan(u64),
    #[error("state stream: orphan {0} has extents that overlap, or lie outside of it")]
    OrphanExtents(u64),
    #[error("state stream: orphan {0} has attributes that it cannot have")]
    OrphanAttributes(u64),
    #[error("state stream: {0} locks or requests that wait for some, more than {limit}", limit = super::locks::WAITERS_MAX)]
    Locks(usize),
    #[error(
        "state stream: a lock of handle {0}, which is no open file, or one that the guest keeps to itself"
    )]
    LockHandle(u64),
    #[error(
        "state stream: a lock of handle {handle} from byte {start} to {end}, which is none or overlaps with another"
    )]
    LockRange { handle: u64, start: u64, end: u64 },
    #[error("state stream: request {head} waits on ring {ring} twice, or cannot wait there")]
    Waiter { ring: u16, head: u16 },
    #[error("state stream: {found} bytes of orphans, where they say {expected}")]
    OrphanData { expected: u64, found: u64 },
}

impl FsState {
    /// Whether this state is one that could have been saved.
    pub fn validate(&self) -> Result<(), ForgedState> {
        if !(1..=MOUNTS_MAX).contains(&self.mounts.len()) {
            return Err(ForgedState::Mounts(self.mounts.len()));
        }
        let (nodeid, handle) = (self.share.next_nodeid, self.share.next_handle);
        if nodeid.max(handle) >= GIVEN_MAX {
            return Err(ForgedState::Given { nodeid, handle });
        }
        let mut finder = NodeFinder::with_capacity(self.nodes.len());
        let mut used = vec![false; self.nodes.len()];
        let forgotten = self.validate_nodes(&mut finder, &mut used)?;
        self.validate_handles(&mut finder, &mut used)?;
        self.validate_orphans(&mut finder)?;
        self.validate_locks(&mut finder)?;
        // What nobody refers to would stay for ever.
        let is_unused = |index: &usize| used.get(*index) != Some(&true);
        let mut unused = forgotten.iter().filter(|(_, index)| is_unused(index));
        unused
            .next()
            .map_or(Ok(()), |(nodeid, _)| Err(ForgedState::Unused(*nodeid)))
    }

    /// Marks the nodes that are the way to another one. Returns nodeids and indices of those that are not looked up.
    fn validate_nodes(
        &self,
        finder: &mut NodeFinder,
        used: &mut [bool],
    ) -> Result<Vec<(u64, usize)>, ForgedState> {
        let mut forgotten = Vec::new();
        let sound_root = self.nodes.iter().next().is_some_and(|root| {
            root.nodeid == ROOT && root.kind == DIRECTORY && root.mount == 0 && !root.lost
        });
        if !sound_root {
            return Err(ForgedState::Root);
        }
        let mut orphans: Vec<u64> = self.orphans.iter().map(|orphan| orphan.nodeid).collect();
        orphans.sort_unstable();
        for (index, node) in self.nodes.iter().enumerate() {
            let nodeid = node.nodeid;
            self.validate_node(&node)?;
            if !finder.add(&node) {
                return Err(ForgedState::NodeTwice(nodeid));
            }
            if node.lookups == 0 && nodeid != ROOT {
                forgotten.push((nodeid, index));
            }
            let root_or_orphan = nodeid == ROOT || orphans.binary_search(&nodeid).is_ok();
            let names = node.locations.len();
            let names_max = match node.kind {
                _ if root_or_orphan => 0,
                DIRECTORY => 1,
                _ => LOCATIONS_MAX,
            };
            if names > names_max || (names == 0 && !root_or_orphan && !node.lost) {
                return Err(ForgedState::Locations { nodeid, names });
            }
            for location in node.locations.iter() {
                let parent = location.parent;
                if !is_name(location.name) || matches!(location.name, b"." | b"..") {
                    return Err(ForgedState::Name(nodeid));
                }
                // Only parents that come earlier: no circle can be made of them.
                let before = finder.find(parent);
                let before = before.filter(|found| found.index < index && found.kind == DIRECTORY);
                let way = before.and_then(|found| used.get_mut(found.index));
                *way.ok_or(ForgedState::Parent { nodeid, parent })? = true;
            }
        }
        Ok(forgotten)
    }

    fn validate_node(&self, node: &Node<'_>) -> Result<(), ForgedState> {
        let NodeV1 {
            nodeid,
            kind,
            mount,
            lookups,
            lost,
            ..
        } = *node;
        let next = self.share.next_nodeid;
        if nodeid == 0 || nodeid >= next {
            return Err(ForgedState::NodeidNotGiven { nodeid, next });
        }
        if !KINDS.contains(&kind) {
            return Err(ForgedState::Kind { nodeid, kind });
        }
        let mounts = self.mounts.len();
        if !lost && u64::from(mount) >= mounts as u64 {
            return Err(ForgedState::Mount {
                nodeid,
                mount,
                mounts,
            });
        }
        if lookups > LOOKUPS_MAX {
            return Err(ForgedState::Lookups { nodeid, lookups });
        }
        Ok(())
    }

    /// Marks the nodes that are open.
    fn validate_handles(
        &self,
        finder: &mut NodeFinder,
        used: &mut [bool],
    ) -> Result<(), ForgedState> {
        let next = self.share.next_handle;
        let numbers = self.handles.iter().map(|handle| handle.handle);
        twice(numbers).map_or(Ok(()), |handle| Err(ForgedState::HandleTwice(handle)))?;
        for handle in &self.handles {
            let HandleV1 {
                handle: number,
                nodeid,
                flags,
                position,
                rest,
                only_rest,
                lost: _,
            } = handle;
            let (handle, nodeid, flags) = (*number, *nodeid, *flags);
            if handle == 0 || handle >= next {
                return Err(ForgedState::HandleNotGiven { handle, next });
            }
            let Some(Found {
                kind: kind @ (REGULAR | DIRECTORY),
                index,
                ..
            }) = finder.find(nodeid)
            else {
                return Err(ForgedState::HandleTarget { handle, nodeid });
            };
            if let Some(used) = used.get_mut(index) {
                *used = true;
            }
            if flags & !FLAGS != 0 || flags & FLAGS_ACCESS == 0 {
                return Err(ForgedState::HandleFlags { handle, flags });
            }
            let directory = kind == DIRECTORY;
            let names = rest.as_deref().unwrap_or_default();
            // Any position of a directory: it is a number that a file system made up.
            let sound = (directory || (*position == 0 && rest.is_none()))
                && (rest.is_some() || !only_rest)
                && names.iter().all(|NameV1 { name, .. }| is_name(name));
            if !sound {
                return Err(ForgedState::HandlePosition(handle));
            }
        }
        Ok(())
    }

    fn validate_orphans(&self, finder: &mut NodeFinder) -> Result<(), ForgedState> {
        let nodeids = self.orphans.iter().map(|orphan| orphan.nodeid);
        twice(nodeids).map_or(Ok(()), |nodeid| Err(ForgedState::Orphan(nodeid)))?;
        let mut expected: u64 = 0;
        for orphan in &self.orphans {
            let nodeid = orphan.nodeid;
            let found = finder.find(nodeid).filter(|found| !found.lost);
            let kind = found.map(|found| found.kind);
            if nodeid == ROOT || kind != Some(orphan.mode & 0o170_000) {
                return Err(ForgedState::Orphan(nodeid));
            }
            // A source without attributes sends none, and a destination without them must not set any.
            if !self.share.xattr && !orphan.xattrs.is_empty() {
                return Err(ForgedState::OrphanAttributes(nodeid));
            }
            validate_orphan(orphan)?;
            // Extents do not overlap, so the sum of one file's fits; that of all files may not.
            for extent in &orphan.extents {
                expected = expected.saturating_add(extent.length);
            }
        }
        let found = self.orphan_data.len() as u64;
        if expected == found {
            Ok(())
        } else {
            Err(ForgedState::OrphanData { expected, found })
        }
    }
}

/// A number that is there twice. Sorted and not hashed: nobody can choose numbers that make it slow.
fn twice(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    let mut pairs = numbers.array_windows();
    pairs.find_map(|[one, next]| (one == next).then_some(*one))
}

fn validate_orphan(orphan: &OrphanV1) -> Result<(), ForgedState> {
    let nodeid = orphan.nodeid;
    let size_max = match orphan.mode & 0o170_000 {
        REGULAR => FILE_BYTES_MAX,
        SYMLINK => LINK_BYTES_MAX,
        _ => 0,
    };
    let attributes = orphan.size <= size_max
        && orphan.mode & !0o177_777 == 0
        && orphan.uid != u32::MAX
        && orphan.gid != u32::MAX
        && [orphan.atime, orphan.mtime]
            .iter()
            .all(|time| time.nanoseconds < 1_000_000_000)
        && orphan
            .xattrs
            .iter()
            .all(|xattr| is_name_of_xattr(&xattr.name) && xattr.value.len() <= 65_536);
    if !attributes {
        return Err(ForgedState::OrphanAttributes(nodeid));
    }
    let mut end = 0;
    for extent in &orphan.extents {
        let next = extent.offset.checked_add(extent.length);
        let next = next.filter(|next| *next <= orphan.size && extent.length > 0);
        match next {
            Some(next) if extent.offset >= end => end = next,
            _ => return Err(ForgedState::OrphanExtents(nodeid)),
        }
    }
    let whole = orphan.extents.first().map_or(0, |extent| extent.length);
    if orphan.mode & 0o170_000 == SYMLINK && (whole != orphan.size || whole == 0) {
        return Err(ForgedState::OrphanExtents(nodeid));
    }
    Ok(())
}

fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

fn is_name_of_xattr(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(&0)
}
