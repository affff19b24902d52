//! The display socket: what the screens show goes out, what only the front-end knows comes in.
//!
//! A thread of its own does all I/O on the socket, so a reader that is slow, or that waits for us elsewhere (QEMU's main thread does
//! both), holds up no ring. It sends only with leave of the gate (`Guest::background`), which it never holds while it waits. Each
//! start brings another socket, and the end of one is no error.
//!
//! `outbox.rs` decides what is said, `questions.rs` what is asked, `protocol.rs` how; `client.rs` is the thread.

mod client;
mod outbox;
mod protocol;
mod questions;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use common::device::Guest;
use rustix::event::{EventfdFlags, eventfd};

use crate::renderer::Stage;
use crate::screens::Screens;
use client::Client;
use questions::Questions;
pub use questions::{Question, Reply};

/// The screens, and whoever looks at them.
#[derive(Debug)]
pub struct Display {
    shared: Arc<Shared>,
    headless: bool,
    thread: Option<JoinHandle<()>>,
}

/// What the rings and the thread both use.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the thread; an eventfd.
    wake: OwnedFd,
}

struct Inner {
    screens: Screens,
    questions: Questions,
    socket: Option<Arc<UnixStream>>,
    /// Number of the socket.
    connection: u64,
    /// Our way to the guest, while the device is not suspended.
    guest: Option<Guest>,
    /// The thread waits for news.
    idle: bool,
    exit: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Inner({})", self.connection)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes the thread if it waits for news, and may tell them.
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let wake = inner.idle && inner.guest.is_some();
        inner.idle &= !wake;
        drop(inner);
        if wake {
            self.wake();
        }
        result
    }

    /// Wakes the thread whatever it waits for.
    fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_le_bytes()) {
            log::error!("host: the display thread cannot be woken: {error}");
        }
    }
}

impl Stage for Display {
    fn change<R>(&self, change: impl FnOnce(&mut Screens) -> R) -> R {
        self.shared.change(|inner| change(&mut inner.screens))
    }
}

impl Display {
    /// Without a socket, and suspended. A `headless` one takes no socket, and answers questions itself.
    pub fn new(screens: Screens, headless: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                screens,
                questions: Questions::new(headless),
                socket: None,
                connection: 0,
                guest: None,
                idle: false,
                exit: false,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let thread = if headless {
            None
        } else {
            let client = Client::new(Arc::clone(&shared));
            let thread = std::thread::Builder::new().name("display".into());
            Some(thread.spawn(move || client.run())?)
        };
        Ok(Self {
            shared,
            headless,
            thread,
        })
    }

    /// From now on this one is the socket.
    pub fn set_socket(&self, socket: UnixStream) {
        if self.headless {
            log::info!("--headless: the front-end's display socket is not used");
            return;
        }
        self.shared.change(|inner| {
            inner.socket = Some(Arc::new(socket));
            inner.connection += 1;
            inner.screens.introduce();
            inner.questions.reconnect();
            inner.questions.trust();
        });
        self.shared.wake();
    }

    /// Tells the reader everything again, from its beginning.
    pub fn resume(&self, guest: &Guest) {
        self.shared.change(|inner| {
            inner.guest = Some(guest.clone());
            inner.screens.introduce();
        });
    }

    /// Nothing more is said. Nothing is being said: the gate is closed by now. What was asked will be asked again.
    pub fn suspend(&self) {
        self.shared.change(|inner| {
            inner.guest = None;
            inner.questions.forget();
        });
    }

    /// The reply to a question, if it is there; if not, the control ring will be served again when it is.
    pub fn ask(&self, question: Question) -> Option<Reply> {
        let reply = self
            .shared
            .change(|inner| inner.questions.ask(question, Instant::now()));
        if reply.is_none() {
            self.shared.wake(); // it may be waiting for a reader that takes nothing, and has a deadline now
        }
        reply
    }

    /// Screens and what is known of the front-end, for those who save and load them.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Screens, &mut Known<'_>) -> R) -> R {
        self.shared.change(|inner| {
            let Questions { info, edids, .. } = &mut inner.questions;
            work(&mut inner.screens, &mut Known { info, edids })
        })
    }
}

/// What the front-end said last.
pub struct Known<'a> {
    pub(crate) info: &'a mut Option<Box<crate::wire::DisplayInfo>>,
    pub(crate) edids: &'a mut [Option<crate::wire::Edid>; crate::wire::SCANOUTS_MAX],
}

impl Known<'_> {
    /// As if it had said nothing.
    pub(crate) fn forget(&mut self) {
        *self.info = None;
        self.edids.fill(None);
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.shared.change(|inner| inner.exit = true);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the display thread panicked; please report this");
        }
    }
}
