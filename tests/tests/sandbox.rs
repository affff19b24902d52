//! Does each layer of a daemon's sandbox hold by itself, as root and without privilege? And do the two processes of a daemon in
//! namespaces live and end as one?
//!
//! That everything works inside is asked elsewhere: all other tests run the daemon as it is by default.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tests::daemon_runner::{DEADLINE, Daemon, built};

/// nobody
const USER: u32 = 65534;
/// `CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID MKNOD SETFCAP`
const KEPT: &str = "00000000880000db";
const NONE: &str = "0000000000000000";

fn start(share: &Path, options: &[&str]) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.display());
    Daemon::start("vhost-device-fs", [share.as_str()].iter().chain(options))
}

/// The daemon's program where anybody may start it, behind a script that starts it with `setpriv` and `options`.
fn program_behind(folder: &Path, options: &str) -> Result<PathBuf> {
    let copy = folder.join("vhost-device-fs");
    fs::copy(built("vhost-device-fs")?, &copy).context("copying the daemon")?;
    let script = folder.join("script");
    let text = format!(
        "#!/bin/sh\nchown {USER} \"$(dirname \"$2\")\"\nexec setpriv {options} '{}' \"$@\"\n",
        copy.display()
    );
    fs::write(&script, text)?;
    for path in [folder, &copy, &script] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(script)
}

fn status(process: Pid, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.context("no such line")?.trim().to_owned())
}

fn is_in_our_namespace(process: Pid, name: &str) -> Result<bool> {
    let theirs = fs::read_link(format!("/proc/{}/ns/{name}", process.as_raw_nonzero()))?;
    Ok(theirs == fs::read_link(format!("/proc/self/ns/{name}"))?)
}

/// What every daemon has given up, wherever it runs.
fn check_process(daemon: &Daemon, capabilities: &str) -> Result<()> {
    let id = daemon.id();
    for set in ["CapPrm:", "CapEff:"] {
        let found = status(id, set)?;
        ensure!(found == capabilities, "{set} {found}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        let found = status(id, set)?;
        ensure!(found == NONE, "{set} {found}");
    }
    ensure!(status(id, "NoNewPrivs:")? == "1");
    ensure!(status(id, "Seccomp:")? == "2", "no filter");
    Ok(())
}

fn check_root(daemon: &Daemon) -> Result<()> {
    let root = format!("/proc/{}/root", daemon.id().as_raw_nonzero());
    let mut names = Vec::new();
    for entry in fs::read_dir(root)? {
        names.push(entry?.file_name());
    }
    names.sort();
    ensure!(names == ["proc", "share"], "{names:?}");
    Ok(())
}

#[test]
fn by_default_the_daemon_sees_the_share_and_nothing_else() -> Result<()> {
    let share = tempfile::tempdir()?;
    let daemon = start(share.path(), &[])?;
    check_process(&daemon, KEPT)?;
    ensure!(status(daemon.id(), "CapBnd:")? == KEPT);
    for name in ["mnt", "pid", "net", "ipc"] {
        ensure!(!is_in_our_namespace(daemon.id(), name)?, "{name}");
    }
    ensure!(is_in_our_namespace(daemon.id(), "user")?);
    check_root(&daemon)?;
    let log = daemon.log()?;
    let line = "sandbox: namespaces mount pid net ipc, landlock version ";
    ensure!(log.contains(line), "{log}");
    Ok(())
}

#[test]
fn without_namespaces_the_other_layers_stay() -> Result<()> {
    let share = tempfile::tempdir()?;
    let daemon = start(share.path(), &["--sandbox=none"])?;
    check_process(&daemon, KEPT)?;
    for name in ["mnt", "pid", "net", "ipc", "user"] {
        ensure!(is_in_our_namespace(daemon.id(), name)?, "{name}");
    }
    // Each can be switched off, so what was seen above is what it says.
    let daemon = start(
        share.path(),
        &[
            "--sandbox=none",
            "--seccomp=none",
            "--modcaps=+sys_ptrace:-mknod",
        ],
    )?;
    ensure!(status(daemon.id(), "Seccomp:")? == "0");
    ensure!(status(daemon.id(), "CapEff:")? == "00000000800800db");
    Ok(())
}

#[test]
fn a_root_of_its_own_has_nothing_in_it_but_descriptors() -> Result<()> {
    let share = tempfile::tempdir()?;
    let mut daemon = start(share.path(), &["--sandbox=chroot"])?;
    check_process(&daemon, KEPT)?;
    let id = daemon.id().as_raw_nonzero();
    let root = fs::read_link(format!("/proc/{id}/root"))?;
    ensure!(
        root == Path::new(&format!("/proc/{id}/fd")),
        "{}",
        root.display()
    );
    let log = daemon.log()?;
    ensure!(
        log.contains("namespaces none, but a root of its own"),
        "{log}"
    );
    ends_with_its_socket(&mut daemon)?;

    let folder = tempfile::tempdir()?;
    let program = program_behind(folder.path(), "--bounding-set=-sys_chroot")?;
    let share = format!("--shared-dir={}", share.path().display());
    let refused = Daemon::start_at(&program, [&share, "--sandbox=chroot"]);
    let error = format!("{:#}", refused.err().context("it has started")?);
    ensure!(error.contains("CAP_SYS_CHROOT"), "{error}");
    Ok(())
}

#[test]
fn without_privilege_a_user_namespace_holds_the_others() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = format!("--reuid={USER} --regid={USER} --clear-groups");
    let program = program_behind(folder.path(), &options)?;
    let share = tempfile::tempdir()?;
    chown(share.path(), Some(USER), Some(USER))?;
    let shared = format!("--shared-dir={}", share.path().display());
    let mut daemon = Daemon::start_at(&program, [&shared, "--sandbox=namespace"])?;
    check_process(&daemon, NONE)?;
    for name in ["mnt", "pid", "net", "ipc", "user"] {
        ensure!(!is_in_our_namespace(daemon.id(), name)?, "{name}");
    }
    check_root(&daemon)?;
    ensure!(status(daemon.id(), "Uid:")?.starts_with("65534"));
    ends_with_its_socket(&mut daemon)
}

#[test]
fn where_namespaces_are_not_to_be_had_the_default_goes_on_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = program_behind(folder.path(), "--bounding-set=-sys_admin")?;
    let share = tempfile::tempdir()?;
    let share = format!("--shared-dir={}", share.path().display());
    let mut daemon = Daemon::start_at(&program, [&share])?;
    let log = daemon.log()?;
    ensure!(
        log.contains("WARN") && log.contains("CAP_SYS_ADMIN"),
        "{log}"
    );
    ensure!(log.contains("sandbox: namespaces none, landlock version"));
    ensure!(is_in_our_namespace(daemon.id(), "mnt")?);
    check_process(&daemon, KEPT)?;
    ends_with_its_socket(&mut daemon)?;

    let refused = Daemon::start_at(&program, [&share, "--sandbox=namespace"]);
    let error = format!("{:#}", refused.err().context("it has started")?);
    ensure!(
        error.contains("CAP_SYS_ADMIN") && error.contains("--sandbox=none"),
        "{error}"
    );
    Ok(())
}

#[test]
fn the_other_daemons_have_the_layers_that_they_can_have() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pictures = format!("--screenshot-dir={}", folder.path().display());
    let mut gpu = Daemon::start("vhost-device-gpu", [pictures.as_str()])?;
    check_process(&gpu, NONE)?;
    let log = gpu.log()?;
    ensure!(log.contains("landlock version"), "{log}");
    ends_with_its_socket(&mut gpu)?;

    let image = folder.path().join("image");
    fs::write(&image, [0; 4096])?;
    let mut scsi = Daemon::start("vhost-device-scsi", [image.as_os_str()])?;
    check_process(&scsi, "0000000000000002")?;
    let log = scsi.log()?;
    ensure!(log.contains("landlock none"), "{log}");
    ends_with_its_socket(&mut scsi)
}

fn ends_with_its_socket(daemon: &mut Daemon) -> Result<()> {
    ensure!(daemon.socket().exists());
    daemon.terminate()?;
    ensure!(daemon.wait()?.code() == Some(0), "{}", daemon.log()?);
    ensure!(!daemon.socket().exists(), "the socket is left");
    Ok(())
}

fn is_gone(process: Pid) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while test_kill_process(process).is_ok() {
        ensure!(Instant::now() < end, "{process:?} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn the_two_processes_end_together() -> Result<()> {
    let share = tempfile::tempdir()?;
    let mut daemon = start(share.path(), &[])?;
    let inside = daemon.id();
    ends_with_its_socket(&mut daemon)?;
    is_gone(inside)?;

    let mut daemon = start(share.path(), &[])?;
    kill_process(daemon.id(), Signal::KILL)?;
    ensure!(daemon.wait()?.code() == Some(1), "{}", daemon.log()?);
    ensure!(daemon.log()?.contains("signal: 9"), "{}", daemon.log()?);
    ensure!(!daemon.socket().exists(), "the socket is left");

    let mut daemon = start(share.path(), &[])?;
    let inside = daemon.id();
    daemon.kill()?;
    is_gone(inside)
}

/// Runs a program that confines itself as the daemon does, and then does `deed`.
struct Confined {
    program: PathBuf,
    share: TempDir,
}

impl Confined {
    fn new() -> Result<Self> {
        Ok(Self {
            program: PathBuf::from(env!("CARGO_BIN_EXE_confined")),
            share: tempfile::tempdir()?,
        })
    }

    fn run(&self, options: &[&str], deed: &[&str]) -> Result<Output> {
        Ok(Command::new(&self.program)
            .arg("--share")
            .arg(self.share.path())
            .args(options)
            .args(deed)
            .output()?)
    }

    /// What it says of its deed.
    fn says(&self, options: &[&str], deed: &[&str]) -> Result<String> {
        let output = self.run(options, deed)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {told}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// It can be done unconfined, and when the filter lets everything pass; and it kills when not.
    fn is_killed_for(&self, deed: &[&str]) -> Result<()> {
        let free = self.says(&["--unconfined"], deed)?;
        let capable = "--modcaps=+sys_chroot";
        let logged = self.says(&["--no-landlock", "--seccomp=log", capable], deed)?;
        ensure!(free == logged, "{deed:?}: {free}, but when logged {logged}");
        for action in ["--seccomp=kill", "--seccomp=trap"] {
            let status = self.run(&["--no-landlock", action, capable], deed)?.status;
            let killed = status.signal() == Some(libc::SIGSYS);
            ensure!(killed, "{deed:?} with {action}: {status}");
        }
        Ok(())
    }

    /// It can be done unconfined, and is refused by the layer that knows paths.
    fn is_refused(&self, deed: &[&str]) -> Result<()> {
        ensure!(self.says(&["--unconfined"], deed)? == "done", "{deed:?}");
        let unlocked = self.says(&["--no-landlock", "--seccomp=none"], deed)?;
        ensure!(unlocked == "done", "{deed:?}: {unlocked}");
        let said = self.says(&["--seccomp=none"], deed)?;
        ensure!(
            said.contains("os error 13") || said.contains("os error 1)"),
            "{deed:?}: {said}"
        );
        Ok(())
    }
}

#[test]
fn what_a_daemon_does_all_day_is_allowed() -> Result<()> {
    let confined = Confined::new()?;
    let share = confined.share.path().to_str().context("not UTF-8")?;
    ensure!(confined.says(&[], &["serve", share])? == "done");
    let inside = confined.says(&["--namespaces"], &["serve", "/share"])?;
    ensure!(inside == "done", "{inside}");
    Ok(())
}

#[test]
fn system_calls_that_no_daemon_makes_kill_it() -> Result<()> {
    let confined = Confined::new()?;
    for deed in [&["internet"][..], &["chroot"], &["signal", "1"]] {
        confined.is_killed_for(deed)?;
    }
    // Succeeding, it would say nothing: it would be another program.
    confined.is_killed_for(&["run", "true"])?;
    let output = confined.run(&["--namespaces"], &["internet"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("--seccomp=log"), "{said}");
    Ok(())
}

#[test]
fn landlock_keeps_root_itself_in_the_share() -> Result<()> {
    let confined = Confined::new()?;
    let inside = confined.share.path().join("file");
    let inside = inside.to_str().context("not UTF-8")?;
    ensure!(confined.says(&["--seccomp=none"], &["write", inside])? == "done");
    let readonly = &["--seccomp=none", "--readonly"];
    ensure!(confined.says(readonly, &["read", inside])? == "done");
    ensure!(confined.says(readonly, &["write", inside])? != "done");

    confined.is_refused(&["read", "/etc/passwd"])?;
    let outside = tempfile::tempdir()?;
    let outside = outside.path().join("file");
    confined.is_refused(&["write", outside.to_str().context("not UTF-8")?])?;
    let port = TcpListener::bind("127.0.0.1:0")?;
    confined.is_refused(&["connect", &port.local_addr()?.to_string()])?;
    let name = format!("sandbox-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    confined.is_refused(&["abstract", &name])?;
    confined.is_refused(&["signal", &std::process::id().to_string()])
}

#[test]
fn a_capability_that_is_given_up_is_missed() -> Result<()> {
    let confined = Confined::new()?;
    let file = confined.share.path().join("file");
    fs::write(&file, "")?;
    let deed = ["give-away", file.to_str().context("not UTF-8")?];
    ensure!(confined.says(&[], &deed)? == "done");
    let without = confined.says(&["--modcaps=-chown"], &deed)?;
    ensure!(without.contains("os error 1)"), "{without}");
    Ok(())
}
