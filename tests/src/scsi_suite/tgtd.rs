//! Another target to compare ours with: tgtd, as a process of ours on the loopback interface, with one unit on one image.
//!
//! Knows how it is started, and nothing of SCSI. It needs neither privilege nor kernel support: its socket for administration is in a
//! folder of ours, and the backing store is plain reads and writes of a file.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::iscsi::client::Client;
use crate::qemu::process::{POLL_INTERVAL, Process, tail};
use crate::qemu::provision::{Program, Tree};

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(1);
const NAME: &str = "iqn.2026-01.org.vhost-device:tgtd";
/// Unit 0 is tgtd's own controller.
pub const LUN: u8 = 1;

/// See the [module](self). It is killed when this is dropped.
#[derive(Debug)]
pub struct Tgtd {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Tgtd {
    /// Starts it with unit [`LUN`] on `image`.
    pub fn start(tools: &Tree, image: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tgtd-").tempdir()?;
        // Free a moment ago; tgtd cannot be given a listening socket, nor say which port it got.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let socket = folder.path().join("control");
        let mut command = tools.program("usr/sbin/tgtd")?.command();
        command
            .args(["--foreground", "--nr_iothreads", "1", "--iscsi"])
            .arg(format!("portal={address}"))
            .env("TGT_IPC_SOCKET", &socket);
        let log = folder.path().join("log");
        let mut process = Process::start("tgtd", &mut command, &log)?;
        let end = Instant::now() + DEADLINE;
        // Its sockets come in any order.
        while TcpStream::connect(address).is_err() || !Path::new(&control(&socket)).exists() {
            if let Some(status) = process.status()? {
                bail!("tgtd ended: {status}\n{}", tail(&log, 20));
            }
            ensure!(
                Instant::now() < end,
                "tgtd does not listen\n{}",
                tail(&log, 20)
            );
            thread::sleep(POLL_INTERVAL);
        }
        let tgtadm = tools.program("usr/sbin/tgtadm")?;
        configure(&tgtadm, &socket, image)?;
        Ok(Self {
            process,
            address,
            _folder: folder,
        })
    }

    /// The end of its log, for an error.
    pub fn report(&self) -> String {
        tail(self.process.log(), 20)
    }

    /// A session.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.address, NAME, "iqn.2026-01.org.vhost-device:initiator")
    }
}

/// tgtd adds the number of its control port.
fn control(socket: &Path) -> String {
    format!("{}.0", socket.display())
}

fn configure(tgtadm: &Program, socket: &Path, image: &Path) -> Result<()> {
    let image = image.to_str().context("a path that is not UTF-8")?;
    let requests = [
        format!("--mode target --op new --tid 1 --targetname {NAME}"),
        format!(
            "--mode logicalunit --op new --tid 1 --lun {LUN} --bstype rdwr --backing-store {image}"
        ),
        format!("--mode logicalunit --op update --tid 1 --lun {LUN} --params thin_provisioning=1"),
        "--mode target --op bind --tid 1 --initiator-address ALL".to_owned(),
    ];
    for request in requests {
        let mut command: Command = tgtadm.command();
        command
            .args(["--lld", "iscsi"])
            .args(request.split(' '))
            .env("TGT_IPC_SOCKET", socket);
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "tgtadm {request}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
