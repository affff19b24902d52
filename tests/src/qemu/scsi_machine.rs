//! A virtual machine with a SCSI daemon, and what its guest does with the disks.
//!
//! The guest's programs come over a second device: a share of the folder that they were unpacked into. Knows how to put load on a
//! disk and to look at it, not what is done to the machine meanwhile.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::provision::{Tree, run};
use super::scsi_rig::{BLOCK_BYTES, COPY, LOAD, PARTITION_SECTOR, SAMPLE, ScsiRig, VERIFICATION};
use super::vm::{BOOT_DEADLINE, Config, Start, Vm};
use crate::daemon_runner::Daemon;
use crate::fs_daemon;

/// Names the share of programs in the guest, and where the guest mounts it.
const TAG: &str = "tools";
const TOOLS: &str = "/tools";

/// Where the guest mounts a disk.
const MOUNTED: &str = "/disk";

/// Requests that have to be completed before a load is said to go on.
const PROGRESS: u32 = 64;

/// Reads of the load that cannot be taken for those of the file system.
const READS: u32 = 256;

/// What the guest's shell knows. A disk is found by its number, since names depend on who is found first.
const FUNCTIONS: &str = "
unit() { ls /sys/class/scsi_device/0:0:0:$1/device/block 2>/dev/null; }
reads() { set -- $(cat /sys/block/$1/stat); echo $1; }
requests() { set -- $(cat /sys/block/$1/stat); echo $(($1 + $5)); }
until_true() { until eval \"$1\"; do usleep 20000; done; }
";

/// A VM with two devices, and their daemons. These end by themselves when QEMU does.
#[derive(Debug)]
pub struct ScsiMachine {
    /// The machine.
    pub vm: Vm,
    /// The SCSI daemon.
    pub daemon: Daemon,
    share: Daemon,
    tools: Tree,
    program: PathBuf,
    control: PathBuf,
}

impl ScsiMachine {
    /// Starts a machine whose SCSI daemon gets these arguments besides its sockets.
    pub fn start(rig: &ScsiRig, name: &str, start: Start, arguments: &[String]) -> Result<Self> {
        let ScsiRig {
            rig,
            tools,
            program,
        } = rig;
        let share = fs_daemon::start(tools.folder(), "always")?;
        let control = rig.path(&format!("{name}.control"));
        let mut all = vec!["--control-socket".to_owned(), control.display().to_string()];
        all.extend_from_slice(arguments);
        let daemon = Daemon::start_at(program, all)?;
        let config = Config::new(name, start)
            .with_scsi("scsi", &daemon.socket().display().to_string())
            .reconnecting("scsi")
            .with_fs(TAG, &share.socket().display().to_string())
            .with_log(daemon.log_path())
            .with_log(share.log_path());
        Ok(Self {
            vm: Vm::start(rig, config)?,
            daemon,
            share,
            tools: tools.clone(),
            program: program.clone(),
            control,
        })
    }

    /// Waits for the guest, and gives it its programs.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        self.vm.run(FUNCTIONS)?;
        self.vm.run(&format!(
            "mkdir -p {TOOLS} {MOUNTED} && mount -t virtiofs -o ro {TAG} {TOOLS}"
        ))?;
        Ok(())
    }

    /// Waits until the guest finds a condition of its shell to be true.
    pub fn wait_until(&mut self, condition: &str) -> Result<()> {
        self.vm.run(&format!("until_true '{condition}'"))?;
        Ok(())
    }

    /// The guest's name for a logical unit, when it has one.
    pub fn disk(&mut self, lun: u16) -> Result<String> {
        let find = format!("unit {}", lun_of_linux(lun));
        self.wait_until(&format!("[ -n \"$({find})\" ]"))?;
        Ok(self.vm.run(&find)?.trim().to_owned())
    }

    /// Waits until the guest has no such logical unit any more.
    pub fn wait_without(&mut self, lun: u16) -> Result<()> {
        let find = format!("unit {}", lun_of_linux(lun));
        self.wait_until(&format!("[ -z \"$({find})\" ]"))
    }

    /// How the guest calls a program of its share.
    fn tool(&self, program: &str) -> Result<String> {
        let program = self.tools.program_seen_at(program, Path::new(TOOLS))?;
        let path = program.path.display().to_string();
        Ok([vec![path], program.arguments].concat().join(" "))
    }

    /// Runs a program of the share in the guest.
    pub fn run_tool(&mut self, program: &str, arguments: &str) -> Result<String> {
        let tool = self.tool(program)?;
        self.vm.run(&format!("{tool} {arguments}"))
    }

    /// As [`run_tool`](Self::run_tool), whatever its status is.
    pub fn try_tool(&mut self, program: &str, arguments: &str) -> Result<u32> {
        let tool = self.tool(program)?;
        Ok(self.vm.try_run(&format!("{tool} {arguments}"))?.status)
    }

    /// What the guest's kernel has said since it was asked the last time. A boot is a reset for a disk, and is among it.
    pub fn kernel_log(&mut self) -> Result<String> {
        self.vm.run("dmesg -c")
    }

    /// Keys of persistent reservations, as a disk tells them.
    pub fn registered_keys(&mut self, disk: &str) -> Result<String> {
        let read = format!("--no-inquiry --in --read-keys /dev/{disk}");
        self.run_tool("usr/bin/sg_persist", &read)
    }

    /// Makes a partition on a disk and a file system in it, mounts it, and puts the sample there.
    pub fn fill(&mut self, disk: &str) -> Result<()> {
        self.vm.run(&format!(
            "printf 'o\\nn\\np\\n1\\n{PARTITION_SECTOR}\\n\\nw\\n' | fdisk -u /dev/{disk}"
        ))?;
        self.wait_until(&format!("[ -b /dev/{disk}1 ]"))?;
        self.run_tool(
            "sbin/mke2fs",
            &format!("-q -t ext4 -b {BLOCK_BYTES} /dev/{disk}1"),
        )?;
        self.mount(disk)?;
        self.vm
            .run(&format!("cp {TOOLS}/{SAMPLE} {MOUNTED}/{COPY} && sync"))?;
        Ok(())
    }

    /// Mounts what [`fill`](Self::fill) has made.
    pub fn mount(&mut self, disk: &str) -> Result<()> {
        self.vm
            .run(&format!("mount -t ext4 /dev/{disk}1 {MOUNTED}"))?;
        Ok(())
    }

    /// Checks the mounted files, read from the disk; then unmounts it, and checks the file system.
    pub fn verify_and_unmount(&mut self, disk: &str) -> Result<()> {
        self.vm.run(&format!(
            "sync && echo 3 >/proc/sys/vm/drop_caches && cmp {TOOLS}/{SAMPLE} {MOUNTED}/{COPY}"
        ))?;
        self.run_tool("usr/bin/fio", &load("read"))?;
        self.vm.run(&format!("umount {MOUNTED}"))?;
        self.run_tool("sbin/e2fsck", &format!("-fn /dev/{disk}1"))?;
        Ok(())
    }

    /// Lets fio write to a mounted disk, and read back and check what it wrote, until it is stopped.
    pub fn start_load(&mut self, disk: &str) -> Result<()> {
        let fio = self.tool("usr/bin/fio")?;
        let load = load("randwrite");
        self.vm
            .run(&format!("enough=$(($(reads {disk}) + {READS}))"))?;
        self.vm.run(&format!(
            "rm -f /tmp/load.status; {{ {fio} {load} --loops=1000000 </dev/null >/tmp/load.log 2>&1 & \
             echo $! >/tmp/load.pid; wait $!; echo $? >/tmp/load.status; }} &"
        ))?;
        // It reads when it has written the whole file.
        self.wait_until(&format!(
            "[ -e /tmp/load.status ] || [ $(reads {disk}) -ge $enough ]"
        ))?;
        self.load_goes_on(disk)
    }

    /// Waits until the load has moved on; it is still there then, and has found no error.
    pub fn load_goes_on(&mut self, disk: &str) -> Result<()> {
        let enough = format!("[ -e /tmp/load.status ] || [ $(requests {disk}) -ge $enough ]");
        self.vm
            .run(&format!("enough=$(($(requests {disk}) + {PROGRESS}))"))?;
        self.wait_until(&enough)?;
        self.vm
            .run("[ ! -e /tmp/load.status ] || { cat /tmp/load.log; false; }")?;
        Ok(())
    }

    /// Ends the load, which must have found no error.
    pub fn stop_load(&mut self) -> Result<()> {
        self.vm
            .run("[ ! -e /tmp/load.status ] && kill -TERM $(cat /tmp/load.pid)")?;
        self.wait_until("[ -e /tmp/load.status ]")?;
        // fio's status for a signal; each error would count one more.
        self.vm.run(
            "[ $(cat /tmp/load.status) = 128 ] || { cat /tmp/load.status /tmp/load.log; false; }",
        )?;
        Ok(())
    }

    /// Runs `vhost-device-scsi ctl` for this machine's daemon.
    pub fn control(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("ctl").arg("--socket").arg(&self.control);
        run(command.args(words)).with_context(|| self.vm.report())
    }

    /// Ends QEMU; the daemons have to follow by themselves, with success.
    pub fn quit(mut self) -> Result<()> {
        let report = self.vm.report();
        self.vm.quit()?;
        for daemon in [&mut self.daemon, &mut self.share] {
            let status = daemon.wait().with_context(|| report.clone())?;
            ensure!(status.success(), "a daemon ended with {status}\n{report}");
        }
        Ok(())
    }
}

/// Linux takes the two bits that say how a number is encoded for a part of the number.
fn lun_of_linux(lun: u16) -> u16 {
    if lun < 256 { lun } else { lun | 0x4000 }
}

/// A daemon's arguments for a logical unit.
pub fn unit(lun: u16, image: &Path) -> [String; 2] {
    let unit = format!("path={},lun={lun}", image.display());
    ["--lun".to_owned(), unit]
}

/// fio's arguments.
fn load(direction: &str) -> String {
    format!(
        "--name=load --filename={MOUNTED}/{LOAD} --rw={direction} --direct=1 --ioengine=libaio --iodepth=16 {}",
        VERIFICATION.join(" ")
    )
}
