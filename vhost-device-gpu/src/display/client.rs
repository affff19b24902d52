//! The thread that talks to the display socket. It never waits for the socket alone: whatever happens, it can be woken.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::device::Guest;
use common::report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::outbox;
use super::protocol::{HEADER_BYTES, REPLY_BYTES_MAX, ReplyHeader};
use super::questions::Composed;
use super::{Inner, Shared};
use crate::wire::CONTROL_RING;

/// How soon a closed gate is tried again: it may be opened without the device being told, after a suspension that failed.
const GATE_RETRY: Duration = Duration::from_millis(20);

/// Room for a message that is always kept, and how long more than that is kept by somebody who may be in the middle of a film.
const KEPT_BYTES: usize = 256 << 10;
const KEPT_FOR: Duration = Duration::from_secs(1);

pub(super) struct Client {
    shared: Arc<Shared>,
    link: Option<Arc<UnixStream>>,
    /// Number of the socket behind `link`.
    connection: u64,
    /// A message, and how much of it was sent. Its room is used again and again, but a large one not kept for ever.
    out: Vec<u8>,
    sent: usize,
    /// When something was sent.
    used: Instant,
    /// What was read and is not a whole reply yet.
    input: Vec<u8>,
}

/// What to do next.
enum Step {
    Exit,
    /// There is a message to send, or the rest of one.
    Send(Guest),
    /// Nothing to do before something happens.
    Wait {
        /// Whether the socket is listened to.
        listen: bool,
        until: Option<Instant>,
    },
}

/// The socket is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the front-end closed the display socket")]
    Closed,
    #[error("host: display socket")]
    Failed(#[source] std::io::Error),
    #[error("front-end: a message on the display socket that is no reply, with {size} bytes")]
    NoReply { size: u32 },
    #[error(transparent)]
    Unexpected(#[from] super::questions::UnexpectedReply),
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            link: None,
            connection: 0,
            out: Vec::new(),
            sent: 0,
            used: Instant::now(),
            input: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let done = match self.next() {
                Step::Exit => return,
                Step::Send(guest) => self.send(&guest),
                Step::Wait { listen, until } => self.wait(listen, false, until),
            };
            if let Err(lost) = done {
                self.give_up(&lost);
            }
        }
    }

    fn next(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        if inner.exit {
            return Step::Exit;
        }
        if inner.connection != self.connection {
            self.connection = inner.connection;
            self.link.clone_from(&inner.socket);
            self.out.clear();
            self.sent = 0;
            self.input.clear();
        }
        let Some(guest) = inner.guest.clone() else {
            inner.idle = true;
            return Step::Wait {
                listen: false,
                until: self.release(),
            };
        };
        if inner.questions.expire(Instant::now(), self.link.is_some()) {
            guest.serve(CONTROL_RING);
        }
        if self.link.is_some() && (!self.out.is_empty() || self.compose(&mut inner, &guest)) {
            return Step::Send(guest);
        }
        inner.idle = true;
        let wakings = [inner.questions.deadline(), self.release()];
        Step::Wait {
            listen: self.link.is_some(),
            until: wakings.into_iter().flatten().min(),
        }
    }

    /// Gives a large room back that nothing was sent from for a while; when to try again, if that is not now.
    fn release(&mut self) -> Option<Instant> {
        let due = self.used + KEPT_FOR;
        if self.out.capacity() <= KEPT_BYTES {
            return None;
        }
        if Instant::now() < due {
            return Some(due);
        }
        self.out.shrink_to(KEPT_BYTES);
        None
    }

    /// Whether there is a message now.
    fn compose(&mut self, inner: &mut Inner, guest: &Guest) -> bool {
        match inner.questions.compose(&mut self.out) {
            Composed::Message => return true,
            Composed::Answered => guest.serve(CONTROL_RING),
            Composed::Nothing => {}
        }
        outbox::compose(&mut inner.screens, &mut self.out)
    }

    /// Sends what the socket takes, and waits for it to take more if that was not all.
    fn send(&mut self, guest: &Guest) -> Result<(), Lost> {
        let Some(token) = guest.background() else {
            return self.wait(false, false, Some(Instant::now() + GATE_RETRY));
        };
        let Some(link) = &self.link else {
            return Ok(());
        };
        let rest = self.out.get(self.sent..).unwrap_or_default();
        let result = send(link, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        drop(token);
        match result.map_err(std::io::Error::from) {
            Ok(sent) => {
                self.sent += sent;
                self.used = Instant::now();
                if self.sent >= self.out.len() {
                    self.out.clear();
                    self.sent = 0;
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let until = self.shared.lock().questions.deadline();
                self.wait(true, true, until)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Lost::Closed),
            Err(error) => Err(Lost::Failed(error)),
        }
    }

    /// Waits until it is woken, `until` has come, or the socket has something to read or takes more.
    fn wait(&mut self, read: bool, write: bool, until: Option<Instant>) -> Result<(), Lost> {
        let timeout = until
            .map(|until| until.saturating_duration_since(Instant::now()))
            .map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, read);
        interest.set(PollFlags::OUT, write);
        let link = self.link.clone().filter(|_| !interest.is_empty());
        let mut sides = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        sides.extend(link.as_ref().map(|link| PollFd::new(link, interest)));
        match poll(&mut sides, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Lost::Failed(error.into())),
        }
        let happened: Vec<PollFlags> = sides.iter().map(PollFd::revents).collect();
        drop(sides);
        if happened.first().is_some_and(|wake| !wake.is_empty()) {
            let _emptied_already = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        let ended = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        match happened.get(1) {
            Some(socket) if socket.intersects(ended) => self.receive(),
            _ => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<(), Lost> {
        let Some(link) = self.link.clone() else {
            return Ok(());
        };
        let mut buffer = [0; REPLY_BYTES_MAX];
        let received = match recv(&link, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Err(Lost::Closed),
            Ok((_, received)) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(Lost::Failed(error.into())),
        };
        self.input
            .extend_from_slice(buffer.get(..received).unwrap_or_default());
        while let Some(header) = self.input.get(..HEADER_BYTES).map(ReplyHeader::decode) {
            let size = header.size as usize;
            if header.flags & super::protocol::FLAG_REPLY == 0 || size > REPLY_BYTES_MAX {
                return Err(Lost::NoReply { size: header.size });
            }
            let Some(payload) = self.input.get(HEADER_BYTES..HEADER_BYTES + size) else {
                break;
            };
            let mut inner = self.shared.lock();
            if inner.connection != self.connection {
                return Ok(()); // there is another socket, which is looked at next
            }
            if inner.questions.take_reply(header.request, payload)?
                && let Some(guest) = &inner.guest
            {
                guest.serve(CONTROL_RING);
            }
            drop(inner);
            self.input.drain(..HEADER_BYTES + size);
        }
        Ok(())
    }

    /// Forgets the socket. The next start brings another one.
    fn give_up(&mut self, lost: &Lost) {
        match lost {
            Lost::Closed => log::info!("{lost}"),
            Lost::Failed(_) | Lost::NoReply { .. } | Lost::Unexpected(_) => {
                log::error!("the display socket is given up: {}", report::chain(lost));
            }
        }
        self.link = None;
        let mut inner = self.shared.lock();
        if inner.connection == self.connection {
            inner.socket = None;
            inner.questions.reconnect();
        }
    }
}
