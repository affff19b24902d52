//! A small file system in memory with a share in it, and something beside the share that must not change.
//!
//! Knows files, and no device. Takes root, or a user namespace in which one is root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, StatVfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Whatever a guest asks for, the host has no more of it.
const SIZE: &std::ffi::CStr = c"size=64m,nr_inodes=8192,mode=0755";
/// Where there is less left, a state may not find the room that it needs.
const SCARCE_BYTES: u64 = 1 << 20;
const SCARCE_INODES: u64 = 64;

/// What a file is, as far as loading a state could change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    /// Not of the root, in which what a state makes without a name may have one for a moment.
    modified: Option<(i64, i64)>,
}

/// See the [module](self). Unmounted when dropped.
#[derive(Debug)]
pub struct Arena {
    folder: TempDir,
    outside: BTreeMap<PathBuf, Seen>,
}

impl Arena {
    /// A share with a few files.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let flags =
            MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME;
        mount("tmpfs", folder.path(), "tmpfs", flags, SIZE)
            .context("mounting a tmpfs, which takes root")?;
        let mut arena = Self {
            folder,
            outside: BTreeMap::new(),
        };
        let outside = arena.folder.path().join("outside");
        fs::create_dir(&outside)?;
        fs::write(outside.join("secret"), "secret of the host")?;
        arena.outside = look(&outside)?;
        arena.fill()?;
        Ok(arena)
    }

    /// The shared directory.
    pub fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// A path in the share.
    pub fn path(&self, name: &str) -> PathBuf {
        self.share().join(name)
    }

    /// Makes the share what it was in the beginning.
    pub fn fill(&self) -> Result<()> {
        let share = self.share();
        if share.exists() {
            fs::remove_dir_all(&share).context("emptying the share")?;
        }
        fs::create_dir(&share)?;
        fs::write(share.join("a"), "the text of a")?;
        fs::hard_link(share.join("a"), share.join("hard"))?;
        fs::create_dir_all(share.join("d/e"))?;
        for name in ["d/f", "d/e/1", "d/e/2", "d/e/3"] {
            fs::write(share.join(name), name)?;
        }
        symlink("../outside/secret", share.join("out"))?;
        symlink("d", share.join("in"))?;
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, share.join("fifo"), FileType::Fifo, mode, 0)?;
        Ok(())
    }

    /// All that is in the share.
    pub fn look(&self) -> Result<BTreeMap<PathBuf, Seen>> {
        let mut seen = look(&self.share())?;
        if let Some(root) = seen.get_mut(&self.share()) {
            root.modified = None;
        }
        Ok(seen)
    }

    /// Whether the file system is so full that something may fail for it.
    pub fn is_scarce(&self) -> Result<bool> {
        let StatVfs {
            f_frsize,
            f_bavail,
            f_favail,
            ..
        } = rustix::fs::statvfs(self.folder.path())?;
        Ok(f_bavail * f_frsize < SCARCE_BYTES || f_favail < SCARCE_INODES)
    }

    /// What is beside the share is what it was.
    pub fn check_outside(&self) -> Result<()> {
        let now = look(&self.folder.path().join("outside"))?;
        ensure!(now == self.outside, "outside of the share: {now:#?}");
        let names = fs::read_dir(self.folder.path())?.count();
        ensure!(names == 2, "{names} names beside the share");
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _busy = unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}

fn look(path: &Path) -> Result<BTreeMap<PathBuf, Seen>> {
    let mut seen = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
        let file = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            size: metadata.size(),
            modified: Some((metadata.mtime(), metadata.mtime_nsec())),
        };
        seen.insert(path, file);
    }
    Ok(seen)
}
