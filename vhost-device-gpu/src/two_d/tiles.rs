//! Pictures in tiles, and which of them somebody else has as well.
//!
//! What the guest has drawn is in its own memory, which moves anyway. So a picture is compared with what it was made from, tile by
//! tile: one that is the same is remembered by its checksum, and made again from there; one that is black is nothing at all; any
//! other has to be carried along. Knows pixels of four bytes, not whose they are.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, available_parallelism};

use crc32c::crc32c_append;

use super::format::PIXEL_BYTES;
use super::resource::range;
use crate::wire::Rect;

/// Width and height of a tile in pixels; 16 KiB.
pub const TILE_SIDE: u32 = 64;
const ROW_BYTES_MAX: usize = (TILE_SIDE * PIXEL_BYTES) as usize;
/// A picture smaller than this is not worth a second thread.
const SHARED_BYTES_MIN: usize = 2 << 20;
/// More threads would wait for memory.
const HANDS_MAX: usize = 4;

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
    /// How many tiles stand beside each other.
    fn tiles_across(self) -> usize {
        self.width.div_ceil(TILE_SIDE) as usize
    }

    /// First rows of the rows of tiles.
    fn tops(self) -> impl Iterator<Item = u32> + Send {
        (0..self.height).step_by(TILE_SIDE as usize)
    }

    /// Bytes of a row; 1 where there are none, for the sake of those who divide by it.
    fn stride(self) -> usize {
        (self.width as usize * PIXEL_BYTES as usize).max(1)
    }

    /// Bytes of a row of tiles.
    fn band_bytes(self) -> usize {
        self.stride() * TILE_SIDE as usize
    }

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

/// Compares a picture with what `base` gives for parts of its rows (the first pixel's place, and the bytes to fill; false if it has
/// none).
///
/// Here and in [`rebuild`] the work goes by rows of the picture and not by tiles: few long reads in place of many short ones, and
/// checksums of neighbours, which do not wait for one another. Rows of tiles are independent, so processors share them.
pub fn survey(
    pixels: &[u8],
    size: Size,
    base: impl Fn(u32, u32, &mut [u8]) -> bool + Sync,
) -> Tiles {
    let across = size.tiles_across();
    let mut tiles = vec![Tile::Carried; across * size.height.div_ceil(TILE_SIDE) as usize];
    let bands = size.tops().zip(pixels.chunks(size.band_bytes()));
    let work = bands.zip(tiles.chunks_mut(across.max(1)));
    share(size, work, |((top, band), tiles)| {
        let mut looks = vec![Look::NOTHING_SEEN; across];
        let mut other = vec![0; size.stride()];
        for (y, row) in (top..).zip(band.chunks(size.stride())) {
            let is_wanted = looks.iter().any(|look| look.same);
            let is_there = is_wanted && base(0, y, &mut other);
            let parts = row.chunks(ROW_BYTES_MAX).zip(other.chunks(ROW_BYTES_MAX));
            for (look, (part, other)) in looks.iter_mut().zip(parts) {
                look.add(part, is_there.then_some(other));
            }
        }
        for (tile, look) in tiles.iter_mut().zip(looks) {
            *tile = look.tile();
        }
    });
    tiles
}

/// What was seen of a tile so far.
#[derive(Clone, Copy)]
struct Look {
    same: bool,
    blank: bool,
    checksum: u32,
}

impl Look {
    const NOTHING_SEEN: Self = Self {
        same: true,
        blank: true,
        checksum: 0,
    };

    /// One more row of the tile, and the same one of the base.
    fn add(&mut self, part: &[u8], other: Option<&[u8]>) {
        const BLACK: [u8; ROW_BYTES_MAX] = [0; ROW_BYTES_MAX];
        self.blank = self.blank && BLACK.starts_with(part);
        self.same = self.same && other == Some(part);
        if self.same {
            self.checksum = crc32c_append(self.checksum, part);
        }
    }

    fn tile(self) -> Tile {
        match self {
            Self { blank: true, .. } => Tile::Blank,
            Self { same: true, .. } => Tile::Same(self.checksum),
            _ => Tile::Carried,
        }
    }
}

/// Makes the tiles again that `base` has; returns how many of them are not what they were.
pub fn rebuild(
    pixels: &mut [u8],
    size: Size,
    tiles: &[Tile],
    base: impl Fn(u32, u32, &mut [u8]) -> bool + Sync,
) -> usize {
    let wrong = AtomicUsize::new(0);
    let bands = size.tops().zip(pixels.chunks_mut(size.band_bytes()));
    let work = bands.zip(tiles.chunks(size.tiles_across().max(1)));
    share(size, work, |((top, band), tiles)| {
        let mut checksums = vec![0; tiles.len()];
        for (y, row) in (top..).zip(band.chunks_mut(size.stride())) {
            for (first, run) in runs(tiles) {
                let bytes = ROW_BYTES_MAX * first..row.len().min(ROW_BYTES_MAX * (first + run));
                let row = row.get_mut(bytes).unwrap_or_default();
                // A row has fewer pixels than a number has values.
                let x = u32::try_from(first).map_or(u32::MAX, |first| first * TILE_SIDE);
                if !base(x, y, row) {
                    row.fill(0);
                }
                let checksums = checksums.iter_mut().skip(first);
                for (checksum, part) in checksums.zip(row.chunks(ROW_BYTES_MAX)) {
                    *checksum = crc32c_append(*checksum, part);
                }
            }
        }
        let pairs = tiles.iter().zip(&checksums);
        let differ = pairs.filter(
            |(tile, checksum)| matches!(tile, Tile::Same(expected) if expected != *checksum),
        );
        wrong.fetch_add(differ.count(), Ordering::Relaxed);
    });
    wrong.into_inner()
}

/// Where tiles that are to be made again stand beside each other in a row of tiles: index of the first, and how many.
fn runs(tiles: &[Tile]) -> impl Iterator<Item = (usize, usize)> {
    let is_same = |tile: &Tile| matches!(tile, Tile::Same(_));
    let mut next = 0;
    tiles
        .chunk_by(move |one, other| is_same(one) == is_same(other))
        .filter_map(move |run| {
            let first = next;
            next += run.len();
            run.first()
                .is_some_and(is_same)
                .then_some((first, run.len()))
        })
}

/// Does `each` piece of work on a picture; for a large one on several processors, for its guest stands still meanwhile.
fn share<T>(size: Size, work: impl Iterator<Item = T> + Send, each: impl Fn(T) + Sync) {
    let work = Mutex::new(work);
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some(piece) = next() {
            each(piece);
        }
    };
    let is_large = size.stride().saturating_mul(size.height as usize) >= SHARED_BYTES_MIN;
    let hands = if is_large {
        available_parallelism()
            .map_or(1, NonZero::get)
            .min(HANDS_MAX)
    } else {
        1
    };
    thread::scope(|scope| {
        for _ in 1..hands {
            // Where there is no thread to be had, it only takes longer.
            let _helper = thread::Builder::new()
                .name("tiles".into())
                .spawn_scoped(scope, run);
        }
        run();
    });
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

    fn base_of(bytes: &[u8]) -> impl Fn(u32, u32, &mut [u8]) -> bool + Sync {
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

    /// Large enough for several threads, and of no whole number of tiles.
    #[test]
    fn a_large_picture_is_read_in_long_pieces_and_comes_back() {
        let size = Size {
            width: 1000,
            height: 700,
        };
        let guest: Vec<u8> = (0..1000 * 700_u32)
            .flat_map(|at| (at.wrapping_mul(0x9e37_79b9) | 1).to_le_bytes())
            .collect();
        assert!(guest.len() > SHARED_BYTES_MIN);
        let mut host = guest.clone();
        for part in rects(1000, 700).step_by(7) {
            host[size.rows(part).last().unwrap().start] ^= 0x10; // in the last row of every seventh tile
        }
        let reads = AtomicUsize::new(0);
        let base = |x: u32, y: u32, into: &mut [u8]| {
            reads.fetch_add(1, Ordering::Relaxed);
            let start = (y as usize * 1000 + x as usize) * 4;
            into.copy_from_slice(&guest[start..start + into.len()]);
            true
        };
        let tiles = survey(&host, size, base);
        assert_eq!(reads.swap(0, Ordering::Relaxed), 700, "a read for each row");
        for (index, (tile, part)) in tiles.iter().zip(rects(1000, 700)).enumerate() {
            let checksum = size
                .rows(part)
                .fold(0, |sum, row| crc32c_append(sum, &host[row]));
            let expected = if index % 7 == 0 {
                Tile::Carried
            } else {
                Tile::Same(checksum)
            };
            assert_eq!(*tile, expected, "{part:?}");
        }

        let mut copy = vec![0; host.len()];
        for row in carried(size, &tiles) {
            copy[row.clone()].copy_from_slice(&host[row]);
        }
        assert_eq!(rebuild(&mut copy, size, &tiles, base), 0);
        assert!(copy == host);
        // 16 tiles a row, of which two or three are carried: at most four pieces.
        assert!(reads.into_inner() <= 4 * 700);
    }

    #[test]
    fn without_a_base_all_is_carried() {
        let tiles = survey(&pattern(), SIZE, |_, _, _| false);
        assert_eq!(tiles, [Tile::Carried; 6]);
    }
}
