//! The guests of the benchmark of downtime: what devices they have, and what these have to carry.
//!
//! Knows nothing of migrations.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ::tests::daemon_runner::Daemon;
use ::tests::qemu::rig::PAINTER;
use ::tests::qemu::vm::{BOOT_DEADLINE, DEADLINE};
use ::tests::qemu::{Config, Rig, Start, Vm};
use ::tests::transfer_log::StateCost;
use ::tests::{fs_daemon, painter};
use anyhow::{Result, ensure};
use serde_json::json;

/// Disks of a guest.
pub(super) const DISKS: u32 = 4;

/// The screen.
const SIZE: (u32, u32) = (3840, 2160);

/// The number of the picture on it.
const PICTURE: u32 = 7;

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whose devices a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// None but those that every guest has.
    Bare,
    /// QEMU's own: a screen and disks. There is no share that QEMU serves itself.
    Emulated,
    /// Ours: a screen, disks and a share.
    Ours,
}

impl Kind {
    /// In the order of their turns.
    pub(super) const ALL: [Self; 3] = [Self::Bare, Self::Emulated, Self::Ours];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "no such devices",
            Self::Emulated => "QEMU's own screen and disks",
            Self::Ours => "our screen, disks and share",
        }
    }

    /// The image of a disk.
    pub(super) fn disk(self, rig: &Rig, number: u32) -> PathBuf {
        rig.path(&format!("{self:?}.disk{number}"))
    }
}

/// A guest and whatever serves it.
pub(super) struct Machine {
    pub(super) vm: Vm,
    kind: Kind,
    daemons: Vec<(&'static str, Daemon)>,
    screenshot: PathBuf,
}

impl Machine {
    pub(super) fn start(rig: &Rig, kind: Kind, name: &str, start: Start) -> Result<Self> {
        let name = format!("{kind:?}{name}");
        let mut config = Config::new(&name, start);
        let disks = (0..DISKS).map(|number| kind.disk(rig, number).display().to_string());
        let (width, height) = SIZE;
        let mut daemons = Vec::new();
        match kind {
            Kind::Bare => {}
            Kind::Emulated => {
                let screen = format!("virtio-gpu-pci,id=gpu,xres={width},yres={height}");
                config.devices.extend(["-device".to_owned(), screen]);
                let controller = "virtio-scsi-pci,id=scsi".to_owned();
                config.devices.extend(["-device".to_owned(), controller]);
                for (number, path) in disks.enumerate() {
                    config.devices.extend([
                        "-drive".to_owned(),
                        format!("if=none,id=disk{number},format=raw,file={path}"),
                        "-device".to_owned(),
                        format!("scsi-hd,bus=scsi.0,lun={number},drive=disk{number}"),
                    ]);
                }
            }
            Kind::Ours => {
                let units: Vec<String> = disks
                    .enumerate()
                    .flat_map(|(number, path)| {
                        ["--lun".to_owned(), format!("path={path},lun={number}")]
                    })
                    .collect();
                let fs = fs_daemon::start(&rig.path("share"), "auto")?;
                let scsi = Daemon::start("vhost-device-scsi", units)?;
                let gpu = Daemon::start("vhost-device-gpu", ["--migratable"])?;
                config = config
                    .with_fs("share", &fs.socket().display().to_string())
                    .with_scsi("scsi", &scsi.socket().display().to_string());
                config.devices.extend([
                    "-chardev".to_owned(),
                    format!("socket,id=display,path={}", gpu.socket().display()),
                    "-device".to_owned(),
                    format!("vhost-user-gpu-pci,id=gpu,chardev=display,xres={width},yres={height}"),
                ]);
                daemons = vec![("fs", fs), ("scsi", scsi), ("gpu", gpu)];
            }
        }
        for (_, daemon) in &daemons {
            config = config.with_log(daemon.log_path());
        }
        Ok(Self {
            vm: Vm::start(rig, config)?,
            kind,
            daemons,
            screenshot: rig.path(&format!("{name}.ppm")),
        })
    }

    /// Waits for the guest, and gives its devices something to carry.
    pub(super) fn begin(&mut self, kilofiles: u32) -> Result<()> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        if self.kind == Kind::Bare {
            return Ok(());
        }
        self.vm.run(
            "until [ -b /dev/sdd ] && [ -c /dev/fb0 ]; do usleep 20000; done; echo >/dev/tty0",
        )?;
        self.vm
            .run("for disk in a b c d; do dd if=/dev/sd$disk of=/dev/null bs=64k count=16 2>/dev/null; done")?;
        self.vm.run(&format!("{PAINTER} paint {PICTURE}"))?;
        if self.kind == Kind::Ours {
            self.vm.run("mount -t virtiofs share /mnt")?;
            // In pieces: a guest takes minutes for all of them.
            for folder in 0..kilofiles {
                let found = self
                    .vm
                    .run(&format!("find /mnt/{folder:03} -type f | wc -l"))?;
                ensure!(found.trim() == "1000", "{found} files in folder {folder}");
            }
        }
        self.check()
    }

    /// The screen shows what was painted.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.kind == Kind::Bare {
            return Ok(());
        }
        let (width, height) = SIZE;
        let expected = painter::picture(PICTURE, width, height);
        let end = Instant::now() + DEADLINE;
        let arguments = json!({ "filename": self.screenshot, "device": "gpu", "head": 0 });
        loop {
            self.vm.execute("screendump", &arguments)?;
            if painter::read_pixmap(&self.screenshot)? == expected {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "another picture\n{}",
                self.vm.report()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// How long each daemon took for the move to `destination`.
    pub(super) fn costs(&self, destination: &Self) -> Result<Vec<(&'static str, StateCost)>> {
        let pairs = self.daemons.iter().zip(&destination.daemons);
        pairs
            .map(|((name, source), (_, destination))| {
                Ok((*name, StateCost::moved(source, destination)?))
            })
            .collect()
    }

    pub(super) fn quit(mut self) -> Result<()> {
        self.vm.quit()?;
        for (name, daemon) in &mut self.daemons {
            let status = daemon.wait()?;
            ensure!(status.success(), "{name} ended with {status}");
        }
        Ok(())
    }
}
