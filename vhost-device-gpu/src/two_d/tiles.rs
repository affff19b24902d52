//! Pictures in tiles, and which of them somebody else has as well.
//!
//! What the guest has drawn is in its own memory, which moves anyway. So a picture is compared with what it was made from, tile by
//! tile: one that is the same is remembered by its checksum, and made again from there; one that is black is nothing at all; any
//! other has to be carried along. Knows pixels of four bytes, not whose they are.

use crc32c::crc32c_append;

use super::format::PIXEL_BYTES;
use super::resource::range;
use crate::wire::Rect;

/// Width and height of a tile in pixels; 16 KiB.
pub const TILE_SIDE: u32 = 64;
const ROW_BYTES_MAX: usize = (TILE_SIDE * PIXEL_BYTES) as usize;

/// How a tile comes to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// It is made again from what it was made from; its checksum.
    Same(u32),
    /// It is black.
    Blank,
    /// It travels.
    Carried,
}

/// All tiles of a picture, row by row.
pub type Tiles = Vec<Tile>;

/// Where the tiles of a picture are, row by row.
pub fn rects(width: u32, height: u32) -> impl Iterator<Item = Rect> {
    let side = TILE_SIDE as usize;
    (0..height).step_by(side).flat_map(move |y| {
        (0..width).step_by(side).map(move |x| Rect {
            x,
            y,
            width: TILE_SIDE.min(width - x),
            height: TILE_SIDE.min(height - y),
        })
    })
}

/// A picture's size, for finding its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Size {
    /// Where the rows of a part are in the picture's bytes.
    pub fn rows(self, part: Rect) -> impl Iterator<Item = std::ops::Range<usize>> {
        let pixel = u64::from(PIXEL_BYTES);
        let first = u64::from(part.y) * u64::from(self.width) + u64::from(part.x);
        (0..u64::from(part.height)).filter_map(move |row| {
            let start = (first + row * u64::from(self.width)) * pixel;
            range(start, u64::from(part.width) * pixel)
        })
    }
}

/// Compares a picture with what `base` gives for rows of it (the first pixel's place, and the bytes to fill; false if it has
/// none).
pub fn survey(
    pixels: &[u8],
    size: Size,
    mut base: impl FnMut(u32, u32, &mut [u8]) -> bool,
) -> Tiles {
    rects(size.width, size.height)
        .map(|part| tile(pixels, size, part, &mut base))
        .collect()
}

fn tile(
    pixels: &[u8],
    size: Size,
    part: Rect,
    base: &mut impl FnMut(u32, u32, &mut [u8]) -> bool,
) -> Tile {
    let mut buffer = [0; ROW_BYTES_MAX];
    let (mut same, mut blank, mut checksum) = (true, true, 0);
    for (y, row) in (part.y..).zip(size.rows(part)) {
        let row = pixels.get(row).unwrap_or_default();
        blank = blank && row.iter().all(|byte| *byte == 0);
        same = same && {
            let (other, _) = buffer.split_at_mut(row.len());
            base(part.x, y, other) && other == row
        };
        checksum = crc32c_append(checksum, row);
        if !same && !blank {
            return Tile::Carried;
        }
    }
    if blank {
        Tile::Blank
    } else {
        Tile::Same(checksum)
    }
}

/// Makes the tiles again that `base` has; returns how many of them are not what they were.
pub fn rebuild(
    pixels: &mut [u8],
    size: Size,
    tiles: &[Tile],
    mut base: impl FnMut(u32, u32, &mut [u8]) -> bool,
) -> usize {
    let mut wrong = 0;
    for (part, tile) in rects(size.width, size.height).zip(tiles) {
        let Tile::Same(expected) = tile else {
            continue;
        };
        let mut checksum = 0;
        for (y, row) in (part.y..).zip(size.rows(part)) {
            let row = pixels.get_mut(row).unwrap_or_default();
            if base(part.x, y, row) {
                checksum = crc32c_append(checksum, row);
            } else {
                row.fill(0);
            }
        }
        wrong += usize::from(checksum != *expected);
    }
    wrong
}

/// The rows of all tiles that are carried, in order.
pub fn carried(size: Size, tiles: &[Tile]) -> impl Iterator<Item = std::ops::Range<usize>> {
    rects(size.width, size.height)
        .zip(tiles)
        .filter(|(_, tile)| **tile == Tile::Carried)
        .flat_map(move |(part, _)| size.rows(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        width: 150,
        height: 70,
    };

    fn pattern() -> Vec<u8> {
        (0..150 * 70 * 4_u32)
            .map(|at| (at % 251) as u8 | 1)
            .collect()
    }

    fn base_of(bytes: &[u8]) -> impl FnMut(u32, u32, &mut [u8]) -> bool {
        move |x, y, into| {
            let start = ((y * 150 + x) * 4) as usize;
            into.copy_from_slice(&bytes[start..start + into.len()]);
            true
        }
    }

    #[test]
    fn tiles_cover_the_picture_once() {
        let mut seen = vec![0; 150 * 70];
        for part in rects(150, 70) {
            for row in SIZE.rows(part) {
                for pixel in row.step_by(4) {
                    seen[pixel / 4] += 1;
                }
            }
        }
        assert!(seen.iter().all(|times| *times == 1));
        assert_eq!(rects(150, 70).count(), 6);
    }

    #[test]
    fn only_what_differs_is_carried_and_the_picture_comes_back() {
        let guest = pattern();
        let mut host = guest.clone();
        host[(65 * 150 + 149) * 4] ^= 0xff; // in the last tile
        for y in 0..64 {
            host[(y * 150 + 64) * 4..(y * 150 + 128) * 4].fill(0); // the second one
        }
        let tiles = survey(&host, SIZE, base_of(&guest));
        let kinds: String = tiles
            .iter()
            .map(|tile| match tile {
                Tile::Same(_) => 's',
                Tile::Blank => 'b',
                Tile::Carried => 'c',
            })
            .collect();
        assert_eq!(kinds, "sbsssc");

        let mut copy = vec![0; host.len()];
        for row in carried(SIZE, &tiles) {
            copy[row.clone()].copy_from_slice(&host[row]);
        }
        assert_eq!(rebuild(&mut copy, SIZE, &tiles, base_of(&guest)), 0);
        assert!(copy == host);

        let mut drawn_on = guest.clone();
        drawn_on[0] ^= 2;
        assert_eq!(rebuild(&mut copy, SIZE, &tiles, base_of(&drawn_on)), 1);
        assert_eq!(rebuild(&mut copy, SIZE, &tiles, |_, _, _| false), 4);
    }

    #[test]
    fn without_a_base_all_is_carried() {
        let tiles = survey(&pattern(), SIZE, |_, _, _| false);
        assert_eq!(tiles, [Tile::Carried; 6]);
    }
}
