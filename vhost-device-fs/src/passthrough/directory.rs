//! An open directory, and how far the guest has read it.
//!
//! The host's cookies are the guest's offsets. Reading goes on where it ended without a seek; after a migration to
//! another file system, whose cookies differ, the names that were still to come are given from a list.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;

use crate::operations::{DirectoryEntry, FsResult};
use crate::store::FileKind;

/// Bytes read from the host at a time.
const BATCH_BYTES: usize = 16 << 10;

/// A name that was read from the host and not yet given to the guest, or is saved for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingEntry {
    /// Inode number.
    pub(crate) ino: u64,
    /// Offset after this name.
    pub(crate) next_offset: u64,
    /// `DT_*`.
    pub(crate) kind: u32,
    /// The name, raw bytes.
    pub(crate) name: Vec<u8>,
}

#[derive(Debug)]
struct Batched {
    ino: u64,
    next_offset: u64,
    kind: u32,
    name: Range<usize>,
}

/// Where names come from when the batch is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// The host's directory.
    Host,
    /// Nowhere: the batch is all that was left on the source of a migration.
    List,
}

#[derive(Debug)]
struct Stream {
    /// Offset of the next name.
    position: u64,
    /// Offset of the first name of the batch.
    batch_position: u64,
    batch: Vec<Batched>,
    names: Vec<u8>,
    /// How many of the batch were given to the guest.
    given: usize,
    supply: Supply,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    file: OwnedFd,
    stream: Mutex<Stream>,
}

impl Directory {
    /// A directory that was just opened; `file` is at its beginning.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self {
            file,
            stream: Mutex::new(Stream {
                position: 0,
                batch_position: 0,
                batch: Vec::new(),
                names: Vec::new(),
                given: 0,
                supply: Supply::Host,
            }),
        }
    }

    /// A directory of which the guest has read the names up to `position`, on this very file system.
    pub(crate) fn at_position(file: OwnedFd, position: u64) -> FsResult<Self> {
        let directory = Self::new(file);
        directory.lock().seek(directory.file.as_fd(), position)?;
        Ok(directory)
    }

    /// A directory of which the guest has read the names up to `position` on another file system, and `rest` is
    /// still to come.
    pub(crate) fn with_rest(file: OwnedFd, position: u64, rest: &[PendingEntry]) -> Self {
        let directory = Self::new(file);
        {
            let mut stream = directory.lock();
            stream.position = position;
            stream.batch_position = position;
            stream.supply = Supply::List;
            for entry in rest {
                stream.push(entry.ino, entry.next_offset, entry.kind, &entry.name);
            }
        }
        directory
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The offset of the name that would come next.
    pub(crate) fn position(&self) -> u64 {
        self.lock().position
    }

    /// Whether the names come from a list, and the offsets mean nothing to the host.
    pub(crate) fn is_list(&self) -> bool {
        self.lock().supply == Supply::List
    }

    /// Gives the names from `offset` on to `visit`, until it refuses one, which then is the next one.
    pub(crate) fn read(
        &self,
        offset: u64,
        visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> FsResult<()> {
        let mut stream = self.lock();
        if offset != stream.position {
            stream.seek(self.file.as_fd(), offset)?;
        }
        loop {
            while let Some((entry, next_offset)) = stream.next() {
                if !visit(entry) {
                    return Ok(());
                }
                stream.position = next_offset;
                stream.given += 1;
            }
            if stream.supply == Supply::List || !stream.fill(self.file.as_fd())? {
                return Ok(());
            }
        }
    }

    /// The names that are still to come, at most `bytes_max` of them, without changing anything; `None` if there are
    /// more. `again` is the same directory, opened once more.
    pub(crate) fn rest(
        &self,
        again: OwnedFd,
        bytes_max: usize,
    ) -> FsResult<Option<Vec<PendingEntry>>> {
        let mut rest = Vec::new();
        let mut bytes = 0;
        let mut collect = |entry: DirectoryEntry<'_>| {
            bytes += entry.name.len() + 32;
            rest.push(PendingEntry {
                ino: entry.ino,
                next_offset: entry.next_offset,
                kind: entry.kind,
                name: entry.name.to_vec(),
            });
            bytes <= bytes_max
        };
        let position = {
            let mut stream = self.lock();
            let given = stream.given;
            if stream.supply == Supply::List {
                while let Some((entry, _)) = stream.next() {
                    let go_on = collect(entry);
                    stream.given += 1;
                    if !go_on {
                        break;
                    }
                }
                stream.given = given;
                None
            } else {
                Some(stream.position)
            }
        };
        if let Some(position) = position {
            Self::at_position(again, position)?.read(position, &mut collect)?;
        }
        Ok((bytes <= bytes_max).then_some(rest))
    }
}

impl Stream {
    fn push(&mut self, ino: u64, next_offset: u64, kind: u32, name: &[u8]) {
        let start = self.names.len();
        self.names.extend_from_slice(name);
        self.batch.push(Batched {
            ino,
            next_offset,
            kind,
            name: start..self.names.len(),
        });
    }

    /// The next name of the batch, and the offset after it.
    fn next(&self) -> Option<(DirectoryEntry<'_>, u64)> {
        let batched = self.batch.get(self.given)?;
        let entry = DirectoryEntry {
            ino: batched.ino,
            next_offset: batched.next_offset,
            kind: batched.kind,
            name: self.names.get(batched.name.clone())?,
        };
        Some((entry, batched.next_offset))
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.names.clear();
        self.given = 0;
    }

    /// Reads the next batch from the host; false at the end of the directory.
    fn fill(&mut self, directory: BorrowedFd<'_>) -> FsResult<bool> {
        self.clear();
        self.batch_position = self.position;
        let mut buffer = [MaybeUninit::uninit(); BATCH_BYTES];
        let mut reader = RawDir::new(directory, &mut buffer);
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let kind = FileKind::directory_entry_type(entry.file_type());
            let name = entry.file_name().to_bytes();
            self.push(entry.ino(), entry.next_entry_cookie(), kind, name);
            if reader.is_buffer_empty() {
                break;
            }
        }
        Ok(!self.batch.is_empty())
    }

    /// Makes `offset` the next one: within the batch if it is there, else on the host.
    fn seek(&mut self, directory: BorrowedFd<'_>, offset: u64) -> FsResult<()> {
        let within = if offset == self.batch_position && self.supply == Supply::List {
            Some(0)
        } else {
            self.batch
                .iter()
                .position(|batched| batched.next_offset == offset)
                .map(|index| index + 1)
        };
        if let Some(given) = within {
            self.given = given;
        } else {
            let cookie = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
            rustix::fs::seek(directory, SeekFrom::Start(cookie.unsigned_abs()))?;
            self.clear();
            self.supply = Supply::Host;
        }
        self.position = offset;
        Ok(())
    }
}
