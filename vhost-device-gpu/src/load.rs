//! From a state to the live device. Everything is built aside; nothing of the old is touched until all is well.
//!
//! There may be no guest memory yet, so what is to be made from it is only noted. The renderer fetches it when the device is
//! resumed, which is before the guest runs.

use std::collections::BTreeMap;

use common::device::LoadError;

use crate::display::Known;
use crate::renderer::Renderer;
use crate::screens::{CURSOR_BYTES, CURSOR_SIDE, Cursor, Picture, Screens};
use crate::state::{
    BlobV1, CursorImageV1, CursorV1, DeviceV1, GpuState, HeadV1, ImageV1, LayoutV1, ModeV1,
    PieceV1, RectV1, ResourceKindV1, ResourceV1, ScanoutV1, TilesV1,
};
use crate::two_d::format::PixelFormat;
use crate::two_d::resource::{Blob, Image, Kind, Resource};
use crate::two_d::tiles::{self, Size, Tile, Tiles};
use crate::two_d::{Backing, Core, Scanout};
use crate::wire::{DisplayInfo, Layout, Mode, Rect, SCANOUTS_MAX};

mod fits;

pub use fits::Mismatch;

/// The host has no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for a picture of {width} by {height} pixels")]
pub struct NoMemory {
    width: u32,
    height: u32,
}

/// A renderer that can be loaded.
pub trait Load: Renderer {
    /// Whether `state` could be loaded, as far as can be told without changing anything.
    fn check(&self, state: &GpuState, screens: &Screens) -> Result<(), LoadError>;

    /// Takes over a state that has passed; returns the features that the driver accepted. On an error nothing has changed.
    fn load(
        &mut self,
        state: GpuState,
        screens: &mut Screens,
        known: &mut Known<'_>,
    ) -> Result<u64, LoadError>;
}

impl Load for Core {
    fn check(&self, state: &GpuState, screens: &Screens) -> Result<(), LoadError> {
        state
            .validate()
            .map_err(|forged| LoadError::Stream(forged.into()))?;
        fits::fits(self, state, screens).map_err(|mismatch| LoadError::Mismatch(mismatch.into()))
    }

    fn load(
        &mut self,
        state: GpuState,
        screens: &mut Screens,
        known: &mut Known<'_>,
    ) -> Result<u64, LoadError> {
        let GpuState {
            device: DeviceV1 { features, modes },
            resources,
            heads,
            pixels,
        } = state;
        let mut pixels = Pixels {
            pieces: &pixels,
            taken: 0,
        };
        let no_memory = |error: NoMemory| LoadError::Host(error.into());
        let mut new_resources = BTreeMap::new();
        for resource in resources {
            let (id, resource) = pixels.resource(resource).map_err(no_memory)?;
            new_resources.insert(id, resource);
        }
        let mut new_heads: [_; SCANOUTS_MAX] = Default::default();
        for head in heads {
            let number = usize::try_from(head.number).unwrap_or(usize::MAX);
            if let Some(place) = new_heads.get_mut(number) {
                *place = pixels.head(head).map_err(no_memory)?;
            }
        }
        self.set_resources(new_resources);
        *known.info = (!modes.is_empty()).then(|| display_info(&modes));
        let places = screens.heads.iter_mut().zip(&mut self.scanouts);
        for ((new, (head, scanout)), edid) in new_heads
            .into_iter()
            .zip(places)
            .zip(known.edids.iter_mut())
        {
            let LoadedHead {
                scanout: new_scanout,
                picture,
                cursor,
                edid: new_edid,
            } = new;
            *scanout = new_scanout;
            head.picture = picture;
            head.cursor = cursor;
            head.news.damage = None;
            *edid = new_edid;
        }
        Ok(features)
    }
}

fn backing(pieces: &[PieceV1]) -> Option<Backing> {
    Backing::new(
        pieces
            .iter()
            .map(|PieceV1 { address, len }| (*address, *len)),
    )
}

/// What is on a screen, and by what.
#[derive(Default)]
struct LoadedHead {
    scanout: Option<Scanout>,
    picture: Option<Picture>,
    cursor: Option<Cursor>,
    edid: Option<Vec<u8>>,
}

/// Pixels of carried tiles, taken one row after the other.
struct Pixels<'a> {
    pieces: &'a [Vec<u8>],
    /// Bytes of the first piece that were taken.
    taken: usize,
}

impl Pixels<'_> {
    fn resource(&mut self, resource: ResourceV1) -> Result<(u32, Resource), NoMemory> {
        let ResourceV1 {
            id,
            kind,
            backing: pieces,
            uuid,
        } = resource;
        let resource = Resource {
            kind: match kind {
                ResourceKindV1::Image(image) => Kind::Image(self.image(&image)?),
                ResourceKindV1::Blob(BlobV1 { size, flags, id }) => {
                    Kind::Blob(Blob { size, flags, id })
                }
            },
            backing: backing(&pieces),
            uuid,
        };
        Ok((id, resource))
    }

    fn image(&mut self, image: &ImageV1) -> Result<Image, NoMemory> {
        let ImageV1 {
            format,
            width,
            height,
            tiles,
        } = image;
        let (width, height) = (*width, *height);
        // Validation has seen that there is such a format.
        let format = PixelFormat::from_number(*format).unwrap_or(PixelFormat::B8G8R8X8);
        let mut image = Image::new(format, width, height).ok_or(NoMemory { width, height })?;
        image.awaited = self.fill(&mut image.pixels, Size { width, height }, tiles);
        Ok(image)
    }

    fn head(&mut self, head: HeadV1) -> Result<LoadedHead, NoMemory> {
        let HeadV1 {
            number: _,
            scanout,
            cursor,
            edid,
        } = head;
        let mut loaded = LoadedHead {
            cursor: cursor.as_ref().map(self::cursor),
            edid: (!edid.is_empty()).then_some(edid),
            ..LoadedHead::default()
        };
        if let Some(ScanoutV1 {
            resource,
            rect,
            layout,
            tiles,
        }) = scanout
        {
            let rect = self::rect(&rect);
            let size = Size {
                width: rect.width,
                height: rect.height,
            };
            let mut picture = Picture::black(size).ok_or(NoMemory {
                width: size.width,
                height: size.height,
            })?;
            picture.awaited = self.fill(&mut picture.pixels, size, &tiles);
            loaded.picture = Some(picture);
            loaded.scanout = Some(Scanout {
                resource,
                rect,
                layout: self::layout(&layout),
            });
        }
        Ok(loaded)
    }

    /// Puts carried tiles into a picture; returns all tiles if some of them are to be made again.
    fn fill(&mut self, pixels: &mut [u8], size: Size, state: &TilesV1) -> Option<Tiles> {
        let TilesV1 { kinds, checksums } = state;
        let mut checksums = checksums.iter();
        let tiles: Tiles = kinds
            .iter()
            .map(|kind| match kind {
                0 => Tile::Same(checksums.next().copied().unwrap_or(0)),
                1 => Tile::Blank,
                _ => Tile::Carried,
            })
            .collect();
        for row in tiles::carried(size, &tiles) {
            if let Some(row) = pixels.get_mut(row) {
                self.take(row);
            }
        }
        let awaits = tiles.iter().any(|tile| matches!(tile, Tile::Same(_)));
        awaits.then_some(tiles)
    }

    fn take(&mut self, row: &mut [u8]) {
        let mut row = row;
        while let Some((piece, rest)) = self.pieces.split_first() {
            let there = piece.get(self.taken..).unwrap_or_default();
            let (now, later) = row.split_at_mut(there.len().min(row.len()));
            now.copy_from_slice(there.get(..now.len()).unwrap_or_default());
            self.taken += now.len();
            if later.is_empty() {
                return;
            }
            row = later;
            self.pieces = rest;
            self.taken = 0;
        }
    }
}

fn display_info(modes: &[ModeV1]) -> Box<DisplayInfo> {
    let mut info = Box::new(DisplayInfo::default());
    for (target, mode) in info.iter_mut().zip(modes) {
        let ModeV1 {
            rect,
            enabled,
            flags,
        } = mode;
        *target = Mode {
            rect: self::rect(rect),
            enabled: *enabled,
            flags: *flags,
        };
    }
    info
}

fn rect(rect: &RectV1) -> Rect {
    let &RectV1 {
        x,
        y,
        width,
        height,
    } = rect;
    Rect {
        x,
        y,
        width,
        height,
    }
}

fn layout(layout: &LayoutV1) -> Layout {
    let &LayoutV1 {
        format,
        width,
        height,
        stride,
        offset,
    } = layout;
    Layout {
        format,
        width,
        height,
        stride,
        offset,
    }
}

fn cursor(cursor: &CursorV1) -> Cursor {
    let CursorV1 {
        x,
        y,
        hot_x,
        hot_y,
        visible,
        image,
    } = cursor;
    Cursor {
        position: (*x, *y),
        hot: (*hot_x, *hot_y),
        visible: *visible,
        image: image.as_ref().map(whole),
    }
}

/// The image with all that was cut off.
fn whole(image: &CursorImageV1) -> Box<[u8]> {
    let CursorImageV1 { rect, pixels } = image;
    let size = Size {
        width: CURSOR_SIDE,
        height: CURSOR_SIDE,
    };
    let mut whole = vec![0; CURSOR_BYTES].into_boxed_slice();
    let mut pixels = pixels.iter();
    for row in size.rows(self::rect(rect)) {
        for (byte, of_image) in whole.get_mut(row).into_iter().flatten().zip(&mut pixels) {
            *byte = *of_image;
        }
    }
    whole
}

#[cfg(test)]
mod tests;
