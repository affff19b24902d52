//! Are the guest's users other users on the host with `--uid-map` and `--gid-map`, before a migration and after?
//!
//! The kernel's FUSE client is the guest: what its programs see, and what is on the share. Needs root.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, fchown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::bridge::Bridge;
use tests::daemon_runner::{Daemon, built};
use tests::guest::machine::Manner;
use tests::qemu::provision::id_map_tools;

/// The guest's root on the host.
const USER: u32 = 100_000;
const GROUP: u32 = 200_000;
/// How the guest sees an owner that it has no number for (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

const MAPS: [&str; 2] = ["--uid-map=:0:100000:65536:", "--gid-map=/0/200000/65536/"];

fn share() -> Result<TempDir> {
    let share = tempfile::tempdir()?;
    chown(share.path(), Some(USER), Some(GROUP))?;
    fs::write(share.path().join("of the host"), "hands off")?;
    Ok(share)
}

fn start(share: &Path, options: &[&str]) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.display());
    Daemon::start("vhost-device-fs", [share.as_str()].iter().chain(options))
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.uid(), metadata.gid()))
}

#[test]
fn a_guests_users_are_others_on_the_host_and_stay_so() -> Result<()> {
    let share = share()?;
    let mountpoint = tempfile::tempdir()?;
    let first = start(share.path(), &MAPS)?;
    let mut bridge = Bridge::mount(first.connect()?, mountpoint.path())?;
    let inside = |name: &str| mountpoint.path().join(name);
    let host = |name: &str| share.path().join(name);

    fs::create_dir(inside("public"))?;
    fs::set_permissions(inside("public"), fs::Permissions::from_mode(0o1777))?;
    fs::write(inside("of root"), "")?;
    fs::write(inside("given away"), "")?;
    chown(inside("given away"), Some(1_000), Some(2_000))?;
    let made = Command::new("touch")
        .arg(inside("public/made"))
        .uid(500)
        .gid(600)
        .status()?;
    ensure!(made.success(), "touch: {made}");
    let mut deleted = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(inside("deleted"))?;
    deleted.write_all(b"nobody else has this")?;
    fchown(&deleted, Some(7), Some(8))?;
    fs::remove_file(inside("deleted"))?;

    let check = |deleted: &mut File| -> Result<()> {
        for (name, (user, group)) in [
            ("of root", (0, 0)),
            ("given away", (1_000, 2_000)),
            ("public/made", (500, 600)),
        ] {
            ensure!(
                owner(&inside(name))? == (user, group),
                "{name} in the guest"
            );
            let on_host = owner(&host(name))?;
            ensure!(
                on_host == (USER + user, GROUP + group),
                "{name}: {on_host:?}"
            );
        }
        // Whom the guest has no number for is nobody, and the guest's root has no power over what is his.
        let foreign = inside("of the host");
        ensure!(owner(&foreign)? == (NOBODY, NOBODY));
        let refused = chown(&foreign, Some(0), None).err().context("taken")?;
        ensure!(refused.kind() == ErrorKind::PermissionDenied, "{refused}");
        let refused = chown(inside("of root"), Some(65_536), None).err();
        ensure!(refused.is_some(), "there is a user 65536");
        ensure!((deleted.metadata()?.uid(), deleted.metadata()?.gid()) == (7, 8));
        let mut text = String::new();
        deleted.seek(SeekFrom::Start(0))?;
        deleted.read_to_string(&mut text)?;
        ensure!(text == "nobody else has this", "{text:?}");
        Ok(())
    };
    check(&mut deleted)?;
    let second = start(share.path(), &MAPS)?;
    bridge
        .migrate_to(second.connect()?, Manner::QEMU)
        .with_context(|| second.log().unwrap_or_default())?;
    check(&mut deleted).context("after the migration")?;
    // With other users behind the same numbers, files would change their owners.
    let other = start(share.path(), &["--uid-map=:0:300000:65536:", MAPS[1]])?;
    let refused = bridge.migrate_to(other.connect()?, Manner::QEMU);
    ensure!(refused.is_err(), "it has moved");
    ensure!(
        other.log()?.contains("--uid-map of the source"),
        "{}",
        other.log()?
    );
    check(&mut deleted).context("after a refusal")?;
    drop(deleted);
    bridge.unmount()?;
    Ok(())
}

/// A script that starts the daemon as nobody, who may have the ids that `/etc/subuid` and `/etc/subgid` say and the helpers give.
fn unprivileged_program(folder: &Path) -> Result<PathBuf> {
    let path = |name: &str| folder.join(name);
    fs::copy(built("vhost-device-fs")?, path("vhost-device-fs"))?;
    let helpers = id_map_tools()?;
    for name in ["newuidmap", "newgidmap"] {
        fs::copy(helpers.join(name), path(name))?;
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o4755))?;
    }
    fs::write(path("subuid"), format!("{NOBODY}:{USER}:65536\n"))?;
    fs::write(path("subgid"), format!("{NOBODY}:{GROUP}:65536\n"))?;
    let folder = folder.display();
    // A copy of /etc, because a machine need not have the two files, over which others could be mounted.
    let inner = format!(
        "mkdir -p {folder}/etc && cp -a /etc/. {folder}/etc/ && cp {folder}/subuid {folder}/subgid {folder}/etc/ && mount --bind {folder}/etc /etc && \
         exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {folder}/vhost-device-fs \"$@\""
    );
    let text = format!(
        "#!/bin/sh\nchown {NOBODY} \"$(dirname \"$2\")\"\nexport PATH=\"{folder}:$PATH\"\n\
         exec unshare --mount --propagation private sh -c '{inner}' sh \"$@\"\n"
    );
    fs::write(path("script"), text)?;
    for name in ["", "vhost-device-fs", "script"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(path("script"))
}

#[test]
fn without_privilege_the_helpers_give_the_ids() -> Result<()> {
    let share = share()?;
    let folder = tempfile::tempdir()?;
    let program = unprivileged_program(folder.path())?;
    let shared = format!("--shared-dir={}", share.path().display());
    fs::set_permissions(share.path(), fs::Permissions::from_mode(0o755))?;
    let daemon = Daemon::start_at(&program, [&shared, MAPS[0], MAPS[1]])?;
    let mountpoint = tempfile::tempdir()?;
    let bridge = Bridge::mount(daemon.connect()?, mountpoint.path())?;
    let made = mountpoint.path().join("made");
    fs::write(&made, "")?;
    chown(&made, Some(1_000), Some(2_000))?;
    ensure!(owner(&share.path().join("made"))? == (USER + 1_000, GROUP + 2_000));
    bridge.unmount()?;
    drop(daemon);
    // More than the ranges have.
    let more = [shared.as_str(), "--uid-map=:0:100000:65537:"];
    let error = Daemon::start_at(&program, more)
        .err()
        .context("it has started")?;
    let error = format!("{error:#}");
    ensure!(error.contains("/etc/subuid"), "{error}");
    Ok(())
}

/// How starting with `options` fails, and the exit code.
fn refusal(program: &mut Command, options: &[&str]) -> Result<(String, Option<i32>)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let output = program
        .arg("--socket-path")
        .arg(folder.path().join("socket"))
        .arg("--shared-dir")
        .arg(folder.path())
        .args(options)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((text, output.status.code()))
}

#[test]
fn maps_that_cannot_be_had_are_refused_with_the_reason() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("vhost-device-fs");
    fs::copy(built("vhost-device-fs")?, &program)?;
    let overlapping = ["--uid-map=:0:1000:10:", "--uid-map=:5:2000:10:"];
    let without_namespace = [MAPS[0], "--sandbox=none"];
    for (options, reason, code) in [
        (overlapping.as_slice(), "do two ranges overlap?", 1),
        (&without_namespace, "take --sandbox=namespace", 2),
        (&["--uid-map=0:1:1"], "is not of the form", 2),
    ] {
        let (text, exit) = refusal(&mut Command::new(&program), options)?;
        ensure!(
            text.contains(reason) && exit == Some(code),
            "{exit:?}: {text}"
        );
    }
    // Without privilege it takes a program, which is not to be found.
    let mut unprivileged = Command::new(&program);
    unprivileged.uid(NOBODY).gid(NOBODY).env("PATH", "/nowhere");
    let (text, exit) = refusal(&mut unprivileged, &MAPS)?;
    ensure!(text.contains("the program newuidmap"), "{exit:?}: {text}");
    ensure!(exit == Some(1), "{exit:?}");
    Ok(())
}
