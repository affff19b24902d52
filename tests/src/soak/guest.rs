//! The soak in a Linux guest under QEMU.
//!
//! Knows what can happen to a machine. Its device is of the type that suspends and resumes explicitly.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::place::{Event, Folder, Place, Ran};
use super::programs::{Commands, Toolbox};
use crate::daemon_runner::Daemon;
use crate::qemu::fs_machine::FsMachine;
use crate::qemu::image::Image;
use crate::qemu::{Rig, Start, migration};
use crate::random::Random;

/// Shortest and longest time in milliseconds between two events, and longest within one.
const APART_MIN: u32 = 300;
const APART_MAX: u32 = 4_000;
const STOPPED_MAX: u32 = 300;

/// Where the share is.
const MOUNT: &str = "/mnt";

pub(super) struct InGuest {
    machine: FsMachine,
    /// How many machines there were.
    number: u32,
    share: PathBuf,
    programs: Commands,
    rig: Rig,
}

impl InGuest {
    pub(super) fn new(toolbox: &Toolbox) -> Result<Self> {
        let rig = Rig::prepare()?.with_stateful_devices()?;
        let mut image = Image::default();
        toolbox.add_to(&mut image)?;
        rig.add(&image)?;
        let share = rig.path("shared");
        fs::create_dir(&share)?;
        let mut machine = start(&rig, 0, Start::Boot, &share)?;
        machine.mount()?;
        Ok(Self {
            machine,
            number: 0,
            share,
            programs: toolbox.in_guest()?,
            rig,
        })
    }

    /// A machine that waits for the state of this one.
    fn next(&mut self) -> Result<FsMachine> {
        self.number += 1;
        start(&self.rig, self.number, Start::Incoming, &self.share)
    }

    fn migrate(&mut self) -> Result<()> {
        let mut next = self.next()?;
        let socket = self.rig.path("migration");
        let outcome = migration::live(&mut self.machine.vm, &mut next.vm, &socket)?;
        outcome.completed()?;
        std::mem::replace(&mut self.machine, next).quit()
    }

    /// Saves it to a file. Its guest stays stopped.
    fn save(&mut self) -> Result<PathBuf> {
        let file = self.rig.path("snapshot");
        let outcome = migration::save(&mut self.machine.vm, &file)?;
        outcome.completed()?;
        Ok(file)
    }

    fn restore(&mut self) -> Result<()> {
        let file = self.save()?;
        let next = self.next()?;
        std::mem::replace(&mut self.machine, next).quit()?;
        migration::restore(&mut self.machine.vm, &file)?;
        Ok(fs::remove_file(file)?)
    }
}

impl Place for InGuest {
    fn programs(&self) -> &Commands {
        &self.programs
    }

    fn new_folder(&mut self, name: &str) -> Result<Folder> {
        let inside = format!("{MOUNT}/{name}");
        self.machine.vm.run(&format!("mkdir {inside}"))?;
        Ok(Folder {
            inside,
            on_host: self.share.join(name),
        })
    }

    fn remove_folder(&mut self, folder: &Folder) -> Result<()> {
        self.machine.vm.run(&format!("rm -r {}", folder.inside))?;
        Ok(())
    }

    fn start(&mut self, script: &str) -> Result<()> {
        self.machine.vm.run(&format!(
            "rm -f /tmp/status; {{ ( {script}\n ) </dev/null >/tmp/output 2>&1; echo $? >/tmp/ended; mv /tmp/ended /tmp/status; }} &"
        ))?;
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<Ran>> {
        let status = self
            .machine
            .vm
            .run("[ ! -e /tmp/status ] || cat /tmp/status")?;
        if status.is_empty() {
            return Ok(None);
        }
        Ok(Some(Ran {
            status: status.trim().parse().ok(),
            output: self.machine.vm.run("cat /tmp/output")?,
        }))
    }

    fn disturb(&mut self, random: &mut Random) -> Result<Event> {
        Ok(match random.below(4) {
            0 => {
                self.machine.vm.stop()?;
                thread::sleep(Duration::from_millis(random.between(0, STOPPED_MAX).into()));
                self.machine.vm.cont()?;
                Event::Suspend
            }
            1 => {
                let file = self.save().context("a snapshot")?;
                self.machine.vm.cont()?;
                fs::remove_file(file)?;
                Event::Snapshot
            }
            2 => {
                self.restore()
                    .context("a snapshot goes on in another machine")?;
                Event::Restore
            }
            _ => {
                self.migrate().context("migrating")?;
                Event::Migration
            }
        })
    }

    fn interval(&self, random: &mut Random) -> Duration {
        Duration::from_millis(random.between(APART_MIN, APART_MAX).into())
    }

    fn log(&self) -> String {
        self.machine.vm.report()
    }

    fn finish(mut self: Box<Self>) -> Result<Option<usize>> {
        self.machine.vm.run(&format!("umount {MOUNT}"))?;
        self.machine.quit()?;
        Ok(None)
    }
}

fn start(rig: &Rig, number: u32, start: Start, share: &Path) -> Result<FsMachine> {
    let share = format!("--shared-dir={}", share.display());
    let daemon = Daemon::start("vhost-device-fs", [share.as_str(), "--xattr"])?;
    FsMachine::start_on(rig, &format!("machine-{number}"), start, daemon)
}
