//! Channels of every kind that a front-end may offer, and of kinds it may not.

use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::pipe;

use super::*;

/// Longer than any test takes; what fails is to fail, not to hang.
const PATIENCE: Duration = Duration::from_mins(1);

fn channel(file: impl Into<OwnedFd>, direction: Direction) -> Result<Channel, TransferError> {
    let cancellation = Cancellation::new().unwrap();
    Channel::new(File::from(file.into()), direction, cancellation, PATIENCE)
}

fn memfd() -> OwnedFd {
    memfd_create("test", MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn pipes_sockets_files_and_memfds_are_taken() {
    for direction in [Direction::Save, Direction::Load] {
        let (reader, writer) = pipe().unwrap();
        let end = match direction {
            Direction::Save => writer,
            Direction::Load => reader,
        };
        channel(end, direction).unwrap();
        let (socket, _peer) = UnixStream::pair().unwrap();
        channel(socket, direction).unwrap();
        channel(tempfile::tempfile().unwrap(), direction).unwrap();
        channel(memfd(), direction).unwrap();
    }
}

#[test]
fn what_no_state_can_move_through_is_refused() {
    for direction in [Direction::Save, Direction::Load] {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let directory = OwnedFd::from(File::open("/").unwrap());
        let device = OwnedFd::from(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap(),
        );
        for file in [event, directory, device] {
            let error = channel(file, direction).unwrap_err();
            assert!(matches!(error, TransferError::Descriptor { .. }), "{error}");
        }
    }
}

#[test]
fn the_wrong_end_of_a_pipe_is_refused() {
    let (reader, writer) = pipe().unwrap();
    let read_only = File::open("/proc/self/exe").unwrap();
    for (file, direction) in [
        (reader, Direction::Save),
        (writer, Direction::Load),
        (read_only.into(), Direction::Save),
    ] {
        let error = channel(file, direction).unwrap_err();
        assert!(matches!(error, TransferError::Descriptor { .. }), "{error}");
    }
}

/// Blocking descriptors and ones that do not block behave alike, and a slow peer is waited for.
#[test]
fn what_is_larger_than_a_pipe_gets_through() {
    let content: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let (socket, peer) = UnixStream::pair().unwrap();
    for (reader, writer) in [
        pipe().unwrap(),
        (OwnedFd::from(socket), OwnedFd::from(peer)),
    ] {
        let mut incoming = channel(reader, Direction::Load).unwrap();
        let mut outgoing = channel(writer, Direction::Save).unwrap();
        let reading = thread::spawn(move || {
            let mut received = Vec::new();
            incoming.read_to_end(&mut received).map(|_| received)
        });
        outgoing.write_all(&content).unwrap();
        drop(outgoing);
        assert_eq!(reading.join().unwrap().unwrap(), content);
    }
}

#[test]
fn no_progress_is_an_error_after_the_deadline() {
    let (reader, writer) = pipe().unwrap();
    let soon = Duration::from_millis(10);
    let cancellation = Cancellation::new().unwrap();
    let mut incoming =
        Channel::new(reader.into(), Direction::Load, cancellation.clone(), soon).unwrap();
    let error = incoming.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let mut outgoing = Channel::new(writer.into(), Direction::Save, cancellation, soon).unwrap();
    let error = outgoing.write_all(&vec![0; PIPE_BYTES + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "the pipe is full");
}

#[test]
fn cancelling_wakes_who_waits() {
    let (reader, _writer) = pipe().unwrap();
    let cancellation = Cancellation::new().unwrap();
    let file = File::from(reader);
    let mut incoming = Channel::new(file, Direction::Load, cancellation.clone(), PATIENCE).unwrap();
    let waiting = thread::spawn(move || incoming.read(&mut [0]));
    cancellation.cancel();
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}

#[test]
fn a_peer_that_leaves_is_an_end_or_an_error() {
    let (reader, writer) = pipe().unwrap();
    let mut incoming = channel(reader, Direction::Load).unwrap();
    drop(writer);
    assert_eq!(incoming.read(&mut [0]).unwrap(), 0);
    let (reader, writer) = pipe().unwrap();
    let mut outgoing = channel(writer, Direction::Save).unwrap();
    drop(reader);
    let error = outgoing.write(&[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}
