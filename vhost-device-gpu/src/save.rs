//! From the live device to its state. Consumes nothing: the guest may go on, and the next one is saved the same way.

use std::collections::BTreeMap;

use common::state::CHUNK_BYTES_MAX;

use crate::config::StatePixels;
use crate::display::Known;
use crate::screens::{CURSOR_SIDE, Cursor, Head, Picture, Screens};
use crate::state::{
    BlobV1, CursorImageV1, CursorV1, DeviceV1, GpuState, HeadV1, ImageV1, LayoutV1, ModeV1,
    PieceV1, RectV1, ResourceKindV1, ResourceV1, ScanoutV1, TilesV1,
};
use crate::two_d::resource::{Blob, Image, Kind, Resource};
use crate::two_d::tiles::{self, Size, Tile};
use crate::two_d::{Backing, Core, GuestBytes, Scanout};
use crate::wire::{Layout, Mode, Rect};

/// A renderer that can be saved.
pub trait Save {
    /// The state of the whole device: of the renderer's own, of the screens, and of what the front-end said.
    fn save(
        &self,
        guest: &impl GuestBytes,
        wanted: StatePixels,
        features: u64,
        screens: &Screens,
        known: &Known<'_>,
    ) -> GpuState;
}

impl Save for Core {
    fn save(
        &self,
        guest: &impl GuestBytes,
        wanted: StatePixels,
        features: u64,
        screens: &Screens,
        known: &Known<'_>,
    ) -> GpuState {
        let Known { info, edids } = known;
        let mut saver = Saver {
            guest,
            wanted,
            resources: self.resources(),
            pixels: Vec::new(),
        };
        let resources = self
            .resources()
            .iter()
            .map(|(id, resource)| saver.resource(*id, resource))
            .collect();
        let heads = (0..)
            .zip(&screens.heads)
            .zip(self.scanouts.iter().zip(edids.iter()))
            .filter_map(|((number, head), (scanout, edid))| {
                saver.head(number, head, scanout.as_ref(), edid.clone())
            })
            .collect();
        let modes = info.as_ref().map(|info| info.iter().map(mode).collect());
        GpuState {
            device: DeviceV1 {
                features,
                modes: modes.unwrap_or_default(),
            },
            resources,
            heads,
            pixels: saver.pixels,
        }
    }
}

/// Puts pixels together while tables are made.
struct Saver<'a, G> {
    guest: &'a G,
    wanted: StatePixels,
    resources: &'a BTreeMap<u32, Resource>,
    pixels: Vec<Vec<u8>>,
}

impl<G: GuestBytes> Saver<'_, G> {
    fn resource(&mut self, id: u32, resource: &Resource) -> ResourceV1 {
        let Resource {
            kind,
            backing,
            uuid,
        } = resource;
        ResourceV1 {
            id,
            kind: match kind {
                Kind::Image(image) => ResourceKindV1::Image(self.image(image, backing.as_ref())),
                Kind::Blob(blob) => ResourceKindV1::Blob(self::blob(*blob)),
            },
            backing: backing.iter().flat_map(pieces).collect(),
            uuid: *uuid,
        }
    }

    fn image(&mut self, image: &Image, backing: Option<&Backing>) -> ImageV1 {
        let Image {
            format,
            width,
            height,
            pixels,
            awaited,
        } = image;
        // In full, nothing is left to guest memory.
        let backing = backing.filter(|_| self.wanted == StatePixels::Delta);
        let base = |x: u32, y: u32, into: &mut [u8]| {
            backing.is_some_and(|backing| backing.read(self.guest, image.offset(x, y), into))
        };
        let tiles = match awaited {
            Some(tiles) => tiles.clone(), // as they came; nobody has looked at guest memory yet
            None => tiles::survey(pixels, image.size(), base),
        };
        ImageV1 {
            format: *format as u32,
            width: *width,
            height: *height,
            tiles: self.tiles(pixels, image.size(), &tiles),
        }
    }

    fn head(
        &mut self,
        number: u32,
        head: &Head,
        scanout: Option<&Scanout>,
        edid: Option<Vec<u8>>,
    ) -> Option<HeadV1> {
        let Head {
            picture,
            cursor,
            news: _, // the next reader is told everything
        } = head;
        let scanout = match (scanout, picture) {
            (Some(scanout), Some(picture)) => Some(self.scanout(scanout, picture)),
            _ => None,
        };
        let cursor = cursor.as_ref().map(self::cursor);
        let edid = edid.unwrap_or_default();
        let is_worth_it = scanout.is_some() || cursor.is_some() || !edid.is_empty();
        is_worth_it.then_some(HeadV1 {
            number,
            scanout,
            cursor,
            edid,
        })
    }

    fn scanout(&mut self, scanout: &Scanout, picture: &Picture) -> ScanoutV1 {
        let Scanout {
            resource,
            rect,
            layout,
        } = *scanout;
        let Picture {
            size,
            pixels,
            awaited,
        } = picture;
        let shown = self.resources.get(&resource).filter(|shown| {
            // The host copy of an image is in the state; a blob is guest memory.
            matches!(shown.kind, Kind::Image(_)) || self.wanted == StatePixels::Delta
        });
        let base = |x: u32, y: u32, into: &mut [u8]| {
            shown.is_some_and(|shown| scanout.row(shown, self.guest, x, y, into))
        };
        let tiles = match awaited {
            Some(tiles) => tiles.clone(),
            None => tiles::survey(pixels, *size, base),
        };
        ScanoutV1 {
            resource,
            rect: self::rect(rect),
            layout: self::layout(layout),
            tiles: self.tiles(pixels, *size, &tiles),
        }
    }

    fn tiles(&mut self, pixels: &[u8], size: Size, tiles: &[Tile]) -> TilesV1 {
        for row in tiles::carried(size, tiles) {
            self.carry(pixels.get(row).unwrap_or_default());
        }
        let mut state = TilesV1::default();
        for tile in tiles {
            state.kinds.push(match tile {
                Tile::Same(checksum) => {
                    state.checksums.push(*checksum);
                    0
                }
                Tile::Blank => 1,
                Tile::Carried => 2,
            });
        }
        state
    }

    fn carry(&mut self, row: &[u8]) {
        match self.pixels.last_mut() {
            Some(last) if last.len() + row.len() <= CHUNK_BYTES_MAX => last.extend_from_slice(row),
            _ => self.pixels.push(row.to_vec()),
        }
    }
}

fn blob(blob: Blob) -> BlobV1 {
    let Blob { size, flags, id } = blob;
    BlobV1 { size, flags, id }
}

fn pieces(backing: &Backing) -> impl Iterator<Item = PieceV1> {
    backing
        .pieces()
        .map(|(address, len)| PieceV1 { address, len })
}

fn mode(mode: &Mode) -> ModeV1 {
    let Mode {
        rect,
        enabled,
        flags,
    } = *mode;
    ModeV1 {
        rect: self::rect(rect),
        enabled,
        flags,
    }
}

fn rect(rect: Rect) -> RectV1 {
    let Rect {
        x,
        y,
        width,
        height,
    } = rect;
    RectV1 {
        x,
        y,
        width,
        height,
    }
}

fn layout(layout: Layout) -> LayoutV1 {
    let Layout {
        format,
        width,
        height,
        stride,
        offset,
    } = layout;
    LayoutV1 {
        format,
        width,
        height,
        stride,
        offset,
    }
}

fn cursor(cursor: &Cursor) -> CursorV1 {
    let Cursor {
        position: (x, y),
        hot: (hot_x, hot_y),
        visible,
        image,
    } = cursor;
    CursorV1 {
        x: *x,
        y: *y,
        hot_x: *hot_x,
        hot_y: *hot_y,
        visible: *visible,
        image: image.as_deref().map(cropped),
    }
}

/// The smallest rectangle of a cursor's image outside of which all is zero.
fn cropped(image: &[u8]) -> CursorImageV1 {
    let size = Size {
        width: CURSOR_SIDE,
        height: CURSOR_SIDE,
    };
    let whole = Rect::of_size(CURSOR_SIDE, CURSOR_SIDE);
    let mut seen: Option<Rect> = None;
    for (y, row) in (0..).zip(size.rows(whole)) {
        let row = image.get(row).unwrap_or_default();
        for (x, pixel) in (0..).zip(row.as_chunks::<4>().0) {
            if *pixel != [0; 4] {
                let here = Rect {
                    x,
                    y,
                    width: 1,
                    height: 1,
                };
                seen = Some(seen.map_or(here, |seen| seen.union(&here)));
            }
        }
    }
    let seen = seen.unwrap_or_default();
    let rows = size.rows(seen);
    CursorImageV1 {
        rect: rect(seen),
        pixels: rows
            .flat_map(|row| image.get(row).unwrap_or_default())
            .copied()
            .collect(),
    }
}
