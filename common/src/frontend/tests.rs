//! Against a back-end of a few lines; `tests/` in the workspace has the real one.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::protocol::messages::{DeviceState, Direction, RingAddress, RingState};

const EVERYTHING: u64 = protocol_feature::REPLY_ACK
    | protocol_feature::SUSPEND
    | protocol_feature::DEVICE_STATE
    | protocol_feature::CONFIG
    | protocol_feature::RESET_DEVICE;

/// How the back-end behaves.
#[derive(Clone, Default)]
struct Script {
    state: Vec<u8>,
    refuse: Option<Request>,
    /// Never answer this one.
    ignore: Option<Request>,
    /// Close the connection instead of answering this one.
    close_on: Option<Request>,
    /// Answer with a file of the back-end's own.
    own_file: bool,
    /// Read only so much of a LOAD, then close the channel.
    load_limit: Option<usize>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    loaded: Vec<u8>,
}

struct Backend {
    seen: Arc<Mutex<Seen>>,
}

impl Backend {
    fn start(script: Script) -> (Frontend, Self) {
        let (near, far) = UnixStream::pair().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let backend = Self {
            seen: Arc::clone(&seen),
        };
        let serving = Serving {
            far,
            script,
            seen,
            transfer: None,
        };
        thread::spawn(move || serving.run());
        (Frontend::from_stream(near).unwrap(), backend)
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }
}

struct Serving {
    far: UnixStream,
    script: Script,
    seen: Arc<Mutex<Seen>>,
    transfer: Option<JoinHandle<bool>>,
}

impl Serving {
    fn run(mut self) {
        while let Some(mut message) = codec::receive(&self.far).unwrap() {
            let request = message.request;
            self.seen.lock().unwrap().requests.push(request);
            if self.script.close_on == Some(request) {
                return;
            }
            if self.script.ignore == Some(request) {
                continue;
            }
            let refused = u64::from(self.script.refuse == Some(request));
            let reply = match request {
                Request::GET_FEATURES => Message::reply(request, feature::PROTOCOL_FEATURES),
                Request::GET_PROTOCOL_FEATURES => Message::reply(request, EVERYTHING),
                Request::GET_VRING_BASE => {
                    let index = RingState::decode(&message.body).unwrap().index;
                    let mut reply = Message::reply(request, 0);
                    reply.body = RingState {
                        index,
                        value: 40 + index,
                    }
                    .encode();
                    reply
                }
                Request::GET_CONFIG => {
                    let mut reply = Message::reply(request, 0);
                    reply.body = message.body;
                    reply
                }
                Request::SET_DEVICE_STATE_FD if refused != 0 => Message::reply(request, 0x101),
                Request::SET_DEVICE_STATE_FD => {
                    let file = message.files.pop().unwrap();
                    let wanted = DeviceState::decode(&message.body).unwrap();
                    self.begin(wanted.direction == Direction::Save as u32, file)
                }
                Request::CHECK_DEVICE_STATE => {
                    let done = self.transfer.take().unwrap().join().unwrap();
                    Message::reply(request, u64::from(!done) | refused)
                }
                _ if message.needs_reply() => Message::reply(request, refused),
                _ => continue,
            };
            if codec::send(&self.far, &reply).is_err() {
                return;
            }
        }
    }

    fn begin(&mut self, save: bool, file: OwnedFd) -> Message {
        let request = Request::SET_DEVICE_STATE_FD;
        if self.script.own_file && save {
            let mut own = File::from(memfd_create("own", MemfdFlags::CLOEXEC).unwrap());
            own.write_all(&self.script.state).unwrap();
            own.rewind().unwrap();
            self.transfer = Some(thread::spawn(|| true));
            let mut reply = Message::reply(request, 0);
            reply.files.push(own.into());
            return reply;
        }
        let Script {
            state,
            load_limit,
            own_file,
            ..
        } = self.script.clone();
        let (file, reply) = if own_file {
            let (ours, theirs) = rustix::pipe::pipe().unwrap();
            let mut reply = Message::reply(request, 0);
            reply.files.push(theirs);
            (ours, reply)
        } else {
            (file, Message::reply(request, 0x100))
        };
        let mut file = File::from(file);
        let seen = Arc::clone(&self.seen);
        self.transfer = Some(thread::spawn(move || {
            if save {
                return file.write_all(&state).is_ok();
            }
            let mut loaded = Vec::new();
            let limit = load_limit.map_or(u64::MAX, |limit| limit as u64);
            (&mut file).take(limit).read_to_end(&mut loaded).unwrap();
            seen.lock().unwrap().loaded = loaded;
            load_limit.is_none()
        }));
        reply
    }
}

fn state(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

fn ready(script: Script) -> (Frontend, Backend) {
    let (mut frontend, backend) = Backend::start(script);
    frontend.negotiate(u64::MAX).unwrap();
    (frontend, backend)
}

/// Rings whose eventfds are never used.
fn start_rings(frontend: &mut Frontend, count: u32) {
    let (kick, call) = (
        File::open("/dev/null").unwrap(),
        File::open("/dev/null").unwrap(),
    );
    let rings: Vec<_> = (0..count)
        .map(|index| RingSetup {
            size: 128,
            base: 0,
            address: RingAddress {
                index,
                flags: 0,
                descriptors: 0,
                used: 0,
                available: 0,
                log: 0,
            },
            kick: kick.as_fd(),
            call: call.as_fd(),
        })
        .collect();
    frontend.start(&rings).unwrap();
}

#[test]
fn the_lifecycle_follows_what_the_back_end_acknowledged() {
    let (mut frontend, backend) = ready(Script::default());
    assert_eq!(frontend.state(), Lifecycle::Stopped);
    start_rings(&mut frontend, 2);
    assert_eq!(frontend.state(), Lifecycle::Started);
    frontend.suspend().unwrap();
    assert_eq!(frontend.state(), Lifecycle::Suspended);
    frontend.resume().unwrap();
    assert_eq!(frontend.state(), Lifecycle::Started);
    let bases = frontend.stop().unwrap();
    assert_eq!(
        bases,
        [
            RingState {
                index: 0,
                value: 40
            },
            RingState {
                index: 1,
                value: 41
            }
        ]
    );
    assert_eq!(frontend.state(), Lifecycle::Stopped);
    frontend.suspend().unwrap();
    start_rings(&mut frontend, 1);
    assert_eq!(frontend.state(), Lifecycle::Suspended);
    frontend.reset_device().unwrap();
    assert_eq!(frontend.state(), Lifecycle::Started);

    let opening = [
        Request::GET_FEATURES,
        Request::GET_PROTOCOL_FEATURES,
        Request::SET_PROTOCOL_FEATURES,
        Request::SET_OWNER,
    ];
    assert_eq!(backend.requests()[..4], opening);
}

#[test]
fn a_refused_suspension_leaves_the_device_started() {
    let (mut frontend, _backend) = ready(Script {
        refuse: Some(Request::SUSPEND),
        ..Script::default()
    });
    start_rings(&mut frontend, 1);
    let error = frontend.suspend().unwrap_err();
    assert!(matches!(
        error,
        FrontendError::Refused {
            request: Request::SUSPEND,
            code: 1
        }
    ));
    assert_eq!(frontend.state(), Lifecycle::Started);
}

#[test]
fn state_moves_over_every_channel_and_over_the_back_ends_own() {
    let state = state(300_000); // more than a pipe holds
    for own_file in [false, true] {
        for channel in [Channel::Pipe, Channel::SocketPair, Channel::File] {
            let (mut frontend, backend) = ready(Script {
                state: state.clone(),
                own_file,
                ..Script::default()
            });
            let mut saved = Vec::new();
            assert_eq!(frontend.save_over(channel, &mut saved).unwrap(), 300_000);
            assert!(saved == state, "{channel:?}, own file {own_file}");
            assert_eq!(
                frontend.load_over(channel, &mut &saved[..]).unwrap(),
                300_000
            );
            assert!(
                backend.seen.lock().unwrap().loaded == state,
                "{channel:?} {own_file}"
            );
        }
    }
}

#[test]
fn state_is_not_moved_while_the_device_runs() {
    let (mut frontend, backend) = ready(Script::default());
    start_rings(&mut frontend, 1);
    let error = frontend.save(&mut Vec::new()).unwrap_err();
    assert!(
        matches!(
            error,
            FrontendError::State {
                state: Lifecycle::Started,
                ..
            }
        ),
        "{error}"
    );
    let error = frontend.load(&mut &[1_u8][..]).unwrap_err();
    assert!(matches!(error, FrontendError::State { .. }), "{error}");
    assert!(!backend.requests().contains(&Request::SET_DEVICE_STATE_FD));

    frontend.suspend().unwrap();
    frontend.save(&mut Vec::new()).unwrap();
}

#[test]
fn a_refused_state_is_an_error_even_when_the_back_end_stops_reading() {
    let (mut frontend, _backend) = ready(Script {
        load_limit: Some(10),
        ..Script::default()
    });
    for size in [10, 1_000_000] {
        for channel in [Channel::Pipe, Channel::SocketPair] {
            let error = frontend
                .load_over(channel, &mut &state(size)[..])
                .unwrap_err();
            let request = Request::CHECK_DEVICE_STATE;
            assert!(
                matches!(error, FrontendError::Refused { request: r, code: 1 } if r == request),
                "{size} bytes over {channel:?}: {error:?}"
            );
        }
    }
}

#[test]
fn a_refused_transfer_keeps_the_connection() {
    let script = Script {
        refuse: Some(Request::SET_DEVICE_STATE_FD),
        ..Script::default()
    };
    let (mut frontend, _backend) = ready(script);
    let error = frontend.save(&mut Vec::new()).unwrap_err();
    assert!(
        matches!(error, FrontendError::Refused { code: 0x101, .. }),
        "{error}"
    );
    frontend.features().unwrap();
}

#[test]
fn a_back_end_that_does_not_answer_is_an_error() {
    let (mut frontend, _backend) = ready(Script {
        ignore: Some(Request::SUSPEND),
        ..Script::default()
    });
    frontend.set_limit(Duration::from_millis(20)).unwrap();
    let error = frontend.suspend().unwrap_err();
    assert!(matches!(error, FrontendError::Unanswered { .. }), "{error}");

    let (mut frontend, _backend) = ready(Script {
        close_on: Some(Request::SET_FEATURES),
        ..Script::default()
    });
    let error = frontend.set_features(1).unwrap_err();
    assert!(
        matches!(
            error,
            FrontendError::Closed {
                request: Request::SET_FEATURES
            }
        ),
        "{error}"
    );
}

#[test]
fn what_was_not_agreed_on_is_not_sent() {
    let (mut frontend, backend) = Backend::start(Script::default());
    let offer = frontend.negotiate(protocol_feature::REPLY_ACK).unwrap();
    assert_eq!(
        (offer.protocol_features, offer.agreed),
        (EVERYTHING, protocol_feature::REPLY_ACK)
    );
    for error in [
        frontend.suspend().unwrap_err(),
        frontend.resume().unwrap_err(),
        frontend.save(&mut Vec::new()).unwrap_err(),
        frontend.check().unwrap_err(),
        frontend.reset_device().unwrap_err(),
        frontend.config(0, 1).unwrap_err(),
        frontend.ring_count().unwrap_err(),
    ] {
        assert!(
            matches!(error, FrontendError::NotNegotiated { .. }),
            "{error}"
        );
    }
    assert_eq!(backend.requests().len(), 4);

    let (mut frontend, _backend) = Backend::start(Script::default());
    frontend.negotiate(protocol_feature::SUSPEND).unwrap();
    let error = frontend.suspend().unwrap_err();
    assert!(
        matches!(
            error,
            FrontendError::NotNegotiated {
                feature: "REPLY_ACK",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_callers_own_failures_are_the_callers() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (mut frontend, _backend) = ready(Script {
        state: state(10),
        ..Script::default()
    });
    let error = frontend.save(&mut Broken).unwrap_err();
    assert!(matches!(error, FrontendError::Caller { .. }), "{error}");
}
