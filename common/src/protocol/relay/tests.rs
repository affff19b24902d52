//! The relay between a front-end and a stock daemon that the test plays.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::*;
use crate::protocol::messages::{HEADER_SIZE, Inflight, flag};

const OFFER: u64 = 1 << 3;
const TURNS: usize = 200;
/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_secs(30);
const WANTED: u64 = protocol_feature::REPLY_ACK | protocol_feature::SUSPEND;

/// What the back-end and the device saw, in the order they saw it.
#[derive(Default)]
struct Seen {
    order: Mutex<Vec<Request>>,
    bodies: Mutex<Vec<(Request, Vec<u8>)>>,
    refuse: Mutex<bool>,
}

impl Seen {
    fn note(&self, request: Request) {
        self.order.lock().unwrap().push(request);
    }

    fn order(&self) -> Vec<Request> {
        self.order.lock().unwrap().clone()
    }
}

impl Explicit for Seen {
    fn suspend(&self) -> Result<(), SuspendError> {
        self.note(Request::SUSPEND);
        if *self.refuse.lock().unwrap() {
            return Err(SuspendError::Device("the test wants it so".into()));
        }
        Ok(())
    }

    fn resume(&self) {
        self.note(Request::RESUME);
    }

    fn set_display_socket(&self, socket: UnixStream) -> Result<(), NoDisplay> {
        self.note(Request::GPU_SET_SOCKET);
        if *self.refuse.lock().unwrap() {
            return Err(NoDisplay);
        }
        // The right one: what is written here is read at its other end.
        (&socket).write_all(b"!").map_err(|_| NoDisplay)
    }
}

fn run(mut relay: Relay<'_>, stop: BorrowedFd<'_>) -> Result<End, RelayError> {
    let end = relay.run(Until::Readable(stop));
    relay.close(true);
    end
}

/// A back-end that is slow to look, answers what has a reply, and closes on what it does not know, as the stock one does.
fn back_end(socket: &UnixStream, seen: &Seen) {
    while let Ok(Some(message)) = receive(socket) {
        thread::yield_now();
        let request = message.request;
        seen.note(request);
        let body = message.body.clone();
        seen.bodies.lock().unwrap().push((request, body));
        let answer = match request {
            Request::GET_FEATURES => Some(0x55),
            Request::GET_PROTOCOL_FEATURES => Some(OFFER),
            Request::GET_QUEUE_NUM => Some(7),
            Request::SUSPEND | Request::RESUME => break,
            _ if message.needs_reply() => Some(0),
            _ => None,
        };
        if let Some(value) = answer
            && send(socket, &Message::reply(request, value)).is_err()
        {
            break;
        }
    }
    let _closed_already = socket.shutdown(Shutdown::Both);
}

/// Runs `front_end` against a relay with the back-end above; returns what the relay came to and what was seen.
fn relayed(front_end: impl FnOnce(UnixStream, &Seen) + Send) -> (Result<End, RelayError>, Seen) {
    relayed_with(None, front_end)
}

/// The same, with a device that wants its requests in flight to be written down.
fn relayed_with(
    regions: Option<Regions>,
    front_end: impl FnOnce(UnixStream, &Seen) + Send,
) -> (Result<End, RelayError>, Seen) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(DEADLINE)).unwrap();
    near.set_write_timeout(Some(DEADLINE)).unwrap();
    let (link, stock) = UnixStream::pair().unwrap();
    let (stop, _stopper) = UnixStream::pair().unwrap();
    let seen = Seen::default();
    let result = thread::scope(|scope| {
        scope.spawn(|| back_end(&stock, &seen));
        scope.spawn(|| front_end(near, &seen));
        run(Relay::new(&far, &link, &seen, regions), stop.as_fd())
    });
    (result, seen)
}

fn ask(socket: &UnixStream, message: &Message) -> u64 {
    send(socket, message).unwrap();
    answer(socket, message.request)
}

fn answer(socket: &UnixStream, request: Request) -> u64 {
    let reply = receive(socket).unwrap().expect("a reply");
    assert_eq!(reply.request, request);
    assert_eq!(reply.flags, flag::VERSION | flag::REPLY);
    reply.value().unwrap()
}

fn agree(socket: &UnixStream, features: u64) {
    let body = encode_u64(features);
    send(socket, &Message::new(Request::SET_PROTOCOL_FEATURES, body)).unwrap();
}

fn plain(request: Request) -> Message {
    Message::new(request, Vec::new())
}

#[test]
fn the_bit_is_added_to_the_offer_and_taken_from_the_choice() {
    let (end, seen) = relayed(|socket, _| {
        let offered = ask(&socket, &plain(Request::GET_PROTOCOL_FEATURES));
        assert_eq!(offered, OFFER | protocol_feature::SUSPEND);
        agree(&socket, WANTED);
        ask(&socket, &plain(Request::GET_FEATURES));
    });
    assert_eq!(end.unwrap(), End::FrontEndLeft);
    let bodies = seen.bodies.lock().unwrap();
    let chosen = bodies
        .iter()
        .find(|(request, _)| *request == Request::SET_PROTOCOL_FEATURES);
    let expected = encode_u64(protocol_feature::REPLY_ACK);
    assert_eq!(chosen.unwrap().1, expected);
}

/// Without the barrier SUSPEND overtakes messages that are not answered, and its reply overtakes replies.
#[test]
fn suspend_comes_after_what_was_sent_before_it_and_so_do_the_replies() {
    let turn = [
        Request::GET_FEATURES,
        Request::SET_OWNER,
        Request::GET_QUEUE_NUM,
        Request::SUSPEND,
        Request::GET_FEATURES,
        Request::RESUME,
        Request::GET_FEATURES,
    ];
    let (end, seen) = relayed(|socket, _| {
        agree(&socket, WANTED);
        thread::scope(|scope| {
            scope.spawn(|| {
                for request in [turn; TURNS].concat() {
                    let message = plain(request);
                    let explicit = matches!(request, Request::SUSPEND | Request::RESUME);
                    let message = if explicit {
                        message.needing_reply()
                    } else {
                        message
                    };
                    send(&socket, &message).unwrap();
                }
            });
            for request in [turn; TURNS].concat() {
                if request != Request::SET_OWNER {
                    answer(&socket, request);
                }
            }
        });
    });
    assert_eq!(end.unwrap(), End::FrontEndLeft);
    // Each SUSPEND and RESUME has one more GET_FEATURES before it, the barrier.
    let mut expected = VecDeque::from([Request::SET_PROTOCOL_FEATURES]);
    for request in [turn; TURNS].concat() {
        if matches!(request, Request::SUSPEND | Request::RESUME) {
            expected.push_back(Request::GET_FEATURES);
        }
        expected.push_back(request);
    }
    assert_eq!(seen.order(), Vec::from(expected));
}

#[test]
fn what_was_not_negotiated_is_not_ours_to_answer() {
    for request in [Request::SUSPEND, Request::RESUME] {
        let (end, seen) = relayed(|socket, _| {
            agree(&socket, protocol_feature::REPLY_ACK);
            send(&socket, &plain(request).needing_reply()).unwrap();
            assert!(receive(&socket).unwrap().is_none(), "closed, unanswered");
        });
        assert_eq!(end.unwrap(), End::Refused);
        // Forwarded, and nothing else came of it.
        assert_eq!(seen.order(), [Request::SET_PROTOCOL_FEATURES, request]);
    }
}

#[test]
fn a_refusal_is_an_answer_and_the_connection_goes_on() {
    let (end, _) = relayed(|socket, seen| {
        agree(&socket, WANTED);
        *seen.refuse.lock().unwrap() = true;
        assert_eq!(ask(&socket, &plain(Request::SUSPEND).needing_reply()), 1);
        *seen.refuse.lock().unwrap() = false;
        assert_eq!(ask(&socket, &plain(Request::SUSPEND).needing_reply()), 0);
        assert_eq!(ask(&socket, &plain(Request::RESUME).needing_reply()), 0);
    });
    assert_eq!(end.unwrap(), End::FrontEndLeft);
}

#[test]
fn no_reply_is_sent_unless_it_was_asked_for_and_agreed_on() {
    for (features, message) in [
        (WANTED, plain(Request::SUSPEND)),
        (
            protocol_feature::SUSPEND,
            plain(Request::SUSPEND).needing_reply(),
        ),
    ] {
        let (end, seen) = relayed(|socket, _| {
            agree(&socket, features);
            send(&socket, &message).unwrap();
            assert_eq!(ask(&socket, &plain(Request::GET_QUEUE_NUM)), 7);
        });
        assert_eq!(end.unwrap(), End::FrontEndLeft);
        assert!(seen.order().contains(&Request::SUSPEND));
    }
}

#[test]
fn a_payload_or_a_descriptor_with_suspend_ends_the_connection() {
    let mut with_file = plain(Request::SUSPEND);
    let (file, _other) = UnixStream::pair().unwrap();
    with_file.files.push(file.into());
    for message in [Message::new(Request::RESUME, vec![0]), with_file] {
        let (end, seen) = relayed(|socket, _| {
            agree(&socket, WANTED);
            send(&socket, &message).unwrap();
            assert!(receive(&socket).unwrap().is_none());
        });
        let expected = message.request;
        assert!(matches!(end, Err(RelayError::NotEmpty { request }) if request == expected));
        assert!(!seen.order().contains(&expected));
    }
}

#[test]
fn a_table_that_cannot_be_trusted_ends_the_connection_and_is_not_forwarded() {
    let (end, seen) = relayed(|socket, _| {
        let region = crate::protocol::messages::MemoryRegion {
            guest_address: 0,
            size: 0x1000,
            user_address: 0,
            file_offset: 0,
        };
        let mut message = Message::new(Request::ADD_MEM_REG, region.encode_single());
        let empty = rustix::fs::memfd_create("empty", rustix::fs::MemfdFlags::CLOEXEC);
        message.files.push(empty.unwrap());
        send(&socket, &message).unwrap();
        assert!(receive(&socket).unwrap().is_none());
    });
    assert!(matches!(end, Err(RelayError::Trust(_))), "{end:?}");
    assert_eq!(seen.order(), []);
}

#[test]
fn descriptors_are_forwarded_with_their_message() {
    let (near, far) = UnixStream::pair().unwrap();
    let (link, stock) = UnixStream::pair().unwrap();
    let (stop, stopper) = UnixStream::pair().unwrap();
    let seen = Seen::default();
    thread::scope(|scope| {
        let relay = scope.spawn(|| run(Relay::new(&far, &link, &seen, None), stop.as_fd()));
        let mut message = Message::new(Request::SET_VRING_CALL, encode_u64(0));
        let (ours, theirs) = UnixStream::pair().unwrap();
        message.files.push(theirs.into());
        send(&near, &message).unwrap();
        let mut forwarded = receive(&stock).unwrap().unwrap();
        let mut theirs = UnixStream::from(forwarded.files.pop().expect("the descriptor"));
        theirs.write_all(b"x").unwrap();
        drop((theirs, message));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut &ours, &mut said).unwrap();
        assert_eq!(said, "x", "and no copy of it stayed behind");
        drop(stopper);
        assert_eq!(relay.join().unwrap().unwrap(), End::Stopped);
    });
    assert!(receive(&near).unwrap().is_none(), "both sides are closed");
    assert!(receive(&stock).unwrap().is_none());
}

#[test]
fn a_front_end_that_leaves_with_a_reply_unread_has_just_left() {
    for _ in 0..50 {
        let (end, _) = relayed(|socket, _| {
            for _ in 0..3 {
                send(&socket, &plain(Request::GET_FEATURES)).unwrap();
            }
        });
        assert_eq!(end.unwrap(), End::FrontEndLeft);
    }
}

#[test]
fn a_front_end_that_leaves_in_the_middle_of_a_message_is_at_fault() {
    let (end, seen) = relayed(|mut socket, _| {
        socket.write_all(&[1; HEADER_SIZE - 1]).unwrap();
    });
    assert!(matches!(end, Err(RelayError::FrontEnd(_))), "{end:?}");
    assert_eq!(seen.order(), []);
}

#[test]
fn a_back_end_that_closes_has_refused_whatever_else_was_sent() {
    for _ in 0..50 {
        let (end, _) = relayed(|socket, _| {
            // The second comes when the back-end may be gone already.
            for _ in 0..20 {
                if send(&socket, &plain(Request::SUSPEND)).is_err() {
                    break;
                }
            }
            while let Ok(Some(_)) = receive(&socket) {}
        });
        assert_eq!(end.unwrap(), End::Refused);
    }
}

const TRACKED: u64 = protocol_feature::REPLY_ACK | protocol_feature::INFLIGHT_SHMFD;

fn region_of(rings: u16) -> Inflight {
    Inflight {
        rings,
        ring_size: 8,
        ..Inflight::default()
    }
}

/// After the replies to what was asked before, with as many bytes as the question had, and never forwarded.
#[test]
fn regions_for_requests_in_flight_are_made_and_taken_in_order() {
    let regions = Regions::new(3, 8);
    let (end, seen) = relayed_with(Some(regions.clone()), |socket, _| {
        agree(&socket, TRACKED);
        for length in [24, 20] {
            send(&socket, &plain(Request::GET_QUEUE_NUM)).unwrap();
            let mut body = region_of(3).encode();
            body.truncate(length);
            send(&socket, &Message::new(Request::GET_INFLIGHT_FD, body)).unwrap();
            assert_eq!(answer(&socket, Request::GET_QUEUE_NUM), 7);
            let made = receive(&socket).unwrap().unwrap();
            assert_eq!(made.request, Request::GET_INFLIGHT_FD);
            assert_eq!((made.body.len(), made.files.len()), (length, 1));
            let given = Message {
                files: made.files,
                ..Message::new(Request::SET_INFLIGHT_FD, made.body)
            };
            assert_eq!(ask(&socket, &given.needing_reply()), 0);
        }
        // Too many rings.
        let body = region_of(4).encode();
        send(&socket, &Message::new(Request::GET_INFLIGHT_FD, body)).unwrap();
        let refused = receive(&socket).unwrap().unwrap();
        let layout = Inflight::decode(&refused.body).unwrap();
        assert_eq!((layout.size, refused.files.len()), (0, 0));
        let without = Message::new(Request::SET_INFLIGHT_FD, region_of(3).encode());
        assert_eq!(ask(&socket, &without.needing_reply()), 1);
    });
    assert_eq!(end.unwrap(), End::FrontEndLeft);
    assert!(regions.are_used());
    assert!(!seen.order().contains(&Request::GET_INFLIGHT_FD));
    assert!(!seen.order().contains(&Request::SET_INFLIGHT_FD));
}

/// Who does not wait for an answer would go on as if nothing could get lost.
#[test]
fn a_region_that_is_none_ends_the_connection_of_who_does_not_ask() {
    let (end, _) = relayed_with(Some(Regions::new(3, 8)), |socket, _| {
        agree(&socket, TRACKED);
        let message = Message::new(Request::SET_INFLIGHT_FD, region_of(3).encode());
        send(&socket, &message).unwrap();
        assert!(receive(&socket).unwrap().is_none());
    });
    assert!(matches!(end, Err(RelayError::Inflight(_))), "{end:?}");
}

/// After every message before it, with its descriptor, and never to the stock handler.
#[test]
fn a_display_socket_goes_to_the_device_in_its_turn() {
    let (end, seen) = relayed(|socket, seen| {
        agree(&socket, WANTED);
        let (near, far) = UnixStream::pair().unwrap();
        let order = plain(Request::SET_OWNER);
        send(&socket, &order).unwrap();
        let mut message = plain(Request::GPU_SET_SOCKET).needing_reply();
        message.files.push(far.into());
        assert_eq!(ask(&socket, &message), 0);
        let mut byte = [0];
        (&near).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"!");

        let none = plain(Request::GPU_SET_SOCKET).needing_reply();
        assert_eq!(ask(&socket, &none), 1, "no descriptor");
        let mut wrong = plain(Request::GPU_SET_SOCKET).needing_reply();
        wrong.files.push(tempfile::tempfile().unwrap().into());
        assert_eq!(ask(&socket, &wrong), 1, "no socket");
        *seen.refuse.lock().unwrap() = true;
        let mut unwanted = plain(Request::GPU_SET_SOCKET).needing_reply();
        unwanted.files.push(near.into());
        assert_eq!(ask(&socket, &unwanted), 1, "no display");
    });
    assert_eq!(end.unwrap(), End::FrontEndLeft);
    let order = seen.order();
    let position = |request| order.iter().position(|seen| *seen == request).unwrap();
    assert!(position(Request::SET_OWNER) < position(Request::GPU_SET_SOCKET));
    let bodies = seen.bodies.lock().unwrap();
    assert!(
        bodies
            .iter()
            .all(|(request, _)| *request != Request::GPU_SET_SOCKET)
    );
}
