//! What the guest of a whole machine does while things are done to the machine, and how to look whether it has noticed.
//!
//! Its programs never stop: one on the share, which keeps files open that have no name any more; one on the disk, which reads back
//! every block that it has written, and whose guest holds a persistent reservation; and one that draws one picture after the other.
//! Knows the programs, not what is done meanwhile. It outlives the machines between which it moves.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use common::state::DeviceKind;

use super::WholeMachine;
use super::setup::SCREEN;
use crate::qemu::rig::{PAINTER, RESERVER, WORKLOAD};
use crate::qemu::vm::{BOOT_DEADLINE, DEADLINE};
use crate::{painter, workload};

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Milliseconds between two pictures: the guest has one processor, for all of its programs.
const PAINTER_PAUSE_MS: u32 = 200;

/// The guest's key for its reservation.
const RESERVATION_KEY: &str = "5eed0fa11";

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

/// A cursor that blinks would change pictures.
pub(super) const TURN_SCREEN_ON: &str = "
until [ -c /dev/fb0 ]; do usleep 20000; done
echo 0 >/sys/class/graphics/fbcon/cursor_blink
echo >/dev/tty0
";

/// The guest's programs, and what they have to show.
#[derive(Clone, Debug)]
pub struct Work {
    devices: Vec<DeviceKind>,
    /// What the disk tells about reservations, byte for byte, if that is known.
    reservation: Option<String>,
    /// How many pictures were painted: the number of the next one.
    pictures: u32,
}

impl Work {
    /// Waits for the guest to boot, and starts its programs.
    pub fn start(machine: &mut WholeMachine) -> Result<Self> {
        let devices = machine.kinds().collect();
        let work = Self::of(devices);
        work.start_programs(machine)
    }

    /// What programs that were started on these devices have to show.
    pub(super) fn of(devices: Vec<DeviceKind>) -> Self {
        Self {
            devices,
            reservation: None,
            pictures: 0,
        }
    }

    pub(super) fn start_programs(mut self, machine: &mut WholeMachine) -> Result<Self> {
        let vm = &mut machine.vm;
        vm.wait_ready(BOOT_DEADLINE)?;
        if self.has(DeviceKind::Fs) {
            vm.run(&format!(
                "mount -t virtiofs share /mnt; {WORKLOAD} serve /mnt/work /tmp/socket </dev/null >/tmp/log 2>&1 &"
            ))?;
        }
        if self.has(DeviceKind::Scsi) {
            vm.run("until [ -b /dev/sda ]; do usleep 20000; done")?;
            vm.run(&format!("{RESERVER} take /dev/sda {RESERVATION_KEY}"))?;
            let shown = vm.run(&format!("{RESERVER} show /dev/sda"))?;
            ensure!(shown.contains(RESERVATION_KEY), "not reserved: {shown}");
            self.reservation = Some(shown);
            vm.run(&format!(
                "( {DISK_PROGRAM} ) </dev/null >/dev/null 2>&1 & disk=$!"
            ))?;
        }
        if self.has(DeviceKind::Gpu) {
            vm.run(TURN_SCREEN_ON)?;
            self.start_painting(machine)?;
        }
        Ok(self)
    }

    /// An error unless all programs move on, have found no fault, and have what they had; the screen shows their last picture.
    pub fn goes_on(&mut self, machine: &mut WholeMachine) -> Result<()> {
        let before = self.progress(machine)?;
        if self.has(DeviceKind::Gpu) {
            self.stop_painting(machine)?;
            self.start_painting(machine)?;
        }
        if self.has(DeviceKind::Scsi) {
            let now = machine.vm.run(&format!("{RESERVER} show /dev/sda"))?;
            let then = self.reservation.get_or_insert_with(|| now.clone());
            ensure!(now == *then, "reservations: {now} instead of {then}");
        }
        let end = Instant::now() + DEADLINE;
        loop {
            let now = self.progress(machine)?;
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "a program does not go on: {before:?}, {now:?}\n{}",
                machine.vm.report()
            );
        }
    }

    /// As [`goes_on`](Self::goes_on), and everything on the share is read back from the host.
    pub fn check(&mut self, machine: &mut WholeMachine) -> Result<()> {
        if self.has(DeviceKind::Fs) {
            let vm = &mut machine.vm;
            vm.run("sync; echo 3 >/proc/sys/vm/drop_caches")?;
            vm.run(&format!("{WORKLOAD} ask /tmp/socket verify"))?;
        }
        self.goes_on(machine)
    }

    /// Ends the programs, which must have found no fault, and the machine; what they have left is compared on the host.
    pub fn end(mut self, mut machine: WholeMachine, share: &Path) -> Result<()> {
        let mut records = None;
        if self.has(DeviceKind::Gpu) {
            self.stop_painting(&mut machine)?;
        }
        if self.has(DeviceKind::Scsi) {
            machine.vm.run("touch /tmp/disk.end; wait $disk")?;
        }
        if self.has(DeviceKind::Fs) {
            let vm = &mut machine.vm;
            let answer = vm.run(&format!("{WORKLOAD} ask /tmp/socket stop"))?;
            records = Some(workload::records(&answer)?);
            vm.run("wait && umount /mnt")?;
        }
        machine.quit()?;
        if let Some(records) = records {
            let seen = workload::check(&share.join("work"))?;
            ensure!(
                seen == records,
                "the host sees {seen} records, the guest {records}"
            );
        }
        Ok(())
    }

    fn has(&self, kind: DeviceKind) -> bool {
        self.devices.contains(&kind)
    }

    /// How far the programs are on the share and on the disk.
    fn progress(&self, machine: &mut WholeMachine) -> Result<Vec<u64>> {
        let mut progress = Vec::new();
        if self.has(DeviceKind::Fs) {
            let question = format!("{WORKLOAD} ask /tmp/socket records");
            progress.push(workload::records(&machine.vm.run(&question)?)?);
        }
        if self.has(DeviceKind::Scsi) {
            let question = "kill -0 $disk && { cat /tmp/disk.done 2>/dev/null || echo 0; }";
            progress.push(machine.vm.run(question)?.trim().parse()?);
        }
        Ok(progress)
    }

    fn start_painting(&self, machine: &mut WholeMachine) -> Result<()> {
        let first = self.pictures;
        machine.vm.run(&format!(
            "rm -f /tmp/painter-stop; {PAINTER} go {first} {PAINTER_PAUSE_MS} </dev/null >/tmp/painter.log 2>&1 & painter=$!"
        ))?;
        Ok(())
    }

    /// It has painted since it was started, and its last picture is seen.
    fn stop_painting(&mut self, machine: &mut WholeMachine) -> Result<()> {
        let answer = machine
            .vm
            .run("touch /tmp/painter-stop; wait $painter && cat /tmp/painter.log")?;
        self.pictures = painter::pictures(&answer)?;
        let (width, height) = SCREEN;
        let expected = painter::pixmap(self.pictures.saturating_sub(1), width, height);
        let end = Instant::now() + DEADLINE;
        while machine.screen()? != expected {
            if Instant::now() > end {
                bail!(
                    "picture {} is not seen\n{}",
                    self.pictures,
                    machine.vm.report()
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}
