//! What migrates: plain data, and how it is laid out in sections. Knows no file, no descriptor and no guest.
//!
//! | section | what it is |
//! |---|---|
//! | `FSYS` | one [`ShareV1`] |
//! | `SESS` | one [`SessionV1`], if the guest had begun a session |
//! | `CONF` | one [`ConfigurationV1`], if any of its options was given; since version 2 |
//! | `IDMP` | one [`IdMapsV1`], if the daemon is in a user namespace of the operator's; since version 2 |
//! | `MNTS` | table of [`MountV1`], numbered from 0 |
//! | `INOD` | the inodes; the root is the first, and a directory comes before what is in it. Version 1 of the section is a table of [`NodeV1`], version 2 (version 3 of the state) the same in fewer bytes (`state/nodes/packed.rs`) |
//! | `HNDL` | table of [`HandleV1`] |
//! | `ORPH` | table of [`OrphanV1`] |
//! | `ODAT` | the data of all orphans, one after the other |
//! | `LOCK` | table of [`LockV1`], if there are any (version 2) |
//! | `WAIT` | table of [`WaiterV1`], if there are any (version 2) |
//!
//! All are critical and all but `SESS`, `CONF`, `IDMP`, `LOCK` and `WAIT` must be there. A released struct never changes: a new version of a section
//! takes its place. A section that is only there if it is needed leaves all other states to older readers. What the sections say is believed only after [`FsState::validate`].

use common::state::{
    DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema, StateWriter, Tag,
};
use serde::{Deserialize, Serialize};

mod configuration;
mod id_maps;
mod locks;
mod nodes;
mod rules;
mod sections;

pub use crate::state::configuration::{
    ConfigurationV1, Difference, IdRangeV1, IdTargetV1, XattrActionV1, XattrRuleV1,
};
pub use crate::state::id_maps::{IdMapV1, IdMapsV1};
pub use crate::state::locks::{LockV1, WaiterV1};
use crate::state::nodes::NODES_MAX;
pub use crate::state::nodes::{Found, Locations, Node, NodeFinder, NodeTable, PackedError};
pub use crate::state::rules::ForgedState;
use crate::state::sections::{more, once, required};

const SHARE: Tag = Tag::new(*b"FSYS");
const SESSION: Tag = Tag::new(*b"SESS");
const CONFIGURATION: Tag = Tag::new(*b"CONF");
const ID_MAPS: Tag = Tag::new(*b"IDMP");
const MOUNTS: Tag = Tag::new(*b"MNTS");
const NODES: Tag = Tag::new(*b"INOD");
const HANDLES: Tag = Tag::new(*b"HNDL");
const ORPHANS: Tag = Tag::new(*b"ORPH");
const ORPHAN_DATA: Tag = Tag::new(*b"ODAT");
const LOCKS: Tag = Tag::new(*b"LOCK");
const WAITERS: Tag = Tag::new(*b"WAIT");

/// The state of a file system device.
#[derive(Clone, PartialEq, Eq)]
pub struct FsState {
    /// The share, and what the source's operator wanted of it.
    pub share: ShareV1,
    /// What the guest and the source agreed on.
    pub session: Option<SessionV1>,
    /// The options that decide what the guest's names and numbers mean on the host.
    pub configuration: ConfigurationV1,
    /// What users and groups of the source are on its host.
    pub id_maps: IdMapsV1,
    /// The source's mounts below the share.
    pub mounts: Vec<MountV1>,
    /// The inodes that the guest knows.
    pub nodes: NodeTable,
    /// What the guest has open.
    pub handles: Vec<HandleV1>,
    /// Inodes without a name, which only live as long as the guest knows them.
    pub orphans: Vec<OrphanV1>,
    /// Their data, in their order and in the order of their extents.
    pub orphan_data: Vec<u8>,
    /// Locks that the guest has and that others see.
    pub locks: Vec<LockV1>,
    /// Requests that wait for locks.
    pub waiters: Vec<WaiterV1>,
}

/// What a version added is told of only if it is there: the texts of the states of older versions are history.
impl std::fmt::Debug for FsState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            share,
            session,
            configuration,
            id_maps,
            mounts,
            nodes,
            handles,
            orphans,
            orphan_data,
            locks,
            waiters,
        } = self;
        let mut text = formatter.debug_struct("FsState");
        text.field("share", share).field("session", session);
        if !configuration.is_empty() {
            text.field("configuration", configuration);
        }
        if !id_maps.is_empty() {
            text.field("id_maps", id_maps);
        }
        text.field("mounts", mounts)
            .field("nodes", nodes)
            .field("handles", handles)
            .field("orphans", orphans)
            .field("orphan_data", orphan_data);
        if !locks.is_empty() {
            text.field("locks", locks);
        }
        if !waiters.is_empty() {
            text.field("waiters", waiters);
        }
        text.finish()
    }
}

/// The share, and those options that the guest would notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareV1 {
    /// The nodeid that is given next.
    pub next_nodeid: u64,
    /// The handle that is given next.
    pub next_handle: u64,
    /// `--xattr`.
    pub xattr: bool,
    /// `--readonly`.
    pub readonly: bool,
}

/// The INIT record. Units are those of the FUSE protocol: bytes, pages, requests, nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are those of fuse::session::SessionOptions"
)]
pub struct SessionV1 {
    pub minor: u32,
    pub flags_offered: u64,
    pub flags: u64,
    pub max_readahead: u32,
    pub max_write: u32,
    pub max_pages: u16,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub time_granularity_ns: u32,
}

/// A mount of the source's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountV1 {
    /// Type of the file system (`f_type` of `statfs(2)`).
    pub file_system: u64,
}

/// An inode that the guest knows. `L` is how its names are kept in memory: on the wire of version 1 of `INOD` all are a `Vec<LocationV1>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeV1<L = Vec<LocationV1>> {
    /// The guest's name for it.
    pub nodeid: u64,
    /// Its type (`S_IFMT` bits).
    pub kind: u32,
    /// Index of its mount; means nothing if it is lost.
    pub mount: u32,
    /// Inode number on the source's host.
    pub ino: u64,
    /// When it was made, in nanoseconds since the epoch; 0 if that is not known.
    pub birth_ns: u64,
    /// The inode number that the guest sees.
    pub ino_shown: u64,
    /// Lookups that the guest holds.
    pub lookups: u64,
    /// Its names, the newest last. None for the root, for orphans and for what is lost.
    pub locations: L,
    /// It could not be found in an earlier migration, or not be saved.
    pub lost: bool,
}

/// A name of an inode. `N` is how its bytes are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationV1<N = Vec<u8>> {
    /// Nodeid of the directory.
    pub parent: u64,
    /// Name in it, raw bytes.
    pub name: N,
}

/// An open file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleV1 {
    /// The guest's name for it.
    pub handle: u64,
    /// What is open.
    pub nodeid: u64,
    /// How the guest opened it: bit 0 read, 1 write, 2 append, 3 non-blocking, 4 data-sync, 5 sync, 6 direct,
    /// 7 no access time.
    pub flags: u32,
    /// Offset of the name that is read next, as the source's file system counts; 0 for a file.
    pub position: u64,
    /// The names from there on, for a destination whose file system counts otherwise. `None` for a file, at the
    /// beginning of a directory, and if there were too many.
    pub rest: Option<Vec<NameV1>>,
    /// The offsets are those of a file system before the source's, so `rest` is the only way to go on.
    pub only_rest: bool,
    /// It could not be opened in an earlier migration.
    pub lost: bool,
}

/// A name that is still to be read from an open directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameV1 {
    /// Inode number.
    pub ino: u64,
    /// Offset after this name.
    pub next_offset: u64,
    /// `DT_*`.
    pub kind: u32,
    /// The name, raw bytes.
    pub name: Vec<u8>,
}

/// An inode that lost its last name while the guest knows it: the destination makes it anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanV1 {
    /// The guest's name for it.
    pub nodeid: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Size in bytes of a regular file or of the target of a link.
    pub size: u64,
    /// Last access.
    pub atime: TimeV1,
    /// Last change of the data.
    pub mtime: TimeV1,
    /// Extended attributes, by name.
    pub xattrs: Vec<XattrV1>,
    /// Where there is data, in bytes; the rest of the file is holes. The target of a link is one extent.
    pub extents: Vec<ExtentV1>,
}

/// A point in time since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TimeV1 {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct XattrV1 {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// A part of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ExtentV1 {
    pub offset: u64,
    pub length: u64,
}

impl StateSchema for FsState {
    const KIND: DeviceKind = DeviceKind::Fs;
    const VERSION: u16 = 3;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    /// What version 2 has more is in critical sections that are there only if there is something in them. So version 1 reads what
    /// has none, and refuses the rest. Version 3 has its inodes in another form.
    fn reader_oldest(version: u16) -> u16 {
        if version < 3 { 1 } else { 3 }
    }

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self {
            share,
            session,
            configuration,
            id_maps,
            mounts,
            nodes,
            handles,
            orphans,
            orphan_data,
            locks,
            waiters,
        } = self;
        let critical = Importance::Critical;
        let newer = [
            (
                !configuration.is_empty(),
                "--xattrmap, --translate-uid or --translate-gid",
            ),
            (!id_maps.is_empty(), "--uid-map or --gid-map"),
            (
                !locks.is_empty() || !waiters.is_empty(),
                "locks that others see, or requests that wait for one",
            ),
        ];
        let newer = newer.iter().find(|(is_there, _)| *is_there);
        if let Some((_, what)) = newer
            && out.version() < 2
        {
            return Err(StateError::NotInVersion {
                kind: Self::KIND,
                asked: out.version(),
                what,
                since: 2,
            });
        }
        out.section(SHARE, 1, critical, share)?;
        if let Some(session) = session {
            out.section(SESSION, 1, critical, session)?;
        }
        if !configuration.is_empty() {
            out.section(CONFIGURATION, 1, critical, configuration)?;
        }
        if !id_maps.is_empty() {
            out.section(ID_MAPS, 1, critical, id_maps)?;
        }
        out.table(MOUNTS, 1, critical, mounts)?;
        if out.version() < 3 {
            out.table(NODES, 1, critical, nodes.owned())?;
        } else {
            for payload in nodes.payloads() {
                out.piece(NODES, 2, critical, payload)?;
            }
        }
        out.table(HANDLES, 1, critical, handles)?;
        out.table(ORPHANS, 1, critical, orphans)?;
        out.raw(ORPHAN_DATA, 1, critical, orphan_data)?;
        if !locks.is_empty() {
            out.table(LOCKS, 1, critical, locks)?;
        }
        if !waiters.is_empty() {
            out.table(WAITERS, 1, critical, waiters)?;
        }
        Ok(())
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut share = None;
        let mut session = None;
        let mut configuration = None;
        let mut id_maps = None;
        let mut mounts = None;
        let mut nodes: Option<NodeTable> = None;
        let mut handles = None;
        let mut orphans = None;
        let mut orphan_data: Option<Vec<u8>> = None;
        let mut locks = None;
        let mut waiters = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (SHARE, 1) => once(&mut share, &section)?,
                (SESSION, 1) => once(&mut session, &section)?,
                (CONFIGURATION, 1) => once(&mut configuration, &section)?,
                (ID_MAPS, 1) => once(&mut id_maps, &section)?,
                (MOUNTS, 1) => more(&mut mounts, &section)?,
                (NODES, 1) => nodes.get_or_insert_default().read_version_1(&section)?,
                (NODES, 2) => nodes.get_or_insert_default().read(section, NODES_MAX)?,
                (HANDLES, 1) => more(&mut handles, &section)?,
                (ORPHANS, 1) => more(&mut orphans, &section)?,
                (ORPHAN_DATA, 1) => orphan_data
                    .get_or_insert_default()
                    .extend_from_slice(section.bytes()),
                (LOCKS, 1) => more(&mut locks, &section)?,
                (WAITERS, 1) => more(&mut waiters, &section)?,
                _ => input.unknown(&section)?,
            }
        }
        Ok(Self {
            share: required(share, SHARE)?,
            session,
            configuration: configuration.unwrap_or_default(),
            id_maps: id_maps.unwrap_or_default(),
            mounts: required(mounts, MOUNTS)?,
            nodes: required(nodes, NODES)?,
            handles: required(handles, HANDLES)?,
            orphans: required(orphans, ORPHANS)?,
            orphan_data: required(orphan_data, ORPHAN_DATA)?,
            locks: locks.unwrap_or_default(),
            waiters: waiters.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests;
