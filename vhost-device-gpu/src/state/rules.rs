//! Which states make sense. Whoever made the stream may have wanted to harm us: everything is looked at before any of it is used.
//!
//! Knows numbers and their limits. Whether a state fits this back-end's configuration is for `load.rs` to say.

use crate::state::{
    BlobV1, CursorV1, GpuState, HeadV1, ImageV1, LayoutV1, RectV1, ResourceKindV1, ResourceV1,
    ScanoutV1, TilesV1,
};

/// Greatest number of screens.
pub(super) const HEADS_MAX: u32 = 16;
/// Greatest number of resources.
pub(super) const RESOURCES_MAX: usize = 16384;
/// Greatest number of pieces of a backing.
const PIECES_MAX: usize = 16384;
/// Greatest length of an EDID in bytes.
const EDID_BYTES_MAX: usize = 1024;
/// Width and height of a tile in pixels.
const TILE_SIDE: u32 = 64;
/// Width and height of a cursor in pixels.
const CURSOR_SIDE: u32 = 64;
/// Smallest width and height of a scanout.
const SCANOUT_SIDE_MIN: u32 = 16;
/// Flags of blobs that there are.
const BLOB_FLAGS: u32 = 7;
/// Formats of virtio, all of four bytes.
const FORMATS: [u32; 8] = [1, 2, 3, 4, 67, 68, 121, 134];

/// Kinds of tiles.
pub(super) const TILE_SAME: u8 = 0;
const TILE_BLANK: u8 = 1;
const TILE_CARRIED: u8 = 2;

/// A state that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgedState {
    /// The scanouts of the front-end.
    #[error("state stream: the front-end described {0} scanouts, and there are 16 or none")]
    Modes(usize),
    /// Too many resources.
    #[error("state stream: {0} resources, and {RESOURCES_MAX} are the most")]
    Resources(usize),
    /// Ids that do not rise, or 0.
    #[error("state stream: resource {0} is out of order, is there twice, or is none")]
    ResourceOrder(u32),
    /// Something about a resource.
    #[error("state stream: resource {id}: {what}")]
    Resource {
        /// Its id.
        id: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Numbers that do not rise, or are too large.
    #[error("state stream: screen {0} is out of order, is there twice, or is none")]
    HeadOrder(u32),
    /// Something about a screen.
    #[error("state stream: screen {number}: {what}")]
    Head {
        /// Its number.
        number: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Pixels that belong to nothing, or are not there.
    #[error("state stream: {found} bytes of pixels, and the tiles have {expected}")]
    Pixels {
        /// Bytes of all carried tiles.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
}

impl GpuState {
    /// Whether the state makes sense.
    pub fn validate(&self) -> Result<(), ForgedState> {
        let modes = self.device.modes.len();
        if modes != 0 && modes != HEADS_MAX as usize {
            return Err(ForgedState::Modes(modes));
        }
        if self.resources.len() > RESOURCES_MAX {
            return Err(ForgedState::Resources(self.resources.len()));
        }
        let mut carried = 0;
        let mut last = 0;
        for resource in &self.resources {
            let id = resource.id;
            if id <= last {
                return Err(ForgedState::ResourceOrder(id));
            }
            last = id;
            carried += resource
                .validate()
                .map_err(|what| ForgedState::Resource { id, what })?;
        }
        let mut next = 0;
        for head in &self.heads {
            let number = head.number;
            if number < next || number >= HEADS_MAX {
                return Err(ForgedState::HeadOrder(number));
            }
            next = number + 1;
            carried += self
                .validate_head(head)
                .map_err(|what| ForgedState::Head { number, what })?;
        }
        let found = self.pixels.iter().map(|piece| piece.len() as u64).sum();
        if found != carried {
            return Err(ForgedState::Pixels {
                expected: carried,
                found,
            });
        }
        Ok(())
    }

    /// Returns the bytes of all tiles that are carried.
    fn validate_head(&self, head: &HeadV1) -> Result<u64, &'static str> {
        let HeadV1 {
            number: _,
            scanout,
            cursor,
            edid,
        } = head;
        if edid.len() > EDID_BYTES_MAX {
            return Err("its EDID is too long");
        }
        if let Some(cursor) = cursor {
            cursor.validate()?;
        }
        let Some(scanout) = scanout else {
            return Ok(0);
        };
        let resource = self
            .resources
            .binary_search_by_key(&scanout.resource, |resource| resource.id)
            .ok()
            .and_then(|index| self.resources.get(index))
            .ok_or("it shows a resource that there is not")?;
        scanout.validate(resource)
    }
}

impl ResourceV1 {
    /// Returns the bytes of all tiles that are carried.
    fn validate(&self) -> Result<u64, &'static str> {
        let Self {
            id: _,
            kind,
            backing,
            uuid: _,
        } = self;
        if backing.len() > PIECES_MAX {
            return Err("its backing has too many pieces");
        }
        let mut total = 0_u64;
        for piece in backing {
            if piece.len == 0 || piece.address.checked_add(piece.len).is_none() {
                return Err("a piece of its backing has no bytes, or is beyond all addresses");
            }
            total = total
                .checked_add(piece.len)
                .ok_or("its backing is longer than there are addresses")?;
        }
        match kind {
            ResourceKindV1::Image(image) => image.validate(!backing.is_empty()),
            ResourceKindV1::Blob(BlobV1 { size, flags, id: _ }) => {
                if *size == 0 || flags & !BLOB_FLAGS != 0 {
                    return Err("a blob without bytes, or with flags that there are not");
                }
                if !backing.is_empty() && total < *size {
                    return Err("its backing is shorter than the blob");
                }
                Ok(0)
            }
        }
    }
}

impl ImageV1 {
    fn validate(&self, has_backing: bool) -> Result<u64, &'static str> {
        if !FORMATS.contains(&self.format) {
            return Err("its format is none");
        }
        if self.width == 0 || self.height == 0 {
            return Err("it has no pixels");
        }
        self.tiles.validate(self.width, self.height, has_backing)
    }
}

impl TilesV1 {
    /// Returns the bytes of all tiles that are carried.
    fn validate(&self, width: u32, height: u32, has_base: bool) -> Result<u64, &'static str> {
        let across = u64::from(width.div_ceil(TILE_SIDE));
        let down = u64::from(height.div_ceil(TILE_SIDE));
        if self.kinds.len() as u64 != across * down {
            return Err("its tiles do not cover it");
        }
        let (mut same, mut carried) = (0, 0);
        let rows = (0..height).step_by(TILE_SIDE as usize);
        let places = rows.flat_map(|y| {
            let columns = (0..width).step_by(TILE_SIDE as usize);
            columns.map(move |x| (TILE_SIDE.min(width - x), TILE_SIDE.min(height - y)))
        });
        for ((width, height), kind) in places.zip(&self.kinds) {
            match *kind {
                TILE_SAME => same += 1,
                TILE_BLANK => {}
                TILE_CARRIED => carried += u64::from(width) * u64::from(height) * 4,
                _ => return Err("a tile of no kind"),
            }
        }
        if same != self.checksums.len() {
            return Err("its checksums are not those of its tiles");
        }
        if same > 0 && !has_base {
            return Err("tiles are to be made from memory that there is not");
        }
        Ok(carried)
    }
}

impl ScanoutV1 {
    fn validate(&self, shown: &ResourceV1) -> Result<u64, &'static str> {
        let Self {
            resource: _,
            rect,
            layout,
            tiles,
        } = self;
        let (possible, has_base) = match &shown.kind {
            ResourceKindV1::Image(image) => (layout.is_of_image(image), true),
            ResourceKindV1::Blob(blob) => (layout.is_within(blob.size), !shown.backing.is_empty()),
        };
        if !possible {
            return Err("its framebuffer is not in the resource");
        }
        if rect.width.min(rect.height) < SCANOUT_SIDE_MIN
            || !rect.is_within(layout.width, layout.height)
        {
            return Err("its rectangle is not in the framebuffer, or too small");
        }
        tiles.validate(rect.width, rect.height, has_base)
    }
}

impl LayoutV1 {
    fn is_of_image(&self, image: &ImageV1) -> bool {
        let Self {
            format,
            width,
            height,
            stride,
            offset,
        } = *self;
        (format, width, height) == (image.format, image.width, image.height)
            && u64::from(stride) == u64::from(width) * 4
            && offset == 0
    }

    fn is_within(&self, size: u64) -> bool {
        let row = u64::from(self.width) * 4;
        let before = u64::from(self.height.saturating_sub(1)) * u64::from(self.stride);
        let end = before
            .checked_add(row)
            .and_then(|bytes| bytes.checked_add(u64::from(self.offset)));
        FORMATS.contains(&self.format)
            && self.width > 0
            && self.height > 0
            && u64::from(self.stride) >= row
            && end.is_some_and(|end| end <= size)
    }
}

impl RectV1 {
    fn is_within(&self, width: u32, height: u32) -> bool {
        u64::from(self.x) + u64::from(self.width) <= u64::from(width)
            && u64::from(self.y) + u64::from(self.height) <= u64::from(height)
    }
}

impl CursorV1 {
    fn validate(&self) -> Result<(), &'static str> {
        let Some(image) = &self.image else {
            return Ok(());
        };
        let rect = &image.rect;
        if !rect.is_within(CURSOR_SIDE, CURSOR_SIDE) {
            return Err("its cursor is too large");
        }
        if image.pixels.len() as u64 != u64::from(rect.width) * u64::from(rect.height) * 4 {
            return Err("its cursor has other pixels than it has room for");
        }
        Ok(())
    }
}
