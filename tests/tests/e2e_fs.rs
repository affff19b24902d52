//! Do programs on a virtio-fs share notice that their machine is stopped, saved, moved, or that a
//! move fails? A real Linux guest under QEMU, with our daemon, and a workload that notices all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::state::{Limits, read_state};
use rustix::process::{Signal, kill_process};
use tests::daemon_runner::built;
use tests::fs_daemon::{self, arguments};
use tests::qemu::fs_machine::{FsMachine, Serves, check_share};
use tests::qemu::{Rig, Start, channel, migration, snapshot};
use tests::service_manager::Service;
use vhost_device_fs::state::FsState;

/// A rig, an empty share, and a machine that works on it.
fn working_machine() -> Result<(Rig, PathBuf, FsMachine)> {
    let rig = Rig::prepare()?;
    let share = rig.path("shared");
    std::fs::create_dir(&share)?;
    let mut machine = FsMachine::start(&rig, "first", Start::Boot, &share)?;
    machine.start_workload()?;
    Ok((rig, share, machine))
}

/// Verifies in the guest, ends everything, and verifies on the host.
fn finish<D: Serves>(share: &Path, mut machine: FsMachine<D>) -> Result<()> {
    let before = machine.verify()?;
    let after = machine.stop_workload()?;
    assert!(after > before, "the workload goes on: {before} to {after}");
    machine.quit()?;
    assert_eq!(check_share(share)?, after);
    Ok(())
}

#[test]
fn a_stopped_guest_goes_on() -> Result<()> {
    let (_rig, share, mut machine) = working_machine()?;
    for _ in 0..5 {
        machine.vm.stop()?;
        machine.vm.cont()?;
        machine.verify()?;
    }
    finish(&share, machine)
}

/// The other tests are worth something only if this one passes.
#[test]
fn damage_on_the_share_is_noticed_in_the_guest() -> Result<()> {
    let (_rig, share, mut machine) = working_machine()?;
    let file = share.join("work/steady/7");
    let content = std::fs::read(&file)?;
    let mut damaged = content.clone();
    channel::damage(&mut damaged);
    std::fs::write(&file, damaged)?;
    assert!(machine.verify().is_err());
    std::fs::write(&file, content)?;
    finish(&share, machine)
}

#[test]
fn a_snapshot_goes_on_in_another_machine() -> Result<()> {
    let (rig, share, mut first) = working_machine()?;
    let before = first.verify()?;
    let file = rig.path("snapshot");
    let outcome = migration::save(&mut first.vm, &file)?;
    outcome.completed()?;
    first.quit()?;

    let mut second = FsMachine::start(&rig, "second", Start::Incoming, &share)?;
    migration::restore(&mut second.vm, &file)?;
    assert!(second.verify()? >= before);
    finish(&share, second)
}

#[test]
fn a_guest_goes_on_after_its_snapshot() -> Result<()> {
    let (rig, share, mut machine) = working_machine()?;
    for name in ["one", "two"] {
        let outcome = migration::save(&mut machine.vm, &rig.path(name))?;
        outcome.completed()?;
        let state = snapshot::device_state(&rig.path(name))?;
        let state: FsState = read_state(&mut &state[..], &Limits::default())?;
        assert!(state.handles.len() >= 6, "five files and a folder are open");
        assert_eq!(state.orphans.len(), 1, "one of them is unlinked");
        machine.vm.cont()?;
        machine.verify()?;
    }
    finish(&share, machine)
}

#[test]
fn a_guest_is_migrated_twice_while_a_program_writes() -> Result<()> {
    let (rig, share, mut machine) = working_machine()?;
    for name in ["second", "third"] {
        let mut next = FsMachine::start(&rig, name, Start::Incoming, &share)?;
        let socket = rig.path(&format!("{name}.migration"));
        let outcome = migration::live(&mut machine.vm, &mut next.vm, &socket)?;
        let transfer = outcome.completed()?;
        println!(
            "{transfer:?} {:?}",
            fs_daemon::saved_state(&machine.daemon)?
        );
        machine.quit()?;
        next.verify()?;
        machine = next;
    }
    finish(&share, machine)
}

/// QEMU does not connect again by itself here: a connection that was lost would stay so.
#[test]
fn daemons_are_restarted_under_a_guest_before_and_after_it_is_migrated() -> Result<()> {
    const RESTARTS: u32 = 5;
    let rig = Rig::prepare()?;
    let share = rig.path("shared");
    std::fs::create_dir(&share)?;
    let service = || Service::start(built("vhost-device-fs")?, arguments(&share, "auto"));
    let mut machine = FsMachine::start_on(&rig, "first", Start::Boot, service()?)?;
    machine.start_workload()?;
    let mut records = machine.verify()?;
    let mut restarts = |machine: &mut FsMachine<Service>| -> Result<()> {
        for round in 1..=RESTARTS {
            let restarted = machine.daemon.restart();
            restarted.with_context(|| format!("round {round}"))?;
            let now = machine.verify()?;
            ensure!(now > records, "round {round}: {records} to {now}");
            records = now;
            let log = machine.daemon.log();
            ensure!(!log.contains("front-end connected"), "{log}");
        }
        Ok(())
    };
    restarts(&mut machine)?;
    let mut next = FsMachine::start_on(&rig, "second", Start::Incoming, service()?)?;
    let socket = rig.path("second.migration");
    migration::live(&mut machine.vm, &mut next.vm, &socket)?.completed()?;
    machine.quit()?;
    restarts(&mut next)?;
    finish(&share, next)
}

#[test]
fn a_failed_migration_leaves_the_source_running() -> Result<()> {
    let (rig, share, mut source) = working_machine()?;
    for failure in ["dead", "killed", "damaged"] {
        let mut destination = FsMachine::start(&rig, failure, Start::Incoming, &share)?;
        let listen = rig.path(&format!("{failure}.listen"));
        let between = rig.path(&format!("{failure}.between"));
        let victim = destination.daemon.id();
        let seen = match failure {
            "dead" => {
                destination.daemon.kill()?;
                channel::intercept(&between, &listen, |_| {})?
            }
            // The state is on its way, and its reader is gone. The signal fails only if it was before.
            "killed" => channel::intercept(&between, &listen, move |_| {
                let _ = kill_process(victim, Signal::KILL);
            })?,
            _ => channel::intercept(&between, &listen, channel::damage)?,
        };
        let outcome =
            migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
        let reported = outcome.failed()?;
        println!("{failure}: {}", reported.reason);
        assert!(seen.get(), "failed before the state: {}", reported.report);
        drop(destination);
        source.vm.wait_status("running")?;
        source.verify()?;
    }
    // After all that, it can still be migrated.
    let mut next = FsMachine::start(&rig, "next", Start::Incoming, &share)?;
    let socket = rig.path("next.migration");
    let outcome = migration::live(&mut source.vm, &mut next.vm, &socket)?;
    outcome.completed()?;
    source.quit()?;
    finish(&share, next)
}

#[test]
fn a_damaged_snapshot_is_refused() -> Result<()> {
    let (rig, share, mut first) = working_machine()?;
    let file = rig.path("snapshot");
    let outcome = migration::save(&mut first.vm, &file)?;
    outcome.completed()?;
    let mut bytes = std::fs::read(&file)?;
    let start = snapshot::find(&bytes).context("the snapshot has no device state")?;
    channel::damage(&mut bytes[start..]);
    std::fs::write(&file, bytes)?;

    let mut second = FsMachine::start(&rig, "second", Start::Incoming, &share)?;
    assert!(migration::restore(&mut second.vm, &file).is_err());
    drop(second);
    // The original loses nothing by it.
    first.vm.cont()?;
    finish(&share, first)
}
