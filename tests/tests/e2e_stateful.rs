//! Do devices whose state QEMU does not know lose nothing with our module for QEMU? A real Linux guest under the distribution's QEMU
//! with our device types preloaded, and our daemons.

use anyhow::{Context as _, Result, ensure};
use common::protocol::messages::protocol_feature::DEVICE_STATE;
use serde_json::json;
use tests::daemon_runner::Daemon;
use tests::limited_backend::hide;
use tests::qemu::fs_machine::{FsMachine, check_share};
use tests::qemu::scsi_machine::{ScsiMachine, unit};
use tests::qemu::scsi_rig::ScsiRig;
use tests::qemu::vm::BOOT_DEADLINE;
use tests::qemu::{Config, Rig, Start, Vm, channel, migration};

/// Size of the disk in MiB.
const DISK_MIB: u64 = 64;

/// How often a machine is stopped under load.
const STOPS: usize = 20;

/// How often it is migrated, to and fro.
const HOPS: usize = 2;

/// What Linux says about unit attentions 29/xx, and about 2a/xx.
const NOTICED: [&str; 2] = ["Power-on or device reset occurred", "Parameters changed"];

/// What a daemon says when it has been suspended, and resumed.
const SUSPENDED: &str = "SUSPEND result=ok";
const RESUMED: &str = "RESUME result=ok";

/// How often `what` is in a daemon's log.
fn count(daemon: &Daemon, what: &str) -> Result<usize> {
    Ok(daemon.log()?.matches(what).count())
}

/// A guest with a disk under load, a reservation on it, and its write cache off.
fn working_machine(rig: &ScsiRig, arguments: &[String]) -> Result<(ScsiMachine, String)> {
    let mut machine = ScsiMachine::start(rig, "first", Start::Boot, arguments)?;
    machine.wait_ready()?;
    let disk = machine.disk(0)?;
    machine.fill(&disk)?;
    for what in [
        "--register --param-sark=5eed",
        "--reserve --param-rk=5eed --prout-type=5",
    ] {
        let command = format!("--no-inquiry --out {what} /dev/{disk}");
        machine.run_tool("usr/bin/sg_persist", &command)?;
    }
    machine.vm.run(&format!(
        "cd /sys/block/{disk}/device/scsi_disk/* && echo write through >cache_type; cd /"
    ))?;
    machine.start_load(&disk)?;
    ensure!(machine.kernel_log()?.contains(NOTICED[0]), "at boot");
    Ok((machine, disk))
}

/// The load goes on without an error, and the guest still has what it had.
fn check(machine: &mut ScsiMachine, disk: &str) -> Result<()> {
    machine.load_goes_on(disk)?;
    let log = machine.kernel_log()?;
    ensure!(!NOTICED.iter().any(|text| log.contains(text)), "{log}");
    let read = format!("--no-inquiry --in --read-reservation /dev/{disk}");
    let reservation = machine.run_tool("usr/bin/sg_persist", &read)?;
    ensure!(
        reservation.contains("Key=0x5eed")
            && reservation.contains("Write Exclusive, registrants only"),
        "{reservation}"
    );
    // Asked of the device anew.
    let cache = machine.vm.run(&format!(
        "echo 1 >/sys/block/{disk}/device/rescan; cat /sys/block/{disk}/device/scsi_disk/*/cache_type"
    ))?;
    ensure!(cache.trim() == "write through", "{cache}");
    Ok(())
}

#[test]
fn a_stopped_disk_is_suspended_and_goes_on() -> Result<()> {
    let rig = ScsiRig::prepare()?.with_stateful_devices()?;
    let image = rig.image("disk", DISK_MIB)?;
    let (mut machine, disk) = working_machine(&rig, &unit(0, &image))?;
    for _ in 0..STOPS {
        machine.vm.stop()?;
        machine.vm.cont()?;
        machine.load_goes_on(&disk)?;
    }
    check(&mut machine, &disk)?;
    assert_eq!(count(&machine.daemon, SUSPENDED)?, STOPS);
    assert_eq!(count(&machine.daemon, RESUMED)?, STOPS);
    machine.stop_load()?;
    machine.verify_and_unmount(&disk)?;
    machine.quit()?;
    rig.check(&image)
}

#[test]
fn a_disk_moves_with_its_reservation_and_its_modes() -> Result<()> {
    let rig = ScsiRig::prepare()?.with_stateful_devices()?;
    let image = rig.image("disk", DISK_MIB)?;
    let arguments = unit(0, &image);
    let (mut machine, disk) = working_machine(&rig, &arguments)?;
    for hop in 0..HOPS {
        let name = format!("hop{hop}");
        if hop == 0 {
            refuse_damaged(&rig, &mut machine, &name, &arguments)?;
            check(&mut machine, &disk)?;
        }
        let mut next = ScsiMachine::start(&rig, &name, Start::Incoming, &arguments)?;
        let socket = rig.path(&format!("{name}.migration"));
        let outcome = migration::live(&mut machine.vm, &mut next.vm, &socket)?;
        println!("{:?}", outcome.completed()?);
        let log = machine.daemon.log()?;
        ensure!(log.contains(SUSPENDED), "{log}");
        machine.quit()?;
        machine = next;
        check(&mut machine, &disk)?;
        let log = machine.daemon.log()?;
        ensure!(log.contains("state phase=load result=ok"), "{log}");
    }
    machine.stop_load()?;
    machine.verify_and_unmount(&disk)?;
    machine.quit()?;
    rig.check(&image)
}

/// A migration during which a bit of the state is flipped: the source goes on.
fn refuse_damaged(
    rig: &ScsiRig,
    source: &mut ScsiMachine,
    name: &str,
    arguments: &[String],
) -> Result<()> {
    let name = format!("{name}-damaged");
    let mut destination = ScsiMachine::start(rig, &name, Start::Incoming, arguments)?;
    let (between, listen) = (
        rig.path(&format!("{name}.between")),
        rig.path(&format!("{name}.listen")),
    );
    let seen = channel::intercept(&between, &listen, channel::damage)?;
    let outcome = migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
    let failure = outcome.failed()?;
    ensure!(seen.get(), "failed before the state: {}", failure.report);
    drop(destination);
    source.vm.wait_status("running")
}

/// A guest that does nothing but boot, with a disk behind `socket`.
fn plain_machine(rig: &Rig, name: &str, start: Start, socket: &std::path::Path) -> Result<Vm> {
    let config = Config::new(name, start).with_scsi("scsi", &socket.display().to_string());
    Vm::start(rig, config)
}

/// The same daemon, as it would be if it could not save its state.
fn daemon_without_state(
    rig: &Rig,
    name: &str,
    arguments: &[String],
) -> Result<(Daemon, std::path::PathBuf)> {
    let daemon = Daemon::start("vhost-device-scsi", arguments)?;
    let socket = rig.path(&format!("{name}.limited"));
    hide(daemon.socket(), &socket, DEVICE_STATE)?;
    Ok((daemon, socket))
}

#[test]
fn a_daemon_that_has_no_state_is_suspended_and_not_migrated() -> Result<()> {
    let rig = Rig::prepare_with(&["virtio_scsi", "sd_mod"])?.with_stateful_devices()?;
    let image = rig.path("disk");
    std::fs::File::create_new(&image)?.set_len(1 << 20)?;
    let arguments = unit(0, &image);
    let (daemon, socket) = daemon_without_state(&rig, "source", &arguments)?;
    let mut machine = plain_machine(&rig, "source", Start::Boot, &socket)?;
    machine.wait_ready(BOOT_DEADLINE)?;
    let read = "dd if=/dev/sda of=/dev/null bs=4096 count=16 iflag=direct 2>/dev/null";
    machine.run(&format!(
        "until [ -b /dev/sda ]; do usleep 20000; done; {read}"
    ))?;

    let uri = format!("file:{}", rig.path("never").display());
    let refused = machine.qmp().execute("migrate", &json!({ "uri": uri }));
    let reason = refused.err().context("it is migrated")?.to_string();
    ensure!(
        reason.contains("Migration disabled: the back-end of vhost-user-scsi-stateful device scsi-device does not offer VHOST_USER_PROTOCOL_F_DEVICE_STATE"),
        "{reason}"
    );
    machine.expect_status("running")?;
    for _ in 0..STOPS {
        machine.stop()?;
        machine.cont()?;
        machine.run(read)?;
    }
    assert_eq!(count(&daemon, SUSPENDED)?, STOPS);
    assert_eq!(count(&daemon, RESUMED)?, STOPS);
    machine.quit()
}

#[test]
fn a_destination_that_cannot_load_the_state_is_refused() -> Result<()> {
    let rig = Rig::prepare_with(&["virtio_scsi", "sd_mod"])?.with_stateful_devices()?;
    let image = rig.path("disk");
    std::fs::File::create_new(&image)?.set_len(1 << 20)?;
    let arguments = unit(0, &image);
    let daemon = Daemon::start("vhost-device-scsi", &arguments)?;
    let mut source = plain_machine(&rig, "source", Start::Boot, daemon.socket())?;
    source.wait_ready(BOOT_DEADLINE)?;
    let write = "echo written | dd of=/dev/sda bs=512 conv=sync,fsync 2>/dev/null";
    source.run(&format!(
        "until [ -b /dev/sda ]; do usleep 20000; done; {write}"
    ))?;

    let (_daemon, socket) = daemon_without_state(&rig, "refusing", &arguments)?;
    let mut destination = plain_machine(&rig, "refusing", Start::Incoming, &socket)?;
    let path = rig.path("migration");
    let failure = migration::live(&mut source, &mut destination, &path)?.failed()?;
    ensure!(
        failure.report.contains("The back-end of vhost-user-scsi-stateful device scsi-device cannot save or load its state"),
        "{}",
        failure.report
    );
    drop(destination);
    source.wait_status("running")?;
    source.run(write)?;

    let next = Daemon::start("vhost-device-scsi", &arguments)?;
    let mut destination = plain_machine(&rig, "next", Start::Incoming, next.socket())?;
    let path = rig.path("migration2");
    migration::live(&mut source, &mut destination, &path)?.completed()?;
    source.quit()?;
    destination.run(write)?;
    destination.quit()
}

/// The types of the two sides differ, and the state is the same.
#[test]
fn a_share_is_suspended_and_moves_from_and_to_the_stock_type() -> Result<()> {
    let stock = Rig::prepare()?;
    let stateful = Rig::prepare()?.with_stateful_devices()?;
    let share = stock.path("shared");
    std::fs::create_dir(&share)?;
    let mut machine = FsMachine::start(&stock, "first", Start::Boot, &share)?;
    machine.start_workload()?;
    for (name, rig) in [
        ("second", &stateful),
        ("third", &stateful),
        ("fourth", &stock),
    ] {
        let mut next = FsMachine::start(rig, name, Start::Incoming, &share)?;
        let socket = rig.path(&format!("{name}.migration"));
        migration::live(&mut machine.vm, &mut next.vm, &socket)?.completed()?;
        machine.quit()?;
        machine = next;
        machine.verify()?;
        let expected = if name == "fourth" { 0 } else { STOPS };
        for _ in 0..STOPS {
            machine.vm.stop()?;
            machine.vm.cont()?;
        }
        machine.verify()?;
        assert_eq!(count(&machine.daemon, SUSPENDED)?, expected, "{name}");
        assert_eq!(count(&machine.daemon, RESUMED)?, expected, "{name}");
    }
    let records = machine.stop_workload()?;
    machine.quit()?;
    assert_eq!(check_share(&share)?, records);
    Ok(())
}
