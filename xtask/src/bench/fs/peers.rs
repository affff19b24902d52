//! The file system daemons that are compared, each with a guest of its own, all on the same share at the same time.
//!
//! Knows how they are started; does not know what they are asked to do.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use rustix::process::Pid;
use tempfile::TempDir;
use tests::daemon_runner::built;
use tests::load::fs::FsLoad;
use tests::qemu::process::Process;
use tests::tools::virtiofsd_as_released;

use super::super::peers;

/// Request rings of ours; virtiofsd has one.
const RINGS: usize = 4;

pub(super) const OURS: &str = "ours";
pub(super) const AS_IT_COMES: &str = "virtiofsd";
/// Without what costs it time: a filter of system calls, which ours has, and file handles; and with threads.
pub(super) const AT_ITS_BEST: [&str; 2] = ["virtiofsd, lean", "virtiofsd, lean, 4 threads"];

/// Ways to run virtiofsd.
const VIRTIOFSD: [(&str, &[&str]); 3] = [
    (AS_IT_COMES, &[]),
    (
        AT_ITS_BEST[0],
        &["--seccomp=none", "--inode-file-handles=never"],
    ),
    (
        AT_ITS_BEST[1],
        &[
            "--seccomp=none",
            "--inode-file-handles=never",
            "--thread-pool-size=4",
        ],
    ),
];

/// A daemon, and a guest that uses it.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) load: FsLoad,
    /// Rings that take requests.
    pub(super) rings: usize,
    process: Process,
    _folder: TempDir,
}

/// All of them, ours first; `beside` is another build of it.
pub(super) fn start(share: &Path, beside: Option<&Path>, ours_only: bool) -> Result<Vec<Backend>> {
    let ours = built("vhost-device-fs")?;
    let rings = RINGS.to_string();
    let options = ["--num-request-queues", &rings];
    let mut all = vec![Backend::start(OURS, &ours, share, &options)?];
    if let Some(beside) = beside {
        all.push(Backend::start(
            "ours, other build",
            beside,
            share,
            &options,
        )?);
    }
    if ours_only {
        return Ok(all);
    }
    let program = virtiofsd_as_released()?;
    for (name, options) in VIRTIOFSD {
        all.push(Backend::start(name, &program, share, options)?);
    }
    Ok(all)
}

impl Backend {
    /// Without a sandbox, for with one the process that we start is not the one that works.
    fn start(name: &'static str, program: &Path, share: &Path, options: &[&str]) -> Result<Self> {
        let command = |socket: &Path| {
            let mut command = Command::new(program);
            command
                .arg("--socket-path")
                .arg(socket)
                .arg("--shared-dir")
                .arg(share)
                .args(["--sandbox", "none"])
                .args(options);
            command
        };
        let (process, folder, load) = peers::start(name, command, FsLoad::boot)?;
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
