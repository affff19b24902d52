//! What the machines of one test of SCSI disks share: programs, images, and how an image is checked without a guest.
//!
//! The programs (fio, e2fsprogs, `sg3_utils`) are Debian's, in a folder of their own. Knows what a guest leaves on a disk, not how.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::provision::{Tree, run, scsi_tools};
use super::rig::Rig;
use crate::daemon_runner::built;

/// What the guest needs of its kernel; ext4 asks for the first one by another name.
const MODULES: [&str; 5] = ["crc32c_generic", "virtio_scsi", "sd_mod", "sg", "ext4"];

/// The program that a guest copies to its disk: something that the host knows, too.
pub(super) const SAMPLE: &str = "sbin/debugfs";

/// Names of the copy and of the file under load, on the disk.
pub(super) const COPY: &str = "copy";
pub(super) const LOAD: &str = "load";

/// fio's arguments by which every block of the load can be checked.
pub(super) const VERIFICATION: [&str; 4] = [
    "--bs=4k",
    "--size=4m",
    "--verify=crc32c",
    "--verify_fatal=1",
];

/// Where the partition begins, in sectors of 512 bytes.
pub(super) const PARTITION_SECTOR: u64 = 2048;

/// Size of the file system's blocks in bytes.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// See the [module](self).
#[derive(Debug)]
pub struct ScsiRig {
    /// Folder, guest image, QEMU.
    pub(super) rig: Rig,
    pub(super) tools: Tree,
    pub(super) program: PathBuf,
}

impl ScsiRig {
    /// Provisions everything.
    pub fn prepare() -> Result<Self> {
        Ok(Self {
            tools: scsi_tools()?,
            rig: Rig::prepare_with(&MODULES)?,
            program: built("vhost-device-scsi")?,
        })
    }

    /// The same, with our device types in place of QEMU's own.
    pub fn with_stateful_devices(mut self) -> Result<Self> {
        self.rig = self.rig.with_stateful_devices()?;
        Ok(self)
    }

    /// A path for a file or a socket.
    pub fn path(&self, name: &str) -> PathBuf {
        self.rig.path(name)
    }

    /// A new image of zeros, `mib` MiB long.
    pub fn image(&self, name: &str, mib: u64) -> Result<PathBuf> {
        let path = self.rig.path(name);
        File::create_new(&path)?.set_len(mib << 20)?;
        Ok(path)
    }

    /// Checks a disk that a guest has filled, put load on and unmounted: its file system is sound, and its files are whole.
    pub fn check(&self, image: &Path) -> Result<()> {
        self.run("sbin/e2fsck", &["-fn", &partition(image)])?;
        let copy = fs::read(self.extract(image, COPY)?)?;
        let sample = fs::read(self.tools.folder().join(SAMPLE))?;
        ensure!(
            copy == sample,
            "the file that the guest kept is another one"
        );
        let load = self.extract(image, LOAD)?.display().to_string();
        let arguments = ["--name=load", "--rw=read", &format!("--filename={load}")];
        self.run("usr/bin/fio", &[&arguments[..], &VERIFICATION].concat())?;
        Ok(())
    }

    /// Flips a bit of what the load has left on a disk. [`check`](Self::check) is worth something only if it minds.
    pub fn damage(&self, image: &Path) -> Result<()> {
        let find = format!("bmap /{LOAD} 1");
        let block = self.run("sbin/debugfs", &["-R", &find, &partition(image)])?;
        let block: u64 = block.trim().parse()?;
        let at = PARTITION_SECTOR * 512 + block * BLOCK_BYTES + BLOCK_BYTES / 2;
        let file = File::options().read(true).write(true).open(image)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 0x10], at)?;
        Ok(())
    }

    /// Copies a file out of an image.
    fn extract(&self, image: &Path, name: &str) -> Result<PathBuf> {
        let path = self.rig.path(&format!("extracted-{name}"));
        let dump = format!("dump /{name} {}", path.display());
        self.run("sbin/debugfs", &["-R", &dump, &partition(image)])?;
        Ok(path)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.tools.program(program)?.command().args(arguments))
    }
}

/// The partition in an image, as programs of e2fsprogs want it.
fn partition(image: &Path) -> String {
    format!("{}?offset={}", image.display(), PARTITION_SECTOR * 512)
}
