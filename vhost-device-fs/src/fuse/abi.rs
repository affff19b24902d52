//! The FUSE protocol's opcodes, structures and flags, up to version 7.45.
//!
//! Written from the Linux kernel's `include/uapi/linux/fuse.h`, which is the reference for every field. Names are
//! that header's, without the `fuse_` prefix and with words written out where it abbreviates to one letter.
//! Knows layouts and numbers only. For the guest drivers of our tests too, hence both directions of everything.

#![expect(
    missing_docs,
    reason = "fields and flags are those of fuse.h, which documents them; repeating it here would only drift"
)]

use super::wire::wire;

/// Major version of the protocol.
pub const MAJOR_VERSION: u32 = 7;
/// Minor version that we speak.
pub const MINOR_VERSION: u32 = 45;
/// The oldest minor version that we talk to: 7.27, as virtiofsd does.
pub const MINOR_VERSION_OLDEST: u32 = 27;

/// Declares [`Opcode`] and its numbers.
macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What the guest asks for (`enum fuse_opcode`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Opcode {
            $($name = $number,)*
        }

        impl Opcode {
            /// Every opcode that has a name.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The opcode with this number, if it has a name here.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The number on the wire.
            pub fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    GetAttr = 3,
    SetAttr = 4,
    ReadLink = 5,
    Symlink = 6,
    MkNod = 8,
    MkDir = 9,
    Unlink = 10,
    RmDir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    StatFs = 17,
    Release = 18,
    Fsync = 20,
    SetXattr = 21,
    GetXattr = 22,
    ListXattr = 23,
    RemoveXattr = 24,
    Flush = 25,
    Init = 26,
    OpenDir = 27,
    ReadDir = 28,
    ReleaseDir = 29,
    FsyncDir = 30,
    GetLk = 31,
    SetLk = 32,
    SetLkW = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Bmap = 37,
    Destroy = 38,
    Ioctl = 39,
    Poll = 40,
    NotifyReply = 41,
    BatchForget = 42,
    Fallocate = 43,
    ReadDirPlus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    SetupMapping = 48,
    RemoveMapping = 49,
    SyncFs = 50,
    TmpFile = 51,
    Statx = 52,
    CopyFileRange64 = 53,
}

wire! {
    /// At the front of every request.
    InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        /// Length of the extensions in units of 8 bytes.
        total_extlen: u16,
        padding: u16,
    }
    /// At the front of every reply.
    OutHeader {
        len: u32,
        /// 0 or a negative errno.
        error: i32,
        unique: u64,
    }
    /// The part of `fuse_init_in` that every guest sends.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, }
    /// The part of `fuse_init_in` that is there with [`init::INIT_EXT`].
    InitInExtension { flags2: u32, unused: [u32; 11], }
    InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_granularity: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }
    Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atime_nsec: u32,
        mtime_nsec: u32,
        ctime_nsec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, padding: u32, attr: Attr, }
    StatxIn { getattr_flags: u32, reserved: u32, handle: u64, sx_flags: u32, sx_mask: u32, }
    SxTime { seconds: i64, nanoseconds: u32, reserved: i32, }
    Statx {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        spare0: u16,
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        spare2: [u64; 14],
    }
    StatxOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }
    ForgetIn { nlookup: u64, }
    ForgetOne { nodeid: u64, nlookup: u64, }
    BatchForgetIn { count: u32, padding: u32, }
    GetAttrIn { flags: u32, padding: u32, handle: u64, }
    SetAttrIn {
        valid: u32,
        padding: u32,
        handle: u64,
        size: u64,
        lock_owner: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atime_nsec: u32,
        mtime_nsec: u32,
        ctime_nsec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }
    MkNodIn { mode: u32, rdev: u32, umask: u32, padding: u32, }
    MkDirIn { mode: u32, umask: u32, }
    RenameIn { new_parent: u64, }
    Rename2In { new_parent: u64, flags: u32, padding: u32, }
    LinkIn { old_nodeid: u64, }
    OpenIn { flags: u32, open_flags: u32, }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    OpenOut { handle: u64, open_flags: u32, backing_id: u32, }
    ReleaseIn { handle: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    FlushIn { handle: u64, unused: u32, padding: u32, lock_owner: u64, }
    ReadIn {
        handle: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    WriteIn {
        handle: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    WriteOut { size: u32, padding: u32, }
    StatFsOut {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }
    FsyncIn { handle: u64, fsync_flags: u32, padding: u32, }
    /// The part of `fuse_setxattr_in` that every guest sends.
    SetXattrIn { size: u32, flags: u32, }
    /// The part of `fuse_setxattr_in` that is there with [`init::SETXATTR_EXT`].
    SetXattrInExtension { setxattr_flags: u32, padding: u32, }
    GetXattrIn { size: u32, padding: u32, }
    GetXattrOut { size: u32, padding: u32, }
    AccessIn { mask: u32, padding: u32, }
    /// `end` is the last byte; `kind` is one of `F_*LCK`.
    FileLock { start: u64, end: u64, kind: u32, pid: u32, }
    LkIn { handle: u64, owner: u64, lock: FileLock, lk_flags: u32, padding: u32, }
    LkOut { lock: FileLock, }
    FallocateIn { handle: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    LseekIn { handle: u64, offset: u64, whence: u32, padding: u32, }
    LseekOut { offset: u64, }
    CopyFileRangeIn {
        handle_in: u64,
        offset_in: u64,
        nodeid_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    }
    CopyFileRangeOut { bytes_copied: u64, }
    /// Followed by the name, and by zeros up to a multiple of 8 bytes.
    DirEnt { ino: u64, offset: u64, namelen: u32, kind: u32, }
    DirEntPlus { entry: EntryOut, entry_name: DirEnt, }
    /// In front of an extension. For a security context `kind` is the number of contexts, at most 31.
    ExtensionHeader {
        /// Size in bytes, this header included.
        size: u32,
        kind: u32,
    }
    /// Followed by the context's name with a NUL, and by `size` bytes of value.
    SecurityContextHeader { size: u32, padding: u32, }
}

/// Flags of INIT, `flags` in the lower and `flags2` in the upper 32 bits.
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const HANDLE_KILLPRIV: u64 = 1 << 19;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    pub const SUBMOUNTS: u64 = 1 << 27;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const SECURITY_CTX: u64 = 1 << 32;
    pub const HAS_INODE_DAX: u64 = 1 << 33;
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const ALLOW_IDMAP: u64 = 1 << 40;
    pub const OVER_IO_URING: u64 = 1 << 41;
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;
}

/// `fuse_setattr_in.valid`: which attributes to change.
pub mod setattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const HANDLE: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `fuse_open_out.open_flags`.
pub mod fopen {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// `fuse_statx.mask`, as in `statx(2)`.
pub mod statx {
    pub const BASIC_STATS: u32 = 0x7ff;
    pub const BTIME: u32 = 0x800;
}

/// `fuse_getattr_in.flags` and `fuse_statx_in.getattr_flags`: the handle is valid.
pub const GETATTR_HANDLE: u32 = 1 << 0;
/// `fuse_open_in.open_flags`: remove set-user-id and set-group-id when truncating.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: the data comes from the page cache.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: remove set-user-id and set-group-id.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_setxattr_in.setxattr_flags`: remove set-group-id when an ACL is set.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `fuse_lk_in.lk_flags`: a lock of flock(2), not one of fcntl(2).
pub const LK_FLOCK: u32 = 1 << 0;
/// `fuse_fsync_in.fsync_flags`: data only.
pub const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// `fuse_attr.flags`: the root of a mount below the share.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;
/// The last [`ExtensionHeader::kind`] that is a number of security contexts.
pub const EXTENSION_SECURITY_CONTEXTS_MAX: u32 = 31;
/// [`ExtensionHeader::kind`] of supplementary groups: a `u32` count and as many `u32` groups.
pub const EXTENSION_GROUPS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;
    use super::*;

    /// Sizes as the kernel's header has them; a field too many or too few shows here.
    #[test]
    fn sizes_are_those_of_the_kernel() {
        let sizes = [
            ("in_header", InHeader::SIZE, 40),
            ("out_header", OutHeader::SIZE, 16),
            ("init_in", InitIn::SIZE + InitInExtension::SIZE, 64),
            ("init_out", InitOut::SIZE, 64),
            ("attr", Attr::SIZE, 88),
            ("entry_out", EntryOut::SIZE, 128),
            ("attr_out", AttrOut::SIZE, 104),
            ("statx_in", StatxIn::SIZE, 24),
            ("statx", Statx::SIZE, 256),
            ("statx_out", StatxOut::SIZE, 288),
            ("forget_one", ForgetOne::SIZE, 16),
            (
                "setxattr_in",
                SetXattrIn::SIZE + SetXattrInExtension::SIZE,
                16,
            ),
            ("getattr_in", GetAttrIn::SIZE, 16),
            ("setattr_in", SetAttrIn::SIZE, 88),
            ("mknod_in", MkNodIn::SIZE, 16),
            ("rename2_in", Rename2In::SIZE, 16),
            ("create_in", CreateIn::SIZE, 16),
            ("open_out", OpenOut::SIZE, 16),
            ("release_in", ReleaseIn::SIZE, 24),
            ("flush_in", FlushIn::SIZE, 24),
            ("read_in", ReadIn::SIZE, 40),
            ("write_in", WriteIn::SIZE, 40),
            ("kstatfs", StatFsOut::SIZE, 80),
            ("fsync_in", FsyncIn::SIZE, 16),
            ("lk_in", LkIn::SIZE, 48),
            ("lk_out", LkOut::SIZE, 24),
            ("fallocate_in", FallocateIn::SIZE, 32),
            ("lseek_in", LseekIn::SIZE, 24),
            ("copy_file_range_in", CopyFileRangeIn::SIZE, 56),
            ("dirent", DirEnt::SIZE, 24),
            ("direntplus", DirEntPlus::SIZE, 152),
        ];
        for (name, ours, kernel) in sizes {
            assert_eq!(ours, kernel, "fuse_{name}");
        }
    }

    #[test]
    fn a_structure_survives_the_wire() {
        let header = InHeader {
            len: 40,
            opcode: Opcode::Write.number(),
            unique: u64::MAX - 1,
            nodeid: 1,
            uid: 2,
            gid: 3,
            pid: 4,
            total_extlen: 5,
            padding: 6,
        };
        let mut bytes = Vec::new();
        header.append(&mut bytes);
        assert_eq!(bytes.len(), InHeader::SIZE);
        assert_eq!(bytes.get(..8), Some(&[40, 0, 0, 0, 16, 0, 0, 0][..]));
        let mut rest = bytes.as_slice();
        assert_eq!(InHeader::take(&mut rest), Some(header));
        assert!(rest.is_empty());
        for len in 0..bytes.len() {
            assert_eq!(InHeader::take(&mut &bytes[..len]), None);
        }
    }

    #[test]
    fn opcodes_know_their_numbers() {
        for opcode in Opcode::ALL {
            assert_eq!(Opcode::from_number(opcode.number()), Some(*opcode));
        }
        for number in [0, 7, 19, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::from_number(number), None);
        }
    }
}
