//! Does a guest notice that its daemon was restarted by the service manager? Its requests wait, and nothing else.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::frontend::{Frontend, FrontendError, InflightRegion};
use common::protocol::messages::{Direction, DirtyLog, feature, protocol_feature};
use rustix::fs::{MemfdFlags, memfd_create};
use tests::bridge::Bridge;
use tests::daemon_runner::{Daemon, built};
use tests::guest::machine::Machine;
use tests::guest::{Manner, Memory};
use tests::in_process::{Pending, add, finish};
use tests::scsi_client::{BLOCK, REQUEST_RING, RESPONSE, is_good, read, ready};
use tests::scsi_suite::load::{BLOCK_BYTES, Load};
use tests::service_manager::Service;
use tests::stoppable_storage::StoppableStorage;
use tests::workload::{self, Workload};

const NULL_DAEMON: &str = env!("CARGO_BIN_EXE_null_daemon");

/// The sum after one more number was added on `ring`.
fn sum(machine: &mut Machine, ring: usize, number: u64) -> Result<u64> {
    let memory = machine.memory().clone();
    let pending = add(&memory, machine.ring(ring)?, &number.to_le_bytes(), 8)?;
    machine.ring(ring)?.publish()?;
    let answer = finish(&memory, machine.ring(ring)?, pending)?;
    Ok(u64::from_le_bytes(answer.as_slice().try_into()?))
}

fn boot(frontend: Frontend) -> Result<Machine> {
    Machine::boot(frontend, &Memory::new(&[16 << 20])?, 64, 0)
}

#[test]
fn state_rings_and_connection_outlive_the_daemon() -> Result<()> {
    let mut service = Service::start(NULL_DAEMON.into(), [""; 0])?;
    let mut machine = boot(service.connect()?)?;
    let mut expected = 0;
    for round in 1..=20 {
        for ring in 0..2 {
            expected += round;
            assert_eq!(sum(&mut machine, ring, round)?, expected);
        }
        service.restart()?;
        assert_eq!(service.stored(), 0, "it was forgotten");
    }
    // What is asked while nobody is there is answered by the next one: on a ring, and on the connection.
    assert!(service.stop()?.success());
    assert_eq!(service.stored(), 1);
    let memory = machine.memory().clone();
    let pending = add(&memory, machine.ring(0)?, &1_u64.to_le_bytes(), 8)?;
    machine.ring(0)?.publish()?;
    service.start_again()?;
    machine.frontend().features()?;
    let answer = finish(&memory, machine.ring(0)?, pending)?;
    assert_eq!(answer, (expected + 1).to_le_bytes());

    // Rings that were stopped stay stopped, and a device that the front-end has suspended stays so.
    let bases = machine.stop()?;
    service.restart()?;
    machine.start(&bases)?;
    assert_eq!(sum(&mut machine, 1, 1)?, expected + 2);
    machine.frontend().suspend()?;
    service.restart()?;
    let pending = add(&memory, machine.ring(0)?, &1_u64.to_le_bytes(), 8)?;
    machine.ring(0)?.publish()?;
    let mut state = Vec::new();
    machine.frontend().save(&mut state)?;
    machine.frontend().resume()?;
    let answer = finish(&memory, machine.ring(0)?, pending)?;
    assert_eq!(answer, (expected + 3).to_le_bytes());

    // And it migrates.
    let mut destination = Daemon::start_at(NULL_DAEMON.as_ref(), [""; 0])?;
    machine.migrate_to(destination.connect()?, Manner::QEMU)?;
    assert_eq!(sum(&mut machine, 0, 1)?, expected + 4);
    assert!(service.wait()?.success(), "its front-end has left");
    drop(machine);
    assert!(destination.wait()?.success());
    Ok(())
}

#[test]
fn dirty_pages_are_logged_on_and_on() -> Result<()> {
    let mut service = Service::start(NULL_DAEMON.into(), [""; 0])?;
    let mut machine = boot(service.connect()?)?;
    // A bit for each page below 2 GiB.
    let log = std::fs::File::from(memfd_create("log", MemfdFlags::CLOEXEC)?);
    log.set_len(64 << 10)?;
    let layout = DirtyLog {
        size: 64 << 10,
        file_offset: 0,
    };
    // A ring that was started is looked at by its thread, which writes to it: not while the device is suspended.
    machine.frontend().suspend()?;
    machine.frontend().set_log(layout, &log)?;
    let features = machine.features() | feature::LOG_ALL;
    machine.frontend().set_features(features)?;
    let pages = || -> Result<u32> {
        let mut bits = vec![0; 64 << 10];
        log.read_exact_at(&mut bits, 0)?;
        Ok(bits.iter().map(|byte: &u8| byte.count_ones()).sum())
    };
    assert_eq!(pages()?, 0);
    machine.frontend().resume()?;
    assert_eq!(sum(&mut machine, 0, 1)?, 1);
    assert_eq!(sum(&mut machine, 1, 1)?, 2);
    machine.frontend().suspend()?;
    let before = pages()?;
    assert!(before > 0);
    machine.frontend().resume()?;
    service.restart()?;
    assert_eq!(pages()?, before, "what was logged stays");
    log.write_all_at(&vec![0; 64 << 10], 0)?;
    assert_eq!(sum(&mut machine, 0, 1)?, 3);
    assert!(pages()? > 0);
    Ok(())
}

/// What was refused is not said to the next daemon, which would refuse it as well; and what was accepted before it is.
#[test]
fn what_was_refused_is_forgotten() -> Result<()> {
    let mut service = Service::start(NULL_DAEMON.into(), [""; 0])?;
    let mut machine = boot(service.connect()?)?;
    let (_ours, theirs) = UnixStream::pair()?;
    let refused = machine
        .frontend()
        .transfer_request(Direction::Save, theirs.as_fd());
    assert!(
        matches!(refused, Err(FrontendError::Refused { .. })),
        "its rings run: {refused:?}"
    );
    service.restart()?;
    assert_eq!(sum(&mut machine, 0, 1)?, 1);

    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len(1 << 20)?;
    let lun = format!("path={}", image.display());
    let mut service = Service::start(built("vhost-device-scsi")?, ["--lun", &lun])?;
    let mut frontend = service.connect()?;
    frontend.negotiate(protocol_feature::REPLY_ACK | protocol_feature::INFLIGHT_SHMFD)?;
    let region = frontend.new_inflight(3, 64)?;
    frontend.set_inflight(&region)?;
    let mut layout = region.layout;
    layout.size = 1;
    let file = region.file.try_clone()?;
    let too_small = InflightRegion { layout, file };
    let refused = frontend.set_inflight(&too_small);
    assert!(
        matches!(refused, Err(FrontendError::Refused { .. })),
        "{refused:?}"
    );
    service.restart()?;
    frontend.set_inflight(&region)?;
    Ok(())
}

/// A request that hangs keeps a daemon from being restarted, and not from working: it ends when that has ended, and no sooner.
#[test]
fn a_request_in_flight_is_waited_for_again_and_again() -> Result<()> {
    const BUSY: &str = "the connection cannot be left to the next daemon yet";
    let storage = StoppableStorage::new()?;
    let slow = storage.file("image", 1 << 20)?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len(1 << 20)?;
    let unit = |path: &Path, lun| format!("path={},lun={lun}", path.display());
    let (slow, fast) = (unit(&slow, 0), unit(&image, 1));
    let line = [
        "--suspend-timeout-ms",
        "100",
        "--lun",
        &slow,
        "--lun",
        &fast,
    ];
    let mut service = Service::start(built("vhost-device-scsi")?, line)?;
    let mut machine = boot(service.connect()?)?;
    let memory = machine.memory().clone();
    let ask = |machine: &mut Machine, request: &[u8], length| -> Result<Pending> {
        let ring = machine.ring(REQUEST_RING)?;
        let pending = add(&memory, ring, request, length)?;
        ring.publish()?;
        Ok(pending)
    };
    for lun in [0, 1] {
        // The first one is told that the unit was switched on.
        for _ in 0..2 {
            let pending = ask(&mut machine, &ready(lun), RESPONSE)?;
            finish(&memory, machine.ring(REQUEST_RING)?, pending)?;
        }
    }
    storage.hang()?;
    let slow = ask(&mut machine, &read(0, 0), RESPONSE + BLOCK)?;
    service.terminate()?;
    service.wait_for(BUSY)?;
    storage.release()?;
    let answer = finish(&memory, machine.ring(REQUEST_RING)?, slow)?;
    assert!(is_good(&answer));
    assert!(service.wait()?.success(), "{}", service.log());
    service.start_again()?;
    service.wait_until_taken()?;
    for lun in [0, 1] {
        let pending = ask(&mut machine, &ready(lun), RESPONSE)?;
        let answer = finish(&memory, machine.ring(REQUEST_RING)?, pending)?;
        assert!(is_good(&answer), "nothing was reset");
    }
    Ok(())
}

#[test]
fn without_a_service_manager_it_is_wrong_usage() -> Result<()> {
    let output = std::process::Command::new(NULL_DAEMON)
        .args(["--handover", "--socket-path", "/nonexistent/socket"])
        .env_remove("NOTIFY_SOCKET")
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NOTIFY_SOCKET"));
    Ok(())
}

#[test]
fn a_descriptor_that_is_not_there_is_an_error_and_no_crash() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let notify = folder.path().join("notify");
    let _manager = UnixDatagram::bind(&notify)?;
    let output = std::process::Command::new("sh")
        .args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&-"])
        .args([NULL_DAEMON, "--handover", "--socket-path"])
        .arg(folder.path().join("socket"))
        .env("NOTIFY_SOCKET", notify)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "vhost-user-connection")
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Bad file descriptor"), "{text}");
    Ok(())
}

#[test]
fn a_daemon_that_does_not_fit_leaves_everything_in_the_store() -> Result<()> {
    let (share, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let other = tempfile::tempdir()?;
    let program = built("vhost-device-fs")?;
    let path = |folder: &tempfile::TempDir| folder.path().display().to_string();
    let right = ["--shared-dir".to_owned(), path(&share)];
    let mut service = Service::start(program, right.clone())?;
    let bridge = Bridge::mount(service.connect()?, mountpoint.path())?;
    std::fs::write(mountpoint.path().join("file"), "text")?;
    let open = std::fs::File::open(mountpoint.path().join("file"))?;
    assert!(service.stop()?.success());

    for _ in 0..3 {
        service.set_arguments(["--shared-dir".to_owned(), path(&other)]);
        service.start_again()?;
        assert_eq!(service.wait()?.code(), Some(1), "{}", service.log());
        assert_eq!(service.stored(), 1, "{}", service.log());
    }
    service.set_arguments(right);
    service.start_again()?;
    service.wait_until_taken()?;
    let mut text = [0; 4];
    open.read_exact_at(&mut text, 0)?;
    assert_eq!(&text, b"text");
    drop(open);
    bridge.unmount()?;
    Ok(())
}

/// Programs of this host work on the share while its daemon is restarted over and over.
fn programs_go_on(options: &[&str]) -> Result<()> {
    let (share, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let scratch = tempfile::tempdir()?;
    let mut arguments = vec![
        "--shared-dir".to_owned(),
        share.path().display().to_string(),
    ];
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    let mut service = Service::start(built("vhost-device-fs")?, arguments)?;
    let mut bridge = Bridge::mount(service.connect()?, mountpoint.path())?;
    let at = |name: &str| mountpoint.path().join(name);

    std::fs::write(at("gone"), "still there")?;
    let unlinked = std::fs::File::open(at("gone"))?;
    std::fs::remove_file(at("gone"))?;
    std::fs::create_dir(at("many"))?;
    for number in 0..500 {
        std::fs::write(at(&format!("many/{number}")), "")?;
    }
    let mut half_read = std::fs::read_dir(at("many"))?;
    let mut seen: Vec<_> = half_read.by_ref().take(10).collect::<Result<_, _>>()?;

    let mut workload = Workload::start(&at("work"), scratch.path())?;
    let mut records = 0;
    for round in 0..20 {
        service
            .restart()
            .with_context(|| format!("round {round}"))?;
        let now = workload.verify()?;
        assert!(now >= records, "round {round}");
        records = now;
    }
    let last = workload.stop()?;
    assert_eq!(workload::check(&at("work"))?, last);
    assert_eq!(workload::check(&share.path().join("work"))?, last);
    let mut text = [0; 11];
    unlinked.read_exact_at(&mut text, 0)?;
    assert_eq!(&text, b"still there");
    for entry in half_read {
        seen.push(entry?);
    }
    assert_eq!(seen.len(), 500);
    drop(seen);

    // A migration after all that.
    let destination = Daemon::start(
        "vhost-device-fs",
        ["--shared-dir".as_ref(), share.path().as_os_str()],
    )?;
    bridge.migrate_to(destination.connect()?, Manner::QEMU)?;
    unlinked.read_exact_at(&mut text, 0)?;
    assert_eq!(&text, b"still there");
    drop(unlinked);
    bridge.unmount()?;
    Ok(())
}

#[test]
fn programs_on_a_share_go_on_in_namespaces() -> Result<()> {
    programs_go_on(&["--sandbox", "namespace"])
}

#[test]
fn programs_on_a_share_go_on_without_namespaces() -> Result<()> {
    programs_go_on(&["--sandbox", "none"])
}

#[test]
fn a_disk_under_load_loses_and_repeats_nothing() -> Result<()> {
    const BLOCKS: usize = 256;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    std::fs::File::create(&image)?.set_len((BLOCKS * BLOCK_BYTES) as u64)?;
    let lun = format!("path={}", image.display());
    let mut service = Service::start(built("vhost-device-scsi")?, ["--lun", &lun])?;
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut load = Load::boot(service.connect()?, BLOCKS, seed)?;
    for _ in 0..20 {
        // The load is a thread's, for the daemon ends with the thread that has started it.
        std::thread::scope(|scope| {
            let work = scope.spawn(|| load.run_for(Duration::from_millis(50)));
            service.restart()?;
            work.join().expect("the load panicked")
        })
        .with_context(|| service.log())?;
        load.settle()?;
    }
    load.verify()?;
    let tally = load.tally();
    println!("{tally:?}");
    assert_eq!((tally.interrupted, tally.repeated), (0, 0), "{tally:?}");
    Ok(())
}
