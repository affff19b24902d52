//! Transfers with front-ends that are slow, silent, gone, or out of order.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{SealFlags, SeekFrom as Whence, fcntl_get_seals, seek};
use rustix::pipe::pipe;

use super::*;
use crate::test_device::{TestDevice, TestState};

/// More than a pipe holds.
const LARGE: usize = 300_000;

struct Rig {
    device: Arc<TestDevice>,
    transfers: Arc<Transfers<TestDevice>>,
}

fn rig_with(state: &[u8], options: TransferOptions) -> Rig {
    let device = Arc::new(TestDevice::with_state(state));
    let transfers = Transfers::new(Arc::clone(&device), options);
    Rig {
        device,
        transfers: Arc::new(transfers),
    }
}

fn rig(state: &[u8]) -> Rig {
    rig_with(state, TransferOptions::default())
}

impl Rig {
    fn begin(&self, direction: Direction, file: impl Into<OwnedFd>) -> Result<(), TransferError> {
        let file = File::from(file.into());
        let other = self.transfers.begin(direction, file, false)?;
        assert!(other.is_none(), "the offered descriptor is to be used");
        Ok(())
    }

    /// SAVE through a pipe, read to its end; not checked.
    fn save(&self) -> Vec<u8> {
        let (reader, writer) = pipe().unwrap();
        self.begin(Direction::Save, writer).unwrap();
        let mut stream = Vec::new();
        File::from(reader).read_to_end(&mut stream).unwrap();
        stream
    }

    /// LOAD through a pipe; not checked.
    fn send(&self, stream: &[u8]) {
        let (reader, writer) = pipe().unwrap();
        self.begin(Direction::Load, reader).unwrap();
        // A reader that has seen enough may close its end first.
        let _result = File::from(writer).write_all(stream);
    }

    fn check(&self) -> Result<(), TransferError> {
        self.transfers.check(false)
    }
}

#[test]
fn a_state_larger_than_a_pipe_moves_from_one_device_to_another() {
    let state: Vec<u8> = (0..LARGE).map(|at| at.to_le_bytes()[0]).collect();
    let source = rig(&state);
    let stream = source.save();
    source.check().unwrap();
    assert_eq!(*source.device.state(), state, "saving consumes nothing");
    let destination = rig(b"");
    destination.send(&stream);
    destination.check().unwrap();
    assert_eq!(*destination.device.state(), state);
}

#[test]
fn a_socket_and_a_file_do_as_well() {
    let source = rig(b"state");
    let expected = source.save();
    let (socket, mut peer) = UnixStream::pair().unwrap();
    source.begin(Direction::Save, socket).unwrap();
    let mut stream = Vec::new();
    peer.read_to_end(&mut stream).unwrap();
    source.check().unwrap();
    assert_eq!(stream, expected);

    let mut file = tempfile::tempfile().unwrap();
    let copy = file.try_clone().unwrap();
    source.begin(Direction::Save, copy).unwrap();
    source.check().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let destination = rig(b"");
    let copy = file.try_clone().unwrap();
    destination.begin(Direction::Load, copy).unwrap();
    destination.check().unwrap();
    assert_eq!(*destination.device.state(), b"state");
}

#[test]
fn what_was_read_is_applied_by_check_and_not_before() {
    let stream = rig(b"state").save();
    let destination = rig(b"before");
    for _ in 0..2 {
        destination.send(&stream);
        assert_eq!(*destination.device.state(), b"before");
        // Not checked; a new transfer may begin once this one has ended.
        destination.transfers.cancel();
    }
    assert_eq!(destination.device.loads.load(Ordering::SeqCst), 0);
    destination.send(&stream);
    destination.check().unwrap();
    assert_eq!(*destination.device.state(), b"state");
}

#[test]
fn a_device_that_was_started_meanwhile_is_not_loaded() {
    let stream = rig(b"state").save();
    let destination = rig(b"before");
    destination.send(&stream);
    let error = destination.transfers.check(true).unwrap_err();
    assert!(matches!(error, TransferError::NotSuspended), "{error}");
    assert_eq!(*destination.device.state(), b"before");
    let error = destination.check().unwrap_err();
    assert!(matches!(error, TransferError::NothingToCheck), "{error}");
}

#[test]
fn nothing_moves_while_the_device_is_started() {
    let rig = rig(b"state");
    for direction in [Direction::Save, Direction::Load] {
        let file = tempfile::tempfile().unwrap();
        let error = rig.transfers.begin(direction, file, true).unwrap_err();
        assert!(matches!(error, TransferError::NotSuspended), "{error}");
    }
    assert!(rig.check().is_err());
}

#[test]
fn check_needs_a_transfer_and_uses_it_up() {
    let rig = rig(b"state");
    let nothing = |result| matches!(result, Err(TransferError::NothingToCheck));
    assert!(nothing(rig.check()));
    rig.save();
    rig.check().unwrap();
    assert!(nothing(rig.check()));
}

#[test]
fn a_second_transfer_is_refused_while_one_runs_and_does_not_disturb_it() {
    // More than a pipe takes in, however large it is made.
    let length = 3 << 20;
    let rig = rig(&vec![7; length]);
    let (reader, writer) = pipe().unwrap();
    rig.begin(Direction::Save, writer).unwrap();
    // The pipe is not read, so the transfer cannot end.
    for direction in [Direction::Save, Direction::Load] {
        let error = rig
            .begin(direction, tempfile::tempfile().unwrap())
            .unwrap_err();
        let running = Direction::Save;
        assert!(matches!(error, TransferError::Busy { running: found } if found == running));
    }
    let mut stream = Vec::new();
    File::from(reader).read_to_end(&mut stream).unwrap();
    rig.check().unwrap();
    assert!(stream.len() > length);
}

/// The end of the channel is all that a front-end sees of the end of a transfer.
#[test]
fn a_transfer_that_has_ended_unchecked_is_not_in_the_way() {
    let rig = rig(b"state");
    let expected = rig.save();
    for _ in 0..300 {
        assert_eq!(rig.save(), expected);
    }
    rig.check().unwrap();
}

#[test]
fn an_end_that_never_comes_is_a_failure_of_check_after_the_deadline() {
    let stream = rig(b"state").save();
    let options = TransferOptions {
        patience: Duration::from_millis(20),
        ..TransferOptions::default()
    };
    let destination = rig_with(b"before", options);
    let (reader, writer) = pipe().unwrap();
    destination.begin(Direction::Load, reader).unwrap();
    let mut writer = File::from(writer);
    writer.write_all(&stream).unwrap();
    destination.check().unwrap_err();
    assert_eq!(*destination.device.state(), b"before");
    // Not stuck: the next one works.
    destination.send(&stream);
    destination.check().unwrap();
    assert_eq!(*destination.device.state(), b"state");
}

#[test]
fn a_disconnect_ends_a_transfer_and_the_wait_for_it() {
    let destination = rig(b"before");
    let (reader, _writer) = pipe().unwrap();
    destination.begin(Direction::Load, reader).unwrap();
    let checking = {
        let transfers = Arc::clone(&destination.transfers);
        thread::spawn(move || transfers.check(false))
    };
    destination.transfers.cancel();
    checking.join().unwrap().unwrap_err();
    let source = rig(&vec![7; LARGE]);
    let (_reader, writer) = pipe().unwrap();
    source.begin(Direction::Save, writer).unwrap();
    source.transfers.cancel();
    assert!(matches!(source.check(), Err(TransferError::NothingToCheck)));
}

#[test]
fn a_state_that_is_cut_short_is_refused_wherever_it_is_cut() {
    let stream = rig(b"state").save();
    let destination = rig(b"before");
    for len in 0..stream.len() {
        destination.send(&stream[..len]);
        assert!(
            destination.check().is_err(),
            "{len} of {} bytes",
            stream.len()
        );
    }
    let longer = [stream.as_slice(), &[0]].concat();
    destination.send(&longer);
    assert!(destination.check().is_err(), "a byte too many");
    assert_eq!(*destination.device.state(), b"before");
    assert_eq!(destination.device.loads.load(Ordering::SeqCst), 0);
}

#[test]
fn a_state_above_the_limit_is_refused() {
    let stream = rig(&vec![7; LARGE]).save();
    let mut options = TransferOptions::default();
    options.limits.total_bytes_max = LARGE as u64;
    let destination = rig_with(b"before", options);
    destination.send(&stream);
    assert!(matches!(destination.check(), Err(TransferError::Stream(_))));
    assert_eq!(*destination.device.state(), b"before");
}

#[test]
fn refusals_of_the_device_are_answers_of_check_and_the_next_transfer_works() {
    let rig = rig(b"state");
    let stream = rig.save();
    let refuse = |on| rig.device.refuse.store(on, Ordering::SeqCst);
    refuse(true);
    rig.save();
    assert!(matches!(rig.check(), Err(TransferError::Save(_))));
    rig.send(&stream);
    assert!(matches!(rig.check(), Err(TransferError::Load(_))));
    refuse(false);
    assert_eq!(rig.save(), stream);
    rig.check().unwrap();
}

#[test]
fn a_panic_of_the_device_is_a_refusal() {
    for save_channel in [SaveChannel::Offered, SaveChannel::Memfd] {
        let options = TransferOptions {
            save_channel,
            ..TransferOptions::default()
        };
        let rig = rig_with(b"state", options);
        rig.device.panic.store(true, Ordering::SeqCst);
        let saved = rig
            .begin(Direction::Save, tempfile::tempfile().unwrap())
            .and_then(|()| rig.check());
        assert!(matches!(saved, Err(TransferError::Panicked { .. })));
        rig.device.panic.store(false, Ordering::SeqCst);
        let mut stream = Vec::new();
        write_state(&TestState(b"new".into()), 1, &mut stream).unwrap();
        rig.device.panic.store(true, Ordering::SeqCst);
        rig.send(&stream);
        assert!(matches!(rig.check(), Err(TransferError::Panicked { .. })));
        assert_eq!(*rig.device.state(), b"state");
    }
}

#[test]
fn a_state_in_a_memfd_is_whole_sealed_and_at_its_start() {
    let options = TransferOptions {
        save_channel: SaveChannel::Memfd,
        ..TransferOptions::default()
    };
    let state = vec![7; LARGE];
    let rig = rig_with(&state, options);
    let (reader, writer) = pipe().unwrap();
    let saved = rig.transfers.begin(Direction::Save, writer.into(), false);
    let mut memfd = saved.unwrap().expect("a descriptor of our own");
    let mut offered = Vec::new();
    File::from(reader).read_to_end(&mut offered).unwrap();
    assert_eq!(offered, b"", "the offered one is closed, unused");
    rig.check().unwrap();
    assert_eq!(seek(&memfd, Whence::Current(0)), Ok(0));
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    assert_eq!(fcntl_get_seals(memfd.as_fd()), Ok(seals));
    assert!(memfd.write(&[0]).is_err());
    memfd.seek(SeekFrom::Start(0)).unwrap();
    let loaded: TestState = load(options, &mut memfd).unwrap();
    assert_eq!(loaded.0, state);

    // The other direction takes what it is offered.
    rig.send(&rig_with(b"", TransferOptions::default()).save());
    rig.check().unwrap();
    assert_eq!(*rig.device.state(), b"");
}

#[test]
fn an_unsuitable_descriptor_is_refused_at_once() {
    let rig = rig(b"state");
    let directory = File::open("/").unwrap();
    let error = rig.begin(Direction::Save, directory).unwrap_err();
    assert!(matches!(error, TransferError::Descriptor { .. }), "{error}");
    assert!(matches!(rig.check(), Err(TransferError::NothingToCheck)));
}

#[test]
fn a_preparation_is_waited_for_and_its_panic_is_survived() {
    let device = Arc::new(TestDevice::default());
    let preparation = Preparation::new(Arc::clone(&device));
    preparation.finish();
    for panic in [true, false] {
        device.panic.store(panic, Ordering::SeqCst);
        preparation.start();
        preparation.start();
        preparation.finish();
    }
    preparation.finish();
}
