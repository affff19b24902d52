//! A virtual machine with a share, a disk and a screen at once, or some of them, each served by a daemon.
//!
//! [`setup`] knows the daemons, and [`work`] what the guest does with all three; `still` is for those who draw on the screen themselves.

pub mod setup;
mod still;
pub mod work;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::state::DeviceKind;
use serde_json::json;

use self::setup::{DEVICES, Setup};
use super::rig::Rig;
use super::vm::{Config, Start, Vm};
use crate::daemon_runner::Daemon;

/// What the guest needs of its kernel.
pub const MODULES: [&str; 3] = ["virtio_scsi", "sd_mod", "virtio_gpu"];

/// A VM, and the daemons of its devices; they end by themselves when QEMU does.
#[derive(Debug)]
pub struct WholeMachine {
    /// The machine.
    pub vm: Vm,
    /// The daemons by the names of their devices.
    pub daemons: Vec<(&'static str, Daemon)>,
    screenshot: PathBuf,
}

impl WholeMachine {
    /// Starts a machine with all devices, the folder `share` and the disk image `image`.
    pub fn start(rig: &Rig, name: &str, start: Start, share: &Path, image: &Path) -> Result<Self> {
        Self::start_with(rig, name, start, &Setup::new(share, image))
    }

    /// Starts the daemons, and a machine with them.
    pub fn start_with(rig: &Rig, name: &str, start: Start, setup: &Setup) -> Result<Self> {
        let mut config = Config::new(name, start);
        let mut daemons = Vec::new();
        for kind in &setup.devices {
            let daemon = setup.start(*kind)?;
            config = setup.add_to(config, *kind, &daemon)?;
            daemons.push((kind.name(), daemon));
        }
        Ok(Self {
            vm: Vm::start(rig, config)?,
            daemons,
            screenshot: rig.path(&format!("{name}.ppm")),
        })
    }

    /// Its devices.
    pub fn kinds(&self) -> impl Iterator<Item = DeviceKind> {
        let names = self.daemons.iter().map(|(name, _)| *name);
        names.filter_map(|name| DEVICES.into_iter().find(|kind| kind.name() == name))
    }

    /// The daemon of a device.
    pub fn daemon(&self, kind: DeviceKind) -> Result<&Daemon> {
        let daemon = self.daemons.iter().find(|(name, _)| *name == kind.name());
        let (_, daemon) = daemon.with_context(|| format!("the machine has no {kind}"))?;
        Ok(daemon)
    }

    /// What QEMU shows: the bytes of a pixmap.
    pub fn screen(&mut self) -> Result<Vec<u8>> {
        let arguments = json!({ "filename": self.screenshot, "device": "gpu", "head": 0 });
        self.vm.execute("screendump", &arguments)?;
        Ok(std::fs::read(&self.screenshot)?)
    }

    /// Ends QEMU; the daemons have to follow, with success.
    pub fn quit(mut self) -> Result<()> {
        let report = self.vm.report();
        self.vm.quit()?;
        for (name, daemon) in &mut self.daemons {
            let status = daemon.wait().with_context(|| report.clone())?;
            ensure!(status.success(), "{name}: ended with {status}\n{report}");
        }
        Ok(())
    }
}
