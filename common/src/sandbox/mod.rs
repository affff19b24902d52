//! What a daemon gives up before it serves a guest: a guest, front-end or state stream that takes the process over is to
//! find nothing in it that the device does not need.
//!
//! Knows layers, and no device: a device says what it needs in a [`Policy`]. Each layer holds by itself and, but for the
//! namespaces of a privileged daemon and another root, needs no privilege. The order matters: mounts cannot be made once Landlock is on, the
//! filter of system calls forbids what sets up all the others, and what is given up is given up by this thread and those it
//! starts later. So [`confine`] comes before the first thread.
//!
//! | layer | what is left | file |
//! |---|---|---|
//! | namespaces | a file system of one directory, no network, no other process, perhaps other ids | `namespaces.rs`, `id_maps.rs` |
//! | root, in place of namespaces | a root in which there are the process's own descriptors | `own_root.rs` |
//! | capabilities | those of the policy, no new ones | `capabilities.rs` |
//! | Landlock | files beneath the paths of the policy, no TCP, no abstract sockets, no signals | `paths.rs` |
//! | seccomp | system calls that a device makes, with the arguments that it makes them with | `calls.rs`, `filter.rs` |

mod args;
pub mod calls;
mod capabilities;
mod error;
mod filter;
mod id_maps;
mod link;
mod namespaces;
mod own_root;
mod paths;
mod raw;
mod supervisor;

use std::path::PathBuf;

pub use args::{Action, CapabilityChange, ConfinementArgs};
pub use calls::Call;
pub use error::SandboxError;
pub use id_maps::IdMaps;
pub use namespaces::{Namespaces, Share};
pub use own_root::{enter_own_root, keep};
pub use rustix::thread::CapabilitySet;
pub use supervisor::{Place, Supervised, enter};

/// What a device needs of the host while it serves.
#[derive(Debug)]
pub struct Policy {
    /// Capabilities, if the daemon has them.
    pub capabilities: CapabilitySet,
    /// Where files may be opened; `None`: anywhere that permissions allow, because the operator may name new ones later.
    pub paths: Option<Vec<Reachable>>,
    /// System calls beyond [`calls::COMMON`].
    pub calls: Vec<Call>,
}

/// A path that stays reachable, with all that is beneath it.
#[derive(Clone, Debug)]
pub struct Reachable {
    /// The path.
    pub path: PathBuf,
    /// What may be done there.
    pub access: Access,
}

/// What may be done beneath a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading files and directories.
    Read,
    /// Everything but running programs and controlling devices.
    ReadWrite,
    /// Removing files: a socket of ours, in the end.
    RemoveFiles,
}

/// Gives up all that `policy` does not name. Of the layers that the kernel does not have the log tells, and the daemon goes
/// on without them; a layer that fails is an error.
///
/// `namespaces` is what the log says of them.
pub fn confine(
    policy: &Policy,
    args: &ConfinementArgs,
    namespaces: &str,
) -> Result<(), SandboxError> {
    let wanted = args.capabilities(policy.capabilities);
    let kept = capabilities::keep(wanted).map_err(SandboxError::Capabilities)?;
    let landlock = match &policy.paths {
        Some(reachable) => paths::restrict(reachable)?,
        None => "none".to_owned(),
    };
    filter::apply(args.seccomp, calls::COMMON.iter().chain(&policy.calls))?;
    log::info!(
        "sandbox: namespaces {namespaces}, landlock {landlock}, seccomp {}, capabilities {}, no new privileges",
        args.seccomp,
        capabilities::names(kept),
    );
    Ok(())
}
