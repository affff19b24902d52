//! The program of `src/bin/guest_painter.rs`: compiled for guests, and its pictures as they have to be seen.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::gpu::picture::Picture;
use crate::guest_program;

/// The program.
pub fn program() -> Result<PathBuf> {
    guest_program::compiled("guest_painter", include_str!("bin/guest_painter.rs"))
}

/// Picture `number` on a screen of this size.
pub fn picture(number: u32, width: u32, height: u32) -> Picture {
    let seed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9);
    let mut picture = Picture::new(width, height);
    for y in 0..height {
        for x in 0..width {
            let pixel = x.wrapping_mul(0x0001_0107) ^ y.wrapping_mul(0x0003_0d01);
            picture.put(x, y, pixel.wrapping_add(seed));
        }
    }
    picture
}

/// The file that QEMU writes of a screen with picture `number`.
pub fn pixmap(number: u32, width: u32, height: u32) -> Vec<u8> {
    let picture = picture(number, width, height);
    let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            let [_, red, green, blue] = picture.get(x, y).to_be_bytes();
            bytes.extend([red, green, blue]);
        }
    }
    bytes
}

/// How many pictures it says to have painted.
pub fn pictures(answer: &str) -> Result<u32> {
    let mut words = answer.split_whitespace();
    let count = words.find_map(|word| word.strip_prefix("pictures=")?.parse().ok());
    count.with_context(|| format!("the painter answers {answer:?}"))
}

/// A picture that QEMU wrote to a file: a portable pixmap of three bytes a pixel.
pub fn read_pixmap(path: &Path) -> Result<Picture> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse_pixmap(&bytes)
}

/// A picture from the bytes of such a file.
pub fn parse_pixmap(bytes: &[u8]) -> Result<Picture> {
    let mut rest = bytes;
    let mut word = || {
        let end = rest.iter().position(u8::is_ascii_whitespace);
        let (word, after) = rest.split_at_checked(end?)?;
        rest = after.get(1..)?;
        std::str::from_utf8(word).ok()
    };
    let header = [word(), word(), word(), word()];
    let [Some("P6"), Some(width), Some(height), Some("255")] = header else {
        anyhow::bail!("no pixmap: {header:?}");
    };
    let (width, height) = (width.parse()?, height.parse()?);
    let mut picture = Picture::new(width, height);
    let (pixels, none) = rest.as_chunks::<3>();
    ensure!(
        none.is_empty() && pixels.len() as u64 == u64::from(width) * u64::from(height),
        "a pixmap of {width}x{height} with {} pixels",
        pixels.len()
    );
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    for ((x, y), [red, green, blue]) in places.zip(pixels) {
        picture.put(x, y, u32::from_be_bytes([0, *red, *green, *blue]));
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixmaps_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"P6\n2 1\n255\n\x01\x02\x03\x0a\x20\xff").unwrap();
        let picture = read_pixmap(file.path()).unwrap();
        assert_eq!(
            (picture.get(0, 0), picture.get(1, 0)),
            (0x01_0203, 0x0a_20ff)
        );
        std::fs::write(file.path(), b"P6\n2 1\n255\n\x01\x02\x03").unwrap();
        assert!(read_pixmap(file.path()).is_err());
    }

    #[test]
    fn a_pixmap_holds_its_picture() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pixmap(7, 64, 32)).unwrap();
        assert_eq!(read_pixmap(file.path()).unwrap(), picture(7, 64, 32));
    }

    #[test]
    fn pictures_differ() {
        let hashes = [0, 1, 2].map(|number| picture(number, 64, 32).hash());
        assert_ne!(hashes[0], hashes[1]);
        assert_ne!(hashes[1], hashes[2]);
        assert_eq!(pictures("noise\nOK pictures=12\n").unwrap(), 12);
    }
}
