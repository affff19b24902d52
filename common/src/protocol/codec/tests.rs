//! The codec over real sockets, with peers that break off, cheat and flood.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_getfd};

use super::*;

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    // Turns a hang into a failure.
    far.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    (near, far)
}

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| std::fs::File::open("/dev/null").unwrap().into())
        .collect()
}

fn header(request: Request, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
    Header {
        request,
        flags,
        size,
    }
    .encode()
}

#[test]
fn a_message_arrives_as_it_was_sent() {
    let (near, far) = pair();
    let mut sent = Message::new(Request::SET_MEM_TABLE, vec![7; 72]).needing_reply();
    sent.files = files(2);
    send(&near, &sent).unwrap();
    send(&near, &Message::reply(Request(0xdead_beef), u64::MAX)).unwrap();

    let first = receive(&far).unwrap().unwrap();
    assert_eq!((first.request, first.flags), (Request::SET_MEM_TABLE, 0x9));
    assert_eq!(first.body, vec![7; 72]);
    assert_eq!(first.files.len(), 2);
    assert!(first.needs_reply() && !first.is_reply());
    for file in &first.files {
        assert!(fcntl_getfd(file).unwrap().contains(FdFlags::CLOEXEC));
        assert!(
            sent.files
                .iter()
                .all(|ours| ours.as_raw_fd() != file.as_raw_fd())
        );
    }
    let second = receive(&far).unwrap().unwrap();
    assert_eq!((second.request, second.flags), (Request(0xdead_beef), 0x5));
    assert_eq!((second.value(), second.files.len()), (Some(u64::MAX), 0));
}

#[test]
fn the_end_between_two_messages_is_no_error() {
    let (near, far) = pair();
    send(&near, &Message::new(Request::SET_OWNER, Vec::new())).unwrap();
    drop(near);
    assert_eq!(receive(&far).unwrap().unwrap().request, Request::SET_OWNER);
    assert!(receive(&far).unwrap().is_none());
}

#[test]
fn the_end_inside_a_message_is_an_error_at_every_byte() {
    let message = [&header(Request::SET_FEATURES, 1, 8)[..], &[1; 8]].concat();
    for length in 1..message.len() {
        let (mut near, far) = pair();
        near.write_all(&message[..length]).unwrap();
        drop(near);
        match receive(&far) {
            Err(CodecError::EndInsideMessage { received }) => assert_eq!(received, length),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let (near, far) = pair();
    let message = [&header(Request::GET_CONFIG, 1, 20)[..], &[3; 20]].concat();
    let writer = thread::spawn(move || {
        let file = files(1);
        send_bytes(&near, &message[..1], &[file[0].as_fd()]).unwrap();
        for byte in &message[1..] {
            (&near).write_all(&[*byte]).unwrap();
            thread::yield_now();
        }
    });
    let message = receive(&far).unwrap().unwrap();
    writer.join().unwrap();
    assert_eq!(message.body, [3; 20]);
    assert_eq!(message.files.len(), 1);
}

#[test]
fn a_full_socket_delays_messages_and_loses_nothing() {
    let (near, far) = pair();
    rustix::net::sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
    let count = 40;
    let writer = thread::spawn(move || {
        for _ in 0..count {
            let mut message = Message::new(Request::SET_CONFIG, vec![5; BODY_MAX]);
            message.files = files(1);
            send(&near, &message).unwrap();
        }
    });
    for _ in 0..count {
        let message = receive(&far).unwrap().unwrap();
        assert_eq!((message.body.len(), message.files.len()), (BODY_MAX, 1));
    }
    writer.join().unwrap();
    assert!(receive(&far).unwrap().is_none());
}

/// The first write ends short when its time is up; the reader wakes up while the second one waits.
/// On a busy machine it may wake up too late, and then there is another attempt.
#[test]
fn a_short_write_is_finished_without_the_files() {
    let limit = Duration::from_millis(200);
    for _ in 0..100 {
        let (near, far) = pair();
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
        near.set_write_timeout(Some(limit)).unwrap();
        let writer =
            thread::spawn(move || send_bytes(&near, &vec![5; 50_000], &[files(1)[0].as_fd()]));
        while rustix::io::ioctl_fionread(&far).unwrap() == 0 {
            thread::yield_now();
        }
        thread::sleep(limit + limit / 2);
        let (mut received, mut taken) = (vec![0; 50_000], Vec::new());
        let count = fill(&far, &mut received, &mut taken).unwrap();
        if writer.join().unwrap() == Err(Errno::AGAIN) {
            continue;
        }
        assert_eq!((count, taken.len()), (50_000, 1));
        return;
    }
    panic!("the reader was late 100 times");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let (mut near, far) = pair();
    near.write_all(&header(Request::SET_CONFIG, 1, 4097))
        .unwrap();
    assert!(matches!(
        receive(&far),
        Err(CodecError::TooLarge { size: 4097, .. })
    ));

    let (mut near, far) = pair();
    near.write_all(&header(Request::SET_CONFIG, 1, u32::MAX))
        .unwrap();
    assert!(matches!(receive(&far), Err(CodecError::TooLarge { .. })));

    let message = Message::new(Request::SET_CONFIG, vec![0; 4097]);
    assert!(matches!(
        send(&near, &message),
        Err(CodecError::TooLarge { .. })
    ));
}

#[test]
fn more_files_than_the_limit_are_refused_and_closed() {
    for count in [33, 34, 40, 253] {
        let (near, far) = pair();
        let (probe, ours) = UnixStream::pair().unwrap();
        let mut sent = files(count - 1);
        sent.insert(0, ours.into());
        let bytes = header(Request::SET_OWNER, 1, 0);
        send_with_room(&near, &bytes, &sent);
        assert!(
            matches!(receive(&far), Err(CodecError::TooManyFiles)),
            "{count} files"
        );
        // The copy that came along is closed: with ours gone as well, the probe sees the end.
        drop(sent);
        probe
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        assert_eq!(io::Read::read(&mut &probe, &mut [0]).unwrap(), 0);
    }

    let (near, far) = pair();
    let mut message = Message::new(Request::SET_OWNER, Vec::new());
    message.files = files(33);
    assert!(matches!(
        send(&near, &message),
        Err(CodecError::TooManyFiles)
    ));
    message.files.pop();
    send(&near, &message).unwrap();
    assert_eq!(receive(&far).unwrap().unwrap().files.len(), 32);
}

/// What a hostile peer can do: as many files as the kernel lets through, 253.
fn send_with_room(socket: &UnixStream, bytes: &[u8], files: &[OwnedFd]) {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn files_that_trickle_in_with_the_body_count_against_the_limit() {
    let (near, far) = pair();
    let file = files(1);
    let message = [&header(Request::SET_CONFIG, 1, 40)[..], &[0; 40]].concat();
    for byte in message {
        send_bytes(&near, &[byte], &[file[0].as_fd()]).unwrap();
    }
    assert!(matches!(receive(&far), Err(CodecError::TooManyFiles)));
}

#[test]
fn another_protocol_version_is_refused() {
    for flags in [0, 2, 3, 4, 0xffff_fff0] {
        let (mut near, far) = pair();
        near.write_all(&header(Request::GET_FEATURES, flags, 0))
            .unwrap();
        assert!(
            matches!(receive(&far), Err(CodecError::Version { .. })),
            "flags {flags:#x}"
        );
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (near, far) = pair();
    drop(far);
    let message = Message::new(Request::GET_FEATURES, Vec::new());
    assert!(matches!(
        send(&near, &message),
        Err(CodecError::Send { .. })
    ));
}

#[test]
fn a_silent_peer_is_an_error_when_the_socket_has_a_time_limit() {
    let (mut near, far) = pair();
    far.set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    assert!(matches!(receive(&far), Err(CodecError::TimedOut)));
    near.write_all(&[1, 2, 3]).unwrap();
    assert!(matches!(receive(&far), Err(CodecError::TimedOut)));
    near.shutdown(Shutdown::Both).unwrap();
}
