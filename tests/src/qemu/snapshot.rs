//! Finds the device's state inside a machine that QEMU saved to a file.
//!
//! QEMU stores what a back-end wrote as chunks: length (big-endian, 32 bits), bytes, and so on until
//! a length of 0 (`vhost_save_backend_state` in QEMU). A machine has one such device here.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::channel::MAGIC;

/// The state of the only vhost-user device in a saved machine.
pub fn device_state(file: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let found = find(&bytes).and_then(|start| bytes.get(start.checked_sub(4)?..));
    let Some(mut rest) = found else {
        bail!("{} holds no device state", file.display());
    };
    let mut state = Vec::new();
    loop {
        let (length, after) = rest
            .split_first_chunk()
            .context("the file ends in a length")?;
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        if length == 0 {
            return Ok(state);
        }
        let (chunk, after) = after
            .split_at_checked(length)
            .context("the file ends within the device's state")?;
        state.extend(chunk);
        rest = after;
    }
}

/// Where the state begins in `bytes`.
pub fn find(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(parts: &[&[u8]]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), parts.concat()).unwrap();
        file
    }

    #[test]
    fn chunks_are_joined() {
        let file = file(&[
            b"RAM",
            &[0, 0, 0, 10],
            b"VHUSTATEab",
            &[0, 0, 0, 1],
            b"c",
            &[0; 9],
        ]);
        assert_eq!(device_state(file.path()).unwrap(), b"VHUSTATEabc");
    }

    #[test]
    fn a_file_without_a_whole_state_is_refused() {
        for parts in [
            [&b"RAM"[..], b"CPU"],
            [b"VHUSTATE", b""],
            [&[0, 0, 0, 10], b"VHUSTATE"],
            [&[0, 0, 0, 8], b"VHUSTATE\0\0"],
        ] {
            assert!(device_state(file(&parts).path()).is_err(), "{parts:?}");
        }
    }
}
