//! Does the screen of a real Linux guest move with it? The distribution's QEMU with our device types preloaded, our daemon, and the
//! kernel's own driver with its framebuffer.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tests::daemon_runner::Daemon;
use tests::qemu::vm::{BOOT_DEADLINE, DEADLINE};
use tests::qemu::{Config, Rig, Start, Vm, migration};

/// How often the machine is stopped while it has a picture.
const STOPS: usize = 5;

/// Without it, the daemon takes care that no front-end migrates it: QEMU's own type would lose the picture.
const MIGRATABLE: [&str; 1] = ["--migratable"];

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Fills the screen with noise. It ends with an error, since the screen has an end.
const DRAW: &str = "cat /dev/urandom >/dev/fb0 2>/dev/null; true";

struct Machine {
    vm: Vm,
    daemon: Daemon,
}

impl Machine {
    fn start(rig: &Rig, name: &str, start: Start, device: &str) -> Result<Self> {
        let daemon = match std::env::var_os("VHOST_DEVICE_GPU") {
            Some(program) => Daemon::start_at(Path::new(&program), MIGRATABLE)?,
            None => Daemon::start("vhost-device-gpu", MIGRATABLE)?,
        };
        let mut config = Config::new(name, start).with_log(daemon.log_path());
        config.devices = [
            "-chardev",
            &format!("socket,id=display,path={}", daemon.socket().display()),
            "-device",
            &format!("{device},id=gpu,chardev=display,xres=640,yres=480"),
        ]
        .map(str::to_owned)
        .into();
        let vm = Vm::start(rig, config)?;
        Ok(Self { vm, daemon })
    }

    /// What QEMU shows: the bytes of a pixmap.
    fn screen(&mut self, rig: &Rig) -> Result<Vec<u8>> {
        let file = rig.path("screen.ppm");
        let arguments = json!({ "filename": file, "device": "gpu", "head": 0 });
        self.vm.execute("screendump", &arguments)?;
        Ok(std::fs::read(&file)?)
    }

    /// Waits for a screen that is not `old` and does not change any more: nothing else is drawn.
    fn next_screen(&mut self, rig: &Rig, old: &[u8]) -> Result<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        let mut last = Vec::new();
        loop {
            let now = self.screen(rig)?;
            if now != old && now == last {
                return Ok(now);
            }
            if Instant::now() > end {
                bail!("no new picture\n{}", self.vm.report());
            }
            last = now;
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The daemon repaints when it goes on, a moment later: waits for `expected`.
    fn expect(&mut self, rig: &Rig, expected: &[u8]) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while self.screen(rig)? != expected {
            if Instant::now() > end {
                bail!("another picture\n{}", self.vm.report());
            }
            thread::sleep(LOOK_AGAIN);
        }
        thread::sleep(LOOK_AGAIN);
        ensure!(self.screen(rig)? == expected, "it does not stay");
        Ok(())
    }

    fn count(&self, what: &str) -> Result<usize> {
        Ok(self.daemon.log()?.matches(what).count())
    }

    fn quit(mut self) -> Result<()> {
        let report = self.vm.report();
        self.vm.quit()?;
        let status = self.daemon.wait().with_context(|| report.clone())?;
        ensure!(status.success(), "the daemon ended with {status}\n{report}");
        Ok(())
    }
}

/// The whole story for one type of device.
fn the_screen_moves(device: &str) -> Result<()> {
    let rig = Rig::prepare_with(&["virtio_gpu"])?.with_stateful_devices()?;
    let mut machine = Machine::start(&rig, "first", Start::Boot, device)?;
    machine.vm.wait_ready(BOOT_DEADLINE)?;
    let blank = machine.screen(&rig)?;
    // A cursor that blinks would be another picture every now and then.
    machine.vm.run(
        "until [ -c /dev/fb0 ]; do usleep 20000; done; echo 0 >/sys/class/graphics/fbcon/cursor_blink; echo >/dev/tty0",
    )?;
    machine.vm.run(DRAW)?;
    let mut picture = machine.next_screen(&rig, &blank)?;
    for name in ["second", "third"] {
        let before = machine.count("SUSPEND result=ok")?;
        for _ in 0..STOPS {
            machine.vm.stop()?;
            ensure!(machine.screen(&rig)? == picture, "stopped");
            machine.vm.cont()?;
            machine.expect(&rig, &picture).context("continued")?;
        }
        assert_eq!(machine.count("SUSPEND result=ok")?, before + STOPS);
        assert_eq!(machine.count("RESUME result=ok")?, before + STOPS);

        let mut next = Machine::start(&rig, name, Start::Incoming, device)?;
        let socket = rig.path(&format!("{name}.migration"));
        let outcome = migration::live(&mut machine.vm, &mut next.vm, &socket)?;
        println!("{:?}", outcome.completed()?);
        machine.quit()?;
        machine = next;
        machine.expect(&rig, &picture).context("migrated")?;
        machine.vm.run(DRAW)?;
        picture = machine.next_screen(&rig, &picture)?;
    }
    machine.quit()
}

#[test]
fn a_screen_moves_with_its_machine() -> Result<()> {
    the_screen_moves("vhost-user-gpu-pci")
}

#[test]
fn a_screen_that_the_firmware_used_moves_with_its_machine() -> Result<()> {
    the_screen_moves("vhost-user-vga")
}
