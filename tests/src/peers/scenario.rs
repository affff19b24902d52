//! What is done to a machine while its guest works, whoever serves its device; what comes of it is told, not judged.
//!
//! Knows no device.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Signal, kill_process};

use super::marker;
use super::observation::{Finding, Verdict};
use super::participant::Machine;
use super::special::{OnHost, Special};
use super::stage::{GUEST_DEADLINE, REFUSAL, REFUSED, SOURCE_GOES_ON, Stage, join, text_of};
use crate::qemu::migration::Failure;
use crate::qemu::{Outcome, Start, channel, migration};

/// How often a machine is stopped.
const STOPS: u32 = 10;

/// How often a machine moves, of which every second time is back.
const HOPS: u32 = 4;

/// Begins what QEMU sends of a stopped machine, and comes before any device.
const STOPPED_MACHINE: &[u8] = b"cpu_common";

/// Something that is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Booted and set to work.
    Boot,
    /// Stopped and continued under load.
    Stops,
    /// Saved to a file, ended, and restored in new processes.
    Snapshot,
    /// Migrated under load.
    Migration,
    /// Migrated once more.
    Again,
    /// Migrated to and fro.
    ThereAndBack,
    /// Migrated to a machine whose daemon dies; to another one afterwards.
    Death,
    /// Migrated with a bit of the state flipped; to another machine afterwards.
    Damage,
    /// Cancelled while memory is copied, and migrated afterwards.
    Cancel,
}

impl Scenario {
    /// All, in the order in which they are played.
    pub const ALL: [Self; 9] = [
        Self::Boot,
        Self::Stops,
        Self::Snapshot,
        Self::Migration,
        Self::Again,
        Self::ThereAndBack,
        Self::Death,
        Self::Damage,
        Self::Cancel,
    ];

    /// Names a row.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Boot => "boots and works",
            Self::Stops => "stopped and continued 10 times under load",
            Self::Snapshot => "saved to a file, restored in new processes",
            Self::Migration => "migrated under load",
            Self::Again => "migrated a second time",
            Self::ThereAndBack => "there and back, twice",
            Self::Death => "destination's daemon killed, then migrated",
            Self::Damage => "state damaged on its way, then migrated",
            Self::Cancel => "cancelled, then migrated",
        }
    }
}

impl Stage {
    /// Does something to the machine, and looks. What its guest has been told of.
    pub(super) fn play(&mut self, scenario: Scenario) -> Result<String> {
        match scenario {
            Scenario::Boot => self.look(),
            Scenario::Stops => self.stop(),
            Scenario::Snapshot => self.snapshot(),
            Scenario::Migration => {
                self.downtime = Duration::ZERO;
                let told = self.hop()?;
                Ok(join(&format!("{} ms", self.downtime.as_millis()), &told))
            }
            Scenario::Again => {
                if self.hops == 0 {
                    self.hop()?;
                }
                self.hop()
            }
            Scenario::ThereAndBack => (0..HOPS).try_fold(String::new(), |_, _| self.hop()),
            Scenario::Death => self.kill_destination(),
            Scenario::Damage => self.damage_state(),
            Scenario::Cancel => self.cancel(),
        }
    }

    /// Lets a guest do what is special, moves it, and lets it look.
    pub(super) fn play_special(&mut self, special: &Special) -> Result<String> {
        let source = self.source()?;
        let prepared = source.run("preparing", special.before, GUEST_DEADLINE);
        if let Err(error) = prepared {
            // It may have hung; a guest that says no goes on.
            source.run("doing nothing", "true", GUEST_DEADLINE)?;
            let mut finding = error.downcast::<Finding>()?;
            finding.text = String::from("refused to the guest");
            finding.verdict = Verdict::Refused;
            return Err(finding.into());
        }
        if special.on_host == OnHost::ForgetNames {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "2").map_err(|error| {
                Finding::fails("cannot be tried").with(format!("host: drop_caches: {error}"))
            })?;
        }
        let note = self.hop()?;
        let text = self
            .source()?
            .run("finding it again", special.after, GUEST_DEADLINE)?;
        if text.trim() != special.expected {
            let finding = Finding::fails("data lost");
            let text = text.trim().replace('\n', " ");
            let expected = special.expected.replace('\n', " ");
            return Err(finding
                .with(format!("guest: {text:?} instead of {expected:?}"))
                .into());
        }
        Ok(note)
    }

    fn stop(&mut self) -> Result<String> {
        for _ in 0..STOPS {
            let source = self.source()?;
            source.vm.stop()?;
            source.vm.cont()?;
        }
        self.look()
    }

    fn snapshot(&mut self) -> Result<String> {
        let file = self.rig.path(&format!("snapshot{}", self.count));
        if let Outcome::Failed(failure) = migration::save(&mut self.source()?.vm, &file)? {
            self.source()?.vm.cont()?;
            return Err(self.failed(&failure).into());
        }
        self.leave()?;
        let destination = self.start(Start::Incoming)?;
        let destination = self.destination.insert(destination);
        let restored = migration::restore(&mut destination.vm, &file);
        fs::remove_file(&file)?;
        restored.map_err(|_| Finding::fails("is not restored"))?;
        self.arrive()
    }

    fn hop(&mut self) -> Result<String> {
        let destination = self.start(Start::Incoming)?;
        self.destination = Some(destination);
        let socket = self.rig.path(&format!("migration{}", self.count));
        let (source, destination) = self.both()?;
        match migration::live(&mut source.vm, &mut destination.vm, &socket)? {
            Outcome::Failed(failure) => Err(self.failed(&failure).into()),
            Outcome::Completed(transfer) => {
                self.leave()?;
                self.downtime = self.downtime.max(transfer.downtime);
                self.arrive()
            }
        }
    }

    fn kill_destination(&mut self) -> Result<String> {
        let destination = self.start(Start::Incoming)?;
        let victim = destination.backend.id();
        let marker = self.participant.carrier.unwrap_or(STOPPED_MACHINE);
        // It has not been waited for, so the process is there.
        let has_moved = self.disturb(destination, marker, move |_| {
            let _killed = kill_process(victim, Signal::KILL);
        })?;
        if has_moved {
            return Err(self.moved_wrongly("moves to the dead daemon"));
        }
        let told = self.hop()?;
        Ok(join("source goes on", &told))
    }

    fn damage_state(&mut self) -> Result<String> {
        let Some(carrier) = self.participant.carrier else {
            self.hop()?;
            return Err(Finding::refused("there is no state", "QEMU: migrates without one").into());
        };
        let destination = self.start(Start::Incoming)?;
        if self.disturb(destination, carrier, channel::damage)? {
            return Err(self.moved_wrongly("damage is accepted"));
        }
        let told = self.hop()?;
        Ok(join("source goes on", &told))
    }

    /// The guest is where it should not be: what it finds there.
    fn moved_wrongly(&mut self, how: &str) -> anyhow::Error {
        let text = match self.arrive() {
            Ok(_) => format!("{how}, guest goes on"),
            Err(error) => format!("{how}; {}", text_of(&error)),
        };
        Finding::fails(text).into()
    }

    /// Migrates, with a disturbance when `marker` comes by; whether the guest has moved all the same. The destination is gone
    /// otherwise, and the source has been looked at.
    fn disturb(
        &mut self,
        destination: Machine,
        marker: &'static [u8],
        disturbance: impl FnOnce(&mut [u8]) + Send + 'static,
    ) -> Result<bool> {
        self.destination = Some(destination);
        let [between, listen] =
            ["between", "listen"].map(|name| self.rig.path(&format!("{name}{}", self.count)));
        let seen = marker::intercept_at(marker, &between, &listen, disturbance)?;
        let (source, destination) = self.both()?;
        let outcome =
            migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
        if let Outcome::Failed(failure) = outcome {
            let finding = self.failed(&failure);
            if finding.text != SOURCE_GOES_ON {
                return Err(finding.into());
            }
            self.destination = None;
        } else {
            self.leave()?;
        }
        if !seen.get() {
            bail!("nothing was disturbed: no {}", marker.escape_ascii());
        }
        Ok(self.destination.is_some())
    }

    fn cancel(&mut self) -> Result<String> {
        let destination = self.start(Start::Incoming)?;
        self.destination = Some(destination);
        let socket = self.rig.path(&format!("cancelled{}", self.count));
        let (source, destination) = self.both()?;
        migration::cancelled(&mut source.vm, &mut destination.vm, &socket)?;
        self.destination = None;
        self.source()?.vm.wait_status("running")?;
        self.look()?;
        self.hop()
    }

    /// A migration has failed: whether the source goes on.
    fn failed(&mut self, failure: &Failure) -> Finding {
        let refusal = failure.reason.strip_prefix(REFUSAL);
        let (text, said) = match refusal {
            Some(reason) => (REFUSED, format!("QEMU: {reason}")),
            None => (SOURCE_GOES_ON, format!("source's QEMU: {}", failure.reason)),
        };
        match self.go_on() {
            Ok(()) => Finding::refused(text, said),
            Err(error) => Finding::fails(format!("{text}: not so, {}", text_of(&error))).with(said),
        }
    }

    /// The source runs, if need be after it was told to, and its guest has lost nothing.
    fn go_on(&mut self) -> Result<()> {
        let source = self.source()?;
        let running = source.vm.wait_status("running");
        if running.is_err() {
            source.vm.cont()?;
        }
        self.look()?;
        Ok(())
    }

    /// The guest is elsewhere: the source ends.
    fn leave(&mut self) -> Result<()> {
        // However it ends: nobody needs it any more.
        let _ = self.take_source()?.quit();
        Ok(())
    }

    /// The guest is here now.
    fn arrive(&mut self) -> Result<String> {
        self.source = self.destination.take();
        self.hops += 1;
        self.look()
    }
}
