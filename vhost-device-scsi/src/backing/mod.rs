//! What a logical unit is made of: an image file or a block device of the host.
//!
//! Knows files, their locks and their caches; knows no command.

mod lock;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek};
use rustix::io::Errno;

use crate::config::UnitConfig;
use crate::scsi::Extent;

/// Alignment of buffers for `O_DIRECT`, in bytes: no device asks for more.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// It cannot be opened.
    #[error("host: cannot be opened")]
    Open(#[source] io::Error),
    /// Neither a file nor a block device.
    #[error("operator: neither a regular file nor a block device")]
    Kind,
    /// Not a number of blocks.
    #[error(
        "operator: {size} bytes are not a whole number of {block_size}-byte blocks, at least one"
    )]
    Size {
        /// Bytes in the file.
        size: u64,
        /// Bytes of a block.
        block_size: u32,
    },
    /// `O_DIRECT` does not go with the block size.
    #[error(
        "operator: direct I/O of this file needs blocks of {needed} bytes or more, and block-size is {block_size}; use direct=off or block-size=4096"
    )]
    Alignment {
        /// Bytes.
        needed: u32,
        /// Bytes.
        block_size: u32,
    },
    /// It is used by another process.
    #[error(
        "host: another process uses it (a QEMU, or another daemon); stop that one, or use lock=off"
    )]
    Locked,
    /// The lock cannot be asked for.
    #[error("host: cannot be locked; use lock=off if its file system has no locks")]
    Lock(#[source] io::Error),
    /// What was written cannot be made durable.
    #[error("host: what was written cannot be made durable")]
    Sync(#[source] io::Error),
    /// Its size cannot be asked for.
    #[error("host: its size cannot be found out")]
    Examine(#[source] io::Error),
}

/// A file that is served.
#[derive(Debug)]
pub struct Backing {
    file: File,
    direct: bool,
    readonly: bool,
    thin: bool,
    /// Something was written since the last sync.
    dirty: AtomicBool,
    /// Why something that was written is lost: an error number, or 0. The kernel tells it once.
    lost: AtomicI32,
    /// For what must not be interleaved with its like: COMPARE AND WRITE, ORWRITE.
    exclusive: Mutex<()>,
}

impl Backing {
    /// Opens the file of a unit. Does not lock it: the source of a migration may still use it.
    pub fn open(config: &UnitConfig) -> Result<Self, BackingError> {
        let file = OpenOptions::new()
            .read(true)
            .write(!config.readonly)
            .custom_flags(if config.direct { libc::O_DIRECT } else { 0 })
            .open(&config.path)
            .map_err(BackingError::Open)?;
        let kind = file.metadata().map_err(BackingError::Examine)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BackingError::Kind);
        }
        let block_size = config.block_size;
        if config.direct && kind.is_block_device() {
            let needed = rustix::fs::ioctl_blksszget(&file)
                .map_err(|error| BackingError::Examine(error.into()))?;
            if needed > block_size {
                return Err(BackingError::Alignment { needed, block_size });
            }
        }
        let backing = Self {
            file,
            direct: config.direct,
            readonly: config.readonly,
            thin: config.thin,
            dirty: AtomicBool::new(false),
            lost: AtomicI32::new(0),
            exclusive: Mutex::default(),
        };
        let size = backing.size()?;
        if size == 0 || size % u64::from(block_size) != 0 {
            return Err(BackingError::Size { size, block_size });
        }
        Ok(backing)
    }

    /// Its size in bytes, now.
    pub fn size(&self) -> Result<u64, BackingError> {
        seek(&self.file, SeekFrom::End(0)).map_err(|error| BackingError::Examine(error.into()))
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether the page cache is bypassed, and buffers have to be aligned.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether what is not needed is given back to the host.
    pub fn is_thin(&self) -> bool {
        self.thin
    }

    /// Something was written, perhaps. After it, not before: a sync that runs meanwhile may not have seen it.
    pub fn note_written(&self) {
        // A load is cheaper than a store to a line that all workers share.
        if !self.dirty.load(Ordering::Relaxed) {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something was written since the last [`sync`](Self::sync) that was begun.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    /// What was written is on stable storage when this returns (`fdatasync`). Costs nothing if nothing was.
    pub fn sync(&self) -> Result<(), BackingError> {
        if self.readonly || !self.dirty.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.sync_now()
    }

    /// Like [`sync`](Self::sync), whether something was written through us or not.
    pub fn sync_now(&self) -> Result<(), BackingError> {
        let synced = match self.lost.load(Ordering::Relaxed) {
            0 => self.file.sync_data(),
            lost => Err(io::Error::from_raw_os_error(lost)),
        };
        synced.map_err(|error| {
            self.note_written();
            self.note_lost(error.raw_os_error().unwrap_or(libc::EIO));
            BackingError::Sync(error)
        })
    }

    /// A sync has failed with this error number: pages that the kernel could not write are gone from its cache, and another sync
    /// would find nothing to complain about (fsync(2), "errors"). No sync of ours succeeds any more if data is lost.
    pub fn note_lost(&self, error: i32) {
        if matches!(error, libc::EIO | libc::ENOSPC | libc::EDQUOT) {
            self.lost.store(error, Ordering::Relaxed);
        }
    }

    /// Keeps other users away: other daemons, and QEMU. For a read-only unit, writers only.
    pub fn lock(&self) -> Result<(), BackingError> {
        match lock::acquire(self.fd(), !self.readonly) {
            Ok(true) => Ok(()),
            Ok(false) => Err(BackingError::Locked),
            Err(error) => Err(BackingError::Lock(error)),
        }
    }

    /// Lets them in again.
    pub fn unlock(&self) {
        if let Err(error) = lock::release(self.fd()) {
            log::error!("host: a lock cannot be given back: {error}");
        }
    }

    /// Forgets what the host has cached of it: another host may have written since.
    pub fn drop_caches(&self) {
        if self.direct {
            return; // nothing is cached
        }
        if let Err(error) = fadvise(&self.file, 0, None, Advice::DontNeed) {
            log::warn!("host: the cache of an image cannot be dropped: {error}");
        }
    }

    /// Has no other operation of this kind at the same time.
    pub fn exclusively(&self) -> MutexGuard<'_, ()> {
        self.exclusive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a part zeros; `deallocate` gives its room back to the host. False if the file system cannot do it, when nothing has
    /// changed.
    pub fn zero(&self, extent: Extent, deallocate: bool) -> io::Result<bool> {
        let how = if deallocate && self.thin {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        };
        let zeroed = self.fallocate(how, extent);
        self.note_written();
        zeroed
    }

    fn fallocate(&self, how: FallocateFlags, extent: Extent) -> io::Result<bool> {
        loop {
            match fallocate(&self.file, how, extent.at, extent.len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The first byte from `at` on that is allocated, or not allocated; `None` if there is none. A file system that does not know
    /// has everything allocated.
    pub fn next(&self, at: u64, allocated: bool) -> io::Result<Option<u64>> {
        let from = if allocated {
            SeekFrom::Data(at)
        } else {
            SeekFrom::Hole(at)
        };
        match seek(&self.file, from) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(allocated.then_some(at)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
