//! The descriptor that a state moves through, made safe to wait on: every read and write ends, by progress, by
//! cancellation or by a deadline.
//!
//! Front-ends offer pipes (QEMU), socket pairs (Cloud Hypervisor) and files or memfds; all behave alike here. Knows
//! nothing of what is moved.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::messages::Direction;
use super::transfer::TransferError;

/// What a pipe is to hold: as much as Linux lets anybody have (`pipe-max-size`), where 64 KiB are usual.
const PIPE_BYTES: usize = 1 << 20;

/// Says "stop" to all who read or write a channel; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Cancellation(Arc<OwnedFd>);

impl Cancellation {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?)))
    }

    pub(super) fn cancel(&self) {
        if let Err(error) = rustix::io::write(&*self.0, &1_u64.to_le_bytes()) {
            log::error!("host: a state transfer cannot be cancelled: {error}");
        }
    }
}

/// The front-end's descriptor.
#[derive(Debug)]
pub(crate) struct Channel {
    file: File,
    cancellation: Cancellation,
    patience: Duration,
}

impl Channel {
    /// Refuses what no state can move through: directories, devices, event descriptors, and descriptors that are
    /// open in the wrong direction.
    pub(super) fn new(
        file: File,
        direction: Direction,
        cancellation: Cancellation,
        patience: Duration,
    ) -> Result<Self, TransferError> {
        let kind =
            FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(io::Error::from)?.st_mode);
        if matches!(kind, FileType::Fifo | FileType::Socket) {
            rustix::io::ioctl_fionbio(&file, true).map_err(io::Error::from)?;
            if kind == FileType::Fifo {
                // So that the two sides wait for each other less often. One that stays as it is does as well.
                if rustix::pipe::fcntl_getpipe_size(&file).is_ok_and(|bytes| bytes < PIPE_BYTES) {
                    let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
                }
            }
        } else if kind != FileType::RegularFile {
            return Err(TransferError::Descriptor {
                found: format!("{kind:?}"),
            });
        }
        let access = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)? & OFlags::ACCMODE;
        let wrong = match direction {
            Direction::Save => OFlags::RDONLY,
            Direction::Load => OFlags::WRONLY,
        };
        if access == wrong {
            return Err(TransferError::Descriptor {
                found: format!("a descriptor open for {access:?} only"),
            });
        }
        Ok(Self {
            file,
            cancellation,
            patience,
        })
    }

    /// Waits until the descriptor is ready, at most as long as the deadline for progress allows.
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let timeout = Timespec::try_from(self.patience).ok();
        let mut descriptors = [
            PollFd::new(&self.file, events),
            PollFd::from_borrowed_fd(self.cancellation.0.as_fd(), PollFlags::IN),
        ];
        let ready = loop {
            match poll(&mut descriptors, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let [_, cancelled] = &descriptors;
        if !cancelled.revents().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "cancelled",
            ));
        }
        if ready == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "front-end: no progress for {} ms",
                    self.patience.as_millis()
                ),
            ));
        }
        Ok(())
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests;
