//! What the guest's screen showed, as files for people: before, after, and both beside each other.
//!
//! Knows pictures and PNG, not where they come from.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use ::tests::gpu::picture::Picture;
use anyhow::{Context as _, Result};

/// Between two pictures, in pixels.
const GAP: u32 = 8;

/// Writes `before.png`, `after.png` and `beside.png` into a folder, which is made if need be; the path of the last one.
pub(super) fn write_pair(folder: &Path, before: &Picture, after: &Picture) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    write(&folder.join("before.png"), before)?;
    write(&folder.join("after.png"), after)?;
    let path = folder.join("beside.png");
    write(&path, &beside(before, after))?;
    Ok(path)
}

fn write(path: &Path, picture: &Picture) -> Result<()> {
    let encode = || -> Result<()> {
        let (width, height) = picture.size();
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&colours(picture))?;
        Ok(writer.finish()?)
    };
    encode().with_context(|| format!("writing {}", path.display()))
}

/// Red, green and blue of each pixel.
fn colours(picture: &Picture) -> Vec<u8> {
    let (width, height) = picture.size();
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places
        .flat_map(|(x, y)| {
            let [_, red, green, blue] = picture.get(x, y).to_be_bytes();
            [red, green, blue]
        })
        .collect()
}

/// One on the left, the other on the right.
fn beside(left: &Picture, right: &Picture) -> Picture {
    let ((left_width, left_height), (right_width, right_height)) = (left.size(), right.size());
    let mut both = Picture::new(
        left_width + GAP + right_width,
        left_height.max(right_height),
    );
    let (width, height) = both.size();
    for y in 0..height {
        for x in 0..width {
            both.put(
                x,
                y,
                match x.checked_sub(left_width + GAP) {
                    Some(x) => right.get(x, y),
                    None if x < left_width => left.get(x, y),
                    None => 0x00ff_ffff,
                },
            );
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, seed: u32) -> Picture {
        let mut picture = Picture::new(width, height);
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            picture.put(x, y, (y * width + x + 1).wrapping_mul(seed));
        }
        picture
    }

    fn read(path: &Path) -> (u32, u32, Vec<u8>) {
        let file = std::io::BufReader::new(File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width, info.height, bytes)
    }

    #[test]
    fn pictures_are_written_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        let (one, two) = (picture(5, 3, 0x0001_0305), picture(4, 6, 0x0007_0b0d));
        let path = write_pair(&folder, &one, &two).unwrap();
        assert_eq!(
            read(&folder.join("before.png")),
            (5, 3, colours(&one)),
            "red comes first"
        );
        assert_eq!(read(&folder.join("after.png")), (4, 6, colours(&two)));
        let (width, height, bytes) = read(&path);
        assert_eq!((width, height), (5 + GAP + 4, 6));
        let pixel = |x: u32, y: u32| {
            let start = 3 * (y * width + x) as usize;
            let bytes = &bytes[start..start + 3];
            u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
        };
        assert_eq!(pixel(4, 2), one.get(4, 2));
        assert_eq!(pixel(4, 5), 0, "below the smaller one");
        assert_eq!(pixel(5, 0), 0x00ff_ffff);
        assert_eq!(pixel(5 + GAP, 5), two.get(0, 5));
        // Of a colour whose parts all differ.
        assert_eq!(colours(&one)[..3], [1, 3, 5]);
    }
}
