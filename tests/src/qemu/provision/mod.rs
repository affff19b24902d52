//! What a guest needs from outside: QEMU, a Linux kernel, busybox.
//!
//! In this order: what the environment names (`QEMU`, `GUEST_KERNEL` and its modules, `GUEST_MODULES`,
//! `GUEST_BUSYBOX`); a QEMU on
//! the search path that is new enough; the machine's own Debian mirror, unpacked below
//! `target/provision/` without root and without a change to the machine (`apt.rs`). What was
//! unpacked is kept, and a second run finds it at once.
//!
//! The same way [`scsi_tools`] gets the programs that the tests of the scsi device need, [`gpu_peer`] another GPU, and
//! [`stateful_module`] what our module for QEMU is built from.
//!
//! Knows how to get things, not how to run a guest.

mod apt;
mod module;
mod tree;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use module::stateful_module;
pub use tree::Tree;

/// vhost-user back-end state (`VHOST_USER_PROTOCOL_F_DEVICE_STATE`) came with this version.
const QEMU_VERSION_MIN: (u32, u32) = (8, 2);

/// Change it when what is unpacked changes: older trees are then made anew.
const RECIPE: u32 = 2;

/// Programs that ask a SCSI target: conformance tests, `sg3_utils`, another target, load generators and peers.
const SCSI_TOOLS: [&str; 6] = [
    "libiscsi-bin",
    "sg3-utils",
    "tgt",
    "fio",
    "qemu-utils",
    "e2fsprogs",
];

/// Small programs that a guest of comparisons runs: of extended attributes, and of SCSI commands.
const GUEST_TOOLS: [&str; 2] = ["attr", "sg3-utils"];

/// Programs that make file systems, and that serve them.
const LABORATORY_TOOLS: [&str; 4] = ["e2fsprogs", "xfsprogs", "btrfs-progs", "nfs-kernel-server"];

/// Programs that put load on a file system.
const LOAD_TOOLS: [&str; 2] = ["stress-ng", "dbench"];

/// What virtiofsd links with.
const FS_PEER_LIBRARIES: [&str; 2] = ["libseccomp-dev", "libcap-ng-dev"];

/// Holds newuidmap and newgidmap.
const ID_MAP_TOOLS: &str = "uidmap";

/// Holds QEMU's own vhost-user-gpu, among much that is for people who look.
const GPU_PEER: &str = "qemu-system-gui";

/// How to start one program: its path, or a loader and arguments before the program's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// What to execute.
    pub path: PathBuf,
    /// Arguments that come first.
    pub arguments: Vec<String>,
    /// Environment to add.
    pub environment: Vec<(String, String)>,
}

impl Program {
    /// A command to which the program's own arguments can be added.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// The same program with a library that is loaded before its own. Only this program survives that: another one that
    /// is started on the way, such as a shell, lacks the symbols that the library expects.
    #[must_use]
    pub fn with_preloaded(mut self, library: &Path) -> Self {
        let variable = ("LD_PRELOAD".to_owned(), library.display().to_string());
        self.environment.push(variable);
        self
    }

    fn plain(path: PathBuf) -> Self {
        Self {
            path,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// Everything a guest needs, found or unpacked.
#[derive(Debug, Clone)]
pub struct Provision {
    /// `qemu-system-x86_64`.
    pub qemu: Program,
    /// The first line of its `--version`.
    pub qemu_version: String,
    /// A bzImage with virtio and virtiofs built in.
    pub kernel: PathBuf,
    /// The kernel's folder of modules, if it is known: `lib/modules/VERSION`.
    pub modules: Option<PathBuf>,
    /// A static busybox.
    pub busybox: PathBuf,
    /// Folder for what is derived from these and worth keeping; below the target folder.
    pub cache: PathBuf,
}

/// Finds or fetches all of it. Prints what it does when it takes time.
pub fn provision() -> Result<Provision> {
    let (cache, _lock) = cache()?;

    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let mut qemu = named("QEMU").map(Program::plain);
    if qemu.is_none() {
        let installed = Program::plain(PathBuf::from("qemu-system-x86_64"));
        qemu = version_of(&installed)
            .is_ok_and(|version| is_new_enough(&version))
            .then_some(installed);
    }
    let packages = [
        (qemu.is_none(), "qemu-system-x86"),
        (named("GUEST_BUSYBOX").is_none(), "busybox-static"),
    ];
    let wanted = apt::Wanted {
        packages: packages
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, name)| name.to_owned())
            .collect(),
        kernel: named("GUEST_KERNEL").is_none(),
        ..apt::Wanted::default()
    };
    let tree = Tree::new(cache.join("tree"));
    if !wanted.packages.is_empty() || wanted.kernel {
        apt::unpack(tree.folder(), wanted, RECIPE).with_context(how_to_get_it)?;
    }
    let qemu = qemu.map_or_else(|| tree.qemu(), Ok)?;
    let qemu_version = version_of(&qemu)?;
    if !is_new_enough(&qemu_version) {
        let (major, minor) = QEMU_VERSION_MIN;
        bail!("{qemu_version}: too old, need {major}.{minor} or later");
    }
    // The tree's modules are of no use to another kernel.
    let (kernel, modules) = match named("GUEST_KERNEL") {
        Some(kernel) => (kernel, named("GUEST_MODULES")),
        None => (tree.kernel()?, Some(tree.modules()?)),
    };
    let busybox = named("GUEST_BUSYBOX").or_else(|| tree.busybox());
    Ok(Provision {
        qemu,
        qemu_version,
        kernel,
        modules,
        busybox: busybox.context("busybox is missing")?,
        cache,
    })
}

/// Finds or fetches the programs that ask a SCSI target.
pub fn scsi_tools() -> Result<Tree> {
    programs("scsi-tools", &SCSI_TOOLS)
}

/// Finds or fetches small programs for guests, of which [`Tree::parts_of`] knows what they need.
pub fn guest_tools() -> Result<Tree> {
    programs("guest-tools", &GUEST_TOOLS)
}

/// Finds or fetches programs that make file systems and serve them.
pub fn laboratory_tools() -> Result<Tree> {
    programs("laboratory-tools", &LABORATORY_TOOLS)
}

/// Finds or fetches systemd.
pub fn service_manager() -> Result<Tree> {
    programs("service-manager", &["systemd"])
}

/// Finds or fetches programs that put load on a file system.
pub fn load_tools() -> Result<Tree> {
    programs("load-tools", &LOAD_TOOLS)
}

/// Finds or fetches the GPU that comes with QEMU, for comparison: the program `vhost-user-gpu`.
pub fn gpu_peer() -> Result<Program> {
    programs("gpu-peer", &[GPU_PEER])?.program("usr/lib/qemu/vhost-user-gpu")
}

/// Finds or fetches the programs that give ids to the user namespaces of others: the folder that they are in, without the bit that
/// gives them the privilege for it.
pub fn id_map_tools() -> Result<PathBuf> {
    let tree = fetched("id-map-tools", alone(&[ID_MAP_TOOLS]))?;
    Ok(tree.folder().join("usr/bin"))
}

/// Finds or fetches the libraries that virtiofsd is built with: a folder that has them as archives only, so that what is linked runs
/// on a machine without them.
pub(crate) fn fs_peer_libraries() -> Result<PathBuf> {
    let tree = fetched("fs-peer-libraries", alone(&FS_PEER_LIBRARIES))?;
    let archives = tree.folder().join("archives");
    fs::create_dir_all(&archives)?;
    for name in ["libseccomp.a", "libcap-ng.a"] {
        let from = tree.folder().join("usr/lib/x86_64-linux-gnu").join(name);
        fs::copy(&from, archives.join(name))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(archives)
}

/// Packages with all that they depend on, in a folder of this name.
fn programs(name: &str, packages: &[&str]) -> Result<Tree> {
    let wanted = apt::Wanted {
        packages: packages.iter().map(|&name| name.to_owned()).collect(),
        ..apt::Wanted::default()
    };
    fetched(name, wanted)
}

/// Packages without what they depend on.
fn alone(packages: &[&str]) -> apt::Wanted {
    apt::Wanted {
        alone: packages.iter().map(|&name| name.to_owned()).collect(),
        ..apt::Wanted::default()
    }
}

fn fetched(name: &str, wanted: apt::Wanted) -> Result<Tree> {
    let (cache, _lock) = cache()?;
    let tree = Tree::new(cache.join(name));
    apt::unpack(tree.folder(), wanted, RECIPE).with_context(|| format!("cannot fetch {name}"))?;
    Ok(tree)
}

/// The folder for all that is fetched, and a lock on it: one at a time of parallel tests, and of parallel cargo runs on one target
/// folder.
fn cache() -> Result<(PathBuf, File)> {
    let cache = target_folder()?.join("provision");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("locking the provision folder")?;
    Ok((cache, lock))
}

fn how_to_get_it() -> String {
    let (major, minor) = QEMU_VERSION_MIN;
    format!(
        "cannot fetch what the guest needs. Without apt and a Debian mirror, install QEMU \
         {major}.{minor} or later (qemu-system-x86_64) and name a kernel with virtiofs built in \
         and a static busybox: GUEST_KERNEL=/path/vmlinuz GUEST_BUSYBOX=/path/busybox \
         [GUEST_MODULES=/lib/modules/VERSION] [QEMU=/path/qemu-system-x86_64]"
    )
}

fn version_of(qemu: &Program) -> Result<String> {
    let output = qemu
        .command()
        .arg("--version")
        .output()
        .with_context(|| format!("running {}", qemu.path.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{} --version: {text}", qemu.path.display());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Reads "QEMU emulator version 10.0.2 (...)".
fn is_new_enough(version: &str) -> bool {
    let mut words = version.split(' ').skip_while(|word| *word != "version");
    let numbers = words.nth(1).unwrap_or_default();
    let mut numbers = numbers.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= QEMU_VERSION_MIN,
        _ => false,
    }
}

/// Cargo's target folder: where the running program was built.
pub fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding our own program")?;
    // Cargo marks the folder as a cache.
    let folder = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists());
    match folder {
        Some(folder) => Ok(folder.to_owned()),
        None => bail!("{} is not below a cargo target folder", program.display()),
    }
}

/// Tells the user what takes so long.
pub fn progress(text: &str) {
    eprintln!("provision: {text}");
}

/// Runs a command to its end; what it printed, or an error with its messages.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", Path::new(command.get_program()).display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{command:?}: {}\n{text}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_new_enough(
            "QEMU emulator version 10.0.2 (Debian 1:10.0.2)"
        ));
        assert!(is_new_enough("QEMU emulator version 8.2.0"));
        assert!(!is_new_enough("QEMU emulator version 8.1.5"));
        assert!(!is_new_enough(
            "QEMU emulator version 7.2.22 (Debian 1:7.2)"
        ));
        assert!(!is_new_enough("something else"));
    }

    #[test]
    fn our_own_target_folder_is_found() {
        assert!(target_folder().unwrap().join("CACHEDIR.TAG").exists());
    }
}
