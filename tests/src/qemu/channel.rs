//! A migration channel with somebody in the middle, who sees when the device's state comes by.
//!
//! Passes everything on in both directions. At the first bytes of a state stream it calls back,
//! with the bytes in hand: to damage them, or to kill somebody at the worst moment.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};

use super::snapshot::find;

/// How a state begins: `common::state`, "header".
pub(super) const MAGIC: &[u8] = b"VHUSTATE";

/// After this many bytes of a state, one of a section's is hit: the header is shorter.
const DAMAGED_OFFSET: usize = 100;

/// Tells whether a state came by: a test that disturbs it has to know that it did.
#[derive(Debug, Clone, Default)]
pub struct StateSeen(Arc<AtomicBool>);

impl StateSeen {
    /// Whether one did, so far.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens at `listen`, passes on to `forward`; `at_state` is called once, with the state's
/// beginning and enough of it to [`damage`].
pub fn intercept(
    listen: &Path,
    forward: &Path,
    at_state: impl FnOnce(&mut [u8]) + Send + 'static,
) -> Result<StateSeen> {
    let seen = StateSeen::default();
    let mark = seen.clone();
    let listener =
        UnixListener::bind(listen).with_context(|| format!("listening at {}", listen.display()))?;
    let forward = forward.to_owned();
    // They end with the two QEMUs; errors are theirs to report, as a broken channel.
    thread::spawn(move || {
        let (source, _) = listener.accept()?;
        let destination = UnixStream::connect(&forward)?;
        let (back_from, back_to) = (destination.try_clone()?, source.try_clone()?);
        thread::spawn(move || pass_on(back_from, back_to, |_| false));
        let mut at_state = Some(at_state);
        pass_on(source, destination, |bytes| {
            let Some(start) = find(bytes) else {
                return bytes.len() >= MAGIC.len() && is_beginning(bytes);
            };
            let state = bytes.get_mut(start..).unwrap_or_default();
            if at_state.is_some() && state.len() <= DAMAGED_OFFSET {
                return true;
            }
            if let Some(at_state) = at_state.take() {
                mark.0.store(true, Ordering::Relaxed);
                at_state(state);
            }
            false
        })
    });
    Ok(seen)
}

/// Flips one bit of a state.
pub fn damage(state: &mut [u8]) {
    if let Some(byte) = state.get_mut(DAMAGED_OFFSET) {
        *byte ^= 0x10;
    }
}

/// Whether the bytes end in the middle of a state's beginning.
fn is_beginning(bytes: &[u8]) -> bool {
    (1..MAGIC.len()).any(|length| {
        MAGIC
            .get(..length)
            .is_some_and(|part| bytes.ends_with(part))
    })
}

/// Copies until the end. `look` may change what is about to be sent, or ask for more bytes first.
fn pass_on(
    mut from: UnixStream,
    mut to: UnixStream,
    mut look: impl FnMut(&mut [u8]) -> bool,
) -> std::io::Result<()> {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer)?;
        pending.extend(buffer.iter().take(count));
        if count == 0 || !look(&mut pending) {
            to.write_all(&pending)?;
            pending.clear();
        }
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `parts` through a channel that damages states; what arrives.
    fn sent(parts: &[&[u8]]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let (listen, forward) = (folder.path().join("in"), folder.path().join("out"));
        let output = UnixListener::bind(&forward).unwrap();
        let seen = intercept(&listen, &forward, damage).unwrap();
        let mut input = UnixStream::connect(&listen).unwrap();
        let (mut output, _) = output.accept().unwrap();
        for part in parts {
            input.write_all(part).unwrap();
        }
        input.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        output.read_to_end(&mut received).unwrap();
        assert_eq!(seen.get(), received.windows(8).any(|bytes| bytes == MAGIC));
        received
    }

    #[test]
    fn one_bit_of_the_state_is_damaged_and_nothing_else() {
        let mut stream = vec![7; 70_000];
        stream.extend(MAGIC);
        stream.extend([9; 300]);
        let mut expected = stream.clone();
        expected[70_000 + DAMAGED_OFFSET] ^= 0x10;
        assert_eq!(sent(&[&stream]), expected);
        // Cut within the magic, and shortly after it.
        let parts = [
            &stream[..70_003],
            &stream[70_003..70_020],
            &stream[70_020..],
        ];
        assert_eq!(sent(&parts), expected);
    }

    #[test]
    fn a_channel_without_state_is_left_alone() {
        assert_eq!(sent(&[b"VHUST", b"ART"]), b"VHUSTART");
    }
}
