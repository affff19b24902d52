//! What people are shown: a picture on the screen of a [`WholeMachine`] that is worth looking at, with what the guest says of itself.
//!
//! The letters are the guest kernel's own, on its console; below them the painter paints. Knows nothing of what is done to the machine.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tempfile::NamedTempFile;

use super::rig::PAINTER;
use super::vm::DEADLINE;
use super::whole_machine::WholeMachine;

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Clears the console and writes to it: kernel, machine, time, and a number that is another one each time.
const TEXT: &str = r#"
hostname migrating-guest
esc=$(printf '\033')
rule() { echo "  $esc[1;34m----------------------------------------------------------------------------$esc[0m"; }
{
    echo "$esc[2J$esc[H"
    rule
    echo "    $esc[1;37mA stateful virtio-gpu: this picture survives the machine that it is on.$esc[0m"
    rule
    echo
    echo "    kernel    $esc[1;32m$(uname -sr) $(uname -m)$esc[0m"
    echo "    host      $esc[1;32m$(hostname)$esc[0m, up $esc[1;32m$(cut -d' ' -f1 /proc/uptime) s$esc[0m when this was drawn"
    echo "    share     $esc[1;33m$(find /mnt/work -type f | wc -l) files$esc[0m of virtio-fs, and one that has no name any more"
    echo "    disk      $esc[1;33m$(cat /tmp/disk.done 2>/dev/null || echo 0) blocks$esc[0m written to virtio-scsi and read back"
    echo "    number    $esc[1;31m$number$esc[0m"
    echo
} >/dev/tty0
"#;

impl WholeMachine {
    /// Has the guest draw a picture with `number` in it, and waits until it is on the screen; the bytes of a pixmap.
    pub fn draw_card(&mut self, number: u32) -> Result<Vec<u8>> {
        let before = self.shown()?;
        self.vm
            .run(&format!("number={number}\n{TEXT}\n{PAINTER} card {number}"))?;
        let end = Instant::now() + DEADLINE;
        let mut last = Vec::new();
        loop {
            let now = self.shown()?;
            if now != before && now == last {
                return Ok(now);
            }
            let report = || self.vm.report();
            ensure!(Instant::now() < end, "no new picture\n{}", report());
            last = now;
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// What QEMU shows: the bytes of a pixmap.
    pub fn shown(&mut self) -> Result<Vec<u8>> {
        let file = NamedTempFile::new()?;
        let arguments = json!({ "filename": file.path(), "device": "gpu", "head": 0 });
        self.vm.execute("screendump", &arguments)?;
        Ok(std::fs::read(file.path())?)
    }
}
