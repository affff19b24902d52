//! A virtual machine with a share, a disk and a screen at once, each served by a daemon, and what its guest does with all three.
//!
//! The programs in the guest never stop working: one on the share, which keeps files open that have no name any more, and one on
//! the disk, which reads back every block that it has written. The screen has a picture that must stay. Knows how to look whether all of
//! this is as it should be, not what is done to the machine meanwhile.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::rig::{Rig, WORKLOAD};
use super::vm::{BOOT_DEADLINE, Config, DEADLINE, Start, Vm};
use crate::daemon_runner::Daemon;
use crate::{fs_daemon, workload};

/// What the guest needs of its kernel.
pub const MODULES: [&str; 3] = ["virtio_scsi", "sd_mod", "virtio_gpu"];

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Fills the screen with noise. It ends with an error, since the screen has an end.
const DRAW: &str = "cat /dev/urandom >/dev/fb0 2>/dev/null; true";

/// Writes numbers to the disk, reads each one back from the device, and ends when one is not what it was.
const DISK_PROGRAM: &str = "
number=0
while [ ! -e /tmp/disk.end ]; do
    number=$((number + 1))
    line=$(printf %0511d $number)
    echo $line | dd of=/dev/sda bs=512 seek=$((number % 1000)) conv=fsync 2>/dev/null || exit 1
    read=$(dd if=/dev/sda bs=512 skip=$((number % 1000)) count=1 iflag=direct 2>/dev/null)
    [ $line = $read ] || exit 1
    echo $number >/tmp/disk.new && mv /tmp/disk.new /tmp/disk.done
done
";

/// A VM, and the daemons of its devices; they end by themselves when QEMU does.
#[derive(Debug)]
pub struct WholeMachine {
    /// The machine.
    pub vm: Vm,
    /// The daemons by the names of their devices.
    pub daemons: [(&'static str, Daemon); 3],
    screenshot: PathBuf,
}

impl WholeMachine {
    /// Starts a machine with the folder `share` and the disk image `image`.
    pub fn start(rig: &Rig, name: &str, start: Start, share: &Path, image: &Path) -> Result<Self> {
        let unit = format!("path={},lun=0", image.display());
        let daemons = [
            ("fs", fs_daemon::start(share, "auto")?),
            ("scsi", daemon("vhost-device-scsi", &["--lun", &unit])?),
            ("gpu", daemon("vhost-device-gpu", &["--migratable"])?),
        ];
        let [fs, scsi, gpu] = &daemons.each_ref().map(|(_, daemon)| daemon.socket());
        let mut config = Config::new(name, start)
            .with_fs("share", &fs.display().to_string())
            .with_scsi("disk", &scsi.display().to_string());
        config.devices.extend([
            "-chardev".to_owned(),
            format!("socket,id=display,path={}", gpu.display()),
            "-device".to_owned(),
            "vhost-user-gpu-pci,id=gpu,chardev=display,xres=640,yres=480".to_owned(),
        ]);
        for (_, daemon) in &daemons {
            config = config.with_log(daemon.log_path());
        }
        Ok(Self {
            vm: Vm::start(rig, config)?,
            daemons,
            screenshot: rig.path(&format!("{name}.ppm")),
        })
    }

    /// Waits for the guest and starts its programs; what is on its screen then.
    pub fn start_work(&mut self) -> Result<Vec<u8>> {
        self.vm.wait_ready(BOOT_DEADLINE)?;
        let blank = self.screen()?;
        self.vm.run(&format!(
            "mount -t virtiofs share /mnt; {WORKLOAD} serve /mnt/work /tmp/socket </dev/null >/tmp/log 2>&1 &"
        ))?;
        self.vm.run(
            "until [ -b /dev/sda ] && [ -c /dev/fb0 ]; do usleep 20000; done; \
             echo 0 >/sys/class/graphics/fbcon/cursor_blink; echo >/dev/tty0",
        )?;
        self.vm.run(&format!(
            "( {DISK_PROGRAM} ) </dev/null >/dev/null 2>&1 & disk=$!"
        ))?;
        self.draw(&blank)
    }

    /// Lets the guest draw something new, and waits until it is on the screen and does not change any more.
    pub fn draw(&mut self, old: &[u8]) -> Result<Vec<u8>> {
        self.vm.run(DRAW)?;
        let end = Instant::now() + DEADLINE;
        let mut last = Vec::new();
        loop {
            let now = self.screen()?;
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

    /// An error unless the programs have moved on, have found no fault, and the screen shows `picture`.
    pub fn check(&mut self, picture: &[u8]) -> Result<()> {
        let disk = self.written()?;
        self.vm.run("sync; echo 3 >/proc/sys/vm/drop_caches")?;
        self.vm.run(&format!("{WORKLOAD} ask /tmp/socket verify"))?;
        let end = Instant::now() + DEADLINE;
        while self.written()? == disk {
            ensure!(
                Instant::now() < end,
                "the program on the disk does not go on\n{}",
                self.vm.report()
            );
            self.vm.run("kill -0 $disk")?;
        }
        while self.screen()? != picture {
            ensure!(
                Instant::now() < end,
                "another picture\n{}",
                self.vm.report()
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Ends the programs, which must have found no fault, and everything else.
    pub fn end(mut self, share: &Path) -> Result<()> {
        let answer = self.vm.run(&format!("{WORKLOAD} ask /tmp/socket stop"))?;
        let records = workload::records(&answer)?;
        self.vm
            .run("touch /tmp/disk.end; wait $disk && wait && umount /mnt")?;
        self.quit()?;
        let seen = workload::check(&share.join("work"))?;
        ensure!(
            seen == records,
            "the host sees {seen} records, the guest {records}"
        );
        Ok(())
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

    /// How many blocks the program on the disk has written.
    fn written(&mut self) -> Result<u64> {
        let text = self.vm.run("cat /tmp/disk.done 2>/dev/null || echo 0")?;
        Ok(text.trim().parse()?)
    }

    /// What QEMU shows: the bytes of a pixmap.
    fn screen(&mut self) -> Result<Vec<u8>> {
        let arguments = json!({ "filename": self.screenshot, "device": "gpu", "head": 0 });
        self.vm.execute("screendump", &arguments)?;
        Ok(std::fs::read(&self.screenshot)?)
    }
}

/// Starts a daemon that is built with us, or the one that the environment names: another release.
fn daemon(program: &str, arguments: &[&str]) -> Result<Daemon> {
    let variable = program.to_uppercase().replace('-', "_");
    match std::env::var_os(variable) {
        Some(path) => Daemon::start_at(Path::new(&path), arguments),
        None => Daemon::start(program, arguments),
    }
}
