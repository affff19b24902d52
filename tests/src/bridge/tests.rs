//! The bridge itself, on a server of one file. They need root and `/dev/fuse`.

mod one_file;

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::daemon::Server;
use common::device::Device;
use common::frontend::Channel;
use common::protocol::Options;
use tempfile::TempDir;

use super::*;
use crate::guest::LoadOrder;
use crate::null_device::NullDevice;
use one_file::{NAME, OneFile};

/// A daemon in this process. It goes away when the returned event is signalled.
fn serve(device: impl Device) -> (Frontend, OwnedFd) {
    let (near, far) = UnixStream::pair().unwrap();
    let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let watched = stop.try_clone().unwrap();
    thread::spawn(move || {
        // A front-end that leaves in the middle is no failure of the test.
        let _ended = Server::new(device, Options::default()).serve(&far, watched.as_fd());
    });
    (Frontend::from_stream(near).unwrap(), stop)
}

fn mounted(device: OneFile) -> (TempDir, Bridge, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    let (frontend, stop) = serve(device);
    let bridge = Bridge::mount(frontend, folder.path()).unwrap();
    (folder, bridge, stop)
}

fn slow() -> OneFile {
    OneFile::slow(Duration::from_micros(500))
}

/// Programs that each count up in a place of their own, until told to stop.
struct Programs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Programs {
    fn start(file: &Path, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(file)
                .unwrap();
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut value = 0_u64;
                let mut found = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    value += 1;
                    file.write_all_at(&value.to_le_bytes(), number * 8).unwrap();
                    file.read_exact_at(&mut found, number * 8).unwrap();
                    assert_eq!(u64::from_le_bytes(found), value);
                }
                value
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// What each of them has counted up to.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    }
}

fn values(file: &Path, count: usize) -> Vec<u64> {
    let bytes = fs::read(file).unwrap();
    let values = bytes
        .chunks_exact(8)
        .map(|value| u64::from_le_bytes(value.try_into().unwrap()));
    values.take(count).collect()
}

#[test]
fn programs_of_this_host_use_the_share() {
    let (folder, mut bridge, _stop) = mounted(OneFile::default());
    let file = folder.path().join(NAME);
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&file, &text).unwrap();
    assert!(fs::read(&file).unwrap() == text);
    assert_eq!(fs::metadata(&file).unwrap().len(), 12_000_000);
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [NAME]);
    assert!(File::open(folder.path().join("nothing")).is_err());
    assert!(bridge.traffic().unwrap().answered > 24);
    let snapshot = bridge.snapshot().unwrap();
    assert!(snapshot.windows(4096).any(|window| window == &text[..4096]));
    assert_eq!(bridge.mountpoint(), folder.path());
    bridge.unmount().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn programs_do_not_notice_a_migration() {
    let (folder, mut bridge, _stop) = mounted(slow());
    let file = folder.path().join(NAME);
    let programs = Programs::start(&file, 6);
    for order in [
        LoadOrder::BeforeFeatures,
        LoadOrder::BeforeMemory,
        LoadOrder::BeforeRings,
    ] {
        for channel in [Channel::Pipe, Channel::SocketPair, Channel::File] {
            for suspend in [false, true] {
                let manner = Manner {
                    order,
                    channel,
                    suspend,
                };
                let (destination, _keeps_running) = serve(slow());
                bridge.migrate_to(destination, manner).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let counted = programs.stop();
    assert_eq!(values(&file, 6), counted);
    let traffic = bridge.unmount().unwrap();
    assert!(
        traffic.in_flight_most > 1 && traffic.in_flight_at_stop > 0,
        "{traffic:?}"
    );
}

#[test]
fn programs_do_not_notice_a_failed_migration_or_a_snapshot() {
    let (folder, mut bridge, _stop) = mounted(slow());
    let file = folder.path().join(NAME);
    let programs = Programs::start(&file, 4);
    for suspend in [false, true] {
        let manner = Manner {
            suspend,
            ..Manner::QEMU
        };
        // Another kind of device does not take the state.
        let (destination, _stop) = serve(NullDevice::default());
        let error = bridge.migrate_to(destination, manner).unwrap_err();
        assert!(
            format!("{error:#}").contains("CHECK_DEVICE_STATE"),
            "{error:#}"
        );
        bridge.snapshot().unwrap();
    }
    let counted = programs.stop();
    assert_eq!(values(&file, 4), counted);
    bridge.unmount().unwrap();
}

/// They wait meanwhile: what they ask for is on the rings.
#[test]
fn programs_do_not_notice_stops_and_suspends() {
    let (folder, mut bridge, _stop) = mounted(slow());
    let file = folder.path().join(NAME);
    let programs = Programs::start(&file, 4);
    for _ in 0..3 {
        bridge.stop().unwrap();
        wait_until_in_flight(&mut bridge);
        bridge.start().unwrap();
        bridge.suspend().unwrap();
        wait_until_in_flight(&mut bridge);
        bridge.resume().unwrap();
    }
    let counted = programs.stop();
    assert_eq!(values(&file, 4), counted);
    assert!(bridge.start().is_err(), "the rings are not stopped");
    bridge.unmount().unwrap();
}

fn wait_until_in_flight(bridge: &mut Bridge) {
    let begin = Instant::now();
    while bridge.traffic().unwrap().in_flight_now == 0 {
        assert!(begin.elapsed() < Duration::from_mins(1));
        thread::yield_now();
    }
}

/// Whoever makes a mount namespace gets a copy of the mount, which keeps the kernel's end of the connection.
#[test]
fn a_mount_that_somebody_has_a_copy_of_is_unmounted() {
    let (folder, bridge, _stop) = mounted(OneFile::default());
    let mut somebody = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-c", "echo; read _"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    std::io::Read::read_exact(somebody.stdout.as_mut().unwrap(), &mut ready).unwrap();
    bridge.unmount().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(somebody.stdin.take());
    somebody.wait().unwrap();
}

#[test]
fn a_daemon_that_dies_leaves_no_mount_that_hangs() {
    let (folder, mut bridge, stop) = mounted(OneFile::default());
    let file = folder.path().join(NAME);
    fs::write(&file, b"text").unwrap();
    pump::wake(&stop).unwrap();
    let begin = Instant::now();
    while fs::read(&file).is_ok() {
        assert!(
            begin.elapsed() < Duration::from_mins(1),
            "the daemon does not die"
        );
    }
    let error = bridge.traffic().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the daemon has closed its connection"),
        "{error}"
    );
    drop(bridge);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
