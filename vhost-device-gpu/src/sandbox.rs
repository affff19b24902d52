//! What the daemon keeps of the host once it serves: its descriptors, and the directory for pictures, if there is one.

use std::path::Path;

use common::sandbox::calls::any;
use common::sandbox::{Access, Call, CapabilitySet, Policy, Reachable};

/// Pictures are written, renamed and removed.
const CALLS: &[Call] = &[
    any(libc::SYS_newfstatat),
    any(libc::SYS_openat),
    any(libc::SYS_renameat2),
    any(libc::SYS_statx),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_rename),
    #[cfg(not(target_arch = "riscv64"))]
    any(libc::SYS_renameat),
];

/// What a daemon with pictures in `screenshots` keeps, and the folder of its `socket`.
pub fn policy(screenshots: Option<&Path>, socket: Option<Reachable>) -> Policy {
    let pictures = screenshots.map(|directory| Reachable {
        path: directory.to_owned(),
        access: Access::ReadWrite,
    });
    Policy {
        capabilities: CapabilitySet::empty(),
        paths: Some(pictures.into_iter().chain(socket).collect()),
        calls: CALLS.to_vec(),
    }
}
