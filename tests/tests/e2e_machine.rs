//! Does the rig itself work? A Linux guest without any vhost-user device is booted, stopped, saved
//! to a file, restored, and migrated live. When this fails, no other end-to-end test says anything.

use anyhow::Result;
use tests::qemu::vm::BOOT_DEADLINE;
use tests::qemu::{Config, Rig, Start, Vm, migration};

/// Something that lives in the guest's memory only.
const REMEMBER: &str = "echo kept-in-memory >/tmp/note; sleep 600 & echo $! >/tmp/pid";
const RECALL: &str = "cat /tmp/note; kill -0 $(cat /tmp/pid) && echo process alive";
const RECALLED: &str = "kept-in-memory\nprocess alive\n";

#[test]
fn a_guest_boots_stops_is_saved_restored_and_migrated() -> Result<()> {
    let rig = Rig::prepare()?;
    let mut first = Vm::start(&rig, Config::new("first", Start::Boot))?;
    first.wait_ready(BOOT_DEADLINE)?;
    first.run(REMEMBER)?;
    assert_eq!(first.run(RECALL)?, RECALLED);
    assert_eq!(first.try_run("(exit 3)")?.status, 3);

    first.stop()?;
    first.cont()?;
    assert_eq!(first.run(RECALL)?, RECALLED);

    let file = rig.path("snapshot");
    migration::save(&mut first, &file)?.completed()?;
    first.cont()?;
    assert_eq!(first.run(RECALL)?, RECALLED, "goes on after a snapshot");
    first.quit()?;

    let mut second = Vm::start(&rig, Config::new("second", Start::Incoming))?;
    migration::restore(&mut second, &file)?;
    assert_eq!(second.run(RECALL)?, RECALLED, "restored from the snapshot");

    let mut third = Vm::start(&rig, Config::new("third", Start::Incoming))?;
    let socket = rig.path("migration");
    let outcome = migration::live(&mut second, &mut third, &socket)?;
    let transfer = outcome.completed()?;
    println!("{transfer:?}");
    assert!(transfer.memory_bytes > 1 << 20);
    assert_eq!(third.run(RECALL)?, RECALLED, "migrated live");
    second.expect_status("postmigrate")?;
    second.quit()?;
    third.quit()?;
    Ok(())
}

#[test]
fn a_destination_that_dies_leaves_the_source_running() -> Result<()> {
    let rig = Rig::prepare_with(&["virtio_rng"])?;
    let mut config = Config::new("source", Start::Boot);
    config.devices = ["-device", "virtio-rng-pci"].map(str::to_owned).into();
    let mut source = Vm::start(&rig, config)?;
    source.wait_ready(BOOT_DEADLINE)?;
    let driver = "basename $(readlink -f /sys/bus/virtio/devices/virtio0/driver)";
    assert_eq!(
        source.run(driver)?,
        "virtio_rng\n",
        "its module was inserted"
    );
    source.run(REMEMBER)?;
    // Without the device, the destination cannot take this state.
    let config = Config::new("destination", Start::Incoming);
    let mut destination = Vm::start(&rig, config)?;
    let socket = rig.path("migration");
    let outcome = migration::live(&mut source, &mut destination, &socket)?;
    outcome.failed()?;
    drop(destination);
    source.wait_status("running")?;
    assert_eq!(source.run(RECALL)?, RECALLED);
    Ok(())
}
