//! Does a share behave as the file system beneath it does? Two suites of others ask, through the host kernel's own FUSE client:
//! pjdfstest (398 cases of POSIX semantics) and fsx (random operations on one file), each at rest and while the device is migrated
//! from daemon to daemon.
//!
//! The measure is the bare file system in the same run: a case may fail or be skipped through the bridge only if it does so
//! there, too.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::bridge::Bridge;
use tests::daemon_runner::Daemon;
use tests::guest::machine::Manner;
use tests::pjdfstest::{CONFIGURATION, Verdicts, verdicts, worse};
use tests::tools::{FSX, PJDFSTEST};

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(10);

/// Time between two migrations.
const MIGRATION_INTERVAL: Duration = Duration::from_millis(700);

/// A share, a daemon for it, and the kernel's FUSE client on top.
struct Mounted {
    bridge: Bridge,
    daemon: Daemon,
    share: TempDir,
    _mountpoint: TempDir,
}

impl Mounted {
    fn new() -> Result<Self> {
        let share = tempfile::tempdir()?;
        let mountpoint = tempfile::tempdir()?;
        let daemon = daemon(share.path())?;
        let bridge = Bridge::mount(daemon.connect()?, mountpoint.path())?;
        Ok(Self {
            bridge,
            daemon,
            share,
            _mountpoint: mountpoint,
        })
    }

    fn path(&self) -> &Path {
        self.bridge.mountpoint()
    }

    /// Moves the device to a new daemon while programs go on.
    fn migrate(&mut self) -> Result<()> {
        let next = daemon(self.share.path())?;
        self.bridge
            .migrate_to(next.connect()?, Manner::QEMU)
            .with_context(|| format!("source: {}", self.daemon.log().unwrap_or_default()))?;
        self.daemon = next;
        Ok(())
    }

    /// Waits for `child`; migrates again and again meanwhile, if `migrating`. Returns the number of migrations.
    fn finish(&mut self, child: &mut Child, migrating: bool) -> Result<u32> {
        let end = Instant::now() + DEADLINE;
        let mut migrations = 0;
        while child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "the suite has not ended");
            std::thread::sleep(MIGRATION_INTERVAL);
            if migrating && child.try_wait()?.is_none() {
                self.migrate()?;
                migrations += 1;
            }
        }
        Ok(migrations)
    }
}

fn daemon(share: &Path) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.display());
    Daemon::start("vhost-device-fs", [share.as_str(), "--xattr"])
}

/// pjdfstest's verdict on each case, in the folder `path`.
fn pjdfstest(path: &Path, during: impl FnOnce(&mut Child) -> Result<()>) -> Result<Verdicts> {
    let folder = tempfile::tempdir()?;
    let configuration = folder.path().join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION)?;
    let output = folder.path().join("output");
    let mut child = Command::new(PJDFSTEST.provide()?)
        .arg("-c")
        .arg(&configuration)
        .arg("-p")
        .arg(path)
        .stdout(fs::File::create(&output)?)
        .stderr(Stdio::null())
        .spawn()?;
    during(&mut child)?;
    child.wait()?; // not zero when a case fails, which is judged below
    verdicts(&fs::read_to_string(&output)?)
}

fn compare(migrating: bool) -> Result<()> {
    let bare_folder = tempfile::tempdir()?;
    let bare = pjdfstest(bare_folder.path(), |_| Ok(()))?;
    let mut mounted = Mounted::new()?;
    let path = mounted.path().to_owned();
    let mut migrations = 0;
    let ours = pjdfstest(&path, |child| {
        migrations = mounted.finish(child, migrating)?;
        Ok(())
    })?;
    println!("{} cases, {migrations} migrations", ours.len());
    ensure!(
        !migrating || migrations >= 3,
        "only {migrations} migrations"
    );
    let worse = worse(&bare, &ours);
    ensure!(
        worse.is_empty(),
        "{}\n{}",
        worse.join("\n"),
        mounted.daemon.log()?
    );
    mounted.bridge.unmount()?;
    Ok(())
}

#[test]
fn pjdfstest_finds_no_difference() -> Result<()> {
    compare(false)
}

#[test]
fn pjdfstest_finds_no_difference_during_migrations() -> Result<()> {
    compare(true)
}

/// Random operations with a fixed seed; `operations` of them.
fn fsx(operations: u32, seed: u32, migrating: bool) -> Result<()> {
    let mut mounted = Mounted::new()?;
    let artifacts = tempfile::tempdir()?;
    let output = artifacts.path().join("output");
    let log = fs::File::create(&output)?;
    let mut child = Command::new(FSX.provide()?)
        .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
        .arg(artifacts.path())
        .arg(mounted.path().join("file"))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let migrations = mounted.finish(&mut child, migrating)?;
    let status = child.wait()?;
    let output = fs::read_to_string(&output)?;
    ensure!(
        status.success() && output.contains("All operations completed"),
        "{status} after {migrations} migrations\n{output}\n{}",
        mounted.daemon.log()?
    );
    println!("{operations} operations, {migrations} migrations");
    ensure!(
        !migrating || migrations >= 2,
        "only {migrations} migrations"
    );
    mounted.bridge.unmount()?;
    Ok(())
}

#[test]
fn fsx_finds_no_difference() -> Result<()> {
    fsx(3_000, 1, false)
}

#[test]
fn fsx_finds_no_difference_during_migrations() -> Result<()> {
    fsx(10_000, 2, true)
}
