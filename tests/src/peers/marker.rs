//! Somebody in the middle of a migration who knows the states of other daemons only by how they begin.
//!
//! For our own states there is [`channel`](crate::qemu::channel), which knows every step of the way.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;

use crate::qemu::channel::{DAMAGED_OFFSET, StateSeen, between};

/// Listens at `listen`, passes on to `forward`; `at_state` is called once, with what begins with `marker` and enough of it to
/// [`damage`](crate::qemu::channel::damage).
pub(super) fn intercept_at(
    marker: &'static [u8],
    listen: &Path,
    forward: &Path,
    at_state: impl FnOnce(&mut [u8]) + Send + 'static,
) -> Result<StateSeen> {
    let seen = StateSeen::default();
    let mark = seen.clone();
    let mut at_state = Some(at_state);
    between(listen, forward, move |source, destination| {
        pass_on(source, destination, |bytes| {
            let mut windows = bytes.windows(marker.len());
            let Some(start) = windows.position(|window| window == marker) else {
                return bytes.len() >= marker.len() && is_beginning(marker, bytes);
            };
            let state = bytes.get_mut(start..).unwrap_or_default();
            if at_state.is_some() && state.len() <= DAMAGED_OFFSET {
                return true;
            }
            if let Some(at_state) = at_state.take() {
                mark.set();
                at_state(state);
            }
            false
        })
    })?;
    Ok(seen)
}

/// Whether the bytes end in the middle of a marker.
fn is_beginning(marker: &[u8], bytes: &[u8]) -> bool {
    (1..marker.len()).any(|length| {
        marker
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
    use crate::qemu::channel::damage;
    use crate::qemu::channel::tests::sent_through;

    const MARKER: &[u8] = b"MARKER";

    /// Sends `parts` through a channel that damages what begins with the marker; what arrives.
    fn sent(parts: &[&[u8]]) -> Vec<u8> {
        let (received, seen) = sent_through(parts, |listen, forward| {
            intercept_at(MARKER, listen, forward, damage)
        });
        let has_marker = received.windows(MARKER.len()).any(|bytes| bytes == MARKER);
        assert_eq!(seen, has_marker);
        received
    }

    #[test]
    fn one_bit_behind_the_marker_is_damaged_and_nothing_else() {
        let mut stream = vec![7; 70_000];
        stream.extend(MARKER);
        stream.extend([9; 300]);
        let mut expected = stream.clone();
        expected[70_000 + DAMAGED_OFFSET] ^= 0x10;
        assert_eq!(sent(&[&stream]), expected);
        // Cut within the marker, and shortly after it.
        let parts = [
            &stream[..70_003],
            &stream[70_003..70_020],
            &stream[70_020..],
        ];
        assert_eq!(sent(&parts), expected);
    }

    #[test]
    fn a_channel_without_the_marker_is_left_alone() {
        assert_eq!(sent(&[b"MARK", b"ING"]), b"MARKING");
    }
}
