//! `/dev/fuse` and the mount that belongs to it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A FUSE mount. Detached when dropped.
#[derive(Debug)]
pub(super) struct Mounted {
    path: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Mounts a new connection at `path`, with virtio-fs's own options: the kernel checks permissions, and
    /// every user may use it.
    pub(super) fn new(path: &Path) -> Result<(OwnedFd, Self)> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fuse = open("/dev/fuse", flags, Mode::empty()).context("opening /dev/fuse")?;
        let options = CString::new(format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
            fuse.as_raw_fd()
        ))?;
        mount(
            "vhost-device-fs",
            path,
            "fuse",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .with_context(|| format!("mounting at {} (needs root)", path.display()))?;
        Ok((
            fuse,
            Self {
                path: path.to_owned(),
                mounted: true,
            },
        ))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts; an error if somebody still uses it.
    pub(super) fn unmount(&mut self) -> Result<()> {
        unmount(&self.path, UnmountFlags::empty())
            .with_context(|| format!("unmounting {}", self.path.display()))?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            // Nothing is left to be done when even that fails; the connection is aborted in any case.
            let _failed = unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}
