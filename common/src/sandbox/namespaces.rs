//! Namespaces: what the process inside sees of the host is one directory and its own descriptors, and nothing else.
//!
//! ```text
//! /                a tmpfs of our own, read-only and empty but for
//! /share           the directory, with all that is mounted beneath it
//! /proc/self/fd    our descriptors: the way to open one again, and to reach the attributes of what it refers to
//! ```
//!
//! The share is not the root: a guest that makes a `proc/self/fd` of its own in there must not have it taken for ours.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, getegid, geteuid, pivot_root};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::id_maps::IdMaps;
use super::{SandboxError, raw, supervisor};

/// Where the share is inside.
const SHARE: &str = "/share";

/// What may be seen from inside.
#[derive(Clone, Debug)]
pub struct Share {
    /// The directory, as it is called outside.
    pub directory: PathBuf,
    /// Nothing in it may be changed.
    pub readonly: bool,
}

/// Namespaces to make.
#[derive(Clone, Debug)]
pub struct Namespaces {
    share: Share,
    /// Without privilege, the others are made inside a user namespace. In there this user is who he is outside, unless `maps` say
    /// otherwise.
    user: bool,
    /// The ids in that user namespace, if the operator wishes for others.
    maps: Option<IdMaps>,
    /// What this process is capable of now; whoever makes a user namespace is capable of all in there.
    held: CapabilitySet,
}

impl Namespaces {
    /// Namespaces in which `share` is all there is.
    pub fn new(share: Share) -> Self {
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        // Root without that privilege has others, which mean nothing in a user namespace that knows no other user.
        let user = !held.contains(CapabilitySet::SYS_ADMIN) && !geteuid().is_root();
        Self {
            share,
            user,
            maps: None,
            held,
        }
    }

    /// The same inside of a user namespace with ids of the operator's, if there are any: whoever serves is root in there.
    #[must_use]
    pub fn with_maps(self, maps: &IdMaps) -> Self {
        if maps.is_empty() {
            return self;
        }
        Self {
            user: true,
            maps: Some(maps.completed()),
            held: CapabilitySet::all(),
            ..self
        }
    }

    /// The ids to give to the user namespace from outside.
    pub(super) fn maps(&self) -> Option<&IdMaps> {
        self.maps.as_ref()
    }

    /// Whether they can be had; the text says why not. This process stays as it is.
    pub fn attempt(&self) -> Result<Result<(), String>, SandboxError> {
        supervisor::attempt(self)
    }

    /// Where the share is inside.
    pub fn inside(&self) -> &Path {
        Path::new(SHARE)
    }

    /// For the log.
    pub fn names(&self) -> &'static str {
        if self.user {
            "user mount pid net ipc"
        } else {
            "mount pid net ipc"
        }
    }

    /// Enters the new namespaces that a child of this process will be in; of these, it is not in the one for processes itself.
    ///
    /// `ask_for_maps` has the process outside write [`maps`](Self::maps). The shared directory is where we are from then on: who
    /// becomes somebody else may not find the way to it.
    pub(super) fn leave_old(
        &self,
        ask_for_maps: impl FnOnce() -> Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        rustix::process::chdir(&self.share.directory).map_err(SandboxError::mount(
            "the shared directory cannot be entered",
        ))?;
        let mut flags = UnshareFlags::NEWPID | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
        flags.set(UnshareFlags::NEWUSER, self.user);
        raw::unshare(flags).map_err(|errno| SandboxError::Unshare {
            hint: self.hint(errno),
            source: errno.into(),
        })?;
        if let Some(maps) = &self.maps {
            ask_for_maps()?;
            maps.become_first()?;
        } else if self.user {
            let written = std::fs::write("/proc/self/setgroups", "deny")
                .and_then(|()| std::fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
                .and_then(|()| std::fs::write("/proc/self/gid_map", format!("{group} {group} 1")));
            written.map_err(|source| SandboxError::Mount {
                doing: "the user namespace takes no map",
                source,
            })?;
        }
        Ok(())
    }

    fn hint(&self, errno: Errno) -> &'static str {
        match (errno, self.user) {
            (Errno::NOSPC | Errno::USERS, _) => {
                "no more are allowed (/proc/sys/user/max_*_namespaces)"
            }
            (Errno::INVAL, _) => "the kernel has none of some kind",
            (_, true) => {
                "without CAP_SYS_ADMIN, user namespaces must be allowed (kernel.unprivileged_userns_clone, AppArmor, the \
                 container's seccomp profile)"
            }
            (_, false) => "they take CAP_SYS_ADMIN",
        }
    }

    /// Makes the file system of this process what the picture above shows, and leaves it no more capable than it was.
    pub(super) fn furnish(&self) -> Result<(), SandboxError> {
        self.furnish_root()?;
        super::capabilities::keep(self.held).map_err(SandboxError::Capabilities)?;
        Ok(())
    }

    fn furnish_root(&self) -> Result<(), SandboxError> {
        use SandboxError as E;
        // In a namespace of its own: the process outside goes on seeing all of the host.
        raw::unshare(UnshareFlags::NEWNS).map_err(E::mount("mounts cannot be kept apart"))?;
        // What the host mounts beneath the share later is to appear; what we mount is nobody's business.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", slave).map_err(E::mount("mounts cannot be told from the host's"))?;
        let directory = openat(CWD, ".", DIRECTORY, Mode::empty())
            .map_err(E::mount("the shared directory cannot be opened"))?;
        let tree = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let tree = tree | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let share = open_tree(&directory, "", tree).map_err(E::mount("the share stays put"))?;
        self.restrict(&share);

        let root = empty_root().map_err(E::mount("no tmpfs for the root"))?;
        let descriptors = through_proc(&root).join("proc/self/fd");
        // Over the share: any directory would do, and that one exists.
        attach(&root, &directory).map_err(E::mount("the new root has no place"))?;
        for name in ["share", "proc", "proc/self", "proc/self/fd"] {
            mkdirat(&root, name, Mode::from_raw_mode(0o755))
                .map_err(E::mount("the new root takes no directories"))?;
        }
        let place = openat(&root, "share", DIRECTORY, Mode::empty());
        place
            .and_then(|place| attach(&share, &place))
            .map_err(E::mount("the share has no place"))?;
        mount_bind("/proc/self/fd", descriptors)
            .map_err(E::mount("/proc/self/fd cannot be bound; is /proc mounted?"))?;

        fchdir(&root).map_err(E::mount("the new root cannot be entered"))?;
        // The old root comes to lie over the new one, and "." is still the new one: the old one goes with all that is on it.
        pivot_root(".", ".").map_err(E::mount("the root cannot be changed"))?;
        unmount(".", UnmountFlags::DETACH).map_err(E::mount("the old root stays"))?;
        rustix::process::chdir("/").map_err(E::mount("the root cannot be entered"))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
        mount_remount("/", flags | MountFlags::NODEV | MountFlags::NOEXEC, c"")
            .map_err(E::mount("the root stays writable"))
    }

    /// Nobody runs a program, opens a device or changes a user there; perhaps nobody writes. One more layer: the device
    /// does none of it in any case, and an old kernel (before 5.12) has no such call.
    fn restrict(&self, share: &OwnedFd) {
        let mut attributes =
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        if self.share.readonly {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        if let Err(error) = raw::set_mount_attributes(share.as_fd(), attributes) {
            log::debug!("host: attributes of the share's mount: {error}");
        }
    }
}

/// A file system with nothing in it, mounted nowhere.
fn empty_root() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("mode", "0755"), ("size", "64k"), ("nr_inodes", "16")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Mounts `tree` on `place`.
fn attach(tree: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags)
}

/// A path to what `descriptor` refers to, whatever is mounted over it.
fn through_proc(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
