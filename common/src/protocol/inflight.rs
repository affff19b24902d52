//! Memory in which the requests in flight are written down, so that they outlive this process (vhost-user.rst, "Inflight I/O
//! tracking").
//!
//! The front-end asks for a region (`GET_INFLIGHT_FD`), keeps it, and hands it to the back-end of each connection
//! (`SET_INFLIGHT_FD`): after a crash to another process. Here regions are made, examined and mapped; what stands in them is in
//! `part.rs`, and who writes it in `vring/tracker.rs`.
//!
//! A region is as trustworthy as the front-end. It must be a memfd that cannot shrink, so that touching it is never a SIGBUS;
//! what is read from it is checked where it is used.

mod part;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate,
    memfd_create,
};
use vm_memory::{FileOffset, MmapRegion};

pub(crate) use part::Part;
use part::part_bytes;

use super::messages::Inflight;

/// File system type of memfds, those of huge pages excepted: those can run out (statfs(2)).
const TMPFS: u64 = 0x0102_1994;

/// A region cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflightError {
    #[error("front-end: the message for requests in flight has {bytes} bytes and {files} files")]
    Form { bytes: usize, files: usize },
    #[error(
        "front-end: a region for {rings} rings of {ring_size} descriptors; the device has {rings_max} of at most {ring_size_max}"
    )]
    Shape {
        rings: u16,
        ring_size: u16,
        rings_max: usize,
        ring_size_max: u16,
    },
    #[error(
        "front-end: a region of {size} bytes at {offset} is smaller than {needed}, or ends beyond its file of {found}"
    )]
    Size {
        size: u64,
        offset: u64,
        needed: u64,
        found: u64,
    },
    #[error(
        "front-end: the file of the region is no memfd of ordinary pages that can be kept from shrinking"
    )]
    File(#[source] std::io::Error),
    #[error(
        "front-end: ring {ring} of the region has version {version} and features {features:#x}, neither of which is known"
    )]
    Version {
        ring: u16,
        version: u16,
        features: u64,
    },
    #[error("host: no memory for requests in flight")]
    Host(#[source] std::io::Error),
    #[error("the region cannot be mapped")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
}

/// The region of one connection, if there is one by now; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Regions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rings_max: usize,
    ring_size_max: u16,
    current: Mutex<Option<Region>>,
}

#[derive(Debug)]
struct Region {
    mapping: Arc<MmapRegion<()>>,
    rings: u16,
    ring_size: u16,
}

impl Regions {
    /// For a device of at most `rings_max` rings of at most `ring_size_max` descriptors.
    pub(crate) fn new(rings_max: usize, ring_size_max: u16) -> Self {
        Self(Arc::new(Shared {
            rings_max,
            ring_size_max,
            current: Mutex::default(),
        }))
    }

    /// `GET_INFLIGHT_FD`: a new region. It is in use from now on, though most front-ends hand it over once more.
    pub(crate) fn create(&self, wanted: Inflight) -> Result<(Inflight, OwnedFd), InflightError> {
        let size = self.bytes(wanted)?;
        let host = |error: rustix::io::Errno| InflightError::Host(error.into());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("requests-in-flight", flags).map_err(host)?;
        ftruncate(&file, size).map_err(host)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).map_err(host)?;
        let made = Inflight {
            size,
            file_offset: 0,
            ..wanted
        };
        let ours = file.try_clone().map_err(InflightError::Host)?;
        self.adopt(made, ours)?;
        Ok((made, file))
    }

    /// `SET_INFLIGHT_FD`: the region in `file`. Rings that start from now on are written down in it.
    pub(crate) fn adopt(&self, told: Inflight, file: OwnedFd) -> Result<(), InflightError> {
        let needed = self.bytes(told)?;
        let found = keep_from_shrinking(&file).map_err(InflightError::File)?;
        let end = told.file_offset.checked_add(needed);
        if told.size < needed || end.is_none_or(|end| end > found) {
            return Err(InflightError::Size {
                size: told.size,
                offset: told.file_offset,
                needed,
                found,
            });
        }
        let bytes = usize::try_from(needed).unwrap_or(usize::MAX);
        let place = FileOffset::new(File::from(file), told.file_offset);
        let region = Region {
            mapping: Arc::new(MmapRegion::from_file(place, bytes).map_err(InflightError::Map)?),
            rings: told.rings,
            ring_size: told.ring_size,
        };
        for ring in 0..told.rings {
            let part = region.part(ring);
            let (version, features) = part.as_ref().map_or((0, 0), Part::kind);
            if version > part::VERSION || features != 0 {
                return Err(InflightError::Version {
                    ring,
                    version,
                    features,
                });
            }
        }
        *self.lock() = Some(region);
        Ok(())
    }

    /// Whether there is a region.
    pub(super) fn are_used(&self) -> bool {
        self.lock().is_some()
    }

    /// The part for the ring of this index, if it has one.
    pub(crate) fn part(&self, ring: usize) -> Option<Part> {
        let ring = u16::try_from(ring).ok()?;
        self.lock().as_ref()?.part(ring)
    }

    /// Bytes that a region of this shape takes.
    fn bytes(&self, shape: Inflight) -> Result<u64, InflightError> {
        let Inflight {
            rings, ring_size, ..
        } = shape;
        let Shared {
            rings_max,
            ring_size_max,
            ..
        } = *self.0;
        if rings == 0
            || usize::from(rings) > rings_max
            || ring_size == 0
            || ring_size > ring_size_max
        {
            return Err(InflightError::Shape {
                rings,
                ring_size,
                rings_max,
                ring_size_max,
            });
        }
        Ok(u64::from(rings) * part_bytes(ring_size) as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Region>> {
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Region {
    fn part(&self, ring: u16) -> Option<Part> {
        (ring < self.rings).then(|| Part::new(&self.mapping, ring, self.ring_size))
    }
}

/// Makes sure that `file` stays as long as it is, and that its pages never run out; its length in bytes.
fn keep_from_shrinking(file: &OwnedFd) -> std::io::Result<u64> {
    if u64::try_from(fstatfs(file)?.f_type) != Ok(TMPFS) {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    if !fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
        fcntl_add_seals(file, SealFlags::SHRINK)?;
    }
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}

#[cfg(test)]
mod tests;
