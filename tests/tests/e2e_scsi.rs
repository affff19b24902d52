//! Does a guest notice what is done to its SCSI disks, where it is meant to, and nothing else? A real Linux guest under stock QEMU,
//! with our daemon, and fio, which checks everything that it has written.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::qemu::scsi_machine::{ScsiMachine, unit};
use tests::qemu::scsi_rig::ScsiRig;
use tests::qemu::{Start, channel, migration};

/// Sizes of disks in MiB.
const DISK_MIB: u64 = 64;
const SMALL_MIB: u64 = 8;

/// How often a machine is stopped under load.
const STOPS: u32 = 20;

/// How often its daemon is killed.
const KILLS: u32 = 5;

/// How often the disk under load is reset.
const RESETS: u32 = 5;

/// What Linux says about unit attentions 29/xx and 2a/04 of logical unit 0.
const RESET_NOTICED: &str = "sd 0:0:0:0: Power-on or device reset occurred";
const RELEASE_NOTICED: &str = "sd 0:0:0:0: Parameters changed";

#[test]
fn a_guest_goes_on_whatever_is_done_to_its_disks() -> Result<()> {
    let rig = ScsiRig::prepare()?;
    let (disk, small) = (rig.image("disk", DISK_MIB)?, rig.image("small", SMALL_MIB)?);
    let arguments = [unit(0, &disk), unit(1, &small)].concat();
    let mut machine = ScsiMachine::start(&rig, "machine", Start::Boot, &arguments)?;
    machine.wait_ready()?;
    let name = machine.disk(0)?;
    machine.fill(&name)?;
    machine.start_load(&name)?;
    ensure!(machine.kernel_log()?.contains(RESET_NOTICED), "at boot");

    for _ in 0..STOPS {
        machine.vm.stop()?;
        machine.vm.cont()?;
        machine.load_goes_on(&name)?;
    }
    ensure!(
        !machine.kernel_log()?.contains(RESET_NOTICED),
        "a machine that is only stopped notices nothing"
    );
    resize(&mut machine, &small)?;
    come_and_go(&rig, &mut machine)?;
    reset_disk(&mut machine, &name)?;
    machine.load_goes_on(&name)?;
    machine.stop_load()?;
    machine.verify_and_unmount(&name)?;
    machine.quit()?;
    rig.check(&disk)?;
    rig.damage(&disk)?;
    ensure!(rig.check(&disk).is_err(), "damage is not noticed");
    Ok(())
}

/// The daemon is killed under load and started again: QEMU hands it what was in flight, and the guest only hears of a reset.
#[test]
fn a_guest_goes_on_when_its_daemon_is_killed() -> Result<()> {
    let rig = ScsiRig::prepare()?;
    let disk = rig.image("disk", DISK_MIB)?;
    let mut machine = ScsiMachine::start(&rig, "machine", Start::Boot, &unit(0, &disk))?;
    machine.wait_ready()?;
    let name = machine.disk(0)?;
    machine.fill(&name)?;
    machine.start_load(&name)?;
    for _ in 0..KILLS {
        machine.load_goes_on(&name)?;
        machine.daemon.kill()?;
        machine.daemon.restart()?;
    }
    machine.load_goes_on(&name)?;
    ensure!(machine.kernel_log()?.contains(RESET_NOTICED));
    machine.stop_load()?;
    machine.verify_and_unmount(&name)?;
    machine.quit()?;
    rig.check(&disk)
}

/// A disk gets larger while the guest runs, and again while it is stopped.
fn resize(machine: &mut ScsiMachine, image: &Path) -> Result<()> {
    let name = machine.disk(1)?;
    for (mib, stopped) in [(2 * SMALL_MIB, false), (3 * SMALL_MIB, true)] {
        if stopped {
            machine.vm.stop()?;
        }
        let file = File::options().write(true).open(image)?;
        file.set_len(mib << 20)?;
        machine.control(&["resize", "1"])?;
        if stopped {
            machine.vm.cont()?;
        }
        let sectors = mib << 11;
        machine.wait_until(&format!("[ $(cat /sys/block/{name}/size) = {sectors} ]"))?;
    }
    Ok(())
}

/// A disk appears, is written to, and disappears.
fn come_and_go(rig: &ScsiRig, machine: &mut ScsiMachine) -> Result<()> {
    let image = rig.image("plugged", SMALL_MIB)?;
    let added = format!("path={},lun=300,serial=plugged", image.display());
    machine.control(&["add", &added])?;
    let name = machine.disk(300)?;
    let serial = machine.run_tool("usr/bin/sg_inq", &format!("--page=0x80 /dev/{name}"))?;
    ensure!(serial.contains("plugged"), "another disk: {serial}");
    let write = format!("echo written | dd of=/dev/{name} bs=512 conv=sync,fsync");
    machine.vm.run(&write)?;
    machine.control(&["remove", "300"])?;
    machine.wait_without(300)?;
    ensure!(std::fs::read(&image)?.starts_with(b"written\n"));
    Ok(())
}

/// A disk is reset while it has work.
fn reset_disk(machine: &mut ScsiMachine, name: &str) -> Result<()> {
    for _ in 0..RESETS {
        machine.load_goes_on(name)?;
        machine.run_tool("usr/bin/sg_reset", &format!("--device /dev/{name}"))?;
    }
    ensure!(machine.kernel_log()?.contains(RESET_NOTICED));
    // Linux's driver can reset neither a target nor a bus. The attempts stop all commands for a moment, and fail.
    for what in ["--target", "--bus"] {
        machine.load_goes_on(name)?;
        machine.try_tool("usr/bin/sg_reset", &format!("{what} /dev/{name}"))?;
    }
    Ok(())
}

/// Stock QEMU migrates the device, and not its state.
#[test]
fn a_guest_that_moves_without_state_is_told_and_goes_on() -> Result<()> {
    let rig = ScsiRig::prepare()?;
    let disk = rig.image("disk", DISK_MIB)?;
    let (old, new) = (rig.image("old", SMALL_MIB)?, rig.image("new", SMALL_MIB)?);
    let arguments = [unit(0, &disk), unit(1, &old)].concat();
    let mut source = ScsiMachine::start(&rig, "source", Start::Boot, &arguments)?;
    source.wait_ready()?;
    let name = source.disk(0)?;
    source.disk(1)?;
    source.fill(&name)?;
    let register = format!("--no-inquiry --out --register --param-sark=5eed /dev/{name}");
    source.run_tool("usr/bin/sg_persist", &register)?;
    source.start_load(&name)?;
    ensure!(source.kernel_log()?.contains(RESET_NOTICED), "at boot");

    // Destinations do their I/O in the other way.
    let threads = ["--engine", "threads"].map(str::to_owned);
    let arguments = [unit(0, &disk), unit(2, &new), threads].concat();
    let start = |name| ScsiMachine::start(&rig, name, Start::Incoming, &arguments);

    // The other device's state is refused when this device has been stopped, and has released its image.
    let mut refusing = start("refusing")?;
    let (between, listen) = (rig.path("between"), rig.path("listen"));
    let seen = channel::intercept(&between, &listen, channel::damage)?;
    let outcome = migration::live_through(&mut source.vm, &mut refusing.vm, &between, &listen)?;
    let failure = outcome.failed()?;
    ensure!(seen.get(), "failed before the state: {}", failure.report);
    drop(refusing);
    source.vm.wait_status("running")?;
    source.load_goes_on(&name)?;
    ensure!(!source.kernel_log()?.contains(RESET_NOTICED));
    ensure!(source.registered_keys(&name)?.contains("0x5eed"));

    let mut destination = start("destination")?;
    let socket = rig.path("migration");
    migration::live(&mut source.vm, &mut destination.vm, &socket)?.completed()?;
    source.quit()?;
    destination.load_goes_on(&name)?;
    let log = destination.daemon.log()?;
    ensure!(log.contains("no state was loaded"), "{log}");
    // Missed events: the guest looks which disks there are.
    destination.disk(2)?;
    destination.wait_without(1)?;
    // Unit attentions 29/00 and 2a/04: its reservations are gone.
    let log = destination.kernel_log()?;
    for noticed in [RESET_NOTICED, RELEASE_NOTICED] {
        ensure!(log.contains(noticed), "{log}");
    }
    ensure!(!destination.registered_keys(&name)?.contains("0x5eed"));
    destination.load_goes_on(&name)?;
    destination.stop_load()?;

    // A reset, with the disk still mounted: what the guest has not synced may be lost by that, as on any disk.
    destination.vm.run("sync")?;
    destination.vm.reset()?;
    destination.wait_ready()?;
    let name = destination.disk(0)?;
    destination.mount(&name)?;
    destination.verify_and_unmount(&name)?;
    destination.quit()?;
    rig.check(&disk)
}

#[test]
fn a_machine_that_must_not_move_without_state_does_not() -> Result<()> {
    let rig = ScsiRig::prepare()?;
    let disk = rig.image("disk", SMALL_MIB)?;
    let arguments = [&unit(0, &disk)[..], &["--require-state".to_owned()]].concat();
    let mut machine = ScsiMachine::start(&rig, "machine", Start::Boot, &arguments)?;
    let uri = format!("file:{}", rig.path("never").display());
    let refused = machine.vm.qmp().execute("migrate", &json!({ "uri": uri }));
    let reason = refused.map_err(|error| error.to_string());
    // QEMU's words. Firmware and guest have not got far; nothing that they may do changes it.
    assert_eq!(
        reason,
        Err(
            "QEMU refused migrate: Migration disabled: vhost lacks VHOST_F_LOG_ALL feature.".into()
        )
    );
    machine.vm.expect_status("running")?;
    machine.quit()
}
