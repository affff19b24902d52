//! Screens: QEMU's own vhost-user-gpu and ours. The guest paints one picture after the other.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::Device;
use super::observation::Finding;
use super::participant::{Machine, Participant, ours};
use super::stage::{GUEST_DEADLINE, Guest};
use crate::gpu::picture::Picture;
use crate::painter;
use crate::qemu::provision::gpu_peer;
use crate::qemu::rig::PAINTER;

/// The guest's screen: small, for an emulated processor paints it.
const SIZE: (u32, u32) = (640, 480);

/// How long a picture may take from the guest to the screen.
const PICTURE_DEADLINE: Duration = Duration::from_mins(1);

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const START: &str = "
until [ -c /dev/fb0 ]; do usleep 20000; done
echo 0 >/sys/class/graphics/fbcon/cursor_blink
echo >/dev/tty0
";

/// Modules of its kernel.
pub(super) const MODULES: &[&str] = &["virtio_gpu"];

/// Who takes part.
pub fn participants() -> Result<Vec<Participant>> {
    let (peer, daemon) = (gpu_peer()?, ours("vhost-device-gpu")?);
    let (width, height) = SIZE;
    let device = format!("vhost-user-gpu-pci,id=gpu,chardev=screen,xres={width},yres={height}");
    let devices = [
        "-chardev",
        "socket,id=screen,path={socket}",
        "-device",
        &device,
    ];
    let new = |title, program, arguments| {
        Participant::new(title, Device::Gpu, program, arguments, &devices)
    };
    Ok(vec![
        new("QEMU's vhost-user-gpu", peer, ""),
        new("ours", daemon.clone(), ""),
        new(
            "ours, stateful type, `--migratable`",
            daemon,
            "--migratable",
        )
        .stateful(),
    ])
}

/// See the [module](self).
#[derive(Debug)]
pub struct Painter {
    /// Number of the next picture that is painted by itself.
    next: u32,
    screenshot: PathBuf,
}

impl Painter {
    /// One that has not painted anything.
    pub fn new() -> Result<Self> {
        let file = tempfile::Builder::new().suffix(".ppm").tempfile()?;
        Ok(Self {
            next: FIRST,
            screenshot: file.into_temp_path().keep()?,
        })
    }

    fn screen(&self, machine: &mut Machine) -> Result<Picture> {
        let arguments = json!({ "filename": self.screenshot, "device": "gpu", "head": 0 });
        machine.vm.execute("screendump", &arguments)?;
        painter::read_pixmap(&self.screenshot)
    }

    /// Waits until a picture is seen. That it is not, is a finding.
    fn expect(&self, machine: &mut Machine, number: u32) -> Result<()> {
        let (width, height) = SIZE;
        let expected = painter::picture(number, width, height);
        let end = Instant::now() + PICTURE_DEADLINE;
        loop {
            let screen = self.screen(machine)?;
            if screen == expected {
                return Ok(());
            }
            if Instant::now() > end || machine.backend.exit_status()?.is_some() {
                return Err(Finding::fails("picture lost").into());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The guest paints from now on.
    fn go(machine: &mut Machine) -> Result<()> {
        let go = format!(
            "rm -f /tmp/painter-stop; {PAINTER} go </dev/null >/tmp/painter.log 2>&1 & painter=$!"
        );
        machine.run("painting", &go, GUEST_DEADLINE)?;
        Ok(())
    }
}

/// Greater than what [`Painter::go`] reaches.
const FIRST: u32 = 1 << 24;

impl Drop for Painter {
    fn drop(&mut self) {
        // It may not be there.
        let _ = std::fs::remove_file(&self.screenshot);
    }
}

impl Guest for Painter {
    fn start_work(&mut self, machine: &mut Machine) -> Result<()> {
        machine.run("finding its screen", START, GUEST_DEADLINE)?;
        Self::go(machine)
    }

    fn look(&mut self, machine: &mut Machine) -> Result<String> {
        let stop = "touch /tmp/painter-stop; wait $painter; cat /tmp/painter.log";
        let answer = machine.run("painting", stop, GUEST_DEADLINE)?;
        // None if it had no time to.
        if let Some(last) = painter::pictures(&answer)?.checked_sub(1) {
            self.expect(machine, last)?;
        }
        let paint = format!("{PAINTER} paint {}", self.next);
        machine.run("painting", &paint, GUEST_DEADLINE)?;
        self.expect(machine, self.next)?;
        self.next += 1;
        Self::go(machine)?;
        Ok(String::new())
    }

    fn stop_work(&mut self, _machine: &mut Machine) -> Result<()> {
        Ok(())
    }

    fn make_resource(&self, _path: &Path) -> Result<()> {
        Ok(())
    }
}
