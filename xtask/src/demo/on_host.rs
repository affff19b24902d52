//! The story without a VM: this host's kernel is the guest, through `/dev/fuse` and our own front-end.

use std::path::PathBuf;
use std::time::Instant;

use ::tests::bridge::Bridge;
use ::tests::daemon_runner::{Daemon, built};
use ::tests::fs_daemon;
use ::tests::guest::{LoadOrder, Manner};
use ::tests::workload::{self, Workload};
use anyhow::{Context as _, Result, ensure};
use common::frontend::Channel;
use tempfile::TempDir;

use super::contents::contents;
use super::story::{Row, Story, intact, saved};

/// Another way than QEMU's: the whole device is suspended explicitly, the state goes through a file,
/// and the destination has everything but its rings before the state comes.
const EXPLICIT: Manner = Manner {
    order: LoadOrder::BeforeRings,
    channel: Channel::File,
    suspend: true,
};

/// What stays the same from the first step to the last.
struct Scene {
    share: PathBuf,
    bridge: Bridge,
    /// Of the bridge. Its successor's bridge is the same one.
    daemon: Daemon,
    workload: Workload,
    /// Goes last: the mount point is in it.
    _folder: TempDir,
}

/// Everything, in order. The workload runs and writes from the first step to the last.
pub(super) fn tell(story: &mut Story) -> Result<()> {
    story.begin("building vhost-device-fs");
    built("vhost-device-fs")?;
    let mut scene = mount(story)?;
    save(story, &mut scene)?;
    let step = "migrated to a second daemon as QEMU does it";
    migrate(story, &mut scene, step, Manner::QEMU)?;
    fail_to_migrate(story, &mut scene)?;
    let step = "migrated to a third by explicit SUSPEND";
    migrate(story, &mut scene, step, EXPLICIT)?;
    end(story, scene)
}

fn mount(story: &mut Story) -> Result<Scene> {
    story.begin("mounting a share on this host, and starting a program that never stops writing");
    let began = Instant::now();
    let folder = tempfile::Builder::new().prefix("demo-").tempdir()?;
    let (share, mountpoint) = (folder.path().join("share"), folder.path().join("mount"));
    std::fs::create_dir(&share)?;
    std::fs::create_dir(&mountpoint)?;
    let daemon = fs_daemon::start(&share, "never")?;
    let bridge = Bridge::mount(daemon.connect()?, &mountpoint)
        .context("mounting on this host, which needs root and /dev/fuse")?;
    let mut workload = Workload::start(&mountpoint.join("work"), folder.path())?;
    let records = workload.verify()?;
    story.add(&Row {
        step: "mounted, started the program".to_owned(),
        time: Some(began.elapsed()),
        check: intact(records),
        ..Row::default()
    });
    Ok(Scene {
        share,
        bridge,
        daemon,
        workload,
        _folder: folder,
    })
}

/// A snapshot; the device that it is taken of goes on.
fn save(story: &mut Story, scene: &mut Scene) -> Result<()> {
    story.begin("saving the device, and continuing it");
    let began = Instant::now();
    let state = scene.bridge.snapshot()?;
    let time = Some(began.elapsed());
    scene.workload.verify()?;
    story.add(&Row {
        step: "saved, continued".to_owned(),
        state: saved(fs_daemon::saved_state(&scene.daemon)?),
        time,
        downtime: time,
        check: format!("it holds {}", contents(&state)?),
    });
    Ok(())
}

fn migrate(story: &mut Story, scene: &mut Scene, step: &str, manner: Manner) -> Result<()> {
    story.begin("migrating to another daemon while the program writes");
    let before = scene.workload.verify()?;
    let destination = fs_daemon::start(&scene.share, "never")?;
    let migrated = scene.bridge.migrate_to(destination.connect()?, manner)?;
    let mut source = std::mem::replace(&mut scene.daemon, destination);
    let state = fs_daemon::saved_state(&source)?;
    let status = source.wait()?;
    ensure!(status.success(), "the source's daemon ended with {status}");
    let after = scene.workload.verify()?;
    ensure!(
        after > before,
        "the program does not go on: {before} to {after}"
    );
    story.add(&Row {
        step: step.to_owned(),
        state: saved(state),
        time: Some(migrated.downtime),
        downtime: Some(migrated.downtime),
        check: intact(after),
    });
    Ok(())
}

fn fail_to_migrate(story: &mut Story, scene: &mut Scene) -> Result<()> {
    story.begin("migrating to a daemon that has died");
    let mut destination = fs_daemon::start(&scene.share, "never")?;
    let connection = destination.connect()?;
    destination.kill()?;
    let began = Instant::now();
    let migrated = scene.bridge.migrate_to(connection, Manner::QEMU);
    ensure!(migrated.is_err(), "a dead daemon took the device");
    let time = Some(began.elapsed());
    let records = scene.workload.verify()?;
    story.add(&Row {
        step: "failed to migrate to a dead daemon".to_owned(),
        state: saved(fs_daemon::saved_state(&scene.daemon)?),
        time,
        downtime: time,
        check: format!("the source goes on, {}", intact(records)),
    });
    Ok(())
}

fn end(story: &mut Story, scene: Scene) -> Result<()> {
    story.begin("ending the program, unmounting, and looking at the share itself");
    let Scene {
        share,
        bridge,
        mut daemon,
        workload,
        _folder,
    } = scene;
    let records = workload.stop()?;
    let traffic = bridge.unmount()?;
    let status = daemon.wait()?;
    ensure!(status.success(), "the last daemon ended with {status}");
    let seen = workload::check(&share.join("work"))?;
    ensure!(
        seen == records,
        "the share holds {seen} records, the program wrote {records}"
    );
    story.add(&Row {
        step: "unmounted, compared with the share".to_owned(),
        check: format!(
            "{records} records in every file, none lost, none twice; {} requests answered",
            traffic.answered
        ),
        ..Row::default()
    });
    Ok(())
}
