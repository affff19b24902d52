//! Does the file system daemon work, and migrate, without any privilege? That is how `KubeVirt` and rootless libvirt run one: a user of
//! its own, no capability, no sandbox.
//!
//! The kernel's FUSE client is the guest. Needs root, to mount and to become somebody else.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
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
