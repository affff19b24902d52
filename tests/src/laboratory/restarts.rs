//! A share whose daemon systemd restarts, set up as README tells operators to.
//!
//! A manager of its own (`systemd --user`) beside whatever runs the machine: what it does for a unit is the same code. Knows the unit by
//! README's text, and nothing of how a connection changes hands.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::frontend::Frontend;
use rustix::mount::{MountFlags, mount};

use super::{step, succeed};
use crate::bridge::Bridge;
use crate::daemon_runner::{DEADLINE, built};
use crate::qemu::process::{POLL_INTERVAL, Process, tail};
use crate::qemu::provision::{Program, Tree};
use crate::workload::{self, Workload};

const README: &str = include_str!("../../../README.md");
/// First line of the unit in README, and the name that it tells.
const UNIT_HEAD: &str = "# vhost-device-fs@.service\n";
/// Where units are.
const UNITS: &str = "/run/units";
const RUNTIME: &str = "/run/user";
/// By which systemd knows that the machine is its own (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// The instance, and what is shared by it.
const UNIT: &str = "vhost-device-fs@share.service";
const SOCKET: &str = "/run/vhost-fs-share.sock";
const SHARE: &str = "/srv/share";
/// Where the daemons log.
const LOG: &str = "/run/daemons.log";
const MOUNTPOINT: &str = "/run/mounted";
/// Changes the command of the unit while it is there.
const DROP_IN: &str = "/run/units/vhost-device-fs@.service.d/test.conf";
/// What an open file without a name has in it.
const TEXT: &str = "still there";
const DAEMON: &str = "/usr/bin/vhost-device-fs";

pub(super) fn run(tree: &Tree) -> Result<()> {
    let manager = step("starting systemd", || Manager::start(tree))?;
    let result = restarts(&manager);
    result.with_context(|| manager.report())
}

fn restarts(manager: &Manager) -> Result<()> {
    for folder in [SHARE, MOUNTPOINT] {
        fs::create_dir_all(folder)?;
    }
    mount("none", SHARE, "tmpfs", MountFlags::empty(), None)?;
    manager.enable()?;
    manager.control(&["start", UNIT])?;
    let bridge = Bridge::mount(Frontend::connect(SOCKET)?, Path::new(MOUNTPOINT))?;
    let at = |name: &str| Path::new(MOUNTPOINT).join(name);
    fs::write(at("gone"), TEXT)?;
    let unlinked = File::open(at("gone"))?;
    fs::remove_file(at("gone"))?;
    let scratch = tempfile::tempdir()?;
    let mut workload = Workload::start(&at("work"), scratch.path())?;
    let mut records = workload.verify()?;
    each_way(manager, &mut || {
        manager.wait_until_taken()?;
        let now = workload.verify()?;
        ensure!(now > records, "{records} to {now}");
        records = now;
        let mut text = [0; TEXT.len()];
        unlinked.read_exact_at(&mut text, 0)?;
        ensure!(text == TEXT.as_bytes(), "{text:?}");
        Ok(())
    })?;
    drop(unlinked);
    let last = workload.stop()?;
    for folder in [at("work"), Path::new(SHARE).join("work")] {
        ensure!(workload::check(&folder)? == last, "{}", folder.display());
    }
    bridge.unmount()?;
    manager.control(&["stop", UNIT])?;
    ensure!(manager.stored()? == 0, "nobody is connected");
    Ok(())
}

/// Every way in which a daemon ends and another one begins. `goes_on` is true to its name for who uses the share, or an error.
fn each_way(manager: &Manager, goes_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..3 {
        step("systemctl restart", || {
            manager.control(&["restart", UNIT])?;
            goes_on()
        })?;
    }
    step("stopped and started", || {
        manager.control(&["stop", UNIT])?;
        ensure!(manager.stored()? == 1);
        manager.control(&["start", UNIT])?;
        goes_on()
    })?;
    step("ended by a signal", || {
        let before = manager.show("NRestarts")?;
        manager.control(&["kill", "--signal=TERM", UNIT])?;
        until("it starts again", || {
            Ok(manager.show("NRestarts")? != before)
        })?;
        goes_on()
    })?;
    step("killed before it has taken over", || {
        let once = "/run/killed";
        manager.set_command(&format!(
            "/bin/sh -c '[ -e {once} ] || {{ touch {once}; kill -KILL $$$$; }}; exec {}'",
            command_line(SHARE)
        ))?;
        // The first one was killed: systemctl may tell so, and the next one starts by itself.
        let _killed = manager.control(&["restart", UNIT]);
        until("it is killed", || Ok(Path::new(once).exists()))?;
        manager.remove_command()?;
        goes_on()
    })?;
    step("the wrong daemon", || {
        manager.set_command(&format!("{}\nRestart=no", command_line("/srv")))?;
        let told = manager.control(&["restart", UNIT]);
        ensure!(told.is_err(), "it is said to be ready");
        ensure!(manager.show("ActiveState")? == "failed" && manager.stored()? == 1);
        manager.remove_command()?;
        manager.control(&["start", UNIT])?;
        goes_on()
    })
}

fn command_line(share: &str) -> String {
    format!("{DAEMON} --handover --socket-path {SOCKET} --shared-dir {share}")
}

/// The unit as README has it.
fn unit() -> Result<&'static str> {
    let (_, rest) = README.split_once(UNIT_HEAD).context("README has no unit")?;
    let (unit, _) = rest.split_once("```").context("it has no end")?;
    Ok(unit)
}

/// A running systemd, and what it is told by.
struct Manager {
    process: Process,
    control: Program,
}

impl Manager {
    fn start(tree: &Tree) -> Result<Self> {
        let groups = "/sys/fs/cgroup";
        mount("none", groups, "cgroup2", MountFlags::empty(), None)?;
        for folder in [RUNTIME, UNITS, BOOTED] {
            fs::create_dir_all(folder)?;
        }
        fs::write(format!("{UNITS}/vhost-device-fs@.service"), unit()?)?;
        // There is no journal.
        let output =
            format!("[Service]\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n");
        fs::create_dir_all(format!("{UNITS}/service.d"))?;
        fs::write(format!("{UNITS}/service.d/output.conf"), output)?;
        symlink(built("vhost-device-fs")?, DAEMON)?;
        let of_tree = |path: &str| {
            // Newer releases of Debian have it below usr.
            let below_usr = tree.program(&format!("usr/{path}"));
            below_usr.or_else(|_| tree.program(path))
        };
        let manager = of_tree("lib/systemd/systemd")?;
        let units = tree.folder().join("usr/lib/systemd/user");
        let mut command = manager.command();
        command
            .args(["--user", "--unit=basic.target"])
            .env("XDG_RUNTIME_DIR", RUNTIME)
            .env("SYSTEMD_LOG_TARGET", "console")
            .env("SYSTEMD_UNIT_PATH", format!("{UNITS}:{}", units.display()));
        let process = Process::start("systemd", &mut command, Path::new("/run/systemd.log"))?;
        let manager = Self {
            process,
            control: of_tree("bin/systemctl")?,
        };
        // Only to see whether it answers.
        let answers = || manager.control(&["list-units"]);
        let running = until("it answers", || Ok(answers().is_ok()));
        running.with_context(|| {
            let answer = answers().map_or_else(|error| format!("{error:#}"), |_| String::new());
            format!("{answer}\n{}", tail(manager.process.log(), 60))
        })?;
        Ok(manager)
    }

    /// As `systemctl enable` does for a target that this manager does not have: from now on the unit stays loaded.
    fn enable(&self) -> Result<()> {
        let wants = format!("{UNITS}/basic.target.wants");
        fs::create_dir_all(&wants)?;
        symlink("../vhost-device-fs@.service", format!("{wants}/{UNIT}"))?;
        self.control(&["daemon-reload"]).map(drop)
    }

    /// Tells it something, and waits for it; what it answers.
    fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command();
        let output = succeed(command.args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = self.control.command();
        command.arg("--user").env("XDG_RUNTIME_DIR", RUNTIME);
        // It would do nothing, and call that a success.
        command.env("SYSTEMD_IGNORE_CHROOT", "1");
        command
    }

    /// What it knows of the unit.
    fn show(&self, property: &str) -> Result<String> {
        self.control(&["show", "--value", "--property", property, UNIT])
    }

    /// Descriptors in the unit's store.
    fn stored(&self) -> Result<u32> {
        Ok(self.show("NFileDescriptorStore")?.parse()?)
    }

    /// Waits until a daemon has taken what was left.
    fn wait_until_taken(&self) -> Result<()> {
        until("it is taken over", || {
            Ok(self.show("ActiveState")? == "active" && self.stored()? == 0)
        })
    }

    /// Has the unit run another command from its next start on.
    fn set_command(&self, command: &str) -> Result<()> {
        fs::create_dir_all(Path::new(DROP_IN).parent().context("a folder")?)?;
        fs::write(
            DROP_IN,
            format!("[Service]\nExecStart=\nExecStart={command}\n"),
        )?;
        self.control(&["daemon-reload"]).map(drop)
    }

    fn remove_command(&self) -> Result<()> {
        fs::remove_file(DROP_IN)?;
        self.control(&["daemon-reload"]).map(drop)
    }

    /// For whoever reads of a failure.
    fn report(&self) -> String {
        let status = self.command().args(["status", UNIT]).output();
        let status = status.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let logs = [self.process.log(), Path::new(LOG)].map(|log| tail(log, 60));
        [&[status.unwrap_or_default()], &logs[..]]
            .concat()
            .join("\n")
    }
}

fn until(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !done()? {
        ensure!(Instant::now() < end, "{what}: it never happened");
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
