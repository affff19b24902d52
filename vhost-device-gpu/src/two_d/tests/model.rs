//! For tests: the simplest device there is, pixel by pixel, and random commands for it and for the real one.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers that the test makes itself"
)]

use std::collections::BTreeMap;

use super::memory::TestMemory;
use crate::two_d::format::PixelFormat;
use crate::wire::{BackingEntry, Command, Layout, Rect, Refusal};

/// Host memory that the guest may use: more than these commands ask for.
pub(crate) const BYTES_MAX: u64 = 1 << 20;
/// Scanouts that there are.
pub(crate) const SCANOUTS: usize = 2;
/// Guest memory.
pub(crate) const MEMORY_BYTES: usize = 64 << 10;

type Pixel = [u8; 4];

/// A resource.
#[derive(Clone)]
struct Thing {
    format: u32,
    width: u32,
    height: u32,
    /// The host copy; `None` for a blob.
    pixels: Option<Vec<Pixel>>,
    blob_bytes: u64,
    backing: Option<Vec<BackingEntry>>,
}

#[derive(Clone)]
struct Shown {
    resource: u32,
    rect: Rect,
    layout: Layout,
    pixels: Vec<Pixel>,
}

/// What a screen looks like: size and pixels as the display protocol has them.
pub(crate) type Look = Option<(u32, u32, Vec<u8>)>;

/// The simplest device.
#[derive(Clone, Default)]
pub(crate) struct Model {
    things: BTreeMap<u32, Thing>,
    screens: [Option<Shown>; SCANOUTS],
}

/// As the display protocol wants it: blue, green, red, and whatever the fourth is.
fn displayed(format: u32, [a, b, c, d]: Pixel) -> Pixel {
    match format {
        1 | 2 => [a, b, c, d],
        3 | 4 => [d, c, b, a],
        67 | 134 => [c, b, a, d],
        68 | 121 => [b, c, d, a],
        _ => unreachable!("no format"),
    }
}

/// Byte `at` of a backing.
fn byte(memory: &TestMemory, backing: &[BackingEntry], mut at: u64) -> Option<u8> {
    for entry in backing {
        if at < u64::from(entry.len) {
            return memory.0.get((entry.address + at) as usize).copied();
        }
        at -= u64::from(entry.len);
    }
    None
}

fn pixel(memory: &TestMemory, backing: &[BackingEntry], at: u64) -> Option<Pixel> {
    let mut pixel = [0; 4];
    for (index, target) in pixel.iter_mut().enumerate() {
        *target = byte(memory, backing, at + index as u64)?;
    }
    Some(pixel)
}

impl Thing {
    /// The pixel at `at` bytes from its beginning.
    fn at(&self, memory: &TestMemory, at: u64) -> Pixel {
        match (&self.pixels, &self.backing) {
            (Some(pixels), _) => pixels[(at / 4) as usize],
            (None, Some(backing)) => pixel(memory, backing, at).unwrap_or_default(),
            (None, None) => [0; 4],
        }
    }
}

fn sound(entries: &[BackingEntry]) -> bool {
    !entries.is_empty()
        && entries.iter().all(|entry| {
            entry.len > 0 && entry.address + u64::from(entry.len) <= MEMORY_BYTES as u64
        })
}

fn length(entries: &[BackingEntry]) -> u64 {
    entries.iter().map(|entry| u64::from(entry.len)).sum()
}

fn inside(rect: &Rect, width: u32, height: u32) -> bool {
    let (right, bottom) = (
        u64::from(rect.x) + u64::from(rect.width),
        u64::from(rect.y) + u64::from(rect.height),
    );
    right <= u64::from(width) && bottom <= u64::from(height)
}

impl Model {
    fn free(&self, id: u32) -> Result<(), Refusal> {
        if id == 0 || self.things.contains_key(&id) {
            return Err(Refusal::InvalidResourceId);
        }
        Ok(())
    }

    fn thing(&mut self, id: u32) -> Result<&mut Thing, Refusal> {
        self.things.get_mut(&id).ok_or(Refusal::InvalidResourceId)
    }

    fn repaint(&mut self, head: usize, part: Rect, memory: &TestMemory) {
        let Some(shown) = &mut self.screens[head] else {
            return;
        };
        let thing = &self.things[&shown.resource];
        let layout = shown.layout;
        for y in part.y..part.y + part.height {
            for x in part.x..part.x + part.width {
                let (from_x, from_y) = (shown.rect.x + x, shown.rect.y + y);
                let at = u64::from(layout.offset)
                    + u64::from(from_y) * u64::from(layout.stride)
                    + u64::from(from_x) * 4;
                let pixel = displayed(layout.format, thing.at(memory, at));
                shown.pixels[(y * shown.rect.width + x) as usize] = pixel;
            }
        }
    }

    pub(crate) fn look(&self, head: usize) -> Look {
        let shown = self.screens[head].as_ref()?;
        Some((shown.rect.width, shown.rect.height, shown.pixels.concat()))
    }

    /// What the command comes to.
    pub(crate) fn execute(
        &mut self,
        command: &Command,
        memory: &TestMemory,
    ) -> Result<(), Refusal> {
        match command.clone() {
            Command::Create2d {
                resource,
                format,
                width,
                height,
            } => {
                self.free(resource)?;
                if PixelFormat::from_number(format).is_none() || width == 0 || height == 0 {
                    return Err(Refusal::InvalidParameter);
                }
                let thing = Thing {
                    format,
                    width,
                    height,
                    pixels: Some(vec![[0; 4]; (width * height) as usize]),
                    blob_bytes: 0,
                    backing: None,
                };
                self.things.insert(resource, thing);
                Ok(())
            }
            Command::CreateBlob {
                resource,
                memory: kind,
                flags,
                size,
                entries,
                ..
            } => {
                self.free(resource)?;
                let sound = sound(&entries) && length(&entries) >= size;
                if kind != 1 || flags > 7 || size == 0 || !sound {
                    return Err(Refusal::InvalidParameter);
                }
                let thing = Thing {
                    format: 0,
                    width: 0,
                    height: 0,
                    pixels: None,
                    blob_bytes: size,
                    backing: Some(entries),
                };
                self.things.insert(resource, thing);
                Ok(())
            }
            Command::Unref { resource } => {
                self.things
                    .remove(&resource)
                    .ok_or(Refusal::InvalidResourceId)?;
                for screen in &mut self.screens {
                    if screen
                        .as_ref()
                        .is_some_and(|shown| shown.resource == resource)
                    {
                        *screen = None;
                    }
                }
                Ok(())
            }
            Command::AttachBacking { resource, entries } => {
                let thing = self.thing(resource)?;
                if thing.backing.is_some() {
                    return Err(Refusal::Unspecified);
                }
                if !sound(&entries) || length(&entries) < thing.blob_bytes {
                    return Err(Refusal::InvalidParameter);
                }
                thing.backing = Some(entries);
                Ok(())
            }
            Command::DetachBacking { resource } => {
                let backing = self.thing(resource)?.backing.take();
                backing.map(drop).ok_or(Refusal::Unspecified)
            }
            Command::TransferToHost {
                resource,
                rect,
                offset,
            } => self.transfer(resource, rect, offset, memory),
            Command::Flush { resource, rect } => self.flush(resource, rect, memory),
            Command::SetScanout {
                scanout,
                resource,
                rect,
            } => self.set_scanout(scanout, resource, rect, None, memory),
            Command::SetScanoutBlob {
                scanout,
                resource,
                rect,
                layout,
            } => self.set_scanout(scanout, resource, rect, Some(layout), memory),
            Command::GetDisplayInfo
            | Command::GetEdid { .. }
            | Command::AssignUuid { .. }
            | Command::UpdateCursor { .. }
            | Command::MoveCursor { .. } => unreachable!("not made here"),
        }
    }

    fn transfer(
        &mut self,
        id: u32,
        rect: Rect,
        offset: u64,
        memory: &TestMemory,
    ) -> Result<(), Refusal> {
        let thing = self.thing(id)?;
        let Some(pixels) = &mut thing.pixels else {
            return Ok(());
        };
        let backing = thing.backing.as_ref().ok_or(Refusal::Unspecified)?;
        if !inside(&rect, thing.width, thing.height) {
            return Err(Refusal::InvalidParameter);
        }
        let mut copied = pixels.clone();
        for y in 0..rect.height {
            for x in 0..rect.width {
                let at = offset + (u64::from(y) * u64::from(thing.width) + u64::from(x)) * 4;
                let place = (rect.y + y) * thing.width + rect.x + x;
                copied[place as usize] =
                    pixel(memory, backing, at).ok_or(Refusal::InvalidParameter)?;
            }
        }
        *pixels = copied;
        Ok(())
    }

    fn flush(&mut self, id: u32, rect: Rect, memory: &TestMemory) -> Result<(), Refusal> {
        let thing = self.thing(id)?;
        if thing.pixels.is_some() && !inside(&rect, thing.width, thing.height) {
            return Err(Refusal::InvalidParameter);
        }
        for head in 0..SCANOUTS {
            let Some(shown) = &self.screens[head] else {
                continue;
            };
            if shown.resource != id {
                continue;
            }
            let screen = shown.rect;
            for y in 0..screen.height {
                for x in 0..screen.width {
                    let (here_x, here_y) = (u64::from(screen.x + x), u64::from(screen.y + y));
                    let (left, top) = (u64::from(rect.x), u64::from(rect.y));
                    if (left..left + u64::from(rect.width)).contains(&here_x)
                        && (top..top + u64::from(rect.height)).contains(&here_y)
                    {
                        let one = Rect {
                            x,
                            y,
                            width: 1,
                            height: 1,
                        };
                        self.repaint(head, one, memory);
                    }
                }
            }
        }
        Ok(())
    }

    fn set_scanout(
        &mut self,
        scanout: u32,
        id: u32,
        rect: Rect,
        told: Option<Layout>,
        memory: &TestMemory,
    ) -> Result<(), Refusal> {
        let head = scanout as usize;
        if head >= SCANOUTS {
            return Err(Refusal::InvalidScanoutId);
        }
        if id == 0 {
            self.screens[head] = None;
            return Ok(());
        }
        let thing = self.thing(id)?;
        let layout = match (thing.pixels.is_some(), told) {
            (true, None) => Layout {
                format: thing.format,
                width: thing.width,
                height: thing.height,
                stride: thing.width * 4,
                offset: 0,
            },
            (false, Some(layout)) => layout,
            _ => return Err(Refusal::InvalidParameter),
        };
        if told.is_some() {
            let end = u64::from(layout.offset)
                + u64::from(layout.stride) * u64::from(layout.height.max(1) - 1)
                + u64::from(layout.width) * 4;
            let sound = PixelFormat::from_number(layout.format).is_some()
                && layout.width > 0
                && layout.height > 0
                && layout.stride >= layout.width * 4
                && end <= thing.blob_bytes;
            if !sound {
                return Err(Refusal::InvalidParameter);
            }
        }
        if rect.width < 16 || rect.height < 16 || !inside(&rect, layout.width, layout.height) {
            return Err(Refusal::InvalidParameter);
        }
        let pixels = vec![[0; 4]; (rect.width * rect.height) as usize];
        self.screens[head] = Some(Shown {
            resource: id,
            rect,
            layout,
            pixels,
        });
        self.repaint(head, Rect::of_size(rect.width, rect.height), memory);
        Ok(())
    }
}

/// The same numbers in each run of a seed (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(end)) as u32
    }

    fn rect(&mut self) -> Rect {
        match self.below(12) {
            0 => Rect {
                x: u32::MAX,
                y: 1,
                width: 2,
                height: 1,
            },
            1 => Rect::of_size(self.below(140), self.below(140)),
            _ => Rect {
                x: self.below(20),
                y: self.below(20),
                width: 10 + self.below(40),
                height: 10 + self.below(40),
            },
        }
    }

    fn entries(&mut self) -> Vec<BackingEntry> {
        (0..=self.below(3))
            .map(|_| BackingEntry {
                address: u64::from(self.below(40)) * 1000,
                len: self.below(24) * 1001,
            })
            .collect()
    }

    /// Draws into guest memory.
    pub(crate) fn draw(&mut self, memory: &mut TestMemory) {
        for _ in 0..self.below(2000) {
            let at = self.below(MEMORY_BYTES as u32) as usize;
            memory.0[at] = self.below(256) as u8;
        }
    }

    pub(crate) fn command(&mut self) -> Command {
        let resource = self.below(5);
        let scanout = self.below(9).min(2);
        let formats = [1, 2, 3, 4, 67, 68, 121, 134, 5];
        match self.below(16) {
            0..3 => Command::Create2d {
                resource,
                format: formats[self.below(9) as usize],
                width: 40 + self.below(60),
                height: 40 + self.below(60),
            },
            3 => Command::CreateBlob {
                resource,
                memory: 1 + self.below(8) / 7,
                flags: self.below(9),
                blob: 3,
                size: u64::from(self.below(40)) * 900,
                entries: self.entries(),
            },
            4 => Command::Unref { resource },
            5..7 => Command::AttachBacking {
                resource,
                entries: self.entries(),
            },
            7 if self.below(3) == 0 => Command::DetachBacking { resource },
            8..11 => Command::TransferToHost {
                resource,
                rect: self.rect(),
                offset: u64::from(self.below(5)) * 404,
            },
            11 => Command::SetScanout {
                scanout,
                resource,
                rect: self.rect(),
            },
            12 => Command::SetScanoutBlob {
                scanout,
                resource,
                rect: self.rect(),
                layout: Layout {
                    format: formats[self.below(9) as usize],
                    width: 16 + self.below(50),
                    height: 16 + self.below(50),
                    stride: 150 + self.below(130),
                    offset: self.below(3) * 1000,
                },
            },
            _ => Command::Flush {
                resource,
                rect: self.rect(),
            },
        }
    }
}
