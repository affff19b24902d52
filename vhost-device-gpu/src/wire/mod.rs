//! How commands and answers lie on the rings (virtio 1.3, 5.7.6).
//!
//! Knows layouts and numbers; does not know what a command does.

mod answer;
mod command;

pub use answer::{Answer, DisplayInfo, EDID_BYTES_MAX, Edid, Mode, Refusal, write};
pub use command::{BackingEntry, Command, Layout, parse};

/// Greatest number of scanouts (`VIRTIO_GPU_MAX_SCANOUTS`).
pub const SCANOUTS_MAX: usize = 16;
/// Greatest number of backing entries in one command, as in QEMU (hw/display/virtio-gpu.c, `virtio_gpu_create_mapping_iov`).
pub const BACKING_ENTRIES_MAX: u32 = 16384;

/// Ring of all commands but those of the cursor (virtio 1.3, 5.7.2).
pub const CONTROL_RING: usize = 0;
/// Ring of the cursor's commands.
pub const CURSOR_RING: usize = 1;
/// Number of rings.
pub const RINGS: usize = 2;

/// Device-specific feature bits (virtio 1.3, 5.7.3).
pub mod feature {
    /// `GET_EDID` is understood.
    pub const EDID: u64 = 1 << 1;
    /// `RESOURCE_ASSIGN_UUID` is understood.
    pub const RESOURCE_UUID: u64 = 1 << 2;
    /// `RESOURCE_CREATE_BLOB` and `SET_SCANOUT_BLOB` are understood.
    pub const RESOURCE_BLOB: u64 = 1 << 3;
}

/// `struct virtio_gpu_ctrl_hdr`: what every command begins with, and every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub kind: u32,
    /// Whether there is a fence.
    pub flags: u32,
    /// The fence.
    pub fence: u64,
    /// Rendering context.
    pub context: u32,
    /// Timeline of the fence.
    pub timeline: u32,
}

impl Header {
    /// Length in bytes.
    pub const BYTES: usize = 24;
    /// The command is answered when the host is done with it, and the answer repeats the fence.
    pub const FLAG_FENCE: u32 = 1 << 0;
    /// The fence is one of a timeline of its own.
    pub const FLAG_TIMELINE: u32 = 1 << 1;
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Rect {
    /// A rectangle at the origin.
    pub const fn of_size(width: u32, height: u32) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Whether it lies within an area at the origin. Computed without overflow, whatever the guest says.
    pub fn is_within(&self, width: u32, height: u32) -> bool {
        self.right() <= u64::from(width) && self.bottom() <= u64::from(height)
    }

    /// What both have in common; `None` if that is nothing.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let right = self.right().min(other.right());
        let bottom = self.bottom().min(other.bottom());
        let width = u32::try_from(right.checked_sub(u64::from(x))?).ok()?;
        let height = u32::try_from(bottom.checked_sub(u64::from(y))?).ok()?;
        let common = Self {
            x,
            y,
            width,
            height,
        };
        (!common.is_empty()).then_some(common)
    }

    /// The smallest rectangle around both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let extent = |end: u64, start: u32| {
            u32::try_from(end.saturating_sub(u64::from(start))).unwrap_or(u32::MAX)
        };
        Self {
            x,
            y,
            width: extent(self.right().max(other.right()), x),
            height: extent(self.bottom().max(other.bottom()), y),
        }
    }

    fn right(&self) -> u64 {
        u64::from(self.x) + u64::from(self.width)
    }

    fn bottom(&self) -> u64 {
        u64::from(self.y) + u64::from(self.height)
    }
}

#[cfg(test)]
mod tests;
