//! A virtual machine with a GPU daemon, whatever its make, and the program that paints in it.
//!
//! The steps that end-to-end tests are made of. Pictures are those that QEMU itself gives away.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::process::{Process, tail};
use super::provision::gpu_peer;
use super::rig::{PAINTER, Rig};
use super::vm::{BOOT_DEADLINE, Config, DEADLINE, Start, Vm};
use crate::daemon_runner::Daemon;
use crate::gpu::picture::Picture;
use crate::gpu::start_daemon;
use crate::painter;

/// Kernel modules that the guest needs.
pub const MODULES: [&str; 1] = ["virtio_gpu"];

/// The guest's screen: small, for an emulated processor paints it.
const SIZE: (u32, u32) = (640, 480);

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a picture that must not change is watched.
const WATCH: Duration = Duration::from_millis(300);

/// Names the device in QEMU.
const DEVICE: &str = "gpu";

/// What serves the device.
#[derive(Debug)]
pub enum Backend {
    /// Ours.
    Ours(Daemon),
    /// The one that comes with QEMU.
    Peer(Process),
}

impl Backend {
    fn peer(rig: &Rig) -> Result<(Self, std::path::PathBuf)> {
        let socket = rig.path("peer.socket");
        let program = gpu_peer()?;
        let mut command: Command = program.command();
        command.arg("-s").arg(&socket);
        let mut process = Process::start("vhost-user-gpu", &mut command, &rig.path("peer.log"))?;
        let end = Instant::now() + DEADLINE;
        while !socket.exists() {
            let ended = process.status()?;
            ensure!(
                ended.is_none() && Instant::now() < end,
                "QEMU's vhost-user-gpu does not listen\n{}",
                tail(process.log(), 20)
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok((Self::Peer(process), socket))
    }

    /// An error if it has ended.
    fn check(&mut self) -> Result<()> {
        let (status, log) = match self {
            Self::Ours(daemon) => (daemon.status()?, daemon.log_path()),
            Self::Peer(process) => (process.status()?, process.log()),
        };
        if let Some(status) = status {
            bail!("the back-end has ended with {status}\n{}", tail(log, 20));
        }
        Ok(())
    }
}

/// A VM and what serves its only device.
#[derive(Debug)]
pub struct GpuMachine {
    /// The machine.
    pub vm: Vm,
    /// What serves the GPU.
    pub backend: Backend,
    screenshot: std::path::PathBuf,
}

impl GpuMachine {
    /// Boots a machine with our daemon.
    pub fn start(rig: &Rig) -> Result<Self> {
        let daemon = start_daemon::<&str>([])?;
        let (socket, log) = (daemon.socket().to_owned(), daemon.log_path().to_owned());
        Self::boot(rig, Backend::Ours(daemon), &socket, &log)
    }

    /// Boots a machine with QEMU's own vhost-user-gpu.
    pub fn start_with_peer(rig: &Rig) -> Result<Self> {
        let (backend, socket) = Backend::peer(rig)?;
        Self::boot(rig, backend, &socket, &rig.path("peer.log"))
    }

    fn boot(rig: &Rig, backend: Backend, socket: &Path, log: &Path) -> Result<Self> {
        let (width, height) = SIZE;
        let mut config = Config::new("painting", Start::Boot).with_log(log);
        config.devices = [
            "-chardev",
            &format!("socket,id=display,path={}", socket.display()),
            "-device",
            &format!("vhost-user-gpu-pci,id={DEVICE},chardev=display,xres={width},yres={height}"),
        ]
        .map(str::to_owned)
        .into();
        let mut machine = Self {
            vm: Vm::start(rig, config)?,
            backend,
            screenshot: rig.path("screen.ppm"),
        };
        machine.wait_ready()?;
        Ok(machine)
    }

    fn wait_ready(&mut self) -> Result<()> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        // The kernel turns the screen on when there is something to be read on it.
        self.vm.run("echo >/dev/tty0")?;
        Ok(())
    }

    /// What is on the screen.
    pub fn screen(&mut self) -> Result<Picture> {
        let file = self.screenshot.display().to_string();
        let arguments = json!({ "filename": file, "device": DEVICE, "head": 0 });
        self.vm.execute("screendump", &arguments)?;
        painter::read_pixmap(&self.screenshot)
    }

    /// Waits until the screen is as `is_right` wants it.
    pub fn wait_for(
        &mut self,
        what: &str,
        mut is_right: impl FnMut(&Picture) -> bool,
    ) -> Result<Picture> {
        let end = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen()?;
            if is_right(&screen) {
                return Ok(screen);
            }
            self.backend
                .check()
                .with_context(|| format!("waiting for {what}"))?;
            if Instant::now() > end {
                bail!("{what} is not seen, but {screen:?}\n{}", self.vm.report());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until the screen shows a picture of the painter.
    pub fn expect(&mut self, number: u32) -> Result<Picture> {
        let (width, height) = SIZE;
        let expected = painter::picture(number, width, height);
        self.wait_for(&format!("picture {number}"), |screen| *screen == expected)
    }

    /// The guest paints a picture, and it is seen.
    pub fn paint(&mut self, number: u32) -> Result<Picture> {
        self.vm.run(&format!("{PAINTER} paint {number}"))?;
        self.expect(number)
    }

    /// The guest writes to its console, which is seen.
    pub fn write(&mut self, text: &str) -> Result<Picture> {
        let before = self.screen()?;
        self.vm.run(&format!("echo '{text}' >/dev/tty0"))?;
        self.wait_for("text", |screen| *screen != before)?;
        // All of it, and not its beginning.
        let mut last = self.screen()?;
        loop {
            thread::sleep(WATCH);
            let now = self.screen()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    /// The screen is as it was, and stays so.
    pub fn expect_unchanged(&mut self, before: &Picture) -> Result<()> {
        let end = Instant::now() + WATCH;
        while Instant::now() < end {
            let screen = self.screen()?;
            ensure!(screen == *before, "{screen:?} instead of {before:?}");
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// The screen is as it was, twice: of a machine that is stopped, that is enough.
    pub fn expect_still(&mut self, before: &Picture) -> Result<()> {
        thread::sleep(LOOK_AGAIN);
        let screen = self.screen()?;
        ensure!(screen == *before, "{screen:?} instead of {before:?}");
        Ok(())
    }

    /// `stop` and `cont`; the screen is the same all the time.
    pub fn stop_and_cont(&mut self, before: &Picture) -> Result<()> {
        self.vm.stop()?;
        self.expect_unchanged(before).context("stopped")?;
        self.vm.cont()?;
        self.expect_unchanged(before).context("continued")
    }

    /// The guest paints one picture after the other from now on.
    pub fn start_painting(&mut self) -> Result<()> {
        self.vm.run(&format!(
            "rm -f /tmp/painter-stop; {PAINTER} go </dev/null >/tmp/painter.log 2>&1 &"
        ))?;
        Ok(())
    }

    /// It stops, and its last picture is seen; how many there were.
    pub fn stop_painting(&mut self) -> Result<u32> {
        self.vm.run("touch /tmp/painter-stop; wait")?;
        let answer = self.vm.run("cat /tmp/painter.log")?;
        let count = painter::pictures(&answer)?;
        let last = count.checked_sub(1).context("nothing was painted")?;
        self.expect(last)?;
        Ok(count)
    }

    /// Why QEMU would not migrate this machine; nothing if it would.
    pub fn blocked_reasons(&mut self) -> Result<String> {
        let status = self.vm.execute("query-migrate", &json!({}))?;
        let reasons = status.get("blocked-reasons");
        Ok(reasons.map(ToString::to_string).unwrap_or_default())
    }

    /// The guest boots once more.
    pub fn reboot(&mut self) -> Result<()> {
        self.vm.reset()?;
        self.wait_ready()
    }

    /// Ends QEMU; our daemon has to follow by itself, with success.
    pub fn quit(mut self) -> Result<()> {
        let report = self.vm.report();
        self.vm.quit()?;
        if let Backend::Ours(daemon) = &mut self.backend {
            let status = daemon.wait().with_context(|| report.clone())?;
            ensure!(status.success(), "the daemon ended with {status}\n{report}");
        }
        Ok(())
    }
}
