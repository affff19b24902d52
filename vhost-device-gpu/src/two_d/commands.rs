//! What each command does to resources and scanouts. Every argument is looked at before anything is changed.

use super::backing::{Backing, GuestBytes};
use super::format::PixelFormat;
use super::resource::{Blob, Image, Kind, Resource, image_bytes};
use super::{Core, RESOURCES_MAX, Scanout};
use crate::renderer::Stage;
use crate::screens::CURSOR_SIDE;
use crate::wire::{BackingEntry, Layout, Rect, Refusal};

/// `VIRTIO_GPU_BLOB_MEM_GUEST`: the only kind of blob that needs no host memory.
const BLOB_OF_GUEST: u32 = 1;
/// Flags of blobs that there are (virtio 1.3, 5.7.6.8).
const BLOB_FLAGS: u32 = 7;
/// Smallest scanout, as in QEMU (hw/display/virtio-gpu.c, `virtio_gpu_do_set_scanout`).
const SCANOUT_SIDE_MIN: u32 = 16;

impl Core {
    fn resource(&self, id: u32) -> Result<&Resource, Refusal> {
        self.resources.get(&id).ok_or(Refusal::InvalidResourceId)
    }

    fn resource_mut(&mut self, id: u32) -> Result<&mut Resource, Refusal> {
        self.resources
            .get_mut(&id)
            .ok_or(Refusal::InvalidResourceId)
    }

    /// Whether a new resource may have this id.
    fn free(&self, id: u32) -> Result<(), Refusal> {
        if id == 0 || self.resources.contains_key(&id) {
            Err(Refusal::InvalidResourceId)
        } else if self.resources.len() >= RESOURCES_MAX {
            Err(Refusal::OutOfMemory)
        } else {
            Ok(())
        }
    }

    /// Whether there is this much host memory left for the guest.
    fn room_for(&self, bytes: Option<u64>) -> Result<(), Refusal> {
        let wanted = bytes.and_then(|bytes| bytes.checked_add(self.used_bytes()));
        match wanted {
            Some(wanted) if wanted <= self.limits().bytes_max => Ok(()),
            _ => Err(Refusal::OutOfMemory),
        }
    }

    pub(super) fn create(
        &mut self,
        id: u32,
        format: u32,
        width: u32,
        height: u32,
    ) -> Result<(), Refusal> {
        self.free(id)?;
        let format = PixelFormat::from_number(format).ok_or(Refusal::InvalidParameter)?;
        if width == 0 || height == 0 {
            return Err(Refusal::InvalidParameter);
        }
        self.room_for(image_bytes(width, height))?;
        let image = Image::new(format, width, height).ok_or(Refusal::OutOfMemory)?;
        self.insert(id, Resource::new(Kind::Image(image)));
        Ok(())
    }

    pub(super) fn create_blob(
        &mut self,
        id: u32,
        memory: u32,
        blob: Blob,
        entries: &[BackingEntry],
        guest: &impl GuestBytes,
    ) -> Result<(), Refusal> {
        self.free(id)?;
        if memory != BLOB_OF_GUEST || blob.flags & !BLOB_FLAGS != 0 || blob.size == 0 {
            return Err(Refusal::InvalidParameter);
        }
        let mut resource = Resource::new(Kind::Blob(blob));
        resource.backing = Some(self.backing(&resource, entries, guest)?);
        self.insert(id, resource);
        Ok(())
    }

    fn insert(&mut self, id: u32, resource: Resource) {
        self.used_bytes += resource.footprint();
        self.resources.insert(id, resource);
    }

    /// The backing that `entries` describe, for `resource`.
    fn backing(
        &self,
        resource: &Resource,
        entries: &[BackingEntry],
        guest: &impl GuestBytes,
    ) -> Result<Backing, Refusal> {
        let backing = Backing::of_guest(entries, guest).ok_or(Refusal::InvalidParameter)?;
        if let Kind::Blob(blob) = &resource.kind
            && backing.len() < blob.size
        {
            return Err(Refusal::InvalidParameter);
        }
        self.room_for(Some(backing.footprint()))?;
        Ok(backing)
    }

    pub(super) fn unref(&mut self, id: u32, stage: &impl Stage) -> Result<(), Refusal> {
        let gone = self
            .resources
            .remove(&id)
            .ok_or(Refusal::InvalidResourceId)?;
        self.used_bytes -= gone.footprint();
        for (head, scanout) in self.scanouts.iter_mut().enumerate() {
            if scanout.is_some_and(|scanout| scanout.resource == id) {
                *scanout = None;
                stage.change(|screens| screens.turn_off(head));
            }
        }
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        id: u32,
        entries: &[BackingEntry],
        guest: &impl GuestBytes,
    ) -> Result<(), Refusal> {
        let resource = self.resource(id)?;
        if resource.backing.is_some() {
            return Err(Refusal::Unspecified);
        }
        let backing = self.backing(resource, entries, guest)?;
        self.used_bytes += backing.footprint();
        self.resource_mut(id)?.backing = Some(backing);
        Ok(())
    }

    pub(super) fn detach(&mut self, id: u32) -> Result<(), Refusal> {
        let backing = self.resource_mut(id)?.backing.take();
        let gone = backing.ok_or(Refusal::Unspecified)?;
        self.used_bytes -= gone.footprint();
        Ok(())
    }

    pub(super) fn name(&mut self, id: u32) -> Result<[u8; 16], Refusal> {
        let random = self.random;
        Ok(*self.resource_mut(id)?.uuid.get_or_insert_with(random))
    }

    pub(super) fn transfer(
        &mut self,
        id: u32,
        rect: &Rect,
        offset: u64,
        guest: &impl GuestBytes,
    ) -> Result<(), Refusal> {
        let resource = self.resource_mut(id)?;
        let image = match &mut resource.kind {
            Kind::Image(image) => image,
            // There is no other copy of a blob, so nothing is to be done, as in QEMU.
            Kind::Blob(_) => return Ok(()),
        };
        let backing = resource.backing.as_ref().ok_or(Refusal::Unspecified)?;
        let fits = rect.is_within(image.width, image.height);
        if fits && image.transfer(rect, offset, backing, guest) {
            Ok(())
        } else {
            Err(Refusal::InvalidParameter)
        }
    }

    /// Index of a scanout.
    fn head(&self, scanout: u32) -> Result<usize, Refusal> {
        usize::try_from(scanout)
            .ok()
            .filter(|head| *head < self.limits().scanouts)
            .ok_or(Refusal::InvalidScanoutId)
    }

    pub(super) fn set_scanout(
        &mut self,
        scanout: u32,
        id: u32,
        rect: Rect,
        layout: Option<Layout>,
        guest: &impl GuestBytes,
        stage: &impl Stage,
    ) -> Result<(), Refusal> {
        let head = self.head(scanout)?;
        let mut shown = None;
        if id != 0 {
            let resource = self.resource(id)?;
            let layout = laid_out(resource, layout).ok_or(Refusal::InvalidParameter)?;
            if rect.width.min(rect.height) < SCANOUT_SIDE_MIN
                || !rect.is_within(layout.width, layout.height)
            {
                return Err(Refusal::InvalidParameter);
            }
            let new = Scanout {
                resource: id,
                rect,
                layout,
            };
            stage
                .change(|screens| {
                    screens.show(head, rect.width, rect.height, |y, row| {
                        new.row(resource, guest, 0, y, row)
                    })
                })
                .map_err(|_| Refusal::OutOfMemory)?;
            shown = Some(new);
        } else {
            stage.change(|screens| screens.turn_off(head));
        }
        if let Some(scanout) = self.scanouts.get_mut(head) {
            *scanout = shown;
        }
        Ok(())
    }

    pub(super) fn flush(
        &mut self,
        id: u32,
        rect: &Rect,
        guest: &impl GuestBytes,
        stage: &impl Stage,
    ) -> Result<(), Refusal> {
        let resource = self.resource(id)?;
        if let Kind::Image(image) = &resource.kind
            && !rect.is_within(image.width, image.height)
        {
            return Err(Refusal::InvalidParameter);
        }
        for (head, scanout) in self.scanouts.iter().enumerate() {
            if let Some(scanout) = scanout
                && scanout.resource == id
                && let Some(part) = scanout.rect.intersection(rect)
            {
                let part = Rect {
                    x: part.x - scanout.rect.x,
                    y: part.y - scanout.rect.y,
                    ..part
                };
                stage.change(|screens| {
                    screens.paint(head, part, |y, row| {
                        scanout.row(resource, guest, part.x, y, row)
                    });
                });
            }
        }
        Ok(())
    }

    pub(super) fn update_cursor(
        &mut self,
        scanout: u32,
        position: (u32, u32),
        id: u32,
        hot: (u32, u32),
        guest: &impl GuestBytes,
        stage: &impl Stage,
    ) -> Result<(), Refusal> {
        let head = self.head(scanout)?;
        if id == 0 {
            stage.change(|screens| screens.move_cursor(head, position, false));
            return Ok(());
        }
        let image = &mut *self.cursor;
        let resource = self.resources.get(&id).ok_or(Refusal::InvalidResourceId)?;
        let format = match &resource.kind {
            Kind::Image(cursor) if (cursor.width, cursor.height) == (CURSOR_SIDE, CURSOR_SIDE) => {
                cursor.format
            }
            Kind::Blob(_) => PixelFormat::B8G8R8A8, // a blob has no format of its own; as in QEMU
            Kind::Image(_) => return Err(Refusal::InvalidParameter),
        };
        if !resource.read(guest, 0, image) {
            return Err(Refusal::InvalidParameter);
        }
        format.to_cursor(image);
        stage.change(|screens| screens.define_cursor(head, position, hot, image));
        Ok(())
    }

    /// A cursor that is moved with resource 0 is hidden, as in QEMU.
    pub(super) fn move_cursor(
        &mut self,
        scanout: u32,
        position: (u32, u32),
        id: u32,
        stage: &impl Stage,
    ) -> Result<(), Refusal> {
        let head = self.head(scanout)?;
        stage.change(|screens| screens.move_cursor(head, position, id != 0));
        Ok(())
    }
}

/// How the framebuffer lies in a resource: an image knows by itself, a blob has to be told, and it must be possible.
fn laid_out(resource: &Resource, told: Option<Layout>) -> Option<Layout> {
    match (&resource.kind, told) {
        (Kind::Image(image), None) => Some(image.layout()),
        (Kind::Blob(blob), Some(layout)) => fits(&layout, blob.size).then_some(layout),
        (Kind::Image(_), Some(_)) | (Kind::Blob(_), None) => None,
    }
}

/// Whether a framebuffer of a format that there is lies within `size` bytes.
pub(crate) fn fits(layout: &Layout, size: u64) -> bool {
    let Layout {
        format,
        width,
        height,
        stride,
        offset,
    } = *layout;
    let row = u64::from(width) * 4;
    let rows_before = u64::from(height.saturating_sub(1)) * u64::from(stride);
    PixelFormat::from_number(format).is_some()
        && width > 0
        && height > 0
        && u64::from(stride) >= row
        && u64::from(offset)
            .checked_add(rows_before)
            .and_then(|start| start.checked_add(row))
            .is_some_and(|end| end <= size)
}
