//! Messages of the display socket (vhost-user-gpu.rst, "Communication"), taken apart, and their replies.
//!
//! Knows what a message is, and not whether it may come now.

use anyhow::{Context, Result, bail, ensure};

use super::wire::{
    CURSOR_SIZE, DISPLAY_INFO_SIZE, EDID_SIZE, HEADER_SIZE, Rect, SCANOUTS_MAX, answer, word_at,
};

/// Bytes of a header: request, flags, size.
const HEADER: usize = 12;

/// `VHOST_USER_GPU_FLAG_REPLY`.
const FLAG_REPLY: u32 = 1 << 2;

/// More than any picture that a test shows.
const PAYLOAD_MAX: usize = 256 << 20;

/// `VHOST_USER_GPU_PROTOCOL_F_EDID`.
pub(super) const FEATURE_EDID: u64 = 1;

/// `VHOST_USER_GPU_PROTOCOL_F_DMABUF2`.
pub(super) const FEATURE_DMABUF2: u64 = 1 << 1;

/// What the device asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    ProtocolFeatures,
    DisplayInfo,
    Edid { scanout: u32 },
}

/// What the device says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ask(Question),
    SetProtocolFeatures(u64),
    CursorPosition {
        scanout: u32,
        at: (u32, u32),
        visible: bool,
    },
    CursorUpdate {
        scanout: u32,
        at: (u32, u32),
        hot: (u32, u32),
        image: Vec<u8>,
    },
    Scanout {
        scanout: u32,
        width: u32,
        height: u32,
    },
    Update {
        scanout: u32,
        rect: Rect,
        pixels: Vec<u8>,
    },
}

/// Takes the first message off `bytes`, if all of it is there.
pub(super) fn take(bytes: &mut &[u8]) -> Result<Option<Message>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [request, flags, size] = [0, 4, 8].map(|offset| word_at(header, offset));
    let (request, flags, size) = (request?, flags?, size? as usize);
    ensure!(flags == 0, "request {request} with flags {flags:#x}");
    ensure!(size <= PAYLOAD_MAX, "request {request} of {size} bytes");
    let Some(payload) = bytes.get(HEADER..HEADER + size) else {
        return Ok(None);
    };
    let message = parse(request, payload)
        .with_context(|| format!("display request {request} of {size} bytes"))?;
    *bytes = bytes.get(HEADER + size..).unwrap_or_default();
    Ok(Some(message))
}

fn parse(request: u32, payload: &[u8]) -> Result<Message> {
    let of_size = |expected: usize| {
        let size = payload.len();
        ensure!(size == expected, "the size is {size}, not {expected}");
        Ok(())
    };
    let word = |index: usize| word_at(payload, 4 * index);
    let image_size = (CURSOR_SIZE * CURSOR_SIZE * 4) as usize;
    Ok(match request {
        1 | 3 => {
            of_size(0)?;
            Message::Ask(if request == 1 {
                Question::ProtocolFeatures
            } else {
                Question::DisplayInfo
            })
        }
        2 => {
            of_size(8)?;
            Message::SetProtocolFeatures(u64::from(word(1)?) << 32 | u64::from(word(0)?))
        }
        4 | 5 => {
            of_size(12)?;
            Message::CursorPosition {
                scanout: word(0)?,
                at: (word(1)?, word(2)?),
                visible: request == 4,
            }
        }
        6 => {
            of_size(20 + image_size)?;
            Message::CursorUpdate {
                scanout: word(0)?,
                at: (word(1)?, word(2)?),
                hot: (word(3)?, word(4)?),
                image: payload.get(20..).unwrap_or_default().to_vec(),
            }
        }
        7 => {
            of_size(12)?;
            Message::Scanout {
                scanout: word(0)?,
                width: word(1)?,
                height: word(2)?,
            }
        }
        8 => update(payload)?,
        11 => {
            of_size(4)?;
            Message::Ask(Question::Edid { scanout: word(0)? })
        }
        // DMABUF messages are for renderers that have such buffers.
        _ => bail!("there is no such request for a device of pixels"),
    })
}

fn update(payload: &[u8]) -> Result<Message> {
    let [scanout, x, y, width, height] = [0, 4, 8, 12, 16].map(|offset| word_at(payload, offset));
    let rect = Rect::new(x?, y?, width?, height?);
    let pixels = payload.get(20..).unwrap_or_default();
    let expected = u64::from(rect.width) * u64::from(rect.height) * 4;
    ensure!(expected > 0, "an update of nothing: {rect:?}");
    ensure!(
        pixels.len() as u64 == expected,
        "{} bytes of pixels for {rect:?}",
        pixels.len()
    );
    Ok(Message::Update {
        scanout: scanout?,
        rect,
        pixels: pixels.to_vec(),
    })
}

/// A reply.
pub(super) fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    // Ours are small.
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = [request, FLAG_REPLY, size].map(u32::to_ne_bytes).concat();
    [&header, payload].concat()
}

/// The answer of virtio-gpu to `GET_DISPLAY_INFO`: size of each head, or none.
pub(super) fn display_info(heads: &[Option<(u32, u32)>]) -> Vec<u8> {
    let mut bytes = of_kind(answer::OK_DISPLAY_INFO);
    let mut left = 0;
    for head in 0..SCANOUTS_MAX {
        let (width, height) = heads.get(head).copied().flatten().unwrap_or_default();
        let words = [left, 0, width, height, u32::from(width > 0), 0];
        bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        left += width;
    }
    debug_assert_eq!(bytes.len(), DISPLAY_INFO_SIZE);
    bytes
}

/// The answer of virtio-gpu to `GET_EDID`: not of a monitor that there is, but each of its 256 bytes tells the head.
pub(super) fn edid(scanout: u32) -> Vec<u8> {
    let mut bytes = of_kind(answer::OK_EDID);
    bytes.extend([256_u32, 0].into_iter().flat_map(u32::to_le_bytes));
    let [mark, ..] = scanout.wrapping_mul(17).to_le_bytes();
    bytes.extend((0..=255).map(|index: u8| index ^ mark));
    bytes.resize(EDID_SIZE, 0);
    bytes
}

fn of_kind(kind: u32) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.resize(HEADER_SIZE, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: u32, words: &[u32]) -> Vec<u8> {
        let size = u32::try_from(4 * words.len()).unwrap();
        let header = [request, 0, size];
        let words = header.iter().chain(words);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn messages_are_taken_one_after_the_other_and_only_whole() {
        let mut stream = message(7, &[1, 2, 3]);
        stream.extend(message(8, &[1, 0, 0, 1, 2, 0xaa, 0xbb]));
        let whole = stream.len();
        stream.extend(message(1, &[]));
        let mut rest = stream.as_slice();
        let scanout = take(&mut rest).unwrap().unwrap();
        let expected = Message::Scanout {
            scanout: 1,
            width: 2,
            height: 3,
        };
        assert_eq!(scanout, expected);
        let mut cut = rest.get(..whole - (stream.len() - rest.len()) - 1).unwrap();
        assert_eq!(take(&mut cut).unwrap(), None);
        assert!(matches!(
            take(&mut rest).unwrap().unwrap(),
            Message::Update { scanout: 1, .. }
        ));
        let asked = take(&mut rest).unwrap().unwrap();
        assert_eq!(asked, Message::Ask(Question::ProtocolFeatures));
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let mut flagged = message(1, &[]);
        flagged[4] = 4;
        for bad in [
            flagged,
            message(1, &[0]),
            message(7, &[1, 2]),
            message(8, &[0, 0, 0, 1, 2, 0xaa]),
            message(8, &[0, 0, 0, 1, 1, 0xaa, 0xbb]),
            message(8, &[0, 0, 0, 0, 1]),
            message(9, &[0; 11]),
            message(99, &[]),
        ] {
            assert!(take(&mut bad.as_slice()).is_err(), "{bad:?}");
        }
    }
}
