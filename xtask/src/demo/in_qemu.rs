//! The story with Linux guests in an unmodified QEMU.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::tests::daemon_runner::built;
use ::tests::fs_daemon;
use ::tests::qemu::fs_machine::{FsMachine, check_share};
use ::tests::qemu::{Rig, Start, channel, migration, snapshot};
use anyhow::{Result, ensure};

use super::contents::contents;
use super::story::{Row, Story, intact, saved};

/// How often the guest is stopped and continued.
const STOPS: u32 = 3;

/// Everything, in order. The workload runs and writes from the first step to the last.
pub(super) fn tell(story: &mut Story) -> Result<()> {
    story.begin("building vhost-device-fs");
    built("vhost-device-fs")?;
    story.begin("providing QEMU, a guest kernel and busybox");
    let rig = Rig::prepare()?;
    story.add(&Row {
        step: "provided".to_owned(),
        check: format!(
            "{}, accelerator {}",
            rig.provision.qemu_version, rig.accelerator
        ),
        ..Row::default()
    });
    let share = rig.path("shared");
    std::fs::create_dir(&share)?;

    let first = boot(story, &rig, &share)?;
    let first = stop_and_continue(story, first)?;
    let first = save(story, &rig, first)?;
    let second = migrate(story, &rig, &share, first, "second")?;
    let second = fail_to_migrate(story, &rig, &share, second)?;
    let third = migrate(story, &rig, &share, second, "third")?;
    end(story, &share, third)
}

fn boot(story: &mut Story, rig: &Rig, share: &Path) -> Result<FsMachine> {
    story
        .begin("booting Linux on vhost-device-fs, and starting a program that never stops writing");
    let began = Instant::now();
    let mut machine = FsMachine::start(rig, "first", Start::Boot, share)?;
    machine.start_workload()?;
    let kernel = machine.vm.run("uname -r")?;
    let records = machine.verify()?;
    story.add(&Row {
        step: "booted, mounted, started the program".to_owned(),
        time: Some(began.elapsed()),
        check: format!("Linux {}: {}", kernel.trim(), intact(records)),
        ..Row::default()
    });
    Ok(machine)
}

fn stop_and_continue(story: &mut Story, mut machine: FsMachine) -> Result<FsMachine> {
    story.begin("stopping and continuing the guest");
    let began = Instant::now();
    for _ in 0..STOPS {
        machine.vm.stop()?;
        machine.vm.cont()?;
    }
    let time = Some(began.elapsed());
    let records = machine.verify()?;
    story.add(&Row {
        step: format!("stopped and continued {STOPS} times"),
        time,
        check: intact(records),
        ..Row::default()
    });
    Ok(machine)
}

/// A snapshot; the machine that it is taken of goes on.
fn save(story: &mut Story, rig: &Rig, mut machine: FsMachine) -> Result<FsMachine> {
    story.begin("saving the whole machine to a file, and continuing it");
    let file: PathBuf = rig.path("snapshot");
    let transfer = migration::save(&mut machine.vm, &file)?.completed()?;
    machine.vm.cont()?;
    let state = fs_daemon::saved_state(&machine.daemon)?;
    let contents = contents(&snapshot::device_state(&file)?)?;
    machine.verify()?;
    story.add(&Row {
        step: "saved to a file, continued".to_owned(),
        state: saved(state),
        time: Some(transfer.total),
        downtime: None,
        check: format!("it holds {contents}"),
    });
    Ok(machine)
}

fn migrate(
    story: &mut Story,
    rig: &Rig,
    share: &Path,
    mut source: FsMachine,
    name: &str,
) -> Result<FsMachine> {
    story.begin(&format!(
        "migrating the running guest to a {name} QEMU with a {name} daemon"
    ));
    source.vm.run("sleep 1")?;
    let before = source.verify()?;
    let mut destination = FsMachine::start(rig, name, Start::Incoming, share)?;
    let socket = rig.path(&format!("{name}.migration"));
    let outcome = migration::live(&mut source.vm, &mut destination.vm, &socket)?;
    let transfer = outcome.completed()?;
    let state = fs_daemon::saved_state(&source.daemon)?;
    source.quit()?;
    let after = destination.verify()?;
    ensure!(
        after > before,
        "the program does not go on: {before} to {after}"
    );
    let step = format!("migrated live to the {name} machine");
    story.add(&Row::migration(&step, transfer, state).checked(intact(after)));
    Ok(destination)
}

fn fail_to_migrate(
    story: &mut Story,
    rig: &Rig,
    share: &Path,
    mut source: FsMachine,
) -> Result<FsMachine> {
    story.begin("migrating with one bit of the device's state flipped on the way");
    let mut destination = FsMachine::start(rig, "refusing", Start::Incoming, share)?;
    let (between, listen) = (rig.path("between"), rig.path("listen"));
    let seen = channel::intercept(&between, &listen, channel::damage)?;
    let began = Instant::now();
    let outcome = migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
    outcome.failed()?;
    let time = Some(began.elapsed());
    ensure!(seen.get(), "the migration failed before the state was sent");
    drop(destination);
    source.vm.wait_status("running")?;
    let records = source.verify()?;
    story.add(&Row {
        step: "refused a damaged state".to_owned(),
        state: saved(fs_daemon::saved_state(&source.daemon)?),
        time,
        downtime: None,
        check: format!("the source goes on, {}", intact(records)),
    });
    Ok(source)
}

fn end(story: &mut Story, share: &Path, mut machine: FsMachine) -> Result<()> {
    story.begin("ending the program, and looking at the share from the host");
    let records = machine.stop_workload()?;
    machine.quit()?;
    let seen = check_share(share)?;
    ensure!(
        seen == records,
        "the host sees {seen} records, the guest {records}"
    );
    story.add(&Row {
        step: "unmounted, ended, compared on the host".to_owned(),
        check: format!("{records} records in every file, none lost, none twice"),
        ..Row::default()
    });
    Ok(())
}
