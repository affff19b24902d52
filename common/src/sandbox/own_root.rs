//! A root for those who may change theirs and make no namespaces: `/proc/self/fd`, in which there is nothing but the process's own
//! descriptors.
//!
//! ```text
//! /N    what descriptor N refers to: the way to all that was kept before
//! ```
//!
//! The share is not the root: a guest that makes a `proc/self/fd` of its own in there must not have it taken for ours. And it need
//! not be: it is one of the descriptors.

use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{chdir, chroot};

use super::SandboxError;

/// Keeps `path` reachable in the root to come, as long as the process lives. Returns its path there.
pub fn keep(path: &Path) -> Result<PathBuf, SandboxError> {
    let descriptor = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(
        SandboxError::mount("what is to stay reachable cannot be opened"),
    )?;
    let inside = format!("/{}", descriptor.as_raw_fd());
    let _stays_open = descriptor.into_raw_fd();
    Ok(inside.into())
}

/// Makes the descriptors of this process its root.
pub fn enter_own_root() -> Result<(), SandboxError> {
    chroot("/proc/self/fd").map_err(SandboxError::mount(
        "the root cannot be changed, which takes CAP_SYS_CHROOT and /proc",
    ))?;
    chdir("/").map_err(SandboxError::mount("the root cannot be entered"))
}
