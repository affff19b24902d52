//! The 2D core: commands in, changed screens out. No I/O, no rings, no threads.
//!
//! What is shown is exact: a screen changes when the guest sets its scanout or flushes it, and not when it transfers or draws. Setting
//! a scanout shows the whole of its rectangle at once, as QEMU's own device does.

mod backing;
mod commands;
pub mod format;
pub mod resource;
pub(crate) mod room;
pub mod tiles;

use std::collections::BTreeMap;

pub use backing::{Backing, GuestBytes};

use crate::renderer::{Renderer, Stage};
use crate::screens::{CURSOR_BYTES, Screens};
use crate::wire::{Answer, Command, Layout, Rect, Refusal, SCANOUTS_MAX, feature};
use format::PixelFormat;
use resource::Resource;

/// Greatest number of resources; a desktop has hundreds.
pub const RESOURCES_MAX: usize = 16384;

/// What a guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Host memory for resources, in bytes.
    pub bytes_max: u64,
    /// Scanouts, at most [`SCANOUTS_MAX`].
    pub scanouts: usize,
}

/// What is shown on a screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanout {
    /// The resource.
    pub resource: u32,
    /// The part of it.
    pub rect: Rect,
    /// How the framebuffer lies in the resource. Its format is one of [`PixelFormat`].
    pub layout: Layout,
}

/// Resources and scanouts of a guest.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    /// Where names for resources come from.
    random: fn() -> [u8; 16],
    /// Where the image of a cursor is put together.
    cursor: Box<[u8]>,
    resources: BTreeMap<u32, Resource>,
    /// What they take, so that nobody has to add it up.
    used_bytes: u64,
    pub(crate) scanouts: [Option<Scanout>; SCANOUTS_MAX],
    /// Images are as they were when they were saved, and screens that show them are still to be made from them.
    is_behind: bool,
}

/// Guest memory that there is not.
struct NoGuest;

impl GuestBytes for NoGuest {
    fn read(&self, _address: u64, _into: &mut [u8]) -> bool {
        false
    }

    fn contains(&self, _address: u64, _len: u64) -> bool {
        false
    }
}

impl Core {
    /// A core that no guest has used.
    pub fn new(limits: Limits, random: fn() -> [u8; 16]) -> Self {
        Self {
            limits,
            random,
            cursor: vec![0; CURSOR_BYTES].into_boxed_slice(),
            resources: BTreeMap::new(),
            used_bytes: 0,
            scanouts: [None; SCANOUTS_MAX],
            is_behind: false,
        }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Host memory that all resources take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The resources.
    pub(crate) fn resources(&self) -> &BTreeMap<u32, Resource> {
        &self.resources
    }

    /// These, and no others.
    pub(crate) fn set_resources(&mut self, resources: BTreeMap<u32, Resource>) {
        self.used_bytes = resources.values().map(Resource::footprint).sum();
        self.resources = resources;
        self.is_behind = false;
    }

    /// Makes images again from their backing, as far as a load has left that to be done. Returns how many tiles are not what they
    /// were.
    pub(crate) fn fetch_images(&mut self, guest: &impl GuestBytes) -> usize {
        let mut wrong = 0;
        for resource in self.resources.values_mut() {
            let Resource { kind, backing, .. } = resource;
            let resource::Kind::Image(image) = kind else {
                continue;
            };
            let Some(tiles) = image.awaited.take() else {
                continue;
            };
            let (size, stride) = (image.size(), image.stride());
            let base = |x: u32, y: u32, into: &mut [u8]| {
                let offset = u64::from(y) * stride + u64::from(x) * u64::from(format::PIXEL_BYTES);
                backing
                    .as_ref()
                    .is_some_and(|backing| backing.read(guest, offset, into))
            };
            wrong += tiles::rebuild(&mut image.pixels, size, &tiles, base);
        }
        wrong
    }

    /// The same for screens that show such resources.
    fn fetch_screens(
        &self,
        guest: &impl GuestBytes,
        screens: &mut Screens,
        which: impl Fn(&Resource) -> bool,
    ) -> usize {
        let mut wrong = 0;
        for (head, scanout) in self.scanouts.iter().enumerate() {
            if let Some(scanout) = scanout
                && let Some(resource) = self.resources.get(&scanout.resource)
                && which(resource)
            {
                wrong += screens.fetch(head, |x, y, into| scanout.row(resource, guest, x, y, into));
            }
        }
        wrong
    }
}

impl Scanout {
    /// Fills `into` with pixels of a row of the screen from (x, y) on, as the display protocol wants them; false if they are
    /// not there.
    pub fn row(
        &self,
        resource: &Resource,
        guest: &impl GuestBytes,
        x: u32,
        y: u32,
        into: &mut [u8],
    ) -> bool {
        let Layout {
            format,
            width: _,
            height: _,
            stride,
            offset,
        } = self.layout;
        let (x, y) = (
            u64::from(self.rect.x) + u64::from(x),
            u64::from(self.rect.y) + u64::from(y),
        );
        let Some(format) = PixelFormat::from_number(format) else {
            return false;
        };
        let offset = u64::from(offset) + y * u64::from(stride) + x * u64::from(format::PIXEL_BYTES);
        let there = resource.read(guest, offset, into);
        format.to_display(into);
        there
    }
}

impl Renderer for Core {
    const FEATURES: u64 = feature::EDID | feature::RESOURCE_UUID | feature::RESOURCE_BLOB;

    fn execute(
        &mut self,
        command: Command,
        guest: &impl GuestBytes,
        stage: &impl Stage,
    ) -> Result<Answer, Refusal> {
        self.catch_up(stage);
        match command {
            Command::Create2d {
                resource,
                format,
                width,
                height,
            } => self.create(resource, format, width, height)?,
            Command::CreateBlob {
                resource,
                memory,
                flags,
                blob,
                size,
                entries,
            } => {
                let blob = resource::Blob {
                    size,
                    flags,
                    id: blob,
                };
                self.create_blob(resource, memory, blob, &entries, guest)?;
            }
            Command::Unref { resource } => self.unref(resource, stage)?,
            Command::AttachBacking { resource, entries } => {
                self.attach(resource, &entries, guest)?;
            }
            Command::DetachBacking { resource } => self.detach(resource)?,
            Command::TransferToHost {
                resource,
                rect,
                offset,
            } => self.transfer(resource, &rect, offset, guest)?,
            Command::SetScanout {
                scanout,
                resource,
                rect,
            } => self.set_scanout(scanout, resource, rect, None, guest, stage)?,
            Command::SetScanoutBlob {
                scanout,
                resource,
                rect,
                layout,
            } => self.set_scanout(scanout, resource, rect, Some(layout), guest, stage)?,
            Command::Flush { resource, rect } => self.flush(resource, &rect, guest, stage)?,
            Command::UpdateCursor {
                scanout,
                position,
                resource,
                hot,
            } => self.update_cursor(scanout, position, resource, hot, guest, stage)?,
            Command::MoveCursor {
                scanout,
                position,
                resource,
            } => self.move_cursor(scanout, position, resource, stage)?,
            Command::AssignUuid { resource } => return self.name(resource).map(Answer::Uuid),
            // The front-end's to answer.
            Command::GetDisplayInfo | Command::GetEdid { .. } => return Err(Refusal::Unspecified),
        }
        Ok(Answer::Done)
    }

    fn resume(&mut self, guest: &impl GuestBytes, stage: &impl Stage) -> bool {
        let images = self.fetch_images(guest);
        // The guest draws on a blob as soon as it runs; an image changes by its commands only.
        let is_blob = |resource: &Resource| matches!(resource.kind, resource::Kind::Blob(_));
        let (screens, is_behind) = stage.change(|screens| {
            let wrong = self.fetch_screens(guest, screens, is_blob);
            (wrong, screens.are_awaited())
        });
        self.is_behind = is_behind;
        complain(images, screens);
        is_behind
    }

    fn catch_up(&mut self, stage: &impl Stage) {
        if std::mem::take(&mut self.is_behind) {
            let wrong = stage.change(|screens| self.fetch_screens(&NoGuest, screens, |_| true));
            complain(0, wrong);
        }
    }

    fn reset(&mut self, stage: &impl Stage) {
        self.set_resources(BTreeMap::new());
        self.scanouts = [None; SCANOUTS_MAX];
        stage.change(Screens::reset);
    }
}

fn complain(images: usize, screens: usize) {
    if images + screens > 0 {
        log::error!(
            "guest memory is not what it was when the state was saved: {images} tiles of resources and {screens} of screens \
             look different"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;
