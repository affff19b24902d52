//! What the FUSE side asks of the file system and what it is told: the words both sides speak in.
//!
//! Plain types without behaviour. Knows neither the FUSE wire format nor how a file is found on the host.
//! Modes, device numbers and `flags` are those of Linux as the guest sent them; nothing here is checked yet.

use rustix::io::Errno;

/// Every operation fails with the `errno` that the guest is to see.
pub type FsResult<T> = Result<T, Errno>;

/// The nodeid of the root of the share (`FUSE_ROOT_ID`).
pub const ROOT_NODEID: u64 = 1;

/// On whose behalf the guest asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id, in the guest.
    pub uid: u32,
    /// Effective group id, in the guest.
    pub gid: u32,
    /// Process id in the guest; 0 when the guest does not tell.
    pub pid: u32,
    /// The group of the directory in which something is created, when the caller is in that group only by a
    /// supplementary membership (`FUSE_EXT_GROUPS`).
    pub supplementary_group: Option<u32>,
}

/// A file's attributes, as `stat` knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number that the guest shows to its programs.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last access: seconds and nanoseconds since the epoch.
    pub atime: (i64, u32),
    /// Last change of the data.
    pub mtime: (i64, u32),
    /// Last change of the attributes.
    pub ctime: (i64, u32),
    /// When it was made, if the host knows.
    pub birth: Option<(i64, u32)>,
    /// Type and permissions, `S_IFMT | 0o7777`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Preferred block size in bytes.
    pub blksize: u32,
    /// The host's device number; not told to the guest.
    pub device: u64,
}

/// A name that was found or made. The guest holds one more lookup of `nodeid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The guest's name for the inode.
    pub nodeid: u64,
    /// Tells apart two inodes that had the same nodeid one after the other.
    pub generation: u64,
    /// The inode's attributes.
    pub attributes: Attributes,
    /// `FUSE_ATTR_SUBMOUNT`, or 0.
    pub attribute_flags: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's clock.
    Now,
    /// Seconds and nanoseconds since the epoch.
    At(i64, u32),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permissions; the type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the data.
    pub mtime: Option<SetTime>,
    /// Whether set-user-id, set-group-id and capabilities are to be removed (`HANDLE_KILLPRIV_V2`).
    pub kill_suidgid: bool,
    /// An open handle of the file, when the guest changes it through one.
    pub handle: Option<u64>,
}

/// What comes with the creation of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The label to give to it, when the guest sent one (`FUSE_SECURITY_CTX`).
    pub security_context: Option<SecurityContext<'a>>,
}

/// A security label, stored as an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityContext<'a> {
    /// Name of the extended attribute, such as `security.selinux`, without a NUL.
    pub name: &'a [u8],
    /// The label, as the guest sent it.
    pub value: &'a [u8],
}

/// A file or directory was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent flags of the protocol's"
)]
pub struct OpenReply {
    /// The guest's name for the open file.
    pub handle: u64,
    /// The guest may keep the data that it has cached (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
    /// The guest may cache the directory's entries (`FOPEN_CACHE_DIR`).
    pub cache_dir: bool,
    /// The guest is to bypass its cache (`FOPEN_DIRECT_IO`). Then it may also write to several places at a time
    /// (`FOPEN_PARALLEL_DIRECT_WRITES`): the host puts writes in order.
    pub direct_io: bool,
    /// FLUSH would do nothing, and need not be sent (`FOPEN_NOFLUSH`).
    pub no_flush: bool,
}

/// How a write is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The data comes from the guest's page cache (`FUSE_WRITE_CACHE`): the offset counts, even for `O_APPEND`.
    pub cached: bool,
    /// The file is in append mode as the guest sees it now (`O_APPEND` in the flags of this WRITE). Not taken from
    /// OPEN: `fcntl(F_SETFL)` changes it without telling us.
    pub append: bool,
    /// Set-user-id, set-group-id and capabilities are to be removed (`FUSE_WRITE_KILL_SUIDGID`).
    pub kill_suidgid: bool,
}

/// What a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Others may have one like it.
    Shared,
    /// Nobody else may have one.
    Exclusive,
    /// None: it is given back.
    None,
}

/// A file lock, wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who has it, in the guest.
    pub owner: u64,
    /// The process, in the guest.
    pub pid: u32,
    /// What it is.
    pub kind: LockKind,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// It is one of flock(2), on the whole file, and belongs to the open file; otherwise one of fcntl(2).
    pub whole_file: bool,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where reading goes on after this name.
    pub next_offset: u64,
    /// `DT_DIR`, `DT_REG`, ...
    pub kind: u32,
    /// The name, raw bytes, never empty, without `/` and NUL.
    pub name: &'a [u8],
}

/// The answer to a question about extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrReply {
    /// The guest asked for the size, in bytes.
    Size(u32),
    /// The guest asked for the value, or for the list of names with a NUL after each.
    Value(Vec<u8>),
}

/// What is known of the host's file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// Size in units of `frsize`.
    pub blocks: u64,
    /// Free, in units of `frsize`.
    pub bfree: u64,
    /// Free for users, in units of `frsize`.
    pub bavail: u64,
    /// Number of inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred block size in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Fragment size in bytes.
    pub frsize: u32,
}
