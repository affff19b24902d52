//! What is on the screens: a picture and a cursor for each, and what of it is news to whoever looks.
//!
//! A picture is a copy of what was last shown of a scanout, as the display protocol wants it (x8r8g8b8). So a reader of the display
//! socket may be as slow as it likes: news are a rectangle that grows, and never more than one picture of memory. Knows neither
//! guests nor sockets.

use crate::two_d::resource::image_bytes;
use crate::two_d::room;
use crate::two_d::tiles::{self, Size, Tiles};
use crate::wire::{Rect, SCANOUTS_MAX};

/// Width and height of a cursor in pixels (virtio 1.3, 5.7.6.10).
pub const CURSOR_SIDE: u32 = 64;
/// Bytes of a cursor's image.
pub const CURSOR_BYTES: usize = (CURSOR_SIDE * CURSOR_SIDE * 4) as usize;

/// The host has no memory for another picture, or the guest may not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for another picture")]
pub struct NoRoom;

/// What is on one screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its size.
    pub size: Size,
    /// Its pixels, row by row.
    pub pixels: Vec<u8>,
    /// Tiles that are still to be fetched, after a load.
    pub awaited: Option<Tiles>,
}

impl Picture {
    /// A black picture; `None` if the host has no memory for it.
    pub(crate) fn black(size: Size) -> Option<Self> {
        Some(Self {
            size,
            pixels: room::black(image_bytes(size.width, size.height)?)?,
            awaited: None,
        })
    }
}

/// What moves with the mouse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where its hot spot is, in pixels of the screen.
    pub position: (u32, u32),
    /// Its hot spot, in pixels of the image.
    pub hot: (u32, u32),
    /// Whether it is seen.
    pub visible: bool,
    /// The image, a8r8g8b8, as it was when the guest defined it; the resource may be another one since.
    pub image: Option<Box<[u8]>>,
}

/// What of a screen the reader does not know yet.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent: each is one message"
)]
pub(crate) struct News {
    /// The size that it was told on this socket; `None` if it knows of no picture.
    pub(crate) told: Option<Size>,
    /// It may know of a picture, from this socket or another one before. For ever: what is sent to a socket that is then closed
    /// is not always read, and QEMU keeps what it shows.
    pub(crate) lit: bool,
    /// It was told on this socket that there is no picture.
    pub(crate) dark: bool,
    /// It may know of a cursor, likewise.
    pub(crate) pointed: bool,
    /// Nothing of the picture was sent since it was told its size.
    pub(crate) whole: bool,
    /// Where the picture has changed.
    pub(crate) damage: Option<Rect>,
    /// The cursor has another image, which is told when it is seen.
    pub(crate) cursor_image: bool,
    /// The cursor is elsewhere, or seen or not seen.
    pub(crate) cursor_place: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) picture: Option<Picture>,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) news: News,
}

/// All screens.
#[derive(Clone, Debug)]
pub struct Screens {
    pub(crate) heads: [Head; SCANOUTS_MAX],
    /// Greatest number of bytes of all pictures.
    bytes_max: u64,
    /// A row, for comparing.
    row: Vec<u8>,
    /// The head whose news come first next time.
    pub(crate) turn: usize,
}

impl Screens {
    /// Dark screens, whose pictures may have this many bytes in all.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            heads: Default::default(),
            bytes_max,
            row: Vec::new(),
            turn: 0,
        }
    }

    /// Greatest number of bytes of all pictures.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The picture on a screen, if it is whole.
    pub fn picture(&self, head: usize) -> Option<&Picture> {
        let picture = self.heads.get(head)?.picture.as_ref();
        picture.filter(|picture| picture.awaited.is_none())
    }

    /// Whether a load has left something to be fetched.
    pub(crate) fn are_awaited(&self) -> bool {
        let mut pictures = self.heads.iter().filter_map(|head| head.picture.as_ref());
        pictures.any(|picture| picture.awaited.is_some())
    }

    /// The cursor on a screen.
    pub fn cursor(&self, head: usize) -> Option<&Cursor> {
        self.heads.get(head)?.cursor.as_ref()
    }

    /// Dark, without cursors.
    pub fn reset(&mut self) {
        for head in 0..SCANOUTS_MAX {
            self.turn_off(head);
            if let Some(head) = self.heads.get_mut(head) {
                head.cursor = None;
                head.news.cursor_image = false;
                head.news.cursor_place = head.news.pointed;
            }
        }
    }

    /// Shows a picture of this size, of which `fill` gives the rows. If there was one of this size, only what differs is news.
    pub fn show(
        &mut self,
        head: usize,
        width: u32,
        height: u32,
        mut fill: impl FnMut(u32, &mut [u8]) -> bool,
    ) -> Result<(), NoRoom> {
        let size = Size { width, height };
        if self
            .picture(head)
            .is_none_or(|picture| picture.size != size)
        {
            let picture = self.black(head, size)?;
            if let Some(head) = self.heads.get_mut(head) {
                head.picture = Some(picture);
                head.news.damage = None;
            }
            self.paint(head, Rect::of_size(width, height), fill);
            return Ok(());
        }
        let Self { heads, row, .. } = self;
        let Some(Head {
            picture: Some(picture),
            news,
            ..
        }) = heads.get_mut(head)
        else {
            return Ok(());
        };
        for (y, place) in (0..height).zip(size.rows(Rect::of_size(width, height))) {
            let Some(old) = picture.pixels.get_mut(place) else {
                continue;
            };
            row.resize(old.len(), 0);
            if !fill(y, row) {
                row.fill(0);
            }
            if row != old {
                old.copy_from_slice(row);
                news.damage(Rect {
                    x: 0,
                    y,
                    width,
                    height: 1,
                });
            }
        }
        Ok(())
    }

    fn black(&self, head: usize, size: Size) -> Result<Picture, NoRoom> {
        let others = self.heads.iter().enumerate();
        let used: u64 = others
            .filter(|(other, _)| *other != head)
            .filter_map(|(_, other)| Some(other.picture.as_ref()?.pixels.len() as u64))
            .sum();
        image_bytes(size.width, size.height)
            .filter(|bytes| used.saturating_add(*bytes) <= self.bytes_max)
            .and_then(|_| Picture::black(size))
            .ok_or(NoRoom)
    }

    /// Changes a part of a picture, which lies within it; `fill` gives the rows, counted from the top of the picture, and may
    /// refuse one.
    pub fn paint(&mut self, head: usize, part: Rect, mut fill: impl FnMut(u32, &mut [u8]) -> bool) {
        let Some(Head {
            picture: Some(picture),
            news,
            ..
        }) = self.heads.get_mut(head)
        else {
            return;
        };
        for (y, place) in (part.y..).zip(picture.size.rows(part)) {
            if let Some(row) = picture.pixels.get_mut(place)
                && !fill(y, row)
            {
                row.fill(0);
            }
        }
        news.damage(part);
    }

    /// Nothing is shown any more.
    pub fn turn_off(&mut self, head: usize) {
        if let Some(head) = self.heads.get_mut(head) {
            head.picture = None;
            head.news.damage = None;
        }
    }

    /// The cursor has a new image, and is seen.
    pub fn define_cursor(
        &mut self,
        head: usize,
        position: (u32, u32),
        hot: (u32, u32),
        image: &[u8],
    ) {
        if let Some(head) = self.heads.get_mut(head) {
            let cursor = head.cursor.get_or_insert_default();
            cursor.position = position;
            cursor.hot = hot;
            cursor.visible = true;
            match &mut cursor.image {
                Some(old) => old.copy_from_slice(image),
                none => *none = Some(image.into()),
            }
            head.news.cursor_image = true;
            head.news.cursor_place = false;
        }
    }

    /// The cursor is elsewhere, or seen or not.
    pub fn move_cursor(&mut self, head: usize, position: (u32, u32), visible: bool) {
        if let Some(head) = self.heads.get_mut(head) {
            let cursor = head.cursor.get_or_insert_default();
            cursor.position = position;
            cursor.visible = visible;
            head.news.cursor_place = true;
        }
    }

    /// Makes again what a load has left out of a picture; returns how many tiles are not what they were.
    pub(crate) fn fetch(
        &mut self,
        head: usize,
        base: impl Fn(u32, u32, &mut [u8]) -> bool + Sync,
    ) -> usize {
        let Some(Head {
            picture: Some(picture),
            ..
        }) = self.heads.get_mut(head)
        else {
            return 0;
        };
        let Some(tiles) = picture.awaited.take() else {
            return 0;
        };
        tiles::rebuild(&mut picture.pixels, picture.size, &tiles, base)
    }

    /// There is another reader, who knows nothing; but what the one before was shown may still be seen.
    pub(crate) fn introduce(&mut self) {
        for head in &mut self.heads {
            head.news.told = None;
            head.news.dark = false;
            match &head.cursor {
                Some(cursor) => {
                    head.news.cursor_image = cursor.image.is_some();
                    head.news.cursor_place = true;
                }
                None => head.news.cursor_place = head.news.pointed,
            }
        }
    }
}

impl News {
    fn damage(&mut self, part: Rect) {
        if !part.is_empty() {
            self.damage = Some(self.damage.map_or(part, |before| before.union(&part)));
        }
    }
}

#[cfg(test)]
mod tests;
