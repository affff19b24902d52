//! Commands, parsed whole: what comes out of here has all its parts.

use common::request::{CursorError, Reader};

use super::{BACKING_ENTRIES_MAX, Header, Rect, Refusal};

/// Numbers of commands (virtio 1.3, 5.7.6.7).
mod number {
    pub(super) const GET_DISPLAY_INFO: u32 = 0x100;
    pub(super) const RESOURCE_CREATE_2D: u32 = 0x101;
    pub(super) const RESOURCE_UNREF: u32 = 0x102;
    pub(super) const SET_SCANOUT: u32 = 0x103;
    pub(super) const RESOURCE_FLUSH: u32 = 0x104;
    pub(super) const TRANSFER_TO_HOST_2D: u32 = 0x105;
    pub(super) const RESOURCE_ATTACH_BACKING: u32 = 0x106;
    pub(super) const RESOURCE_DETACH_BACKING: u32 = 0x107;
    pub(super) const GET_EDID: u32 = 0x10a;
    pub(super) const RESOURCE_ASSIGN_UUID: u32 = 0x10b;
    pub(super) const RESOURCE_CREATE_BLOB: u32 = 0x10c;
    pub(super) const SET_SCANOUT_BLOB: u32 = 0x10d;
    pub(super) const UPDATE_CURSOR: u32 = 0x300;
    pub(super) const MOVE_CURSOR: u32 = 0x301;
}

/// A piece of guest memory (`struct virtio_gpu_mem_entry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingEntry {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
}

/// How a framebuffer lies in a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Format, as a number of virtio.
    pub format: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes before the first row.
    pub offset: u32,
}

/// What the guest wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of virtio 1.3, 5.7.6.8 and 5.7.6.10"
)]
pub enum Command {
    GetDisplayInfo,
    GetEdid {
        scanout: u32,
    },
    Create2d {
        resource: u32,
        format: u32,
        width: u32,
        height: u32,
    },
    Unref {
        resource: u32,
    },
    SetScanout {
        scanout: u32,
        resource: u32,
        rect: Rect,
    },
    Flush {
        resource: u32,
        rect: Rect,
    },
    TransferToHost {
        resource: u32,
        rect: Rect,
        offset: u64,
    },
    AttachBacking {
        resource: u32,
        entries: Vec<BackingEntry>,
    },
    DetachBacking {
        resource: u32,
    },
    AssignUuid {
        resource: u32,
    },
    CreateBlob {
        resource: u32,
        memory: u32,
        flags: u32,
        blob: u64,
        size: u64,
        entries: Vec<BackingEntry>,
    },
    SetScanoutBlob {
        scanout: u32,
        resource: u32,
        rect: Rect,
        layout: Layout,
    },
    UpdateCursor {
        scanout: u32,
        position: (u32, u32),
        resource: u32,
        hot: (u32, u32),
    },
    MoveCursor {
        scanout: u32,
        position: (u32, u32),
        resource: u32,
    },
}

impl From<CursorError> for Refusal {
    /// A command that ends too early.
    fn from(_: CursorError) -> Self {
        Self::InvalidParameter
    }
}

/// Reads a command. Its header is all zero if not even that is there.
pub fn parse(mut input: Reader<'_>) -> (Header, Result<Command, Refusal>) {
    match header(&mut input) {
        Ok(header) => (header, body(header.kind, &mut input)),
        Err(error) => (Header::default(), Err(error.into())),
    }
}

/// The next `N` words, of which there are at most 8.
fn words<const N: usize>(input: &mut Reader<'_>) -> Result<[u32; N], CursorError> {
    let mut bytes = [0_u8; 32];
    let wanted = bytes.split_at_mut(N * 4).0;
    input.read_exact(wanted)?;
    let mut words = [0_u32; N];
    for (word, four) in words.iter_mut().zip(wanted.as_chunks().0) {
        *word = u32::from_le_bytes(*four);
    }
    Ok(words)
}

const fn long(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn header(input: &mut Reader<'_>) -> Result<Header, CursorError> {
    let [kind, flags, fence_low, fence_high, context, timeline] = words(input)?;
    Ok(Header {
        kind,
        flags,
        fence: long(fence_low, fence_high),
        context,
        timeline,
    })
}

fn rect(input: &mut Reader<'_>) -> Result<Rect, CursorError> {
    let [x, y, width, height] = words(input)?;
    Ok(Rect {
        x,
        y,
        width,
        height,
    })
}

fn entries(input: &mut Reader<'_>, count: u32) -> Result<Vec<BackingEntry>, Refusal> {
    if count > BACKING_ENTRIES_MAX {
        return Err(Refusal::InvalidParameter);
    }
    (0..count)
        .map(|_| {
            let [low, high, len, _padding] = words(input)?;
            Ok(BackingEntry {
                address: long(low, high),
                len,
            })
        })
        .collect()
}

fn body(kind: u32, input: &mut Reader<'_>) -> Result<Command, Refusal> {
    Ok(match kind {
        number::GET_DISPLAY_INFO => Command::GetDisplayInfo,
        number::GET_EDID => {
            let [scanout, _padding] = words(input)?;
            Command::GetEdid { scanout }
        }
        number::SET_SCANOUT => {
            let rect = rect(input)?;
            let [scanout, resource] = words(input)?;
            Command::SetScanout {
                scanout,
                resource,
                rect,
            }
        }
        number::SET_SCANOUT_BLOB => set_scanout_blob(input)?,
        number::UPDATE_CURSOR | number::MOVE_CURSOR => cursor(kind, input)?,
        _ => of_resource(kind, input)?,
    })
}

fn of_resource(kind: u32, input: &mut Reader<'_>) -> Result<Command, Refusal> {
    Ok(match kind {
        number::RESOURCE_CREATE_2D => {
            let [resource, format, width, height] = words(input)?;
            Command::Create2d {
                resource,
                format,
                width,
                height,
            }
        }
        number::RESOURCE_UNREF => {
            let [resource, _padding] = words(input)?;
            Command::Unref { resource }
        }
        number::RESOURCE_FLUSH => {
            let rect = rect(input)?;
            let [resource, _padding] = words(input)?;
            Command::Flush { resource, rect }
        }
        number::TRANSFER_TO_HOST_2D => {
            let rect = rect(input)?;
            let [low, high, resource, _padding] = words(input)?;
            Command::TransferToHost {
                resource,
                rect,
                offset: long(low, high),
            }
        }
        number::RESOURCE_ATTACH_BACKING => {
            let [resource, count] = words(input)?;
            let entries = entries(input, count)?;
            Command::AttachBacking { resource, entries }
        }
        number::RESOURCE_DETACH_BACKING => {
            let [resource, _padding] = words(input)?;
            Command::DetachBacking { resource }
        }
        number::RESOURCE_ASSIGN_UUID => {
            let [resource, _padding] = words(input)?;
            Command::AssignUuid { resource }
        }
        number::RESOURCE_CREATE_BLOB => create_blob(input)?,
        // Commands of 3D renderers, capability sets, and what does not exist.
        _ => return Err(Refusal::Unspecified),
    })
}

fn create_blob(input: &mut Reader<'_>) -> Result<Command, Refusal> {
    let [resource, memory, flags, count] = words(input)?;
    let [blob_low, blob_high, size_low, size_high] = words(input)?;
    Ok(Command::CreateBlob {
        resource,
        memory,
        flags,
        blob: long(blob_low, blob_high),
        size: long(size_low, size_high),
        entries: entries(input, count)?,
    })
}

fn set_scanout_blob(input: &mut Reader<'_>) -> Result<Command, Refusal> {
    let rect = rect(input)?;
    let [scanout, resource, width, height, format, _padding] = words(input)?;
    // Of four planes: our formats have one.
    let [stride, _, _, _, offset, _, _, _] = words(input)?;
    Ok(Command::SetScanoutBlob {
        scanout,
        resource,
        rect,
        layout: Layout {
            format,
            width,
            height,
            stride,
            offset,
        },
    })
}

fn cursor(kind: u32, input: &mut Reader<'_>) -> Result<Command, Refusal> {
    let [scanout, x, y, _padding] = words(input)?;
    let [resource, hot_x, hot_y, _padding] = words(input)?;
    Ok(if kind == number::UPDATE_CURSOR {
        Command::UpdateCursor {
            scanout,
            position: (x, y),
            resource,
            hot: (hot_x, hot_y),
        }
    } else {
        Command::MoveCursor {
            scanout,
            position: (x, y),
            resource,
        }
    })
}
