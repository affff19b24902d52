//! Resources: images with a host copy of their own, and blobs, which are nothing but guest memory.

use super::backing::{Backing, GuestBytes};
use super::format::{PIXEL_BYTES, PixelFormat};
use super::room;
use super::tiles::{Size, Tiles};
use crate::wire::{Layout, Rect};

/// Something that can be shown.
#[derive(Clone, Debug)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// The guest memory behind it.
    pub backing: Option<Backing>,
    /// Its name for other devices, once the guest has asked for one.
    pub uuid: Option<[u8; 16]>,
}

/// What a resource is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Pixels that the guest transfers to us.
    Image(Image),
    /// Pixels that stay where they are.
    Blob(Blob),
}

/// Pixels that the guest transfers to us, in the guest's format, row by row without gaps.
#[derive(Clone, Debug)]
pub struct Image {
    /// Their format.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixels.
    pub pixels: Vec<u8>,
    /// Which of them are still to be fetched, after a load.
    pub awaited: Option<Tiles>,
}

/// A piece of guest memory of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Size in bytes.
    pub size: u64,
    /// How the guest means to use it.
    pub flags: u32,
    /// The guest's own number for it.
    pub id: u64,
}

/// Greatest width and height of an image, in pixels. A side that is longer is on no screen, and work is done row by row: there must not be
/// more of them than suspension can wait for.
pub const SIDE_MAX: u32 = 16384;

/// Bytes of an image; `None` if it is larger than there are any.
pub fn image_bytes(width: u32, height: u32) -> Option<u64> {
    if width.max(height) > SIDE_MAX {
        return None;
    }
    (u64::from(width) * u64::from(height)).checked_mul(PIXEL_BYTES.into())
}

impl Image {
    /// A black image; `None` if the host has no memory for it.
    pub fn new(format: PixelFormat, width: u32, height: u32) -> Option<Self> {
        Some(Self {
            format,
            width,
            height,
            pixels: room::black(image_bytes(width, height)?)?,
            awaited: None,
        })
    }

    /// Its size, for tiles.
    pub fn size(&self) -> Size {
        Size {
            width: self.width,
            height: self.height,
        }
    }

    /// Bytes from one row to the next.
    pub fn stride(&self) -> u64 {
        u64::from(self.width) * u64::from(PIXEL_BYTES)
    }

    /// Where a pixel is in the backing, if that is laid out like the image.
    pub fn offset(&self, x: u32, y: u32) -> u64 {
        u64::from(y) * self.stride() + u64::from(x) * u64::from(PIXEL_BYTES)
    }

    /// How it lies in memory.
    pub fn layout(&self) -> Layout {
        Layout {
            format: self.format as u32,
            width: self.width,
            height: self.height,
            stride: self.width.saturating_mul(PIXEL_BYTES),
            offset: 0,
        }
    }

    /// Fetches a rectangle, which lies within the image, from the backing, where it begins at `offset`. False, and nothing
    /// fetched, if the backing is too short; false if guest memory is gone.
    pub fn transfer(
        &mut self,
        rect: &Rect,
        offset: u64,
        backing: &Backing,
        guest: &impl GuestBytes,
    ) -> bool {
        if rect.is_empty() {
            return true;
        }
        let stride = self.stride();
        let row_bytes = u64::from(rect.width) * u64::from(PIXEL_BYTES);
        // The last row ends with its last pixel.
        let span = u64::from(rect.height - 1) * stride + row_bytes;
        if offset
            .checked_add(span)
            .is_none_or(|end| end > backing.len())
        {
            return false;
        }
        let start = u64::from(rect.y) * stride + u64::from(rect.x) * u64::from(PIXEL_BYTES);
        let (rows, row_bytes) = if row_bytes == stride {
            (1, span)
        } else {
            (u64::from(rect.height), row_bytes)
        };
        (0..rows).all(|row| {
            let target =
                range(start + row * stride, row_bytes).and_then(|range| self.pixels.get_mut(range));
            target.is_some_and(|target| backing.read(guest, offset + row * stride, target))
        })
    }
}

/// The range of `len` bytes at `start` as indices.
pub fn range(start: u64, len: u64) -> Option<std::ops::Range<usize>> {
    let end = start.checked_add(len)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

impl Resource {
    /// Without backing or name.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            backing: None,
            uuid: None,
        }
    }

    /// The host memory that it takes, in bytes.
    pub fn footprint(&self) -> u64 {
        let pixels = match &self.kind {
            Kind::Image(image) => image.pixels.len() as u64,
            Kind::Blob(_) => 0,
        };
        pixels + self.backing.as_ref().map_or(0, Backing::footprint)
    }

    /// Copies bytes of its pixels; false if they are not there.
    pub fn read(&self, guest: &impl GuestBytes, offset: u64, into: &mut [u8]) -> bool {
        match &self.kind {
            Kind::Image(image) => {
                let source =
                    range(offset, into.len() as u64).and_then(|range| image.pixels.get(range));
                source.map(|source| into.copy_from_slice(source)).is_some()
            }
            Kind::Blob(_) => self
                .backing
                .as_ref()
                .is_some_and(|backing| backing.read(guest, offset, into)),
        }
    }
}
