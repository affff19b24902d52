//! Answers, and why a command was refused.

use common::request::Writer;

use super::{Header, Rect, SCANOUTS_MAX};

/// Greatest length of an EDID in bytes.
pub const EDID_BYTES_MAX: usize = 1024;

/// Numbers of answers (virtio 1.3, 5.7.6.7).
mod number {
    pub(super) const OK_NODATA: u32 = 0x1100;
    pub(super) const OK_DISPLAY_INFO: u32 = 0x1101;
    pub(super) const OK_EDID: u32 = 0x1104;
    pub(super) const OK_RESOURCE_UUID: u32 = 0x1105;
}

/// Why a command was refused; the numbers are virtio's.
///
/// | refusal | when |
/// |---|---|
/// | `Unspecified` | a command that there is not, or of a feature that was not negotiated; backing attached twice, or missing |
/// | `OutOfMemory` | `--max-hostmem`, the number of resources, or the host is exhausted |
/// | `InvalidScanoutId` | a scanout that there is not |
/// | `InvalidResourceId` | 0, one that exists already, or one that does not |
/// | `InvalidParameter` | any other argument; a command that ends too early |
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the table above says more")]
pub enum Refusal {
    #[error("guest: a command that is not understood, or not at this time")]
    Unspecified = 0x1200,
    #[error("guest: wants more than there is")]
    OutOfMemory = 0x1201,
    #[error("guest: no such scanout")]
    InvalidScanoutId = 0x1202,
    #[error("guest: no such resource, or there is one already")]
    InvalidResourceId = 0x1203,
    #[error("guest: an argument makes no sense")]
    InvalidParameter = 0x1205,
}

/// One scanout as the host's user has it (`struct virtio_gpu_display_one`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Preferred size and place.
    pub rect: Rect,
    /// Whether somebody looks at it.
    pub enabled: bool,
    /// No flag is defined.
    pub flags: u32,
}

/// All scanouts.
pub type DisplayInfo = [Mode; SCANOUTS_MAX];

/// What a monitor says about itself; at most [`EDID_BYTES_MAX`] bytes.
pub type Edid = Vec<u8>;

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// To `GET_DISPLAY_INFO`.
    DisplayInfo(Box<DisplayInfo>),
    /// To `GET_EDID`.
    Edid(Edid),
    /// To `RESOURCE_ASSIGN_UUID`.
    Uuid([u8; 16]),
}

impl Answer {
    fn number(&self) -> u32 {
        match self {
            Self::Done => number::OK_NODATA,
            Self::DisplayInfo(_) => number::OK_DISPLAY_INFO,
            Self::Edid(_) => number::OK_EDID,
            Self::Uuid(_) => number::OK_RESOURCE_UUID,
        }
    }

    /// Length of what follows the header, in bytes.
    fn body_bytes(&self) -> usize {
        match self {
            Self::Done => 0,
            Self::DisplayInfo(_) => SCANOUTS_MAX * 24,
            Self::Edid(_) => 8 + EDID_BYTES_MAX,
            Self::Uuid(_) => 16,
        }
    }
}

/// Writes what came of a command; returns the bytes written. One that has no room for its answer is told so, and one that has no
/// room for that is told nothing.
pub fn write(command: &Header, result: &Result<Answer, Refusal>, room: &mut Writer<'_>) -> u32 {
    let result = match result {
        Ok(answer) if room.remaining() < Header::BYTES + answer.body_bytes() => {
            &Err(Refusal::Unspecified)
        }
        other => other,
    };
    let number = match result {
        Ok(answer) => answer.number(),
        Err(refusal) => *refusal as u32,
    };
    if room.write_all(&header(command, number)).is_ok()
        && let Ok(answer) = result
    {
        write_body(answer, room);
    }
    u32::try_from(room.written()).unwrap_or(0)
}

/// The header of an answer repeats the fence of its command, if there is one.
fn header(command: &Header, number: u32) -> [u8; Header::BYTES] {
    let mut header = Header {
        kind: number,
        ..Header::default()
    };
    if command.flags & Header::FLAG_FENCE != 0 {
        header.flags = command.flags & (Header::FLAG_FENCE | Header::FLAG_TIMELINE);
        header.fence = command.fence;
        header.context = command.context;
        header.timeline = command.timeline;
    }
    let mut bytes = [0; Header::BYTES];
    let fields = [header.kind, header.flags]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .chain(header.fence.to_le_bytes())
        .chain(header.context.to_le_bytes())
        .chain(header.timeline.to_le_bytes());
    for (byte, field) in bytes.iter_mut().zip(fields) {
        *byte = field;
    }
    bytes
}

fn write_body(answer: &Answer, room: &mut Writer<'_>) {
    let written = match answer {
        Answer::Done => Ok(()),
        Answer::DisplayInfo(modes) => modes
            .iter()
            .try_for_each(|mode| room.write_all(&mode.to_bytes())),
        Answer::Edid(edid) => {
            let mut body = [0; 8 + EDID_BYTES_MAX];
            let (length, rest) = body.split_at_mut(8);
            let size = u64::try_from(edid.len()).unwrap_or(0); // u32, and four bytes of padding
            length.copy_from_slice(&size.to_le_bytes());
            for (byte, of_edid) in rest.iter_mut().zip(edid) {
                *byte = *of_edid;
            }
            room.write_all(&body)
        }
        Answer::Uuid(uuid) => room.write_all(uuid),
    };
    if let Err(error) = written {
        log::error!("the room for an answer was measured wrongly, please report this: {error}");
    }
}

impl Mode {
    /// Length on the wire in bytes.
    pub const BYTES: usize = 24;

    /// As it lies on the rings, and on the display socket.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let Rect {
            x,
            y,
            width,
            height,
        } = self.rect;
        let words = [x, y, width, height, u32::from(self.enabled), self.flags];
        let mut bytes = [0; Self::BYTES];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The reverse.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = [0_u32; 6];
        for (word, four) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*four);
        }
        let [x, y, width, height, enabled, flags] = words;
        Self {
            rect: Rect {
                x,
                y,
                width,
                height,
            },
            enabled: enabled != 0,
            flags,
        }
    }
}
