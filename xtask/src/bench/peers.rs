//! The daemons that are compared, each as its authors ship it, all on the same file at the same time.
//!
//! Knows how they are started; does not know what they are asked to do.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::frontend::Frontend;
use rustix::process::Pid;
use tempfile::TempDir;
use tests::daemon_runner::built;
use tests::load::{Kind, Load};
use tests::qemu::process::{Process, tail};
use tests::qemu::provision::Tree;
use tests::tools::VHOST_DEVICE_SCSI;

/// Request rings that are offered, where a daemon can have so many.
const RINGS: usize = 4;
/// How long a daemon may take to listen.
const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon, and a guest that uses it.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) load: Load,
    /// Rings that take requests.
    pub(super) rings: usize,
    process: Process,
    _folder: TempDir,
}

/// The file that all use.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: u64,
    /// Whether the page cache is bypassed by those that can do so.
    pub(super) direct: bool,
}

impl Backend {
    /// Ours, from this workspace.
    pub(super) fn ours(image: Image<'_>) -> Result<Self> {
        let program = built("vhost-device-scsi")?;
        let switch = if image.direct { "on" } else { "off" };
        Self::start("ours", Kind::Scsi, image, |socket| {
            let mut command = Command::new(program);
            command
                .arg("--socket-path")
                .arg(socket)
                .args(["--num-queues", &RINGS.to_string()])
                .arg("--lun")
                .arg(format!(
                    "path={},lock=off,direct={switch}",
                    image.path.display()
                ));
            command
        })
    }

    /// rust-vmm's: one request ring, and no way around the page cache.
    pub(super) fn rust_vmm(image: Image<'_>) -> Result<Self> {
        let program = VHOST_DEVICE_SCSI.provide()?;
        Self::start("rust-vmm 0.1.0", Kind::Scsi, image, |socket| {
            let mut command = Command::new(program);
            command.arg("--socket-path").arg(socket).arg(image.path);
            command
        })
    }

    /// QEMU's, which has virtio-blk only.
    pub(super) fn qemu(tools: &Tree, image: Image<'_>) -> Result<Self> {
        let program = tools.program("usr/bin/qemu-storage-daemon")?;
        let switch = if image.direct { "on" } else { "off" };
        Self::start("qemu-storage-daemon", Kind::Block, image, |socket| {
            let mut command = program.command();
            command
                .arg("--blockdev")
                .arg(format!(
                    "driver=file,node-name=disk,filename={},aio=io_uring,locking=off,cache.direct={switch}",
                    image.path.display()
                ))
                .arg("--export")
                .arg(format!(
                    "type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues={RINGS},addr.type=unix,addr.path={}",
                    socket.display()
                ));
            command
        })
    }

    fn start(
        name: &'static str,
        kind: Kind,
        image: Image<'_>,
        command: impl FnOnce(&Path) -> Command,
    ) -> Result<Self> {
        let boot = |frontend| Load::boot(frontend, kind, image.bytes);
        let (process, folder, load) = start(name, command, boot)?;
        let mut backend = Self {
            name,
            load,
            rings: 0,
            process,
            _folder: folder,
        };
        backend.rings = backend.load.request_rings();
        Ok(backend)
    }

    pub(super) fn id(&self) -> Pid {
        self.process.id()
    }
}

/// Starts a daemon whose socket and log are in a folder of their own, and boots a guest that uses it.
pub(super) fn start<Guest>(
    name: &str,
    command: impl FnOnce(&Path) -> Command,
    boot: impl FnOnce(Frontend) -> Result<Guest>,
) -> Result<(Process, TempDir, Guest)> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let socket = folder.path().join("socket");
    let log = folder.path().join("log");
    let mut process = Process::start(name, &mut command(&socket), &log)?;
    let guest = connect(&mut process, &socket)
        .and_then(boot)
        .with_context(|| format!("{name}; its log ends with\n{}", tail(&log, 20)))?;
    Ok((process, folder, guest))
}

fn connect(process: &mut Process, socket: &Path) -> Result<Frontend> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Frontend::connect(socket) {
            Ok(frontend) => return Ok(frontend),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = process.status()? {
            bail!("it ended at once: {status}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
