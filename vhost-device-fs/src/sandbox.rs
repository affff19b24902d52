//! What the file system daemon gives up before it serves: which layers, in which order, and what it keeps.
//!
//! How a layer works is in [`common::sandbox`]. None of them is what keeps a guest inside the share: that is how files are
//! reached (`passthrough/host.rs`). They are for the day that something in the process turns out to be wrong.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use common::daemon::{DaemonError, Entrance};
use common::sandbox::calls::{any, one_of};
use common::sandbox::{
    Access, Call, CapabilitySet, ConfinementArgs, IdMaps, Namespaces, Place, Policy, Reachable,
    Share, confine, enter, enter_own_root, keep,
};

/// Options of the sandbox.
#[derive(Args, Debug)]
pub struct SandboxArgs {
    /// Which namespaces the daemon serves in [default: namespace where that is possible, or else none]
    #[arg(long, value_enum, value_name = "MODE")]
    pub sandbox: Option<Mode>,

    /// Filters and capabilities
    #[command(flatten)]
    pub confinement: ConfinementArgs,
}

/// Which namespaces the daemon serves in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// New ones, in which the share is all there is; it is an error if they cannot be had
    Namespace,
    /// Those it was started in, but a root of its own, in which there is nothing; takes `CAP_SYS_CHROOT`
    Chroot,
    /// Those it was started in; Landlock and seccomp confine it all the same
    None,
}

/// Capabilities for what a guest's root may do to files. Not `DAC_READ_SEARCH`: file handles are not used, and it would open
/// any file of a file system by one.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Files, and acting as the guest's user; `unshare` only for a mask of file modes, or a directory, of a thread's own.
const CALLS: &[Call] = &[
    any(libc::SYS_capget),
    any(libc::SYS_capset),
    any(libc::SYS_copy_file_range),
    any(libc::SYS_fadvise64),
    any(libc::SYS_fallocate),
    any(libc::SYS_fchdir),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fchmodat2),
    any(libc::SYS_fchown),
    any(libc::SYS_fchownat),
    any(libc::SYS_fdatasync),
    any(libc::SYS_fgetxattr),
    any(libc::SYS_flistxattr),
    any(libc::SYS_flock),
    any(libc::SYS_fremovexattr),
    any(libc::SYS_fsetxattr),
    any(libc::SYS_fsync),
    any(libc::SYS_getdents64),
    any(libc::SYS_getegid),
    any(libc::SYS_geteuid),
    any(libc::SYS_getgroups),
    any(libc::SYS_getxattr),
    any(libc::SYS_lgetxattr),
    any(libc::SYS_linkat),
    any(libc::SYS_listxattr),
    any(libc::SYS_mkdirat),
    any(libc::SYS_mknodat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_openat),
    any(libc::SYS_openat2),
    one_of(libc::SYS_prctl, 0, &[27]), // PR_GET_SECUREBITS
    any(libc::SYS_readlinkat),
    any(libc::SYS_removexattr),
    any(libc::SYS_renameat2),
    any(libc::SYS_setgroups),
    any(libc::SYS_setresgid),
    any(libc::SYS_setresuid),
    any(libc::SYS_setxattr),
    any(libc::SYS_statx),
    any(libc::SYS_symlinkat),
    any(libc::SYS_sync_file_range),
    any(libc::SYS_syncfs),
    any(libc::SYS_umask),
    any(libc::SYS_utimensat),
    one_of(libc::SYS_unshare, 0, &[0x200]), // CLONE_FS
];

/// What a daemon that serves `share` keeps.
pub fn policy(share: &Path, readonly: bool) -> Policy {
    let access = if readonly {
        Access::Read
    } else {
        Access::ReadWrite
    };
    Policy {
        capabilities: CAPABILITIES,
        paths: Some(vec![Reachable {
            path: share.to_owned(),
            access,
        }]),
        calls: CALLS.to_vec(),
    }
}

/// Enters the sandbox. Returns where the share is in there, and the entrance; or `None`, in the process that stayed outside,
/// when the one inside has ended.
pub fn start(
    args: &SandboxArgs,
    share: Share,
    maps: &IdMaps,
    mut entrance: Entrance,
) -> Result<Option<(PathBuf, Entrance)>, DaemonError> {
    let readonly = share.readonly;
    let outside = share.directory.clone();
    let Some(namespaces) = namespaces(args.sandbox, share, maps)? else {
        let (share, says) = if args.sandbox == Some(Mode::Chroot) {
            entrance.move_file(keep)?;
            let share = keep(&outside)?;
            enter_own_root()?;
            (share, "none, but a root of its own")
        } else {
            (outside, "none")
        };
        let mut policy = policy(&share, readonly);
        if let Some(paths) = &mut policy.paths {
            paths.extend(entrance.reachable());
        }
        confine(&policy, &args.confinement, says)?;
        return Ok(Some((share, entrance)));
    };
    match enter(&namespaces)? {
        Place::Outside(inside) => {
            let _removed_in_the_end = entrance.take_file();
            drop(entrance);
            inside.wait()?;
            Ok(None)
        }
        Place::Inside => {
            if let Some(file) = entrance.take_file() {
                file.leave();
            }
            let policy = policy(namespaces.inside(), readonly);
            confine(&policy, &args.confinement, namespaces.names())?;
            Ok(Some((namespaces.inside().to_owned(), entrance)))
        }
    }
}

/// The namespaces to make, if any. With ids of the operator's, there is no going on without them.
fn namespaces(
    mode: Option<Mode>,
    share: Share,
    maps: &IdMaps,
) -> Result<Option<Namespaces>, DaemonError> {
    let namespaces = Namespaces::new(share).with_maps(maps);
    match mode {
        Some(Mode::Namespace) => Ok(Some(namespaces)),
        Some(Mode::None | Mode::Chroot) => Ok(None),
        None if !maps.is_empty() => Ok(Some(namespaces)),
        None => match namespaces.attempt()? {
            Ok(()) => Ok(Some(namespaces)),
            Err(why) => {
                log::warn!("{why}; serving without them, as with --sandbox=none");
                Ok(None)
            }
        },
    }
}
