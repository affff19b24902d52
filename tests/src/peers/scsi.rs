//! Disks: rust-vmm's vhost-device-scsi and ours. The guest writes numbers to its disk, several at a time, and reads each one back.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use super::Device;
use super::participant::{Machine, Participant, RESOURCE, ours, plain};
use super::special::{OnHost, Special};
use super::stage::{GUEST_DEADLINE, Guest};
use crate::tools::VHOST_DEVICE_SCSI;

/// Size of the disk in bytes.
const DISK_BYTES: u64 = 64 << 20;

const START: &str = "
until [ -b /dev/sda ]; do usleep 20000; done
writers=
for writer in 1 2 3 4; do
    (
        number=0
        while :; do
            number=$((number + 1))
            place=$((writer * 1000 + number % 1000))
            line=$(printf %0511d $number)
            echo $line | dd of=/dev/sda bs=512 seek=$place conv=fsync 2>/tmp/fault || exit 1
            found=$(dd if=/dev/sda bs=512 skip=$place count=1 iflag=direct 2>/tmp/fault)
            [ $line = $found ] || { echo \"another number at block $place\" >/tmp/fault; exit 1; }
            echo $number >/tmp/new.$writer && mv /tmp/new.$writer /tmp/written.$writer
        done
    ) </dev/null >/dev/null 2>&1 & writers=\"$writers $!\"
done
until [ -e /tmp/written.1 ] && [ -e /tmp/written.2 ] && [ -e /tmp/written.3 ] && [ -e /tmp/written.4 ]; do usleep 20000; done
dmesg -c >/dev/null
";

/// Waits until every writer has gone on.
const LOOK: &str = "(
for writer in 1 2 3 4; do
    enough=$(($(cat /tmp/written.$writer) + 1))
    until [ $(cat /tmp/written.$writer) -ge $enough ]; do
        for process in $writers; do
            kill -0 $process 2>/dev/null || { cat /tmp/fault; dmesg | tail -n 3; exit 1; }
        done
        usleep 20000
    done
done
dmesg -c
)";

const STOP: &str = "kill $writers 2>/dev/null; wait; writers=";

/// What Linux says when a disk tells it of a reset, or of other changes of what it had set.
const TOLD: [&str; 2] = ["Power-on or device reset occurred", "Parameters changed"];

/// See [`Device::specials`].
pub const SPECIALS: &[Special] = &[
    Special {
        title: "a persistent reservation",
        options: &[],
        before: "until [ -b /dev/sda ]; do usleep 20000; done
            sg_persist --no-inquiry --out --register --param-sark=5eed /dev/sda &&
            sg_persist --no-inquiry --out --reserve --param-rk=5eed --prout-type=5 /dev/sda",
        on_host: OnHost::Nothing,
        after: "sg_persist --no-inquiry --in --read-reservation /dev/sda 2>&1 | grep -o 'Key=0x5eed'",
        expected: "Key=0x5eed",
    },
    Special {
        title: "a write cache that the guest has switched off",
        options: &[],
        before: "until [ -b /dev/sda ]; do usleep 20000; done
            echo write through >$(echo /sys/block/sda/device/scsi_disk/*/cache_type)",
        on_host: OnHost::Nothing,
        after: "echo 1 >/sys/block/sda/device/rescan; cat /sys/block/sda/device/scsi_disk/*/cache_type",
        expected: "write through",
    },
];

/// Programs that a guest needs besides its shell.
pub(super) const TOOLS: &[&str] = &["usr/bin/sg_persist"];

/// Modules of its kernel.
pub(super) const MODULES: &[&str] = &["virtio_scsi", "sd_mod", "sg"];

/// Who takes part. rust-vmm's README wants `param_change=off`; without `-bios qboot.rom` its disks are not found after the firmware
/// has looked at them.
pub fn participants() -> Result<Vec<Participant>> {
    let peer = plain(VHOST_DEVICE_SCSI.provide()?);
    let daemon = ours("vhost-device-scsi")?;
    let chardev = ["-chardev", "socket,id=disk,path={socket}", "-device"];
    let stock: Vec<&str> = chardev
        .into_iter()
        .chain(["vhost-user-scsi-pci,id=scsi,chardev=disk"])
        .collect();
    let careful: Vec<&str> = chardev
        .into_iter()
        .chain([
            "vhost-user-scsi-pci,id=scsi,chardev=disk,param_change=off",
            "-bios",
            "qboot.rom",
        ])
        .collect();
    let unit = format!("--lun path={RESOURCE},lun=0");
    Ok(vec![
        Participant::new(
            "rust-vmm 0.1.0",
            Device::Scsi,
            peer.clone(),
            RESOURCE,
            &stock,
        ),
        Participant::new(
            "rust-vmm 0.1.0, `param_change=off`, `-bios qboot.rom`",
            Device::Scsi,
            peer,
            RESOURCE,
            &careful,
        ),
        Participant::new("ours", Device::Scsi, daemon.clone(), &unit, &stock),
        Participant::new("ours, stateful type", Device::Scsi, daemon, &unit, &stock).stateful(),
    ])
}

/// See the [module](self).
#[derive(Debug)]
pub struct Writers;

impl Guest for Writers {
    fn start_work(&mut self, machine: &mut Machine) -> Result<()> {
        machine.run("finding its disk", START, GUEST_DEADLINE)?;
        Ok(())
    }

    fn look(&mut self, machine: &mut Machine) -> Result<String> {
        let log = machine.run("its disk", LOOK, GUEST_DEADLINE)?;
        let is_told = TOLD.iter().any(|text| log.contains(text));
        Ok(if is_told {
            "guest is told of a reset"
        } else {
            ""
        }
        .to_owned())
    }

    fn stop_work(&mut self, machine: &mut Machine) -> Result<()> {
        machine.run("ending its work", STOP, GUEST_DEADLINE)?;
        Ok(())
    }

    fn make_resource(&self, path: &Path) -> Result<()> {
        Ok(File::create_new(path)?.set_len(DISK_BYTES)?)
    }
}
