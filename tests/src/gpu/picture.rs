//! What is seen on a head: pixels as x8r8g8b8, of which x is kept 0.

use std::fmt;

use super::wire::Rect;

/// A picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}x{} {:x}",
            self.width,
            self.height,
            self.hash()
        )
    }
}

impl Picture {
    /// A black one.
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            pixels: vec![0; width as usize * height as usize],
        }
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// All of it.
    pub fn area(&self) -> Rect {
        Rect::of_size(self.width, self.height)
    }

    /// A pixel; black where there is none.
    pub fn get(&self, x: u32, y: u32) -> u32 {
        self.index(x, y)
            .and_then(|index| self.pixels.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// Changes a pixel, if there is one.
    pub fn put(&mut self, x: u32, y: u32, pixel: u32) {
        let index = self.index(x, y);
        if let Some(place) = index.and_then(|index| self.pixels.get_mut(index)) {
            *place = pixel & 0x00ff_ffff;
        }
    }

    /// Puts rows of little-endian pixels there, as many as fit into `rect`.
    pub fn paint(&mut self, rect: Rect, bytes: &[u8]) {
        let rows = bytes.chunks_exact(4 * rect.width.max(1) as usize);
        for (row, y) in rows.zip(rect.y..rect.y + rect.height) {
            let Some(start) = self.index(rect.x, y) else {
                continue;
            };
            let places = self.pixels.iter_mut().skip(start);
            for (place, pixel) in places.zip(row.as_chunks().0) {
                *place = u32::from_le_bytes(*pixel) & 0x00ff_ffff;
            }
        }
    }

    /// The first pixel that differs from another picture of the same size.
    pub fn difference(&self, other: &Self) -> Option<(u32, u32)> {
        let pairs = self.pixels.iter().zip(&other.pixels);
        let index = pairs.into_iter().position(|(one, two)| one != two)?;
        let index = u32::try_from(index).ok()?;
        Some((index % self.width, index / self.width))
    }

    /// A number that differs where pictures do (FNV-1a).
    pub fn hash(&self) -> u64 {
        let start = u64::from(self.width) << 32 | u64::from(self.height);
        self.pixels
            .iter()
            .fold(0xcbf2_9ce4_8422_2325 ^ start, |hash, pixel| {
                (hash ^ u64::from(*pixel)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    fn index(&self, x: u32, y: u32) -> Option<usize> {
        (x < self.width && y < self.height).then_some(y as usize * self.width as usize + x as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_painted_is_there_and_nowhere_else() {
        let mut picture = Picture::new(5, 4);
        let bytes: Vec<u8> = (1..=6_u32)
            .flat_map(|pixel| (pixel | 0xff00_0000).to_le_bytes())
            .collect();
        let rect = Rect::new(1, 2, 3, 2);
        picture.paint(rect, &bytes);
        for y in 0..4 {
            for x in 0..5 {
                let expected = if rect.contains(x, y) {
                    (y - 2) * 3 + x
                } else {
                    0
                };
                assert_eq!(picture.get(x, y), expected, "{x},{y}");
            }
        }
        let mut other = picture.clone();
        assert_eq!(picture.difference(&other), None);
        other.put(4, 3, 9);
        assert_eq!(picture.difference(&other), Some((4, 3)));
        assert_ne!(picture.hash(), other.hash());
    }
}
