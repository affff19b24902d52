//! The conventions of a daemon: where its front-end comes from, how it ends, what it leaves behind.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;
use common::protocol::messages::{Header, Request};
use tests::daemon_runner::{DEADLINE, Daemon};
use tests::in_process::WANTED;

const DAEMON: &str = env!("CARGO_BIN_EXE_null_daemon");

fn start(arguments: &[&str]) -> Result<Daemon> {
    Daemon::start_at(Path::new(DAEMON), arguments)
}

/// Runs it with arguments that make it end by itself.
fn run(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(DAEMON).args(arguments).output()?)
}

fn open(mut frontend: Frontend) -> Result<Frontend> {
    frontend.negotiate(WANTED)?;
    ensure!(frontend.ring_count()? == 2, "this is not the null device");
    Ok(frontend)
}

#[test]
fn it_ends_with_its_front_end_and_takes_its_socket_along() -> Result<()> {
    let mut daemon = start(&[])?;
    let socket = daemon.socket().to_owned();
    let metadata = std::fs::metadata(&socket)?;
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let frontend = open(daemon.connect()?)?;
    assert_eq!(daemon.status()?, None);
    drop(frontend);
    assert_eq!(daemon.wait()?.code(), Some(0));
    assert!(!socket.exists(), "the socket stayed behind");
    Ok(())
}

#[test]
fn a_front_end_that_dies_with_replies_unread_has_just_left() -> Result<()> {
    let mut daemon = start(&[])?;
    let mut frontend = daemon.connect()?;
    let header = Header {
        request: Request::GET_FEATURES,
        flags: 1,
        size: 0,
    };
    frontend.send_raw(&header.encode().repeat(3), &[])?;
    drop(frontend);
    assert_eq!(daemon.wait()?.code(), Some(0), "{}", daemon.log()?);
    Ok(())
}

#[test]
fn sigterm_ends_it_well_with_and_without_a_front_end() -> Result<()> {
    for connected in [false, true] {
        let mut daemon = start(&["--persistent"])?;
        let socket = daemon.socket().to_owned();
        let frontend = if connected {
            Some(open(daemon.connect()?)?)
        } else {
            None
        };
        daemon.terminate()?;
        assert_eq!(daemon.wait()?.code(), Some(0));
        assert!(!socket.exists(), "the socket stayed behind");
        let log = daemon.log()?;
        assert!(!log.contains("have not ended"), "it was not quick: {log}");
        drop(frontend);
    }
    Ok(())
}

#[test]
fn a_wrong_command_line_is_2() -> Result<()> {
    let long = "x".repeat(108);
    for arguments in [
        [].as_slice(),
        &["--no-such-option"],
        &["--socket-path"],
        &["--socket-path", "/tmp/a", "--socket-path", "/tmp/b"],
        &["--socket-path", "/tmp/a", "--fd", "5"],
        &["--socket-group", "root"],
        &["--fd", "many"],
        &["--fd", "5", "--persistent", "--persistent"],
        &["--socket-path", &long],
    ] {
        let output = run(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    Ok(())
}

#[test]
fn a_host_that_refuses_is_1_and_nothing_stays_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let path = path.to_str().context("not UTF-8")?;
    for arguments in [
        ["--socket-path", path, "--socket-group", "no-such-group"].as_slice(),
        &["--socket-path", "/nonexistent/socket"],
        &["--fd", "0"],
        &["--fd", "-1"],
        &["--fd", "99"],
    ] {
        let output = run(arguments)?;
        let code = output.status.code();
        assert!(matches!(code, Some(1 | 2)), "{arguments:?}: {output:?}");
        assert!(
            !Path::new(path).exists(),
            "{arguments:?}: the socket stayed behind"
        );
    }
    Ok(())
}

#[test]
fn capabilities_are_printed_whatever_else_is_asked_for() -> Result<()> {
    for arguments in [
        ["--print-capabilities"].as_slice(),
        &[
            "--nonsense",
            "--fd",
            "x",
            "--print-capabilities",
            "--socket-path",
        ],
    ] {
        let output = run(arguments)?;
        assert_eq!(output.status.code(), Some(0));
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(
            printed,
            serde_json::json!({"type": "null", "features": ["sum"]})
        );
    }
    Ok(())
}

/// Starts it with `socket` at a number of the caller's choice, by way of a shell.
fn inherit(script: &str, socket: impl Into<OwnedFd>) -> Result<Child> {
    let child = Command::new("sh")
        .args(["-c", script, DAEMON])
        .stdin(Stdio::from(socket.into()))
        .spawn()?;
    Ok(child)
}

fn ends_well(mut child: Child) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.code() == Some(0), "{status}");
            return Ok(());
        }
        if Instant::now() > end {
            child.kill()?;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn an_inherited_connection_is_served() -> Result<()> {
    let (near, far) = UnixStream::pair()?;
    let child = inherit("exec \"$0\" --fd 5 5<&0 </dev/null", far)?;
    let frontend = open(Frontend::from_stream(near)?)?;
    drop(frontend);
    ends_well(child)
}

#[test]
fn an_inherited_listener_is_served_and_its_path_is_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    for script in [
        "exec \"$0\" --fd 5 5<&0 </dev/null",
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" 3<&0 </dev/null",
    ] {
        let child = inherit(script, UnixListener::bind(&path)?)?;
        drop(open(Frontend::connect(&path)?)?);
        ends_well(child).context(script)?;
        assert!(path.exists(), "not its own to remove");
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let text = path.to_str().context("not UTF-8")?;
    let taken = || -> Result<bool> {
        let output = run(&["--socket-path", text])?;
        Ok(output.status.code() == Some(1) && path.exists())
    };
    let living = UnixListener::bind(&path)?;
    assert!(taken()?, "stolen from a listener");
    drop(living);
    std::fs::remove_file(&path)?;
    let other = UnixDatagram::bind(&path)?;
    assert!(taken()?, "stolen from a datagram socket");
    drop(other);
    std::fs::remove_file(&path)?;
    std::fs::write(&path, "not a socket")?;
    assert!(taken()?, "a file was replaced");
    std::fs::remove_file(&path)?;

    drop(UnixListener::bind(&path)?);
    let mut child = Command::new(DAEMON).args(["--socket-path", text]).spawn()?;
    let end = Instant::now() + DEADLINE;
    let connected = loop {
        match Frontend::connect(&path) {
            Ok(frontend) => break frontend,
            Err(_) if Instant::now() < end => std::thread::yield_now(),
            Err(error) => {
                child.kill()?;
                return Err(error.into());
            }
        }
    };
    drop(open(connected)?);
    ends_well(child)
}

#[test]
fn a_group_may_connect_if_it_is_told_so() -> Result<()> {
    let group = rustix::process::getgid().as_raw().to_string();
    let daemon = start(&["--socket-group", &group])?;
    let metadata = std::fs::metadata(daemon.socket())?;
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    Ok(())
}

fn open_files(daemon: &Daemon) -> Result<usize> {
    let folder = format!("/proc/{}/fd", daemon.id().as_raw_nonzero());
    Ok(std::fs::read_dir(folder)?.count())
}

#[test]
fn a_persistent_daemon_serves_one_front_end_after_another_and_leaks_nothing() -> Result<()> {
    let mut daemon = start(&["--persistent"])?;
    let mut open_after_the_first = 0;
    for round in 0..50 {
        let mut frontend = open(daemon.connect()?)?;
        if round % 10 == 3 {
            // A transfer that is never checked, and a message that ends the connection.
            let mut state = Vec::new();
            frontend.save(&mut state)?;
            frontend.send_raw(&[0xff; 12], &[])?;
        }
        if round == 0 {
            open_after_the_first = open_files(&daemon)?;
        }
        // The next connection is served when this one is done with.
        drop(frontend);
    }
    let frontend = open(daemon.connect()?)?;
    assert_eq!(
        open_files(&daemon)?,
        open_after_the_first,
        "{}",
        daemon.log()?
    );
    drop(frontend);
    daemon.terminate()?;
    assert_eq!(daemon.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_front_end_that_breaks_the_rules_is_1() -> Result<()> {
    let mut daemon = start(&[])?;
    let mut frontend = open(daemon.connect()?)?;
    frontend.send_raw(&[0xff; 12], &[])?;
    assert_eq!(daemon.wait()?.code(), Some(1));
    assert!(daemon.log()?.contains("connection"), "{}", daemon.log()?);
    Ok(())
}
