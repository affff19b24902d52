//! What migrates: plain data, and how it is laid out in sections. Knows no guest, no socket and no screen.
//!
//! | section | what it is |
//! |---|---|
//! | `GPUD` | one [`DeviceV1`] |
//! | `RSRC` | table of [`ResourceV1`], by rising id |
//! | `HEAD` | table of [`HeadV1`], by rising number; those of which there is nothing to say are left out |
//! | `PIXL` | pixels of all tiles that are carried: of resources, then of scanouts, in the order of their tables |
//!
//! All are critical, and all must be there. A released struct never changes: a new version of a section takes its place. What the
//! sections say is believed only after [`GpuState::validate`].
//!
//! Commands in flight are not here: while the device is suspended there are none, for a command without an answer is on its ring.
//! For the same reason there are no fences.

use common::state::{
    CHUNK_BYTES_MAX, DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema,
    StateWriter, Tag,
};
use serde::{Deserialize, Serialize};

mod rules;

pub use crate::state::rules::ForgedState;
use crate::state::rules::{HEADS_MAX, RESOURCES_MAX};

const DEVICE: Tag = Tag::new(*b"GPUD");
const RESOURCES: Tag = Tag::new(*b"RSRC");
const HEADS: Tag = Tag::new(*b"HEAD");
const PIXELS: Tag = Tag::new(*b"PIXL");

/// The state of a graphics adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuState {
    /// What is said once.
    pub device: DeviceV1,
    /// Resources.
    pub resources: Vec<ResourceV1>,
    /// Screens.
    pub heads: Vec<HeadV1>,
    /// Pixels of carried tiles, in pieces of at most [`CHUNK_BYTES_MAX`] bytes, so that no allocation is as large as a picture.
    pub pixels: Vec<Vec<u8>>,
}

/// What is said once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceV1 {
    /// Device-specific features that the driver accepted.
    pub features: u64,
    /// Scanouts as the front-end described them last; none if it never did.
    pub modes: Vec<ModeV1>,
}

/// A scanout as the front-end described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeV1 {
    /// Preferred size and place.
    pub rect: RectV1,
    /// Whether somebody looks at it.
    pub enabled: bool,
    /// Flags.
    pub flags: u32,
}

/// A rectangle in pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a rectangle")]
pub struct RectV1 {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceV1 {
    /// Its id, not 0.
    pub id: u32,
    /// What it is.
    pub kind: ResourceKindV1,
    /// The guest memory behind it; none if nothing is attached.
    pub backing: Vec<PieceV1>,
    /// Its name for other devices.
    pub uuid: Option<[u8; 16]>,
}

/// What a resource is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceKindV1 {
    /// Pixels with a host copy.
    Image(ImageV1),
    /// Guest memory.
    Blob(BlobV1),
}

/// Pixels with a host copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageV1 {
    /// Format, a number of virtio.
    pub format: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixels; what is the same as in the backing is made from there.
    pub tiles: TilesV1,
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobV1 {
    /// Size in bytes.
    pub size: u64,
    /// How the guest means to use it.
    pub flags: u32,
    /// The guest's own number for it.
    pub id: u64,
}

/// A piece of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceV1 {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A picture in tiles of 64 by 64 pixels, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TilesV1 {
    /// Of each tile: 0 made again, 1 black, 2 carried.
    pub kinds: Vec<u8>,
    /// CRC-32C of each tile that is made again, in order.
    pub checksums: Vec<u32>,
}

/// A screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadV1 {
    /// Its number.
    pub number: u32,
    /// What it shows.
    pub scanout: Option<ScanoutV1>,
    /// Its cursor, if there ever was one.
    pub cursor: Option<CursorV1>,
    /// What the front-end said of its monitor last; empty if it never did.
    pub edid: Vec<u8>,
}

/// What a screen shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanoutV1 {
    /// Of which resource.
    pub resource: u32,
    /// Which part of it.
    pub rect: RectV1,
    /// How the framebuffer lies in the resource.
    pub layout: LayoutV1,
    /// What is seen, x8r8g8b8; what is the same as in the resource is made from there.
    pub tiles: TilesV1,
}

/// How a framebuffer lies in a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutV1 {
    /// Format, a number of virtio.
    pub format: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes before the first row.
    pub offset: u32,
}

/// A cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorV1 {
    /// Where it is.
    pub x: u32,
    /// Where it is.
    pub y: u32,
    /// Its hot spot.
    pub hot_x: u32,
    /// Its hot spot.
    pub hot_y: u32,
    /// Whether it is seen.
    pub visible: bool,
    /// Its image as the guest defined it.
    pub image: Option<CursorImageV1>,
}

/// The part of a cursor's 64 by 64 pixels that is not all zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorImageV1 {
    /// Where that is.
    pub rect: RectV1,
    /// a8r8g8b8.
    pub pixels: Vec<u8>,
}

impl StateSchema for GpuState {
    const KIND: DeviceKind = DeviceKind::Gpu;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self {
            device,
            resources,
            heads,
            pixels,
        } = self;
        out.section(DEVICE, 1, Importance::Critical, device)?;
        out.table(RESOURCES, 1, Importance::Critical, resources)?;
        out.table(HEADS, 1, Importance::Critical, heads)?;
        if pixels.is_empty() {
            return out.raw(PIXELS, 1, Importance::Critical, &[]);
        }
        pixels
            .iter()
            .try_for_each(|piece| out.raw(PIXELS, 1, Importance::Critical, piece))
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut device: Option<DeviceV1> = None;
        let (mut resources, mut heads) = (None, None);
        let mut pixels: Option<Vec<Vec<u8>>> = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (DEVICE, 1) if device.is_none() => device = Some(section.decode()?),
                (RESOURCES, 1) => section.decode_table_onto(&mut resources, RESOURCES_MAX)?,
                (HEADS, 1) => section.decode_table_onto(&mut heads, HEADS_MAX as usize)?,
                (PIXELS, 1) => {
                    let pixels = pixels.get_or_insert_default();
                    let pieces = section.bytes().chunks(CHUNK_BYTES_MAX);
                    pixels.extend(pieces.map(<[u8]>::to_vec));
                }
                _ => input.unknown(&section)?,
            }
        }
        let missing = |tag| StateError::MissingSection { tag };
        Ok(Self {
            device: device.ok_or(missing(DEVICE))?,
            resources: resources.ok_or(missing(RESOURCES))?,
            heads: heads.ok_or(missing(HEADS))?,
            pixels: pixels.ok_or(missing(PIXELS))?,
        })
    }
}

#[cfg(test)]
mod tests;
