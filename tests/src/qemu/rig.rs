//! What all virtual machines of one test share: programs, guest image, accelerator, a folder.
//!
//! Knows no device and keeps no VM.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::image::Image;
use super::modules::Modules;
use super::provision::{Provision, Tree, progress, provision, stateful_module};
use super::vm::{Config, Start, Vm};
use crate::{locker, painter, reserver, workload};

/// The guest's end of `tests/src/bin/guest_workload.rs`.
pub const WORKLOAD: &str = "/bin/guest_workload";

/// The guest's end of `tests/src/bin/guest_painter.rs`.
pub const PAINTER: &str = "/bin/guest_painter";

/// The guest's end of `tests/src/bin/guest_reserver.rs`.
pub const RESERVER: &str = "/bin/guest_reserver";

/// The guest's end of `tests/src/bin/guest_locker.rs`.
pub const LOCKER: &str = "/bin/guest_locker";

/// Where the programs of [`Rig::with_tools`] are in the guest.
const TOOLS: &str = "tools";

/// A KVM that works boots the guest in two seconds; one that does not may take a minute to say so.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// A folder, and what it takes to start guests in it.
#[derive(Debug)]
pub struct Rig {
    /// Programs and kernel.
    pub provision: Provision,
    /// QEMU's `-accel`.
    pub accelerator: String,
    /// The initramfs.
    pub image: PathBuf,
    /// Whether QEMU has our device types.
    stateful: bool,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Provisions, packs the guest image and chooses the accelerator.
    pub fn prepare() -> Result<Self> {
        Self::prepare_with(&[])
    }

    /// As [`prepare`](Self::prepare), for a guest that inserts these modules of its kernel, and those that they need.
    pub fn prepare_with(modules: &[&str]) -> Result<Self> {
        let provision = provision()?;
        let workload = workload::program()?;
        // Not below the target folder: socket paths are limited to 107 bytes.
        let folder = tempfile::Builder::new().prefix("rig-").tempdir()?;
        let mut image = Image::with_busybox(&provision.busybox)?;
        let programs = [
            (WORKLOAD, workload),
            (PAINTER, painter::program()?),
            (RESERVER, reserver::program()?),
            (LOCKER, locker::program()?),
        ];
        for (place, program) in programs {
            let data =
                fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
            image.file(place.trim_start_matches('/'), 0o755, data);
        }
        if !modules.is_empty() {
            let all = provision
                .modules
                .as_ref()
                .context("GUEST_KERNEL is named, and its GUEST_MODULES are not")?;
            for module in Modules::find(all)?.with_needed(modules)? {
                image.module(&module.file_name, module.data);
            }
        }
        let path = folder.path().join("initramfs");
        let mut file = File::create(&path)?;
        image.write(&mut file).context("writing the guest image")?;
        let mut rig = Self {
            provision,
            accelerator: "tcg".to_owned(),
            image: path,
            stateful: false,
            folder,
        };
        rig.accelerator = rig.choose_accelerator()?;
        Ok(rig)
    }

    /// The same rig, whose machines get the device types of our module for QEMU in place of QEMU's own.
    pub fn with_stateful_devices(mut self) -> Result<Self> {
        let module = stateful_module(&self.provision)?;
        self.provision.qemu = self.provision.qemu.with_preloaded(&module);
        self.stateful = true;
        Ok(self)
    }

    /// The same rig, whose guests have these programs of a folder, each as a function of their shell. Returns what the shell
    /// has to be told.
    pub fn with_tools(self, tree: &Tree, programs: &[&str]) -> Result<(Self, String)> {
        let mut image = Image::default();
        let mut functions = String::new();
        for path in programs {
            for part in tree.parts_of(path)? {
                let data = fs::read(tree.folder().join(&part))?;
                image.file(&format!("{TOOLS}/{}", part.display()), 0o755, data);
            }
            let program = tree.program_seen_at(path, &Path::new("/").join(TOOLS))?;
            let name = path.rsplit('/').next().unwrap_or_default();
            let words = program.arguments.join(" ");
            let line = format!(
                "{name}() {{ {} {words} \"$@\"; }}\n",
                program.path.display()
            );
            functions.push_str(&line);
        }
        self.add(&image)?;
        Ok((self, functions))
    }

    /// Gives guests these files, too; one that they have already is replaced.
    pub fn add(&self, image: &Image) -> Result<()> {
        // The kernel unpacks one archive after the other.
        let mut file = File::options().append(true).open(&self.image)?;
        image.write(&mut file).context("adding to the guest image")
    }

    /// An argument of QEMU that may name a device: with the type of ours, if there is one.
    pub(super) fn device_argument(&self, argument: &str) -> String {
        if !self.stateful || !argument.starts_with("vhost-user-") {
            return argument.to_owned();
        }
        let (device, options) = argument.split_once(',').unwrap_or((argument, ""));
        match device.strip_suffix("-pci") {
            Some(device) => format!("{device}-stateful-pci,{options}"),
            None => format!("{device}-stateful,{options}"),
        }
    }

    /// A path in the rig's folder, short enough for a socket.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves the folder behind.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// The rig's folder, removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `/dev/kvm` can exist, open, and still not run a kernel: only a boot proves it. The answer
    /// holds until the next boot of the host or another QEMU. `QEMU_ACCEL` overrides it.
    fn choose_accelerator(&self) -> Result<String> {
        if let Ok(accelerator) = std::env::var("QEMU_ACCEL") {
            return Ok(accelerator);
        }
        let device = File::options().read(true).write(true).open("/dev/kvm");
        if device.is_err() {
            return Ok("tcg".to_owned());
        }
        let lock = File::create(self.provision.cache.join("accelerator.lock"))?;
        lock.lock().context("locking the choice of accelerator")?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let key = format!("{} {}", self.provision.qemu_version, boot.trim());
        let answer = self.provision.cache.join("accelerator");
        let known = fs::read_to_string(&answer).unwrap_or_default();
        if let Some((_, accelerator)) = known.split_once('\n').filter(|(k, _)| *k == key) {
            return Ok(accelerator.to_owned());
        }
        progress("probing KVM by booting the guest once");
        let accelerator = if self.boots_with("kvm") { "kvm" } else { "tcg" };
        progress(&format!("the accelerator is {accelerator}"));
        fs::write(&answer, format!("{key}\n{accelerator}"))?;
        Ok(accelerator.to_owned())
    }

    fn boots_with(&self, accelerator: &str) -> bool {
        let config = Config {
            accelerator: Some(accelerator.to_owned()),
            ..Config::new("probe", Start::Boot)
        };
        let booted = Vm::start(self, config).and_then(|mut vm| vm.wait_ready(PROBE_DEADLINE));
        if let Err(error) = &booted {
            log::info!("{accelerator} does not work here: {error:#}");
        }
        booted.is_ok()
    }
}
