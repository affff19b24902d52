//! The host's side of the share: the few ways in which a file is reached.
//!
//! Knows descriptors and single names, and nothing of nodeids. A name is always resolved beneath a directory that we
//! hold open, without following links; only what was seen to be a regular file or a directory is opened for I/O.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx};
use rustix::io::Errno;

use crate::config::Config;
use crate::operations::FsResult;
use crate::store::{Name, STATX_WANTED};

/// The share cannot be served as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The shared directory cannot be opened.
    #[error("host: shared directory {path:?} cannot be opened")]
    SharedDirectory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The way by which descriptors are opened again is missing.
    #[error("host: /proc/self/fd cannot be opened; is /proc mounted?")]
    Proc(#[source] Errno),
}

/// Where this process finds its own descriptors: in a root that was made for it, that is all there is (`common::sandbox`).
static DESCRIPTORS: OnceLock<&str> = OnceLock::new();
const IN_PROC: &str = "/proc/self/fd/";
const IN_ROOT: &str = "/";
/// `f_type` of proc (`linux/magic.h`).
const PROC: u64 = 0x9fa0;

/// Opens the folder of our own descriptors.
fn open_descriptors(flags: OFlags) -> FsResult<OwnedFd> {
    let open = |path| rustix::fs::openat(CWD, path, flags, Mode::empty());
    let root = open(IN_ROOT)?;
    let (folder, path) = if file_system_type(root.as_fd())? == PROC {
        (root, IN_ROOT)
    } else {
        (open(IN_PROC)?, IN_PROC)
    };
    DESCRIPTORS.get_or_init(|| path);
    Ok(folder)
}

/// Never leave the directory, and follow no link of any sort.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// The shared directory, and what all requests need to reach files in it.
#[derive(Debug)]
pub(crate) struct Host {
    /// The operator's wishes.
    pub(crate) config: Config,
    /// The shared directory (`O_PATH`).
    pub(crate) root: Arc<OwnedFd>,
    /// `/proc/self/fd`, opened before a sandbox can hide it.
    proc_self_fd: OwnedFd,
}

impl Host {
    /// Opens the shared directory.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigurationError> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &config.shared_dir, directory, Mode::empty()).map_err(
            |source| ConfigurationError::SharedDirectory {
                path: config.shared_dir.clone(),
                source,
            },
        )?;
        let proc_self_fd = open_descriptors(directory).map_err(ConfigurationError::Proc)?;
        Ok(Self {
            config: config.clone(),
            root: Arc::new(root),
            proc_self_fd,
        })
    }

    /// Opens what `descriptor` (`O_PATH`) refers to again, for use. The caller has seen that it is a regular file
    /// or a directory.
    pub(crate) fn reopen(&self, descriptor: BorrowedFd<'_>, flags: OFlags) -> FsResult<OwnedFd> {
        let path = ProcPath::number(descriptor);
        let flags = flags | OFlags::CLOEXEC;
        rustix::fs::openat(&self.proc_self_fd, path.as_c_str(), flags, Mode::empty())
    }

    /// Like [`reopen`](Self::reopen), to read for ourselves: the time of the last access stays the guest's, where we
    /// have the privilege.
    pub(crate) fn reopen_unnoticed(
        &self,
        descriptor: BorrowedFd<'_>,
        flags: OFlags,
    ) -> FsResult<OwnedFd> {
        let flags = flags | OFlags::RDONLY;
        match self.reopen(descriptor, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.reopen(descriptor, flags),
            result => result,
        }
    }

    /// The last component of the path that the kernel knows for `descriptor`.
    pub(crate) fn file_name(&self, descriptor: BorrowedFd<'_>) -> FsResult<Vec<u8>> {
        let link = ProcPath::number(descriptor);
        let path = rustix::fs::readlinkat(&self.proc_self_fd, link.as_c_str(), Vec::new())?;
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next();
        Ok(name.unwrap_or_default().to_vec())
    }

    /// `EROFS` if the operator wants the share unchanged.
    pub(crate) fn writable(&self) -> FsResult<()> {
        if self.config.readonly {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }
}

/// A descriptor (`O_PATH`) of `name` in `directory`; of the link itself, if it is one.
pub(crate) fn open_path(directory: BorrowedFd<'_>, name: Name<'_>) -> FsResult<OwnedFd> {
    open_beneath(directory, name, OFlags::PATH, Mode::empty())
}

/// Opens `name` in `directory`, and never anything else.
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: Name<'_>,
    flags: OFlags,
    mode: Mode,
) -> FsResult<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(directory, name.bytes(), flags, mode, BENEATH) {
            // A rename somewhere on the host raced with the walk (openat2(2)).
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// The attributes of `name` in `directory`, of the link itself if it is one.
pub(crate) fn stat_name(directory: BorrowedFd<'_>, name: Name<'_>) -> FsResult<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name.bytes(), flags, STATX_WANTED)
}

/// The attributes of what `descriptor` refers to.
pub(crate) fn stat_descriptor(descriptor: BorrowedFd<'_>) -> FsResult<Statx> {
    rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, STATX_WANTED)
}

/// The type of the file system that `descriptor` is on.
#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "the magic numbers have 32 bits, whatever the type of f_type is"
)]
pub(crate) fn file_system_type(descriptor: BorrowedFd<'_>) -> FsResult<u64> {
    let statfs = rustix::fs::fstatfs(descriptor)?;
    Ok(u64::from(statfs.f_type as u32))
}

/// The path of a descriptor below `/proc`, for calls that take no `O_PATH` descriptor. On the stack.
pub(crate) struct ProcPath {
    bytes: [u8; 40],
    len: usize,
}

impl ProcPath {
    /// `/proc/self/fd/N`, or where else our descriptors are.
    pub(crate) fn new(descriptor: BorrowedFd<'_>) -> Self {
        Self::with_prefix(DESCRIPTORS.get().unwrap_or(&IN_PROC), descriptor)
    }

    /// `N` alone, relative to `/proc/self/fd`.
    fn number(descriptor: BorrowedFd<'_>) -> Self {
        Self::with_prefix("", descriptor)
    }

    fn with_prefix(prefix: &str, descriptor: BorrowedFd<'_>) -> Self {
        let mut path = Self {
            bytes: [0; 40],
            len: 0,
        };
        // 14 bytes and 10 digits fit: this cannot fail.
        let _ = write!(path, "{prefix}{}", descriptor.as_raw_fd());
        path
    }

    /// The path.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl std::fmt::Write for ProcPath {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        // One byte stays for the NUL.
        let room = self.bytes.len() - 1;
        let target = self
            .bytes
            .get_mut(self.len..end.min(room))
            .filter(|target| target.len() == text.len())
            .ok_or(std::fmt::Error)?;
        target.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
