//! Runs in the guest: paints pictures that are known to the host on the framebuffer `/dev/fb0`.
//!
//! ```text
//! guest_painter paint NUMBER   one picture, and the end
//! guest_painter card NUMBER    below the text of the console, a picture that people like to look at
//! guest_painter go             pictures 0, 1, 2 and so on, until the file /tmp/painter-stop is there; prints how many
//! guest_painter go FIRST MS    likewise from number FIRST, with a pause of MS milliseconds after each; prints the number after the last
//! ```
//!
//! A picture is a function of its number, [`pixel`]; `tests/src/painter.rs` has the same one. Depends on nothing but `std`, since it is
//! compiled for guests without cargo.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

type Failure = Box<dyn Error>;

/// First row of a card: twelve lines of the console are above it.
const CARD_TOP: u32 = 208;

/// Height of its bars.
const BARS_HEIGHT: u32 = 24;

/// How long a point is followed.
const STEPS_MAX: u32 = 96;

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

    /// Below [`CARD_TOP`], which stays as it is: a Julia set, and bars of colour.
    fn card(&self, number: u32) -> Result<(), Failure> {
        let height = self.height.saturating_sub(CARD_TOP);
        let mut picture = vec![0; self.stride as usize * height as usize];
        for (row, y) in picture.chunks_exact_mut(self.stride as usize).zip(0..) {
            for (place, x) in row.chunks_exact_mut(4).zip(0..self.width) {
                let pixel = if y + BARS_HEIGHT < height {
                    julia(number, (x, y), (self.width, height - BARS_HEIGHT))
                } else {
                    bar(x, self.width)
                };
                place.copy_from_slice(&pixel.to_le_bytes());
            }
        }
        let start = u64::from(CARD_TOP) * u64::from(self.stride);
        Ok(self.file.write_all_at(&picture, start)?)
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

/// A pixel of a Julia set, whose constant is near one where they are pretty.
fn julia(number: u32, (x, y): (u32, u32), (width, height): (u32, u32)) -> u32 {
    let angle = f64::from(number % 1000) / 1000.0 * std::f64::consts::TAU;
    let constant = (-0.8 + 0.012 * angle.cos(), 0.156 + 0.012 * angle.sin());
    let scale = 1.8 / f64::from(height);
    let mut re = (f64::from(x) - f64::from(width) / 2.0) * scale;
    let mut im = (f64::from(y) - f64::from(height) / 2.0) * scale;
    let mut steps = 0;
    while re * re + im * im < 16.0 && steps < STEPS_MAX {
        (re, im) = (re * re - im * im + constant.0, 2.0 * re * im + constant.1);
        steps += 1;
    }
    let depth = (f64::from(steps) / f64::from(STEPS_MAX)).sqrt();
    let channel =
        |phase: f64| brightness((depth * 4.0 + phase).sin().powi(2) * (0.2 + 0.8 * depth));
    channel(-0.2) << 16 | channel(-0.5) << 8 | channel(0.6)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is from 0 to 1 becomes what is from 0 to 255"
)]
fn brightness(light: f64) -> u32 {
    (light * 255.0) as u32
}

/// A pixel of bars of colour, as on old televisions.
fn bar(x: u32, width: u32) -> u32 {
    const COLOURS: [u32; 8] = [
        0x00c0_c0c0,
        0x00c0_c000,
        0x0000_c0c0,
        0x0000_c000,
        0x00c0_00c0,
        0x00c0_0000,
        0x0000_00c0,
        0x0018_1818,
    ];
    let index = (x * 8 / width.max(1)) as usize;
    COLOURS.get(index).copied().unwrap_or_default()
}

/// Paints until it is told to stop, at least once; the number after the last picture.
fn go(screen: &Screen, first: u32, pause: Duration) -> Result<u32, Failure> {
    let mut number = first;
    loop {
        screen.paint(number)?;
        number += 1;
        if Path::new(STOP).exists() {
            return Ok(number);
        }
        thread::sleep(pause);
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let screen = Screen::open()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["paint", number] => screen.paint(number.parse()?),
        ["card", number] => screen.card(number.parse()?),
        ["go"] => {
            println!("OK pictures={}", go(&screen, 0, Duration::ZERO)?);
            Ok(())
        }
        ["go", first, pause] => {
            let pause = Duration::from_millis(pause.parse()?);
            println!("OK pictures={}", go(&screen, first.parse()?, pause)?);
            Ok(())
        }
        _ => Err("paint NUMBER | card NUMBER | go [FIRST MS]".into()),
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
