//! A GPU that is simple, slow, and right: what a device has to show for the commands that it was given.
//!
//! What is seen changes when the guest sets a scanout, which shows all of it, and when it flushes; not when it transfers.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::display::Cursor;
use super::picture::Picture;
use super::wire::{CURSOR_SIZE, Format, Position, Rect};

/// A resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Layout of its pixels.
    pub format: Format,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The host's copy, rows of pixels.
    pub pixels: Vec<u32>,
}

impl Resource {
    /// All of it.
    pub fn area(&self) -> Rect {
        Rect::of_size(self.width, self.height)
    }

    fn pixel(&self, x: u32, y: u32) -> u32 {
        let index = y as usize * self.width as usize + x as usize;
        self.pixels.get(index).copied().unwrap_or_default()
    }
}

/// What a head shows.
#[derive(Clone, Debug)]
struct Scanout {
    resource: u32,
    rect: Rect,
    picture: Picture,
}

impl Scanout {
    fn show(&mut self, resource: &Resource, part: Rect) {
        for (x, y) in pixels(self.rect).filter(|(x, y)| part.contains(*x, *y)) {
            let pixel = resource.format.to_rgb(resource.pixel(x, y));
            self.picture.put(x - self.rect.x, y - self.rect.y, pixel);
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Model {
    resources: BTreeMap<u32, Resource>,
    scanouts: BTreeMap<u32, Scanout>,
    cursors: BTreeMap<u32, Cursor>,
}

impl Model {
    /// Ids of all resources.
    pub fn ids(&self) -> Vec<u32> {
        self.resources.keys().copied().collect()
    }

    /// A resource.
    pub fn resource(&self, id: u32) -> Result<&Resource> {
        self.resources.get(&id).context("no such resource")
    }

    /// Cursors that were ever seen.
    pub fn cursors(&self) -> &BTreeMap<u32, Cursor> {
        &self.cursors
    }

    /// Nothing is left, and no cursor is seen.
    pub fn reset(&mut self) {
        self.resources.clear();
        self.scanouts.clear();
        for cursor in self.cursors.values_mut() {
            *cursor = Cursor::default();
        }
    }

    /// A new resource, black.
    pub fn create(&mut self, id: u32, format: Format, width: u32, height: u32) {
        let resource = Resource {
            format,
            width,
            height,
            pixels: vec![0; width as usize * height as usize],
        };
        self.resources.insert(id, resource);
    }

    /// A resource goes, and heads that showed it are off.
    pub fn unref(&mut self, id: u32) {
        self.resources.remove(&id);
        self.scanouts.retain(|_, scanout| scanout.resource != id);
    }

    /// What is in the backing, all of it, comes to the part `rect`; the backing's row after row begins at `offset`.
    pub fn transfer(&mut self, id: u32, rect: Rect, offset: u64, backing: &[u8]) -> Result<()> {
        let resource = self.resources.get_mut(&id).context("no such resource")?;
        let stride = resource.width as usize * 4;
        for row in 0..rect.height as usize {
            for column in 0..rect.width as usize {
                let at = usize::try_from(offset)? + row * stride + column * 4;
                let bytes = backing.get(at..).and_then(<[u8]>::first_chunk);
                let bytes = bytes.context("the backing is too short")?;
                let index =
                    (rect.y as usize + row) * resource.width as usize + rect.x as usize + column;
                let place = resource.pixels.get_mut(index);
                *place.context("outside of the resource")? = u32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }

    /// A head shows a part of a resource; resource 0 turns it off.
    pub fn set_scanout(&mut self, head: u32, id: u32, rect: Rect) -> Result<()> {
        if id == 0 {
            self.scanouts.remove(&head);
            return Ok(());
        }
        let mut scanout = Scanout {
            resource: id,
            rect,
            picture: Picture::new(rect.width, rect.height),
        };
        scanout.show(self.resource(id)?, rect);
        self.scanouts.insert(head, scanout);
        Ok(())
    }

    /// This part of a resource is seen on all heads that show it.
    pub fn flush(&mut self, id: u32, rect: Rect) -> Result<()> {
        let resource = self.resources.get(&id).context("no such resource")?;
        for scanout in self.scanouts.values_mut() {
            if scanout.resource == id {
                scanout.show(resource, rect);
            }
        }
        Ok(())
    }

    /// A cursor is on its head with the image that the resource has now; resource 0 hides it.
    pub fn update_cursor(&mut self, at: Position, id: u32, hot: (u32, u32)) -> Result<()> {
        if id == 0 {
            self.move_cursor(at, 0);
            return Ok(());
        }
        let resource = self.resources.get(&id).context("no such resource")?;
        let image = (0..CURSOR_SIZE * CURSOR_SIZE)
            .map(|index| resource.pixel(index % CURSOR_SIZE, index / CURSOR_SIZE))
            .flat_map(|pixel| resource.format.to_argb(pixel).to_le_bytes());
        let cursor = Cursor {
            visible: true,
            at: (at.x, at.y),
            hot,
            image: image.collect(),
        };
        self.cursors.insert(at.scanout, cursor);
        Ok(())
    }

    /// The cursor is elsewhere, or hidden.
    pub fn move_cursor(&mut self, at: Position, id: u32) {
        let cursor = self.cursors.entry(at.scanout).or_default();
        cursor.at = (at.x, at.y);
        cursor.visible = id != 0;
    }

    /// What is seen on a head, unless it is off.
    pub fn picture(&self, head: u32) -> Option<&Picture> {
        self.scanouts.get(&head).map(|scanout| &scanout.picture)
    }
}

fn pixels(rect: Rect) -> impl Iterator<Item = (u32, u32)> {
    (rect.y..rect.y + rect.height)
        .flat_map(move |y| (rect.x..rect.x + rect.width).map(move |x| (x, y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pixels of four rows, with each byte another.
    fn backing() -> Vec<u8> {
        (1..=32).collect()
    }

    #[test]
    fn a_transfer_begins_at_its_offset_and_goes_by_the_rows_of_the_resource() {
        let mut model = Model::default();
        model.create(1, Format::BGRX, 2, 4);
        model
            .transfer(1, Rect::new(1, 2, 1, 2), 12, &backing())
            .unwrap();
        let pixels = &model.resource(1).unwrap().pixels;
        let expected = [0, 0, 0, 0, 0, 0x100f_0e0d, 0, 0x1817_1615];
        assert_eq!(pixels, &expected);
    }

    #[test]
    fn a_flush_shows_what_a_transfer_does_not() {
        let mut model = Model::default();
        model.create(1, Format::RGBA, 2, 4);
        model.set_scanout(3, 1, Rect::new(0, 1, 2, 2)).unwrap();
        model
            .transfer(1, Rect::of_size(2, 4), 0, &backing())
            .unwrap();
        assert_eq!(model.picture(3), Some(&Picture::new(2, 2)));
        model.flush(1, Rect::new(0, 0, 1, 2)).unwrap();
        let mut expected = Picture::new(2, 2);
        expected.put(0, 0, 0x0009_0a0b);
        assert_eq!(model.picture(3), Some(&expected));
        model.set_scanout(3, 1, Rect::new(0, 1, 2, 2)).unwrap();
        assert_eq!(model.picture(3).unwrap().get(1, 1), 0x0015_1617);
        model.unref(1);
        assert_eq!(model.picture(3), None);
    }
}
