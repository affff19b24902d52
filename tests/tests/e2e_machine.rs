//! Does the rig itself work? A Linux guest without any vhost-user device is booted, stopped, saved
//! to a file, restored, and migrated live. When this fails, no other end-to-end test says anything.

use tests::qemu::vm::BOOT_DEADLINE;
use tests::qemu::{Config, Rig, Start, Vm, migration};

/// Something that lives in the guest's memory only.
const REMEMBER: &str = "echo kept-in-memory >/tmp/note; sleep 600 & echo $! >/tmp/pid";
const RECALL: &str = "cat /tmp/note; kill -0 $(cat /tmp/pid) && echo process alive";
const RECALLED: &str = "kept-in-memory\nprocess alive\n";

#[test]
fn a_guest_boots_stops_is_saved_restored_and_migrated() {
    let rig = Rig::prepare().unwrap();
    let mut first = Vm::start(&rig, Config::new("first", Start::Boot)).unwrap();
    first.wait_ready(BOOT_DEADLINE).unwrap();
    first.run(REMEMBER).unwrap();
    assert_eq!(first.run(RECALL).unwrap(), RECALLED);
    assert_eq!(
        first
            .try_run("exit_with() { return 3; }; exit_with")
            .unwrap()
            .status,
        3
    );

    first.stop().unwrap();
    first.cont().unwrap();
    assert_eq!(first.run(RECALL).unwrap(), RECALLED);

    let file = rig.path("snapshot");
    migration::save(&mut first, &file)
        .unwrap()
        .completed()
        .unwrap();
    first.cont().unwrap();
    assert_eq!(
        first.run(RECALL).unwrap(),
        RECALLED,
        "goes on after a snapshot"
    );
    first.quit().unwrap();

    let mut second = Vm::start(&rig, Config::new("second", Start::Incoming)).unwrap();
    migration::restore(&mut second, &file).unwrap();
    assert_eq!(
        second.run(RECALL).unwrap(),
        RECALLED,
        "restored from the snapshot"
    );

    let mut third = Vm::start(&rig, Config::new("third", Start::Incoming)).unwrap();
    let socket = rig.path("migration");
    let outcome = migration::live(&mut second, &mut third, &socket).unwrap();
    let transfer = outcome.completed().unwrap();
    println!("{transfer:?}");
    assert!(transfer.memory_bytes > 1 << 20);
    assert_eq!(third.run(RECALL).unwrap(), RECALLED, "migrated live");
    second.expect_status("postmigrate").unwrap();
    second.quit().unwrap();
    third.quit().unwrap();
}

#[test]
fn a_destination_that_dies_leaves_the_source_running() {
    let rig = Rig::prepare().unwrap();
    let mut config = Config::new("source", Start::Boot);
    config.devices = ["-device", "virtio-rng-pci"].map(str::to_owned).into();
    let mut source = Vm::start(&rig, config).unwrap();
    source.wait_ready(BOOT_DEADLINE).unwrap();
    source.run(REMEMBER).unwrap();
    // Without the device, the destination cannot take this state.
    let config = Config::new("destination", Start::Incoming);
    let mut destination = Vm::start(&rig, config).unwrap();
    let socket = rig.path("migration");
    let outcome = migration::live(&mut source, &mut destination, &socket).unwrap();
    outcome.failed().unwrap();
    drop(destination);
    source.wait_status("running").unwrap();
    assert_eq!(source.run(RECALL).unwrap(), RECALLED);
}
