//! The device's state, from a back-end and to a back-end (vhost-user.rst, "Back-end state").
//!
//! Knows nothing of what the state says: to a front-end it is bytes.

use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Frontend, FrontendError, unexpected};
use crate::protocol::messages::{
    DEVICE_STATE_ERROR_MASK, DEVICE_STATE_NO_FILE, DEVICE_STATE_PHASE_STOPPED, DeviceState,
    Direction, Request, decode_u64, protocol_feature,
};

/// What kind of file carries the state, unless the back-end answers with one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A pipe, as QEMU and crosvm do.
    Pipe,
    /// A pair of stream sockets, as Cloud Hypervisor does.
    SocketPair,
    /// A memory file. It has no end of file to wait for: a SAVE is complete when CHECK has succeeded,
    /// and a LOAD is given the whole file.
    File,
}

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

impl Frontend {
    /// Writes the device's state to `output`, over a pipe, and returns its size in bytes.
    ///
    /// Includes the CHECK: what was written is worth something only if this succeeds. The device is
    /// unchanged, and can be resumed in any case.
    pub fn save(&mut self, output: &mut dyn Write) -> Result<u64, FrontendError> {
        self.save_over(Channel::Pipe, output)
    }

    /// [`save`](Self::save) over a channel of the caller's choice.
    pub fn save_over(
        &mut self,
        channel: Channel,
        output: &mut dyn Write,
    ) -> Result<u64, FrontendError> {
        let direction = Direction::Save;
        let (ours, theirs) = channel.open(direction)?;
        let returned = self.begin_transfer(direction, theirs.as_fd())?;
        drop(theirs);
        if channel == Channel::File && returned.is_none() {
            self.check()?;
            let mut file = std::fs::File::from(ours);
            file.rewind()
                .map_err(|source| FrontendError::Channel { direction, source })?;
            return self.pump_out(&file.into(), output);
        }
        let size = self.pump_out(&returned.unwrap_or(ours), output)?;
        self.check()?;
        Ok(size)
    }

    /// Gives the device the state that is read from `input` up to its end, over a pipe, and returns its
    /// size in bytes.
    ///
    /// Includes the CHECK: on an error the device is as it was before.
    pub fn load(&mut self, input: &mut dyn Read) -> Result<u64, FrontendError> {
        self.load_over(Channel::Pipe, input)
    }

    /// [`load`](Self::load) over a channel of the caller's choice.
    pub fn load_over(
        &mut self,
        channel: Channel,
        input: &mut dyn Read,
    ) -> Result<u64, FrontendError> {
        let direction = Direction::Load;
        let (ours, theirs) = channel.open(direction)?;
        let mut size = 0;
        let mut file = None;
        if channel == Channel::File {
            size = self.pump_in(input, &ours)?;
            let mut whole = std::fs::File::from(ours.try_clone().map_err(channel_host)?);
            whole
                .rewind()
                .map_err(|source| FrontendError::Channel { direction, source })?;
            file = Some(whole);
        }
        let returned = self.begin_transfer(direction, theirs.as_fd())?;
        drop(theirs);
        let moved = match (file, returned) {
            (Some(mut file), Some(returned)) => self.pump_in(&mut file, &returned),
            (Some(_), None) => Ok(size),
            (None, returned) => self.pump_in(input, &returned.unwrap_or(ours)),
        };
        match moved {
            // The back-end closes its end when it has seen enough; CHECK tells what it did not like.
            Err(FrontendError::Channel { source, .. })
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                self.check()?;
                Err(FrontendError::Channel { direction, source })
            }
            Err(error) => Err(error),
            Ok(size) => {
                self.check()?;
                Ok(size)
            }
        }
    }

    /// Begins a transfer on `file`; returns the file that the back-end wants to use instead, if any.
    /// [`save`](Self::save) and [`load`](Self::load) do the whole of it.
    pub fn begin_transfer(
        &mut self,
        direction: Direction,
        file: BorrowedFd<'_>,
    ) -> Result<Option<OwnedFd>, FrontendError> {
        let request = Request::SET_DEVICE_STATE_FD;
        self.need(request, protocol_feature::DEVICE_STATE, "DEVICE_STATE")?;
        if self.lifecycle.is_started() {
            return Err(FrontendError::State {
                request,
                state: self.lifecycle,
            });
        }
        self.transfer_request(direction, file)
    }

    /// [`begin_transfer`](Self::begin_transfer) without the checks that are the back-end's as well.
    pub fn transfer_request(
        &mut self,
        direction: Direction,
        file: BorrowedFd<'_>,
    ) -> Result<Option<OwnedFd>, FrontendError> {
        let request = Request::SET_DEVICE_STATE_FD;
        let body = DeviceState {
            direction: direction as u32,
            phase: DEVICE_STATE_PHASE_STOPPED,
        };
        let mut reply = self.query(request, &body.encode(), &[file])?;
        let code = decode_u64(&reply.body).ok_or_else(|| unexpected(request, &reply))?;
        if code & DEVICE_STATE_ERROR_MASK != 0 {
            return Err(FrontendError::Refused { request, code });
        }
        match (code & DEVICE_STATE_NO_FILE != 0, reply.files.len()) {
            (true, 0) => Ok(None),
            (false, 1) => Ok(reply.files.pop()),
            _ => Err(unexpected(request, &reply)),
        }
    }

    /// Ends a transfer: whether the back-end wrote, or read and accepted, the whole state.
    pub fn check(&mut self) -> Result<(), FrontendError> {
        let request = Request::CHECK_DEVICE_STATE;
        self.need(request, protocol_feature::DEVICE_STATE, "DEVICE_STATE")?;
        match self.query_u64(request)? {
            0 => Ok(()),
            code => Err(FrontendError::Refused { request, code }),
        }
    }

    /// From the channel to its end, to `output`.
    fn pump_out(&self, channel: &OwnedFd, output: &mut dyn Write) -> Result<u64, FrontendError> {
        let direction = Direction::Save;
        set_nonblocking(channel)?;
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            let count = retry(channel, PollFlags::IN, self.limit, direction, || {
                rustix::io::read(channel, &mut buffer)
            })?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            output
                .write_all(bytes)
                .map_err(|source| FrontendError::Caller { direction, source })?;
            size += count as u64;
        }
        output
            .flush()
            .map_err(|source| FrontendError::Caller { direction, source })?;
        Ok(size)
    }

    /// From `input` to its end, to the channel. A channel that was closed is an error and no signal:
    /// Rust programs ignore SIGPIPE.
    fn pump_in(&self, input: &mut dyn Read, channel: &OwnedFd) -> Result<u64, FrontendError> {
        let direction = Direction::Load;
        set_nonblocking(channel)?;
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => return Ok(size),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(FrontendError::Caller { direction, source }),
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let written = retry(channel, PollFlags::OUT, self.limit, direction, || {
                    rustix::io::write(channel, rest)
                })?;
                rest = rest.get(written..).unwrap_or_default();
            }
            size += count as u64;
        }
    }
}

impl Channel {
    /// Our end and the back-end's.
    fn open(self, direction: Direction) -> Result<(OwnedFd, OwnedFd), FrontendError> {
        match self {
            Self::Pipe => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(channel_host)?;
                Ok(match direction {
                    Direction::Save => (reader, writer),
                    Direction::Load => (writer, reader),
                })
            }
            Self::SocketPair => {
                let flags = SocketFlags::CLOEXEC;
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                    .map_err(channel_host)
            }
            Self::File => {
                let file =
                    memfd_create("device-state", MemfdFlags::CLOEXEC).map_err(channel_host)?;
                Ok((file.try_clone().map_err(channel_host)?, file))
            }
        }
    }
}

fn channel_host(error: impl Into<io::Error>) -> FrontendError {
    FrontendError::Host {
        what: "create a state channel",
        source: error.into(),
    }
}

fn set_nonblocking(channel: &OwnedFd) -> Result<(), FrontendError> {
    fcntl_getfl(channel)
        .and_then(|flags| fcntl_setfl(channel, flags | OFlags::NONBLOCK))
        .map_err(channel_host)
}

/// Does `operation` as soon as the channel lets it, and gives up when nothing moves for `limit`.
fn retry(
    channel: &OwnedFd,
    event: PollFlags,
    limit: Duration,
    direction: Direction,
    mut operation: impl FnMut() -> rustix::io::Result<usize>,
) -> Result<usize, FrontendError> {
    let fail = |error: Errno| FrontendError::Channel {
        direction,
        source: error.into(),
    };
    let timeout = Timespec::try_from(limit).map_err(|_| fail(Errno::INVAL))?;
    loop {
        match operation() {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(fail(error)),
        }
        match poll(&mut [PollFd::new(channel, event)], Some(&timeout)) {
            Ok(0) => return Err(FrontendError::Stalled { direction, limit }),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_back_end_that_moves_nothing_is_an_error() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut frontend = Frontend::from_stream(near).unwrap();
        frontend.set_limit(Duration::from_millis(10)).unwrap();
        for channel in [Channel::Pipe, Channel::SocketPair] {
            let (ours, _theirs) = channel.open(Direction::Save).unwrap();
            let error = frontend.pump_out(&ours, &mut Vec::new()).unwrap_err();
            assert!(matches!(
                error,
                FrontendError::Stalled {
                    direction: Direction::Save,
                    ..
                }
            ));

            let (ours, _theirs) = channel.open(Direction::Load).unwrap();
            let error = frontend.pump_in(&mut io::repeat(1), &ours).unwrap_err();
            assert!(matches!(
                error,
                FrontendError::Stalled {
                    direction: Direction::Load,
                    ..
                }
            ));
        }
    }
}
