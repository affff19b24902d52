//! Where things happen to one participant: its machines, and what its guest does on them.
//!
//! A machine that has lost nothing is used again; otherwise another one boots. Knows no device, and no scenario.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::observation::{Finding, Observation, Verdict};
use super::participant::{Machine, Participant};
use super::scenario::Scenario;
use super::special::Special;
use crate::qemu::vm::BOOT_DEADLINE;
use crate::qemu::{Rig, Start};

/// How long a guest may make no progress.
pub const GUEST_DEADLINE: Duration = Duration::from_secs(90);

/// What a guest does with its device, and how it is seen that nothing of that is lost.
pub trait Guest: Debug {
    /// Sets a guest that has just booted to work.
    fn start_work(&mut self, machine: &mut Machine) -> Result<()>;

    /// An error if it has lost something or does not go on. Otherwise what it has been told of, if anything.
    fn look(&mut self, machine: &mut Machine) -> Result<String>;

    /// Lets the guest end what it does, special or not, and give back what it holds.
    fn stop_work(&mut self, machine: &mut Machine) -> Result<()>;

    /// What the daemon keeps its data in: made anew for each guest that boots.
    fn make_resource(&self, path: &Path) -> Result<()>;
}

/// Where all that happens to one participant.
#[derive(Debug)]
pub struct Stage {
    pub(super) participant: Participant,
    pub(super) rig: Rig,
    /// What the guest's shell has to be told.
    functions: String,
    pub(super) guest: Box<dyn Guest>,
    /// Whether the guest does what [`Guest`] says, and not a special.
    is_working: bool,
    pub(super) options: &'static [&'static str],
    pub(super) source: Option<Machine>,
    pub(super) destination: Option<Machine>,
    resource: PathBuf,
    /// Of machines: their names differ.
    pub(super) count: u32,
    /// How often the machine has moved since it booted.
    pub(super) hops: u32,
    /// The longest, as QEMU tells it, that a guest stood still.
    pub(super) downtime: Duration,
    /// What is told of everything that comes after the first boot, if that failed: the next one would fail, too.
    boots_not: Option<Observation>,
}

impl Stage {
    /// Prepares everything, and starts nothing.
    pub fn new(participant: Participant) -> Result<Self> {
        let (mut rig, functions) = participant.device.rig()?;
        if participant.stateful {
            rig = rig.with_stateful_devices()?;
        }
        Ok(Self {
            guest: participant.device.guest()?,
            participant,
            rig,
            functions,
            is_working: false,
            options: &[],
            source: None,
            destination: None,
            resource: PathBuf::new(),
            count: 0,
            hops: 0,
            downtime: Duration::ZERO,
            boots_not: None,
        })
    }

    /// Plays a scenario and tells what came of it.
    pub fn observe(&mut self, scenario: Scenario) -> Observation {
        if let Some(observation) = &self.boots_not {
            return observation.clone();
        }
        if self.source.is_none()
            && let Err(error) = self.boot(true)
        {
            let observation = self.conclude(Err(error));
            self.boots_not = Some(Observation {
                verdict: observation.verdict,
                text: "-".to_owned(),
                messages: Vec::new(),
            });
            return observation;
        }
        let result = self.play(scenario);
        self.conclude(result)
    }

    /// Lets a guest do what is special, moves it, and tells what it finds.
    pub fn observe_special(&mut self, special: &Special) -> Observation {
        if let Some(observation) = &self.boots_not {
            return observation.clone();
        }
        let ready = self.prepare_special(special);
        let result = ready.and_then(|()| self.play_special(special));
        let observation = self.conclude(result);
        if observation.verdict != Verdict::Works {
            // The next one is to be seen without what this one has left behind.
            self.source = None;
        }
        observation
    }

    /// A guest that has nothing to do: the one that is there, if it can be used.
    fn prepare_special(&mut self, special: &Special) -> Result<()> {
        if self.options == special.options
            && let Some(source) = &mut self.source
            && self.guest.stop_work(source).is_ok()
        {
            self.is_working = false;
            return Ok(());
        }
        self.source = None;
        self.options = special.options;
        self.boot(false)
    }

    pub(super) fn look(&mut self) -> Result<String> {
        let Some(source) = &mut self.source else {
            bail!("there is no machine");
        };
        if self.is_working {
            return self.guest.look(source);
        }
        source.run("doing nothing", "true", GUEST_DEADLINE)?;
        Ok(String::new())
    }

    fn boot(&mut self, work: bool) -> Result<()> {
        self.hops = 0;
        self.resource = self.rig.path(&format!("resource{}", self.count));
        self.guest.make_resource(&self.resource)?;
        let machine = self.start(Start::Boot)?;
        let machine = self.source.insert(machine);
        machine.wait_ready(BOOT_DEADLINE)?;
        if !self.functions.is_empty() {
            machine.run("its shell", &self.functions, GUEST_DEADLINE)?;
        }
        self.is_working = work;
        if work {
            self.guest.start_work(machine)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self, start: Start) -> Result<Machine> {
        self.count += 1;
        let name = format!("machine{}", self.count);
        self.participant
            .start(&self.rig, &name, start, &self.resource, self.options)
    }

    pub(super) fn source(&mut self) -> Result<&mut Machine> {
        self.source.as_mut().context("there is no machine")
    }

    pub(super) fn take_source(&mut self) -> Result<Machine> {
        self.source.take().context("there is no machine")
    }

    pub(super) fn both(&mut self) -> Result<(&mut Machine, &mut Machine)> {
        let both = self.source.as_mut().zip(self.destination.as_mut());
        both.context("there are no two machines")
    }

    /// Puts what happened into words. A machine that has lost something is not used any more.
    fn conclude(&mut self, result: Result<String>) -> Observation {
        let error = match result {
            Ok(note) => return Observation::works(&note),
            Err(error) => error,
        };
        let observation = self.explain(&error);
        self.destination = None;
        if observation.verdict == Verdict::Fails {
            self.source = None;
        }
        observation
    }

    fn explain(&mut self, error: &anyhow::Error) -> Observation {
        let root = error.root_cause().to_string();
        if let Some(reason) = root.strip_prefix(REFUSAL) {
            return Observation {
                verdict: Verdict::Refused,
                text: REFUSED.to_owned(),
                messages: vec![format!("QEMU: {reason}")],
            };
        }
        let mut observation = Observation {
            verdict: Verdict::Fails,
            text: text_of(error),
            messages: Vec::new(),
        };
        if let Some(finding) = error.downcast_ref::<Finding>() {
            observation.verdict = finding.verdict;
            observation.messages.clone_from(&finding.messages);
        }
        if observation.text == REFUSED {
            return observation;
        }
        let sides = match self.destination {
            Some(_) => ["source's ", "destination's "],
            None => ["", ""],
        };
        let machines = [&mut self.source, &mut self.destination];
        for (machine, side) in machines.into_iter().zip(sides) {
            let Some(machine) = machine else { continue };
            // A destination that has refused has to end.
            if observation.verdict == Verdict::Fails {
                for ending in machine.endings(side) {
                    observation.text = format!("{}; {ending}", observation.text);
                }
            }
            observation.messages.extend(machine.messages(side));
        }
        observation
    }
}

/// How an error begins with which QEMU refuses to migrate at all.
pub(super) const REFUSAL: &str = "QEMU refused migrate: ";

/// What is told of it.
pub(super) const REFUSED: &str = "QEMU refuses";

/// What is told of a migration that failed as it should.
pub(super) const SOURCE_GOES_ON: &str = "migration fails, source goes on";

/// An error in one line.
pub(super) fn text_of(error: &anyhow::Error) -> String {
    if let Some(finding) = error.downcast_ref::<Finding>() {
        return finding.text.clone();
    }
    let root = error.root_cause().to_string();
    root.lines().next().unwrap_or_default().to_owned()
}

/// Both, if there is a second one.
pub(super) fn join(first: &str, second: &str) -> String {
    let separator = if second.is_empty() { "" } else { ", " };
    format!("{first}{separator}{second}")
}
