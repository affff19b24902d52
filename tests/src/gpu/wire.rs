//! Commands of virtio-gpu as bytes, and their answers (virtio 1.3, 5.7.6).
//!
//! Any number can be put anywhere, right or wrong: a hostile guest uses the same functions.

use anyhow::{Context, Result, ensure};

/// Numbers of commands.
pub mod command {
    /// What is connected.
    pub const GET_DISPLAY_INFO: u32 = 0x100;
    /// A new resource.
    pub const RESOURCE_CREATE_2D: u32 = 0x101;
    /// A resource goes.
    pub const RESOURCE_UNREF: u32 = 0x102;
    /// What a head shows.
    pub const SET_SCANOUT: u32 = 0x103;
    /// What is in a resource is to be seen.
    pub const RESOURCE_FLUSH: u32 = 0x104;
    /// From guest memory to a resource.
    pub const TRANSFER_TO_HOST_2D: u32 = 0x105;
    /// Guest memory for a resource.
    pub const RESOURCE_ATTACH_BACKING: u32 = 0x106;
    /// None any more.
    pub const RESOURCE_DETACH_BACKING: u32 = 0x107;
    /// About a capability set of a 3D renderer.
    pub const GET_CAPSET_INFO: u32 = 0x108;
    /// A capability set.
    pub const GET_CAPSET: u32 = 0x109;
    /// What a monitor says of itself.
    pub const GET_EDID: u32 = 0x10a;
    /// A name for a resource.
    pub const RESOURCE_ASSIGN_UUID: u32 = 0x10b;
    /// A resource that is guest memory.
    pub const RESOURCE_CREATE_BLOB: u32 = 0x10c;
    /// A head shows a blob.
    pub const SET_SCANOUT_BLOB: u32 = 0x10d;
    /// The first command of 3D renderers.
    pub const CTX_CREATE: u32 = 0x200;
    /// The last command of 3D renderers.
    pub const UNMAP_BLOB: u32 = 0x209;
    /// Another cursor.
    pub const UPDATE_CURSOR: u32 = 0x300;
    /// The same cursor elsewhere.
    pub const MOVE_CURSOR: u32 = 0x301;
}

/// Kinds of answers.
pub mod answer {
    /// Success.
    pub const OK_NODATA: u32 = 0x1100;
    /// To `GET_DISPLAY_INFO`.
    pub const OK_DISPLAY_INFO: u32 = 0x1101;
    /// To `GET_EDID`.
    pub const OK_EDID: u32 = 0x1104;
    /// To `RESOURCE_ASSIGN_UUID`.
    pub const OK_RESOURCE_UUID: u32 = 0x1105;
    /// Any other reason.
    pub const ERR_UNSPEC: u32 = 0x1200;
    /// The host has not enough memory, or does not want to give it.
    pub const ERR_OUT_OF_MEMORY: u32 = 0x1201;
    /// There is no such head.
    pub const ERR_INVALID_SCANOUT_ID: u32 = 0x1202;
    /// There is no such resource, or there is one already.
    pub const ERR_INVALID_RESOURCE_ID: u32 = 0x1203;
    /// A parameter makes no sense.
    pub const ERR_INVALID_PARAMETER: u32 = 0x1205;
}

/// `VIRTIO_GPU_FLAG_FENCE`.
pub const FLAG_FENCE: u32 = 1;

/// `VIRTIO_GPU_F_EDID`.
pub const FEATURE_EDID: u64 = 1 << 1;
/// `VIRTIO_GPU_F_RESOURCE_UUID`.
pub const FEATURE_RESOURCE_UUID: u64 = 1 << 2;
/// `VIRTIO_GPU_F_RESOURCE_BLOB`.
pub const FEATURE_RESOURCE_BLOB: u64 = 1 << 3;

/// `VIRTIO_GPU_BLOB_MEM_GUEST`.
pub const BLOB_MEM_GUEST: u32 = 1;

/// Heads of a device.
pub const SCANOUTS_MAX: usize = 16;

/// Width and height of a cursor.
pub const CURSOR_SIZE: u32 = 64;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 24;

/// Bytes of an answer to `GET_DISPLAY_INFO`.
pub const DISPLAY_INFO_SIZE: usize = HEADER_SIZE + SCANOUTS_MAX * 24;

/// Bytes of an answer to `GET_EDID`.
pub const EDID_SIZE: usize = HEADER_SIZE + 8 + 1024;

/// Part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// A rectangle.
    pub const fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Self {
            x,
            y,
            width,
            height,
        }
    }

    /// A rectangle at the origin.
    pub const fn of_size(width: u32, height: u32) -> Self {
        Self::new(0, 0, width, height)
    }

    /// Whether a pixel is in it.
    pub fn contains(self, x: u32, y: u32) -> bool {
        x >= self.x && y >= self.y && x - self.x < self.width && y - self.y < self.height
    }

    fn words(self) -> [u32; 4] {
        [self.x, self.y, self.width, self.height]
    }
}

/// Layouts of a pixel in memory. All have four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Its number in virtio.
    pub number: u32,
    /// Which byte holds red, green, blue and, if it means something, alpha.
    bytes: [u32; 3],
    alpha: Option<u32>,
}

const fn format(number: u32, bytes: [u32; 3], alpha: Option<u32>) -> Format {
    Format {
        number,
        bytes,
        alpha,
    }
}

impl Format {
    /// `VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM`: what Linux uses for cursors.
    pub const BGRA: Self = format(1, [2, 1, 0], Some(3));
    /// `VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM`: what Linux uses for screens.
    pub const BGRX: Self = format(2, [2, 1, 0], None);
    /// `VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM`: red first.
    pub const RGBA: Self = format(67, [0, 1, 2], Some(3));

    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::BGRA,
        Self::BGRX,
        format(3, [1, 2, 3], Some(0)),
        format(4, [1, 2, 3], None),
        Self::RGBA,
        format(68, [3, 2, 1], None),
        format(121, [3, 2, 1], Some(0)),
        format(134, [0, 1, 2], None),
    ];

    /// A pixel of this format (its bytes in memory, the first one lowest) as x8r8g8b8, x being 0.
    pub fn to_rgb(self, pixel: u32) -> u32 {
        let [red, green, blue] = self.bytes.map(|byte| pixel >> (8 * byte) & 0xff);
        red << 16 | green << 8 | blue
    }

    /// A pixel of this format as a8r8g8b8.
    pub fn to_argb(self, pixel: u32) -> u32 {
        let alpha = self.alpha.map_or(0xff, |byte| pixel >> (8 * byte) & 0xff);
        alpha << 24 | self.to_rgb(pixel)
    }
}

/// A command whose body is `words`.
pub fn request(kind: u32, words: &[u32]) -> Vec<u8> {
    let header = [kind, 0, 0, 0, 0, 0];
    header
        .iter()
        .chain(words)
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// The same command with a fence.
#[must_use]
pub fn fenced(mut request: Vec<u8>, fence: u64, context: u32) -> Vec<u8> {
    let header = [
        &FLAG_FENCE.to_le_bytes()[..],
        &fence.to_le_bytes(),
        &context.to_le_bytes(),
    ]
    .concat();
    if let Some(place) = request.get_mut(4..20) {
        place.copy_from_slice(&header);
    }
    request
}

/// `GET_DISPLAY_INFO`.
pub fn get_display_info() -> Vec<u8> {
    request(command::GET_DISPLAY_INFO, &[])
}

/// `GET_EDID`.
pub fn get_edid(scanout: u32) -> Vec<u8> {
    request(command::GET_EDID, &[scanout, 0])
}

/// `RESOURCE_CREATE_2D`.
pub fn create_2d(resource: u32, format: u32, width: u32, height: u32) -> Vec<u8> {
    request(
        command::RESOURCE_CREATE_2D,
        &[resource, format, width, height],
    )
}

/// `RESOURCE_UNREF`.
pub fn unref(resource: u32) -> Vec<u8> {
    request(command::RESOURCE_UNREF, &[resource, 0])
}

/// `SET_SCANOUT`.
pub fn set_scanout(scanout: u32, resource: u32, rect: Rect) -> Vec<u8> {
    let words = [&rect.words()[..], &[scanout, resource]].concat();
    request(command::SET_SCANOUT, &words)
}

/// `RESOURCE_FLUSH`.
pub fn flush(resource: u32, rect: Rect) -> Vec<u8> {
    let words = [&rect.words()[..], &[resource, 0]].concat();
    request(command::RESOURCE_FLUSH, &words)
}

/// `TRANSFER_TO_HOST_2D`.
pub fn transfer(resource: u32, rect: Rect, offset: u64) -> Vec<u8> {
    let [low, high] = halves(offset);
    let words = [&rect.words()[..], &[low, high, resource, 0]].concat();
    request(command::TRANSFER_TO_HOST_2D, &words)
}

/// `RESOURCE_ATTACH_BACKING` with pieces of guest memory: address and length.
pub fn attach_backing(resource: u32, pieces: &[(u64, u32)]) -> Vec<u8> {
    // More pieces than a number can count cannot be made.
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    attach_backing_of(resource, count, pieces)
}

/// The same with a count of its own.
pub fn attach_backing_of(resource: u32, count: u32, pieces: &[(u64, u32)]) -> Vec<u8> {
    let words = [&[resource, count][..], &entries(pieces)].concat();
    request(command::RESOURCE_ATTACH_BACKING, &words)
}

/// `RESOURCE_DETACH_BACKING`.
pub fn detach_backing(resource: u32) -> Vec<u8> {
    request(command::RESOURCE_DETACH_BACKING, &[resource, 0])
}

/// `RESOURCE_ASSIGN_UUID`.
pub fn assign_uuid(resource: u32) -> Vec<u8> {
    request(command::RESOURCE_ASSIGN_UUID, &[resource, 0])
}

/// `RESOURCE_CREATE_BLOB`.
pub fn create_blob(resource: u32, memory: u32, size: u64, pieces: &[(u64, u32)]) -> Vec<u8> {
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    let [low, high] = halves(size);
    let words = [
        &[resource, memory, 0, count, 0, 0, low, high][..],
        &entries(pieces),
    ]
    .concat();
    request(command::RESOURCE_CREATE_BLOB, &words)
}

/// How a picture lies in a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobLayout {
    /// Format.
    pub format: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from row to row.
    pub stride: u32,
    /// Bytes before the first row.
    pub offset: u32,
}

/// `SET_SCANOUT_BLOB`.
pub fn set_scanout_blob(scanout: u32, resource: u32, rect: Rect, layout: BlobLayout) -> Vec<u8> {
    let BlobLayout {
        format,
        width,
        height,
        stride,
        offset,
    } = layout;
    let words = [
        &rect.words()[..],
        &[scanout, resource, width, height, format, 0],
        &[stride, 0, 0, 0],
        &[offset, 0, 0, 0],
    ]
    .concat();
    request(command::SET_SCANOUT_BLOB, &words)
}

/// Where a cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// The head that it is on.
    pub scanout: u32,
    /// From the left.
    pub x: u32,
    /// From above.
    pub y: u32,
}

/// `UPDATE_CURSOR`; resource 0 hides it.
pub fn update_cursor(position: Position, resource: u32, hot: (u32, u32)) -> Vec<u8> {
    cursor(command::UPDATE_CURSOR, position, resource, hot)
}

/// `MOVE_CURSOR`; resource 0 hides it.
pub fn move_cursor(position: Position, resource: u32) -> Vec<u8> {
    cursor(command::MOVE_CURSOR, position, resource, (0, 0))
}

fn cursor(kind: u32, at: Position, resource: u32, hot: (u32, u32)) -> Vec<u8> {
    request(
        kind,
        &[at.scanout, at.x, at.y, 0, resource, hot.0, hot.1, 0],
    )
}

fn entries(pieces: &[(u64, u32)]) -> Vec<u32> {
    let entry = |&(address, length): &(u64, u32)| {
        let [low, high] = halves(address);
        [low, high, length, 0]
    };
    pieces.iter().flat_map(entry).collect()
}

/// The lower half and the upper half.
fn halves(number: u64) -> [u32; 2] {
    [number, number >> 32].map(|half| (half & 0xffff_ffff) as u32)
}

/// What the device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// One of [`answer`].
    pub kind: u32,
    /// The fence that it is about, if any, and its context.
    pub fence: Option<(u64, u32)>,
    /// All that follows the header.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads what the device wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (header, body) = bytes
            .split_at_checked(HEADER_SIZE)
            .with_context(|| format!("an answer of {} bytes", bytes.len()))?;
        let word = |index: usize| word_at(header, index * 4);
        let flags = word(1)?;
        let fence = u64::from(word(3)?) << 32 | u64::from(word(2)?);
        ensure!(flags & !FLAG_FENCE == 0, "flags {flags:#x} in an answer");
        Ok(Self {
            kind: word(0)?,
            fence: (flags & FLAG_FENCE != 0).then_some((fence, word(4)?)),
            body: body.to_vec(),
        })
    }
}

/// The number at `offset`.
pub fn word_at(bytes: &[u8], offset: usize) -> Result<u32> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    let word = word.with_context(|| format!("nothing at {offset} of {}", bytes.len()))?;
    Ok(u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_after_bytes_in_memory() {
        let pixel = u32::from_le_bytes([0x11, 0x22, 0x33, 0x44]);
        let all: Vec<_> = Format::ALL
            .iter()
            .map(|format| (format.number, format.to_argb(pixel)))
            .collect();
        let expected = [
            (1, 0x4433_2211),
            (2, 0xff33_2211),
            (3, 0x1122_3344),
            (4, 0xff22_3344),
            (67, 0x4411_2233),
            (68, 0xff44_3322),
            (121, 0x1144_3322),
            (134, 0xff11_2233),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_command_byte_for_byte() {
        let bytes = fenced(transfer(7, Rect::new(1, 2, 3, 4), 5 << 32 | 6), 8, 9);
        let words: Vec<_> = bytes
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(
            words,
            [0x105, 1, 8, 0, 9, 0, 1, 2, 3, 4, 6, 5, 7, 0],
            "header, rectangle, offset, resource, padding"
        );
    }
}
