//! What the guest has open. Knows the host's descriptors and nothing of how they were found.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::directory::Directory;
use super::flags::GuestFlags;
use crate::operations::FsResult;

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    /// What was opened.
    pub(crate) nodeid: u64,
    /// How the guest opened it.
    pub(crate) flags: GuestFlags,
    /// What it is on the host.
    pub(crate) target: Target,
}

/// What a handle is on the host.
#[derive(Debug)]
pub(crate) enum Target {
    /// A regular file.
    File(OwnedFd),
    /// A directory, and how far it was read.
    Directory(Directory),
    /// It could not be opened after a migration: every use of it fails with `EIO`.
    Lost,
}

impl Handle {
    /// A handle of the inode `nodeid`.
    pub(crate) fn new(nodeid: u64, flags: GuestFlags, target: Target) -> Self {
        Self {
            nodeid,
            flags,
            target,
        }
    }

    /// The file; `EISDIR` for a directory.
    pub(crate) fn file(&self) -> FsResult<BorrowedFd<'_>> {
        match &self.target {
            Target::File(file) => Ok(file.as_fd()),
            Target::Directory(_) => Err(Errno::ISDIR),
            Target::Lost => Err(Errno::IO),
        }
    }

    /// The directory; `ENOTDIR` for a file.
    pub(crate) fn directory(&self) -> FsResult<&Directory> {
        match &self.target {
            Target::Directory(directory) => Ok(directory),
            Target::File(_) => Err(Errno::NOTDIR),
            Target::Lost => Err(Errno::IO),
        }
    }

    /// The descriptor, whatever it is of.
    pub(crate) fn descriptor(&self) -> FsResult<BorrowedFd<'_>> {
        match &self.target {
            Target::File(file) => Ok(file.as_fd()),
            Target::Directory(directory) => Ok(directory.descriptor()),
            Target::Lost => Err(Errno::IO),
        }
    }
}
