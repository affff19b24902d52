//! Runs in the guest: paints pictures that are known to the host on the framebuffer `/dev/fb0`.
//!
//! ```text
//! guest_painter paint NUMBER   one picture, and the end
//! guest_painter go             pictures 0, 1, 2 and so on, until the file /tmp/painter-stop is there; prints how many
//! ```
//!
//! A picture is a function of its number, [`pixel`]; `tests/src/painter.rs` has the same one. Depends on nothing but `std`, since it is
//! compiled for guests without cargo.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

type Failure = Box<dyn Error>;

/// What ends [`go`].
const STOP: &str = "/tmp/painter-stop";

/// A screen as the kernel shows it to programs.
struct Screen {
    file: File,
    width: u32,
    height: u32,
    /// Bytes from one row to the next.
    stride: u32,
}

impl Screen {
    fn open() -> Result<Self, Failure> {
        let attribute = |name: &str| -> Result<String, Failure> {
            let path = format!("/sys/class/graphics/fb0/{name}");
            let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            Ok(text.trim().to_owned())
        };
        let size = attribute("virtual_size")?;
        let (width, height) = size.split_once(',').ok_or("virtual_size without a comma")?;
        let bits = attribute("bits_per_pixel")?;
        if bits != "32" {
            return Err(format!("{bits} bits per pixel, not 32").into());
        }
        Ok(Self {
            file: OpenOptions::new().write(true).open("/dev/fb0")?,
            width: width.parse()?,
            height: height.parse()?,
            stride: attribute("stride")?.parse()?,
        })
    }

    /// In one piece: Linux takes a write of exactly one row for a change of nothing (6.12, `drm_fb_helper_memory_range_to_clip`).
    fn paint(&self, number: u32) -> Result<(), Failure> {
        let mut picture = vec![0; self.stride as usize * self.height as usize];
        for (row, y) in picture.chunks_exact_mut(self.stride as usize).zip(0..) {
            for (place, x) in row.chunks_exact_mut(4).zip(0..self.width) {
                place.copy_from_slice(&pixel(number, x, y).to_le_bytes());
            }
        }
        Ok(self.file.write_all_at(&picture, 0)?)
    }
}

/// The pixel of picture `number` at a place, x8r8g8b8.
fn pixel(number: u32, x: u32, y: u32) -> u32 {
    let seed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9);
    (x.wrapping_mul(0x0001_0107) ^ y.wrapping_mul(0x0003_0d01)).wrapping_add(seed) & 0x00ff_ffff
}

/// Paints until it is told to stop; how many pictures.
fn go(screen: &Screen) -> Result<u32, Failure> {
    let mut number = 0;
    while !Path::new(STOP).exists() {
        screen.paint(number)?;
        number += 1;
    }
    Ok(number)
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let screen = Screen::open()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["paint", number] => screen.paint(number.parse()?),
        ["go"] => {
            println!("OK pictures={}", go(&screen)?);
            Ok(())
        }
        _ => Err("paint NUMBER | go".into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest_painter: {error}");
            ExitCode::FAILURE
        }
    }
}
