//! The front-end's end of the display socket: answers what the device asks, keeps what it shows, and holds it to the protocol.
//!
//! Like a console of QEMU it outlives connections: the VMM closes the socket when it stops a device and makes a new one when it
//! starts it. It can be slow, silent, or gone. A device that breaks the protocol is found out by the next question to the
//! display.

mod listener;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::ioctl_fionread;

use super::messages;
use super::picture::Picture;
use super::wire::{HEADER_SIZE, SCANOUTS_MAX};
use listener::listen;

/// Turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// How long the socket of a device that ought to be silent is watched.
const WATCH: Duration = Duration::from_millis(20);

/// A cursor as it is seen.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Whether it is seen at all.
    pub visible: bool,
    /// Where.
    pub at: (u32, u32),
    /// Its hot spot.
    pub hot: (u32, u32),
    /// Its image, rows of a8r8g8b8; empty if there was none yet.
    pub image: Vec<u8>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            visible,
            at,
            hot,
            image,
        } = self;
        let size = image.len();
        write!(
            formatter,
            "visible {visible} at {at:?} with {hot:?} of {size} bytes"
        )
    }
}

/// What is known of a head.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// What it shows, unless it is off.
    pub picture: Option<Picture>,
    /// Its cursor.
    pub cursor: Cursor,
    /// How many updates there were.
    pub updates: u64,
}

/// All that came so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The heads.
    pub heads: Vec<Head>,
    /// Questions that were not answered yet, but for those about features.
    pub unanswered: usize,
    /// Questions that came on any connection.
    pub questions: u64,
    /// Bytes of messages.
    pub bytes: u64,
    /// Whether the device has closed the connection that is current.
    pub left: bool,
}

/// What a display does of its own.
#[derive(Clone, Debug, Default)]
struct Manners {
    /// Size of each monitor, if there is one.
    monitors: Vec<Option<(u32, u32)>>,
    /// What else is particular about it.
    moods: BTreeSet<Mood>,
}

/// What a display does only sometimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mood {
    /// Questions wait.
    HoldsAnswers,
    /// Nothing is read.
    HoldsReading,
    /// Whatever comes is a fault.
    ExpectsSilence,
    /// With a connection ends what it has shown.
    Forgets,
}

impl Manners {
    fn is(&self, mood: Mood) -> bool {
        self.moods.contains(&mood)
    }

    fn set(&mut self, mood: Mood, on: bool) {
        if on {
            self.moods.insert(mood);
        } else {
            self.moods.remove(&mood);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    manners: Manners,
    connection: Option<Arc<Connection>>,
    generation: u64,
    fault: Option<String>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    /// Bytes were taken off the socket and not dealt with.
    busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the [module](self). Clones are the same display.
#[derive(Clone, Debug, Default)]
pub struct Display(Arc<Shared>);

impl Display {
    /// A display with a monitor of each of these sizes.
    pub fn new(monitors: &[(u32, u32)]) -> Self {
        let display = Self::default();
        let mut state = display.0.state();
        state.manners.monitors = monitors.iter().copied().map(Some).collect();
        state.seen.heads = vec![Head::default(); SCANOUTS_MAX];
        drop(state);
        display
    }

    /// A new connection in place of the one before; the device's end of it.
    pub fn connect(&self) -> Result<UnixStream> {
        self.close();
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let connection = Arc::new(Connection {
            socket: near,
            busy: AtomicBool::new(false),
        });
        let mut state = self.0.state();
        state.generation += 1;
        state.seen.left = false;
        state.seen.unanswered = 0;
        state.manners.set(Mood::ExpectsSilence, false);
        state.connection = Some(Arc::clone(&connection));
        let generation = state.generation;
        drop(state);
        let shared = Arc::clone(&self.0);
        thread::Builder::new()
            .name("display".into())
            .spawn(move || listen(&shared, &connection, generation))?;
        Ok(far)
    }

    /// The VMM closes the socket, as QEMU does before it stops a device. What is shown stays, unless it is to be
    /// [forgotten](Self::forget_at_close).
    pub fn close(&self) {
        let mut state = self.0.state();
        state.generation += 1;
        if let Some(connection) = state.connection.take() {
            // Fails if the device was the first to close.
            let _ = connection.socket.shutdown(Shutdown::Both);
            if state.manners.is(Mood::Forgets) {
                state.seen.heads = vec![Head::default(); SCANOUTS_MAX];
            }
        }
        self.0.changed.notify_all();
    }

    /// Whether each connection is that of a new console.
    pub fn forget_at_close(&self, forget: bool) {
        self.0.state().manners.set(Mood::Forgets, forget);
    }

    /// Other monitors.
    pub fn set_monitors(&self, monitors: &[Option<(u32, u32)>]) {
        self.0.state().manners.monitors = monitors.to_vec();
    }

    /// What a guest has to get for `GET_DISPLAY_INFO`, without the header.
    pub fn display_info(&self) -> Vec<u8> {
        let info = messages::display_info(&self.0.state().manners.monitors);
        info.get(HEADER_SIZE..).unwrap_or_default().to_vec()
    }

    /// What a guest has to get for `GET_EDID`, without the header.
    pub fn edid(&self, scanout: u32) -> Vec<u8> {
        let edid = messages::edid(scanout);
        edid.get(HEADER_SIZE..).unwrap_or_default().to_vec()
    }

    /// Whether questions wait for their answers.
    pub fn hold_answers(&self, hold: bool) {
        self.0.state().manners.set(Mood::HoldsAnswers, hold);
    }

    /// Whether nothing is read.
    pub fn hold_reading(&self, hold: bool) {
        self.0.state().manners.set(Mood::HoldsReading, hold);
    }

    /// What has come so far; an error if the device broke the protocol.
    pub fn seen(&self) -> Result<Seen> {
        let state = self.0.state();
        check(&state)?;
        Ok(state.seen.clone())
    }

    /// Waits until what has come is what the caller waits for.
    pub fn wait(&self, what: &str, is_there: impl FnMut(&Seen) -> bool) -> Result<Seen> {
        let mut is_there = is_there;
        let end = Instant::now() + DEADLINE;
        let mut state = self.0.state();
        loop {
            check(&state)?;
            if is_there(&state.seen) {
                return Ok(state.seen.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the display waits in vain: {what}");
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a head shows this.
    pub fn expect(&self, head: usize, expected: &Picture) -> Result<()> {
        let shown = |seen: &Seen| seen.heads.get(head).and_then(|head| head.picture.clone());
        let waited = self.wait("a picture", |seen| shown(seen).as_ref() == Some(expected));
        waited.map(drop).with_context(|| {
            let shown = shown(&self.0.state().seen);
            let at = shown
                .as_ref()
                .filter(|shown| shown.area() == expected.area())
                .and_then(|shown| shown.difference(expected));
            let pixels = at.map(|(x, y)| {
                let got = shown.as_ref().map_or(0, |shown| shown.get(x, y));
                let wanted = expected.get(x, y);
                format!(": {got:#08x} and not {wanted:#08x} at {x},{y}")
            });
            let pixels = pixels.unwrap_or_default();
            format!("head {head} shows {shown:?} and not {expected:?}{pixels}")
        })
    }

    /// Waits until a head shows nothing.
    pub fn expect_dark(&self, head: usize) -> Result<()> {
        let is_dark = |seen: &Seen| {
            seen.heads
                .get(head)
                .is_some_and(|head| head.picture.is_none())
        };
        self.wait(&format!("head {head} is off"), is_dark).map(drop)
    }

    /// The device must be silent from now on, until the next connection or until [`listen`](Self::listen). What it said
    /// before is heard first.
    pub fn expect_silence(&self) -> Result<()> {
        self.settle()?;
        self.0.state().manners.set(Mood::ExpectsSilence, true);
        Ok(())
    }

    /// Watches the silence a little, and ends it: the device may speak again.
    pub fn listen(&self) -> Result<()> {
        thread::sleep(WATCH);
        let mut state = self.0.state();
        check(&state)?;
        state.manners.set(Mood::ExpectsSilence, false);
        Ok(())
    }

    /// Bytes that were sent and not read.
    pub fn unread(&self) -> Result<u64> {
        let state = self.0.state();
        let connection = state.connection.as_ref().context("no connection")?;
        Ok(ioctl_fionread(&connection.socket)?)
    }

    /// Waits until everything that was sent is heard.
    pub fn settle(&self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        let Some(connection) = self.0.state().connection.clone() else {
            return Ok(());
        };
        // In this order: what was taken off the socket made the reader busy before.
        while ioctl_fionread(&connection.socket)? > 0 || connection.busy.load(Ordering::SeqCst) {
            ensure!(Instant::now() < end, "the display socket never empties");
            thread::sleep(Duration::from_millis(1));
        }
        check(&self.0.state())
    }
}

fn check(state: &State) -> Result<()> {
    match &state.fault {
        Some(fault) => bail!("the device broke the protocol: {fault}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
