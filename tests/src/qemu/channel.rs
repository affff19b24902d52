//! A migration channel with somebody in the middle, who sees when devices' states come by.
//!
//! Passes everything on in both directions. At certain [`Moment`]s it calls back before it passes on more: then a state can be
//! damaged, or somebody be killed, at a step of the transfer that is exactly known. Knows how QEMU sends a state (see
//! [`snapshot`](super::snapshot)) and how one begins, and nothing else of a machine.

use std::io::{BufRead, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use common::state::DeviceKind;

/// How a state begins: `common::state`, "header".
pub(super) const MAGIC: &[u8] = b"VHUSTATE";

/// Where a state tells whose it is, and how long that is.
const KIND_OFFSET: usize = 10;

/// After this many bytes of a state, one of a section's is hit: the header is shorter.
pub(crate) const DAMAGED_OFFSET: usize = 100;

/// As much of a state is shown to those who want to damage it.
const SHOWN_BYTES: usize = DAMAGED_OFFSET + 1;

/// Bytes of a length in QEMU's stream.
const LENGTH_BYTES: usize = 4;

/// A moment at which the channel holds everything back until it may go on.
#[derive(Debug)]
pub enum Moment<'a> {
    /// The machine begins to come, and nothing of it was passed on.
    Begin,
    /// QEMU has all that it needs to ask the back-end of this device to load its state, and nothing of the state; these are its
    /// first bytes, as they will be passed on.
    State(DeviceKind, &'a mut [u8]),
    /// A piece of the state was passed on, and not its end.
    Piece(DeviceKind),
    /// All of the state was, of so many bytes, but not its end.
    Whole(DeviceKind, u64),
    /// Its end was.
    End(DeviceKind),
}

/// Tells whether a state came by: a test that disturbs it has to know that it did.
#[derive(Debug, Clone, Default)]
pub struct StateSeen(Arc<AtomicBool>);

impl StateSeen {
    /// One did.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one did, so far.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens at `listen`, passes on to `forward`; `at_state` is called once, with the first state's
/// beginning and enough of it to [`damage`].
pub fn intercept(
    listen: &Path,
    forward: &Path,
    at_state: impl FnOnce(&mut [u8]) + Send + 'static,
) -> Result<StateSeen> {
    let seen = StateSeen::default();
    let mark = seen.clone();
    let mut at_state = Some(at_state);
    watch(listen, forward, move |moment| {
        if let Moment::State(_, state) = moment
            && let Some(at_state) = at_state.take()
        {
            mark.set();
            at_state(state);
        }
    })?;
    Ok(seen)
}

/// Listens at `listen`, passes on to `forward`; `observe` is called at every [`Moment`].
pub fn watch(
    listen: &Path,
    forward: &Path,
    mut observe: impl FnMut(Moment<'_>) + Send + 'static,
) -> Result<()> {
    between(listen, forward, move |source, destination| {
        pass_on(source, destination, &mut observe)
    })
}

/// Listens at `listen` and connects to `forward`; `pass_on` copies what the source sends, what comes back is copied as it is.
pub(crate) fn between(
    listen: &Path,
    forward: &Path,
    pass_on: impl FnOnce(UnixStream, UnixStream) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    let listener =
        UnixListener::bind(listen).with_context(|| format!("listening at {}", listen.display()))?;
    let forward = forward.to_owned();
    // They end with the two QEMUs; errors are theirs to report, as a broken channel.
    thread::spawn(move || {
        let (source, _) = listener.accept()?;
        let destination = UnixStream::connect(&forward)?;
        let (mut back_from, mut back_to) = (destination.try_clone()?, source.try_clone()?);
        let ended = destination.try_clone()?;
        thread::spawn(move || {
            let _error_or_end = std::io::copy(&mut back_from, &mut back_to);
            // A destination that was killed is an error here; the source has to learn of both.
            back_to.shutdown(Shutdown::Write)
        });
        let result = pass_on(source, destination);
        // Also after an error: the way back keeps the socket open.
        ended.shutdown(Shutdown::Write).and(result)
    });
    Ok(())
}

/// Flips one bit of a state.
pub fn damage(state: &mut [u8]) {
    if let Some(byte) = state.get_mut(DAMAGED_OFFSET) {
        *byte ^= 0x10;
    }
}

/// Copies until the end.
fn pass_on(
    mut from: UnixStream,
    mut to: UnixStream,
    observe: &mut dyn FnMut(Moment<'_>),
) -> std::io::Result<()> {
    let mut scanner = Scanner::default();
    let mut pending = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    observe(Moment::Begin);
    loop {
        let count = from.read(&mut buffer)?;
        pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 {
            to.write_all(&pending)?;
            return to.shutdown(Shutdown::Write);
        }
        loop {
            let length = scanner.next(&mut pending, observe);
            if length == 0 {
                break;
            }
            let (passed, rest) = pending.split_at(length);
            to.write_all(passed)?;
            pending = rest.to_vec();
        }
    }
}

/// Where in QEMU's stream we are.
#[derive(Debug, Default)]
enum Place {
    /// In no state.
    #[default]
    Outside,
    /// In a piece of a state, of which so many bytes are left.
    Piece(DeviceKind, usize),
    /// Before a length: of the next piece, or 0 for the end.
    Length(DeviceKind),
    /// The end was passed on.
    Ended(DeviceKind),
}

#[derive(Debug, Default)]
struct Scanner {
    place: Place,
    /// Pieces of this state were passed on.
    has_pieces: bool,
    /// How many bytes of it.
    bytes: u64,
    /// What was passed on last: a state's first length is before its magic.
    before: [u8; LENGTH_BYTES],
}

impl Scanner {
    /// How many of the pending bytes may be passed on; none if more are needed to tell.
    fn next(&mut self, pending: &mut [u8], observe: &mut dyn FnMut(Moment<'_>)) -> usize {
        match self.place {
            Place::Outside => self.find(pending, observe),
            Place::Piece(kind, left) => {
                let length = pending.len().min(left);
                self.bytes += length as u64;
                if length == left {
                    self.place = Place::Length(kind);
                } else {
                    self.place = Place::Piece(kind, left - length);
                }
                length
            }
            Place::Length(kind) => {
                let Some(length) = pending.first_chunk().copied() else {
                    return 0;
                };
                if !std::mem::replace(&mut self.has_pieces, true) {
                    observe(Moment::Piece(kind));
                }
                self.place = match big_endian(length) {
                    0 => {
                        observe(Moment::Whole(kind, self.bytes));
                        Place::Ended(kind)
                    }
                    length => Place::Piece(kind, length),
                };
                LENGTH_BYTES
            }
            Place::Ended(kind) => {
                observe(Moment::End(kind));
                *self = Self::default();
                self.find(pending, observe)
            }
        }
    }

    /// Passes on what is before a state.
    fn find(&mut self, pending: &mut [u8], observe: &mut dyn FnMut(Moment<'_>)) -> usize {
        let length = match position(pending) {
            Found::Nothing => pending.len(),
            Found::State(0) => {
                if pending.len() < SHOWN_BYTES {
                    return 0;
                }
                match kind(pending) {
                    Some(kind) => {
                        observe(Moment::State(kind, pending));
                        self.place = Place::Piece(kind, big_endian(self.before));
                        return self.next(pending, observe);
                    }
                    // By chance, in a page of memory.
                    None => 1,
                }
            }
            Found::Perhaps(start) | Found::State(start) => start,
        };
        let passed = pending.get(..length).unwrap_or_default();
        for byte in passed.iter().skip(length.saturating_sub(LENGTH_BYTES)) {
            self.before.rotate_left(1);
            self.before[LENGTH_BYTES - 1] = *byte;
        }
        length
    }
}

/// Where a state begins, or may begin if more bytes come.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Perhaps(usize),
    State(usize),
}

/// Goes from one first letter to the next with the help of the standard library, which is optimized when we are not: tens of
/// megabytes pass here.
fn position(bytes: &[u8]) -> Found {
    let mut rest = bytes;
    loop {
        // Reading from memory does not fail.
        let _skipped = rest.skip_until(b'V');
        let start = (bytes.len() - rest.len()).saturating_sub(1);
        let candidate = bytes.get(start..).unwrap_or_default();
        if candidate.starts_with(MAGIC) {
            return Found::State(start);
        }
        if !candidate.is_empty() && MAGIC.starts_with(candidate) {
            return Found::Perhaps(start);
        }
        if rest.is_empty() {
            return Found::Nothing;
        }
    }
}

/// Whose state it is.
fn kind(state: &[u8]) -> Option<DeviceKind> {
    let number = state.get(KIND_OFFSET..)?.first_chunk()?;
    DeviceKind::from_u16(u16::from_le_bytes(*number))
}

fn big_endian(length: [u8; LENGTH_BYTES]) -> usize {
    // A length of QEMU's is at most a megabyte.
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
