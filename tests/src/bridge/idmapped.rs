//! An idmapped mount of a share, as container runtimes in a guest make them (`mount_setattr(2)`): the same files, whose owners
//! seem to be others.
//!
//! Knows mounts and user namespaces, not what is mounted.

#![expect(unsafe_code, reason = "no crate of ours wraps mount_setattr(2)")]

use std::ffi::c_int;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

/// Another mount of what is mounted elsewhere. Detached when dropped.
#[derive(Debug)]
pub struct IdMapped {
    path: PathBuf,
}

impl IdMapped {
    /// Mounts at `path` what is mounted at `of`. What belongs to one of `count` users or groups from `first` on there, belongs
    /// to one from `shown` on here.
    pub fn mount(of: &Path, path: &Path, (first, shown, count): (u32, u32, u32)) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, of, flags).context("open_tree")?;
        set_map(&tree, &namespace(first, shown, count)?)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, c"", CWD, path, flags).context("move_mount")?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for IdMapped {
    fn drop(&mut self) {
        // Nothing is left to be done when even that fails.
        let _failed = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// A user namespace with this map. It lives as long as the file.
fn namespace(first: u32, shown: u32, count: u32) -> Result<File> {
    let mut holder = Holder(
        Command::new("unshare")
            .args(["--user", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    // Its first line says that it is in the namespace.
    let output = holder.0.stdout.as_mut().context("no output")?;
    let read = std::io::Read::read(output, &mut [0])?;
    ensure!(read == 1, "unshare --user has failed");
    let folder = PathBuf::from(format!("/proc/{}", holder.0.id()));
    for map in ["uid_map", "gid_map"] {
        fs::write(folder.join(map), format!("{first} {shown} {count}")).context(map)?;
    }
    Ok(File::open(folder.join("ns/user"))?)
}

/// A process that is there for its namespace.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn set_map(tree: &OwnedFd, namespace: &File) -> Result<()> {
    const IDMAP: u64 = 0x0010_0000; // MOUNT_ATTR_IDMAP
    let attributes = MountAttributes {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(namespace.as_raw_fd())?,
    };
    let tree: c_int = tree.as_raw_fd();
    // SAFETY: the kernel reads a path, which is empty and ends with its NUL, and a structure of the size that it is told; both
    // outlive the call. It writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    ensure!(
        result == 0,
        "mount_setattr: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
