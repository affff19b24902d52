//! Pictures for people: what is on each screen, as PNG files, whenever SIGUSR1 comes.
//!
//! Knows the screens, and a directory; the cursor is not in the picture, as in a screen dump of QEMU's.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::report;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::display::Display;
use crate::renderer::Stage as _;
use crate::screens::Picture;
use crate::wire::SCANOUTS_MAX;

/// A picture could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ScreenshotError {
    /// The file.
    #[error("host: {} cannot be written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The encoder.
    #[error("host: {} cannot be encoded", path.display())]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: png::EncodingError,
    },
}

/// From now on each SIGUSR1 puts pictures into `directory`.
pub fn on_signal(directory: PathBuf, display: Arc<Display>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    let thread = std::thread::Builder::new().name("screenshots".into());
    thread.spawn(move || {
        for _ in signals.forever() {
            match write_all(&directory, &display) {
                Ok(count) => log::info!("{count} screens written to {}", directory.display()),
                Err(error) => log::error!("{}", report::chain(&error)),
            }
        }
    })?;
    Ok(())
}

/// Writes a picture of each screen that shows one, removes those of the others, and returns how many there are.
pub fn write_all(directory: &Path, display: &Display) -> Result<usize, ScreenshotError> {
    let mut count = 0;
    for head in 0..SCANOUTS_MAX {
        let path = directory.join(format!("scanout-{head}.png"));
        match display.change(|screens| screens.picture(head).cloned()) {
            Some(picture) => {
                write(&path, &picture)?;
                count += 1;
            }
            None => {
                let _none_there = std::fs::remove_file(&path);
            }
        }
    }
    Ok(count)
}

/// Whoever sees the file sees a whole picture.
fn write(path: &Path, picture: &Picture) -> Result<(), ScreenshotError> {
    let draft = path.with_extension("png.new");
    let failed = |source| ScreenshotError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::create(&draft).map_err(failed)?;
    encode(picture, BufWriter::new(file)).map_err(|source| ScreenshotError::Encode {
        path: path.to_owned(),
        source,
    })?;
    std::fs::rename(&draft, path).map_err(failed)
}

fn encode(picture: &Picture, out: impl std::io::Write) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(out, picture.size.width, picture.size.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels = picture.pixels.as_chunks().0;
    let colours: Vec<u8> = pixels
        .iter()
        .flat_map(|[blue, green, red, _]| [*red, *green, *blue])
        .collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&colours)?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screens::Screens;

    #[test]
    fn a_picture_is_what_is_on_the_screen() {
        let folder = tempfile::tempdir().unwrap();
        let display = Display::new(Screens::new(1 << 20), true).unwrap();
        let shown = display.change(|screens| {
            screens.show(3, 20, 17, |y, row| {
                for (x, pixel) in (0..).zip(row.as_chunks_mut().0) {
                    *pixel = [x, u8::try_from(y).unwrap_or(0), 200, 9]; // blue, green, red
                }
                true
            })
        });
        shown.unwrap();
        let count = write_all(folder.path(), &display).unwrap();
        assert_eq!(count, 1);
        let path = folder.path().join("scanout-3.png");
        let decoder = png::Decoder::new(std::io::BufReader::new(File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (20, 17));
        assert_eq!(pixels[(20 * 5 + 7) * 3..][..3], [200, 5, 7]);

        display.change(|screens| screens.turn_off(3));
        assert_eq!(write_all(folder.path(), &display).unwrap(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let nowhere = folder.path().join("nowhere");
        display
            .change(|screens| screens.show(0, 16, 16, |_, _| true))
            .unwrap();
        assert!(write_all(&nowhere, &display).is_err());
    }
}
