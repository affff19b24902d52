//! Does the example for authors of VMMs do what it says, with back-ends that are really there?

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use anyhow::Result;
use common::daemon::Server;
use common::device::Device;
use common::protocol::Options;
use rustix::event::{EventfdFlags, eventfd};
use tests::daemon_runner::example;
use tests::null_device::NullDevice;
use tests::probe_device::ProbeDevice;

/// Serves `device` to the one front-end that connects to the socket `name` in `folder`.
fn listen(folder: &Path, name: &str, device: impl Device) -> Result<PathBuf> {
    let path = folder.join(name);
    let listener = UnixListener::bind(&path)?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
    thread::spawn(move || -> Result<()> {
        let (front_end, _) = listener.accept()?;
        Ok(Server::new(device, Options::default()).serve(&front_end, stop.as_fd())?)
    });
    Ok(path)
}

fn migrate(source: &Path, destination: &Path) -> Result<Output> {
    let program = example("common", "migrate")?;
    Ok(Command::new(program).args([source, destination]).output()?)
}

#[test]
fn a_device_is_migrated() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = listen(folder.path(), "source", NullDevice::default())?;
    let destination = listen(folder.path(), "destination", NullDevice::default())?;
    let output = migrate(&source, &destination)?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("saved") && said.contains("loaded"), "{said}");
    Ok(())
}

#[test]
fn a_refused_state_leaves_the_source_running() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = listen(folder.path(), "source", NullDevice::default())?;
    let refusing = ProbeDevice::new();
    refusing
        .probe()
        .refuse_load
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let destination = listen(folder.path(), "destination", refusing)?;
    let output = migrate(&source, &destination)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("the source goes on"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused CHECK_DEVICE_STATE"));
    Ok(())
}
