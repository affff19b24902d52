//! Does the file system daemon work, and migrate, without any privilege? That is how `KubeVirt` and rootless libvirt run one: a user of
//! its own, no capability, no sandbox. And from and to daemons that have privileges, or another sandbox?
//!
//! The kernel's FUSE client is the guest. Needs root, to mount and to become somebody else.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::bridge::Bridge;
use tests::daemon_runner::{Daemon, built};
use tests::guest::machine::Manner;

/// nobody
const USER: u32 = 65534;

/// The daemon's program where anybody may start it, and a script that gives up every privilege first.
fn program(folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("vhost-device-fs");
    fs::copy(built("vhost-device-fs")?, &copy).context("copying the daemon")?;
    let script = folder.join("unprivileged");
    let text = format!(
        "#!/bin/sh\n\
         chown {USER}:{USER} \"$(dirname \"$2\")\"\n\
         exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs \
         --inh-caps=-all --bounding-set=-all '{}' \"$@\"\n",
        copy.display()
    );
    fs::write(&script, text)?;
    for path in [folder, &copy, &script] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(script)
}

fn daemon(program: &Path, share: &TempDir) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.path().display());
    Daemon::start_at(program, [share.as_str(), "--sandbox=none"])
}

fn capabilities(daemon: &Daemon) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id().as_raw_nonzero()))?;
    let line = status.lines().find(|line| line.starts_with("CapEff"));
    Ok(line.context("no capabilities")?.to_owned())
}

#[test]
fn a_daemon_without_privileges_serves_and_migrates() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = program(folder.path())?;
    let share = tempfile::tempdir()?;
    chown(share.path(), Some(USER), Some(USER))?;
    let mountpoint = tempfile::tempdir()?;

    let source = daemon(&program, &share)?;
    ensure!(
        capabilities(&source)?.ends_with("0000000000000000"),
        "it has capabilities"
    );
    let mut bridge = Bridge::mount(source.connect()?, mountpoint.path())?;
    let at = |name: &str| mountpoint.path().join(name);

    fs::create_dir(at("folder"))?;
    let mut kept = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("folder/kept"))?;
    let mut log = fs::File::options()
        .append(true)
        .create_new(true)
        .open(at("log"))?;
    let mut deleted = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("deleted"))?;
    kept.write_all(b"before ")?;
    log.write_all(b"one ")?;
    deleted.write_all(b"nobody else has this")?;
    fs::remove_file(at("deleted"))?;

    let mut daemons = vec![source];
    for round in 0..2 {
        let destination = daemon(&program, &share)?;
        bridge
            .migrate_to(destination.connect()?, Manner::QEMU)
            .with_context(|| format!("round {round}: {}", destination.log().unwrap_or_default()))?;
        kept.write_all(b"after ")?;
        log.write_all(b"more ")?;
        let mut text = String::new();
        deleted.seek(SeekFrom::Start(0))?;
        deleted.read_to_string(&mut text)?;
        ensure!(text == "nobody else has this", "round {round}: {text:?}");
        ensure!(deleted.metadata()?.nlink() == 0, "it has a name");
        fs::write(at(&format!("folder/new {round}")), b"new")?;
        daemons.push(destination);
    }
    drop((kept, log, deleted));
    bridge.unmount()?;
    let read = |name: &str| fs::read_to_string(share.path().join(name));
    ensure!(read("folder/kept")? == "before after after ");
    ensure!(read("log")? == "one more more ");
    ensure!(read("folder/new 1")? == "new");
    ensure!(fs::metadata(share.path().join("log"))?.uid() == USER);
    Ok(())
}

/// Who serves, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Root(&'static str),
    Nobody(&'static str),
}

impl Server {
    fn start(self, unprivileged: &Path, share: &TempDir) -> Result<Daemon> {
        let share = format!("--shared-dir={}", share.path().display());
        match self {
            Self::Root(sandbox) => Daemon::start("vhost-device-fs", [&share, sandbox, "--xattr"]),
            Self::Nobody(sandbox) => Daemon::start_at(unprivileged, [&share, sandbox, "--xattr"]),
        }
    }

    fn is_root(self) -> bool {
        matches!(self, Self::Root(_))
    }
}

/// What a guest has open, and the bytes that are to be in each file in the end.
struct InUse {
    mountpoint: PathBuf,
    open: fs::File,
    log: fs::File,
    deleted: fs::File,
    /// Whose the deleted file is.
    owner: u32,
}

impl InUse {
    fn begin(mountpoint: &Path, owner: u32) -> Result<Self> {
        let at = |name: &str| mountpoint.join(name);
        let mut options = fs::File::options();
        options.read(true).write(true).create_new(true);
        let (mut open, mut deleted) = (options.open(at("open"))?, options.open(at("deleted"))?);
        let mut log = fs::File::options()
            .append(true)
            .create_new(true)
            .open(at("log"))?;
        open.write_all(b"before ")?;
        log.write_all(b"one ")?;
        deleted.write_all(b"nobody else has this")?;
        if fchown(&deleted, Some(owner), Some(owner)).is_err() {
            ensure!(
                deleted.metadata()?.uid() == owner,
                "it cannot be given away"
            );
        }
        deleted.set_permissions(fs::Permissions::from_mode(0o640))?;
        fs::remove_file(at("deleted"))?;
        Ok(Self {
            mountpoint: mountpoint.to_owned(),
            open,
            log,
            deleted,
            owner,
        })
    }

    /// All goes on, and new files are `maker`'s.
    fn check(&mut self, share: &Path, maker: u32) -> Result<()> {
        self.open.write_all(b"after ")?;
        self.log.write_all(b"more ")?;
        let read = |name: &str| fs::read_to_string(share.join(name));
        ensure!(read("open")? == "before after ", "{}", read("open")?);
        ensure!(read("log")? == "one more ", "{}", read("log")?);
        let mut text = String::new();
        self.deleted.seek(SeekFrom::Start(0))?;
        self.deleted.read_to_string(&mut text)?;
        ensure!(text == "nobody else has this", "{text:?}");
        let deleted = self.deleted.metadata()?;
        ensure!(deleted.nlink() == 0, "it has a name");
        ensure!((deleted.uid(), deleted.gid()) == (self.owner, self.owner));
        ensure!(deleted.mode() & 0o7777 == 0o640, "{:o}", deleted.mode());
        fs::write(self.mountpoint.join("new"), "new")?;
        ensure!(
            fs::metadata(share.join("new"))?.uid() == maker,
            "owner of what is new"
        );
        fs::remove_file(self.mountpoint.join("new"))?;
        Ok(())
    }
}

/// From `from` to `to`, with a deleted file of `owner`'s.
fn move_between(unprivileged: &Path, from: Server, to: Server, owner: u32) -> Result<()> {
    let share = tempfile::tempdir()?;
    chown(share.path(), Some(USER), Some(USER))?;
    let mountpoint = tempfile::tempdir()?;
    let source = from.start(unprivileged, &share)?;
    let mut bridge = Bridge::mount(source.connect()?, mountpoint.path())?;
    let mut in_use = InUse::begin(mountpoint.path(), owner)?;
    if !to.is_root() {
        // What the source has made is to be open to whoever goes on.
        for name in ["open", "log"] {
            chown(share.path().join(name), Some(USER), Some(USER))?;
        }
    }
    let destination = to.start(unprivileged, &share)?;
    let maker = if to.is_root() { 0 } else { USER };
    let result = bridge
        .migrate_to(destination.connect()?, Manner::QEMU)
        .and_then(|_| in_use.check(share.path(), maker))
        .with_context(|| destination.log().unwrap_or_default());
    if result.is_err() && bridge.traffic().is_ok() {
        in_use.open.write_all(b"the source goes on")?;
    }
    drop(in_use);
    bridge.unmount()?;
    result
}

const NAMESPACE: &str = "--sandbox=namespace";
const CHROOT: &str = "--sandbox=chroot";
const NONE: &str = "--sandbox=none";

#[test]
fn it_moves_between_daemons_with_other_privileges_and_sandboxes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unprivileged = program(folder.path())?;
    for (from, to) in [
        (Server::Root(NAMESPACE), Server::Nobody(NONE)),
        (Server::Nobody(NONE), Server::Root(NAMESPACE)),
        (Server::Root(NAMESPACE), Server::Root(NONE)),
        (Server::Root(NONE), Server::Root(NAMESPACE)),
        (Server::Root(CHROOT), Server::Root(NAMESPACE)),
        (Server::Root(NAMESPACE), Server::Root(CHROOT)),
        (Server::Root(CHROOT), Server::Nobody(NONE)),
        (Server::Nobody(NAMESPACE), Server::Root(CHROOT)),
        (Server::Nobody(NONE), Server::Nobody(NAMESPACE)),
        (Server::Nobody(NAMESPACE), Server::Nobody(NONE)),
    ] {
        let owner = if from.is_root() && to.is_root() {
            4_321
        } else {
            USER
        };
        move_between(&unprivileged, from, to, owner)
            .with_context(|| format!("{from:?} to {to:?}"))?;
    }
    Ok(())
}

/// A file that is made anew needs the owner that it had, whom nobody without privilege can give it.
#[test]
fn a_deleted_file_of_somebody_elses_does_not_move_to_a_daemon_without_privileges() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unprivileged = program(folder.path())?;
    let (from, to) = (Server::Root(NAMESPACE), Server::Nobody(NONE));
    let refused = move_between(&unprivileged, from, to, 4_321);
    let text = format!("{:#}", refused.err().context("it has moved")?);
    ensure!(text.contains("Operation not permitted"), "{text}");
    Ok(())
}
