//! Streams as QEMU sends them, with and without states, and what comes out of a channel; no QEMU is needed.

use std::sync::{Mutex, PoisonError};

use super::*;

/// What comes out of a channel between two sockets into which `parts` go.
pub(crate) fn sent_through(
    parts: &[&[u8]],
    connect: impl FnOnce(&Path, &Path) -> Result<StateSeen>,
) -> (Vec<u8>, bool) {
    let folder = tempfile::tempdir().unwrap();
    let (listen, forward) = (folder.path().join("in"), folder.path().join("out"));
    let output = UnixListener::bind(&forward).unwrap();
    let seen = connect(&listen, &forward).unwrap();
    let mut input = UnixStream::connect(&listen).unwrap();
    let (mut output, _) = output.accept().unwrap();
    // Read while it is written: small parts fill the buffers of two sockets with little in them, and all would wait for us.
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        output.read_to_end(&mut received).map(|_| received)
    });
    for part in parts {
        input.write_all(part).unwrap();
    }
    input.shutdown(Shutdown::Write).unwrap();
    let received = reader.join().unwrap().unwrap();
    (received, seen.get())
}

/// Sends `parts` through a channel that damages states; what arrives.
fn damaged(parts: &[&[u8]]) -> Vec<u8> {
    let (received, seen) =
        sent_through(parts, |listen, forward| intercept(listen, forward, damage));
    assert_eq!(seen, received.windows(8).any(|bytes| bytes == MAGIC));
    received
}

/// A state of `kind` as QEMU sends it, in pieces of these lengths, the first of which holds the header.
fn state(kind: DeviceKind, pieces: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, length) in pieces.iter().enumerate() {
        bytes.extend(u32::try_from(*length).unwrap().to_be_bytes());
        let mut piece = vec![9; *length];
        if index == 0 {
            piece[..8].copy_from_slice(MAGIC);
            piece[KIND_OFFSET..][..2].copy_from_slice(&kind.as_u16().to_le_bytes());
        }
        bytes.extend(piece);
    }
    bytes.extend([0; LENGTH_BYTES]);
    bytes
}

#[test]
fn one_bit_of_the_state_is_damaged_and_nothing_else() {
    let mut stream = vec![7; 70_000];
    stream.extend(state(DeviceKind::Fs, &[300]));
    let mut expected = stream.clone();
    expected[70_004 + DAMAGED_OFFSET] ^= 0x10;
    assert_eq!(damaged(&[&stream]), expected);
    // Cut within the length, within the magic, and shortly after it.
    let parts = [
        &stream[..70_003],
        &stream[70_003..70_007],
        &stream[70_007..70_020],
        &stream[70_020..],
    ];
    assert_eq!(damaged(&parts), expected);
}

#[test]
fn a_channel_without_state_is_left_alone() {
    assert_eq!(damaged(&[b"VHUST", b"ART"]), b"VHUSTART");
    assert_eq!(damaged(&[b"1VVHUSTAT"]), b"1VVHUSTAT");
}

/// As many parts as both sockets cannot hold, each passed on before the next comes.
#[test]
fn parts_of_one_byte_do_not_fill_the_channel() {
    let stream = vec![1; 2_000];
    let parts: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(damaged(&parts), stream);
}

/// An end that is gone is told to the other one: nobody waits for ever.
#[test]
fn a_channel_that_fails_ends_for_both() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, forward) = (folder.path().join("in"), folder.path().join("out"));
    let output = UnixListener::bind(&forward).unwrap();
    between(&listen, &forward, |_, _| {
        Err(std::io::ErrorKind::Other.into())
    })
    .unwrap();
    let mut input = UnixStream::connect(&listen).unwrap();
    let (mut output, _) = output.accept().unwrap();
    assert_eq!(output.read(&mut [0]).unwrap(), 0);
    drop(output);
    assert_eq!(input.read(&mut [0]).unwrap(), 0);
}

/// The moments of one stream, and that each came before what it says was not passed on.
#[test]
fn every_moment_of_every_state_is_seen_in_order() {
    let mut stream = b"memory VHUSTATE of no kind \xff\xff and more".to_vec();
    stream.extend(state(DeviceKind::Fs, &[120, 1000, 7]));
    stream.extend(b"between");
    stream.extend(state(DeviceKind::Scsi, &[101]));
    stream.extend(state(DeviceKind::Gpu, &[32, 200]));
    stream.extend(b"the end");
    let expected = "Begin State(fs) Piece(fs) Whole(fs, 1127) End(fs) State(scsi) Piece(scsi) Whole(scsi, 101) End(scsi) \
                    State(gpu) Piece(gpu) Whole(gpu, 232) End(gpu)";
    for cut in [1, 3, 64, stream.len()] {
        let moments = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&moments);
        let parts: Vec<&[u8]> = stream.chunks(cut).collect();
        let (received, _) = sent_through(&parts, |listen, forward| {
            watch(listen, forward, move |moment| {
                let text = match moment {
                    Moment::Begin => "Begin".to_owned(),
                    Moment::State(kind, _) => format!("State({kind})"),
                    Moment::Piece(kind) => format!("Piece({kind})"),
                    Moment::Whole(kind, bytes) => format!("Whole({kind}, {bytes})"),
                    Moment::End(kind) => format!("End({kind})"),
                };
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push(text);
            })?;
            Ok(StateSeen::default())
        });
        assert_eq!(received, stream, "cut at {cut}");
        assert_eq!(moments.lock().unwrap().join(" "), expected, "cut at {cut}");
    }
}

/// At each moment, exactly what it says has arrived at the other end.
#[test]
fn nothing_is_passed_on_before_its_moment() {
    let first = [b"memory".as_slice(), &120_u32.to_be_bytes()].concat();
    let stream = [b"memory".as_slice(), &state(DeviceKind::Gpu, &[120, 5])].concat();
    let ends = [
        0,
        first.len(),
        first.len() + 120,
        stream.len() - 4,
        stream.len(),
    ];
    let (mut scanner, mut pending, mut passed) = (Scanner::default(), stream.clone(), 0);
    let mut seen = vec![0];
    loop {
        let mut moments = 0;
        let length = scanner.next(&mut pending, &mut |_| moments += 1);
        seen.extend(std::iter::repeat_n(passed, moments));
        passed += length;
        pending.drain(..length);
        if length == 0 {
            break;
        }
    }
    assert_eq!(seen, ends);
}
