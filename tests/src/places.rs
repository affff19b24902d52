//! File systems that a share can be on, and a guest that is moved between them.
//!
//! The kernel's own FUSE client is the guest, with files open, deleted, linked twice and folders half read. Knows no test: on which file
//! systems it happens, and on which machine, is told by those who ask.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, ReadDir};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::daemon_runner::Daemon;
use crate::guest::machine::Manner;

/// More than a program fetches at once, by their names.
const ENTRIES: usize = 200;

/// A file system to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The disk's file system.
    Disk,
    /// One in memory.
    Memory,
    /// An overlay, two folders of the disk. Takes root.
    Overlay,
    /// A FUSE file system, which knows no time of birth.
    Fuse,
    /// Whatever is mounted there.
    At(&'static str),
}

/// A mounted file system; unmounted when dropped.
#[expect(clippy::large_enum_variant, reason = "there are two at a time")]
enum Place {
    Plain(TempDir),
    Overlay(TempDir),
    Fuse {
        bridge: Bridge,
        _daemon: Daemon,
        _folders: [TempDir; 2],
    },
}

impl Place {
    fn new(kind: Kind) -> Result<Self> {
        match kind {
            Kind::Disk => Ok(Self::Plain(tempfile::tempdir()?)),
            Kind::At(folder) => Ok(Self::Plain(tempfile::tempdir_in(folder)?)),
            Kind::Memory => Ok(Self::Plain(tempfile::tempdir_in("/dev/shm")?)),
            Kind::Overlay => {
                let folder = tempfile::tempdir()?;
                let [lower, upper, work, merged] =
                    ["lower", "upper", "work", "merged"].map(|name| folder.path().join(name));
                for path in [&lower, &upper, &work, &merged] {
                    fs::create_dir(path)?;
                }
                let [lower, upper, work] =
                    [lower, upper, work].map(|path| path.display().to_string());
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                let options = std::ffi::CString::new(options)?;
                mount(
                    "overlay",
                    &merged,
                    "overlay",
                    MountFlags::empty(),
                    options.as_c_str(),
                )
                .context("mounting an overlay, which takes root")?;
                Ok(Self::Overlay(folder))
            }
            Kind::Fuse => {
                let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
                let [share, mountpoint] = folders.each_ref().map(TempDir::path);
                let daemon = daemon(share)?;
                let bridge = Bridge::mount(daemon.connect()?, mountpoint)?;
                Ok(Self::Fuse {
                    bridge,
                    _daemon: daemon,
                    _folders: folders,
                })
            }
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Plain(folder) => folder.path().to_owned(),
            Self::Overlay(folder) => folder.path().join("merged"),
            Self::Fuse { bridge, .. } => bridge.mountpoint().to_owned(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Overlay(_) = self {
            let _busy = unmount(self.path(), UnmountFlags::DETACH);
        }
    }
}

/// A daemon for such a share.
pub fn daemon(share: &Path) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.display());
    // One program asks at a time, and an emulated machine is slow to start the others.
    let options = ["--xattr", "--num-request-queues=1", &share];
    Daemon::start("vhost-device-fs", options)
}

/// What a guest has at hand when it is moved.
struct InUse {
    mountpoint: PathBuf,
    /// Read in part.
    open: File,
    /// Without a name.
    deleted: File,
    folder: ReadDir,
    names: BTreeSet<OsString>,
    /// Open, since the kernel may forget what it only knows.
    linked: File,
}

/// The content of a share.
fn fill(share: &Path) -> Result<()> {
    fs::create_dir_all(share.join("a/b/c"))?;
    fs::write(share.join("a/b/c/deep"), "deep")?;
    fs::write(share.join("open"), "0123456789")?;
    fs::write(share.join("deleted"), "alive")?;
    fs::write(share.join("a/first"), "linked")?;
    fs::hard_link(share.join("a/first"), share.join("a/b/second"))?;
    std::os::unix::fs::symlink("a/b", share.join("symlink"))?;
    fs::create_dir(share.join("many"))?;
    for number in 0..ENTRIES {
        File::create(share.join(format!("many/{number:0>200}")))?;
    }
    Ok(())
}

impl InUse {
    fn begin(mountpoint: &Path) -> Result<Self> {
        let both = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(mountpoint.join(name))
        };
        let mut open = both("open")?;
        open.read_exact(&mut [0; 5])?;
        let deleted = both("deleted")?;
        fs::remove_file(mountpoint.join("deleted"))?;
        let mut folder = fs::read_dir(mountpoint.join("many"))?;
        let first = folder.by_ref().take(10).map(|entry| Ok(entry?.file_name()));
        let names = first.collect::<Result<_>>()?;
        fs::read(mountpoint.join("symlink/c/deep"))?;
        let linked = File::open(mountpoint.join("a/first"))?;
        ensure!(linked.metadata()?.ino() == fs::metadata(mountpoint.join("a/b/second"))?.ino());
        Ok(Self {
            mountpoint: mountpoint.to_owned(),
            open,
            deleted,
            folder,
            names,
            linked,
        })
    }

    /// All goes on, and what is written is in `share`.
    fn check(&mut self, share: &Path) -> Result<()> {
        let mut rest = String::new();
        self.open.read_to_string(&mut rest)?;
        ensure!(rest == "56789", "read on: {rest:?}");
        self.open.write_all(b"!")?;
        ensure!(fs::read(share.join("open"))? == b"0123456789!");
        self.deleted.seek(SeekFrom::Start(0))?;
        let mut content = String::new();
        self.deleted.read_to_string(&mut content)?;
        ensure!(content == "alive", "deleted file: {content:?}");

        for entry in self.folder.by_ref() {
            let name = entry?.file_name();
            ensure!(
                self.names.insert(name.clone()),
                "{} came twice",
                name.display()
            );
        }
        ensure!(self.names.len() == ENTRIES, "{} names", self.names.len());

        let at = |name: &str| self.mountpoint.join(name);
        ensure!(fs::read(at("symlink/c/deep"))? == b"deep");
        let [first, second] = ["a/first", "a/b/second"].map(|name| fs::metadata(at(name)));
        let (first, second) = (first?, second?);
        ensure!(
            first.ino() == second.ino() && first.nlink() == 2,
            "{first:?} {second:?}"
        );
        ensure!(
            first.ino() == self.linked.metadata()?.ino(),
            "a known file has another number"
        );
        fs::rename(at("a/b"), at("moved"))?;
        fs::write(at("moved/c/new"), "new")?;
        ensure!(fs::read(share.join("moved/c/new"))? == b"new");
        Ok(())
    }
}

/// From `from` to a copy on `to`, or to another daemon on the same.
pub fn move_between(from: Kind, to: Option<Kind>) -> Result<()> {
    let source = Place::new(from)?;
    let copy = to.map(Place::new).transpose()?;
    move_to(&source.path(), |source| {
        let Some(copy) = &copy else {
            return Ok(source.to_owned());
        };
        let copied = Command::new("cp")
            .args(["-a", &format!("{}/.", source.display())])
            .arg(copy.path())
            .status()?;
        ensure!(copied.success(), "cp: {copied}");
        Ok(copy.path())
    })
}

/// From the empty folder `source` to where `elsewhere` has brought it, or what is the same.
pub fn move_to(source: &Path, elsewhere: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    fill(source)?;
    let mountpoint = tempfile::tempdir()?;
    let first = daemon(source)?;
    let mut bridge = Bridge::mount(first.connect()?, mountpoint.path())?;
    let mut in_use = InUse::begin(mountpoint.path())?;
    let share = elsewhere(source)?;
    let second = daemon(&share)?;
    bridge
        .migrate_to(second.connect()?, Manner::QEMU)
        .and_then(|_| in_use.check(&share))
        .with_context(|| {
            let [from, to] = [&first, &second].map(|daemon| daemon.log().unwrap_or_default());
            format!("source:\n{from}\ndestination:\n{to}")
        })?;
    drop(in_use);
    bridge.unmount()?;
    Ok(())
}
