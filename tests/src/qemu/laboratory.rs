//! A guest that has all of this machine's files, to change for itself, and more kernel than this machine: programs of the tests run in it as
//! they do here.
//!
//! The files come over virtio-fs, by our own daemon, which lets nobody write; above them lies memory. So libraries, tools and what cargo
//! has built are where they are here. Knows no experiment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::provision::{laboratory_tools, service_manager};
use super::rig::Rig;
use super::vm::{BOOT_DEADLINE, Config, Start, Vm};
use crate::daemon_runner::{Daemon, built};
use crate::laboratory::{Experiment, Tools};
use crate::workload;

/// The kernel's modules: of file systems, and of an NFS server and its client.
const MODULES: &[&str] = &[
    "overlay",
    "loop",
    "crc32c_generic",
    "ext4",
    "xfs",
    "xxhash_generic",
    "blake2b_generic",
    "btrfs",
    "nfsd",
    "nfsv4",
];

/// An experiment takes seconds, under emulation and beside a compiler minutes.
const DEADLINE: Duration = Duration::from_mins(8);

/// Where this machine's root is in the guest.
const ROOT: &str = "/laboratory";

/// A guest that is ready for experiments.
#[derive(Debug)]
pub struct Laboratory {
    vm: Vm,
    daemon: Daemon,
    program: PathBuf,
    tools: Tools,
    /// Has the machine's files, so it goes last.
    _rig: Rig,
}

impl Laboratory {
    /// Boots it, for `program`, which was built by cargo.
    pub fn boot(program: &Path) -> Result<Self> {
        let rig = Rig::prepare_with(MODULES)?;
        let tools = Tools {
            of_storage: laboratory_tools()?,
            of_services: service_manager()?,
        };
        // For the guest, which has no cargo.
        built("vhost-device-fs")?;
        workload::program()?;
        let daemon = Daemon::start(
            "vhost-device-fs",
            [
                "--shared-dir",
                "/",
                "--readonly",
                // Below them an overlay sees nothing.
                "--no-announce-submounts",
                "--cache",
                "always",
            ],
        )?;
        let config = Config::new("laboratory", Start::Boot)
            .with_fs("files", &daemon.socket().display().to_string())
            .with_log(daemon.log_path());
        let mut vm = Vm::start(&rig, config)?;
        vm.wait_ready(BOOT_DEADLINE)?;
        for command in [
            "mkdir -p /files /memory".to_owned(),
            "mount -t virtiofs files /files".to_owned(),
            "mount -t tmpfs none /memory".to_owned(),
            format!("mkdir -p /memory/upper /memory/work {ROOT} /dev/shm"),
            format!(
                "mount -t overlay -o lowerdir=/files,upperdir=/memory/upper,workdir=/memory/work none {ROOT}"
            ),
            "mount -t tmpfs none /dev/shm".to_owned(),
            format!("mount -t tmpfs none {ROOT}/run"),
            format!("for folder in dev proc sys; do mount -o rbind /$folder {ROOT}/$folder; done"),
            "ip link set lo up".to_owned(),
        ] {
            vm.run(&command)?;
        }
        Ok(Self {
            vm,
            daemon,
            program: program.to_owned(),
            tools,
            _rig: rig,
        })
    }

    /// Does an experiment in it, and returns what was told.
    pub fn run(&mut self, experiment: Experiment) -> Result<String> {
        let command = format!(
            "chroot {ROOT} /usr/bin/env -i HOME=/ TMPDIR=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin {} --storage {} --services {} {}",
            self.program.display(),
            self.tools.of_storage.folder().display(),
            self.tools.of_services.folder().display(),
            experiment.name(),
        );
        let output = self.vm.try_run_unless(&command, DEADLINE, || false)?;
        ensure!(
            output.status == 0,
            "{experiment:?}: status {}\n{}\n{}",
            output.status,
            output.text,
            self.vm.report()
        );
        Ok(output.text)
    }

    /// Ends it; its daemon follows.
    pub fn quit(mut self) -> Result<()> {
        self.vm.quit()?;
        let status = self.daemon.wait()?;
        ensure!(status.success(), "vhost-device-fs ended with {status}");
        Ok(())
    }
}
