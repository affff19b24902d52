//! What is done to a machine with all devices while its guest works: each scenario leaves it working, or is an error.
//!
//! `cargo xtask e2e` shows them, and `tests/tests/e2e_whole.rs` asks for them.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, kill_process};

use crate::fs_daemon::{SavedState, saved_state};
use crate::qemu::whole_machine::{MODULES, WholeMachine};
use crate::qemu::{Rig, Start, channel, migration};

/// How often a machine is stopped.
const STOPS: u32 = 20;

/// How often a machine moves away, and back.
const ROUND_TRIPS: u32 = 2;

/// Size of the disk in bytes.
const DISK_BYTES: u64 = 64 << 20;

/// How many devices a machine has.
const DEVICES: usize = 3;

/// What happens to a state on its way.
type Disturbance = Box<dyn FnOnce(&mut [u8]) + Send>;

/// Something that is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Stopped and continued under load.
    Stops,
    /// Saved to a file, ended, and restored in new processes.
    Snapshot,
    /// Migrated live.
    Migration,
    /// Refused by a destination that finds the state damaged, and migrated afterwards.
    Refusal,
    /// A daemon of the destination is killed when the states come, each of them once; migrated afterwards.
    Deaths,
    /// Cancelled while memory is copied, and migrated afterwards.
    Cancel,
    /// Migrated to and fro.
    RoundTrips,
}

impl Scenario {
    /// All, in the order in which they are done.
    pub const ALL: [Self; 7] = [
        Self::Stops,
        Self::Snapshot,
        Self::Migration,
        Self::Refusal,
        Self::Deaths,
        Self::Cancel,
        Self::RoundTrips,
    ];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stops => "stops",
            Self::Snapshot => "snapshot",
            Self::Migration => "migration",
            Self::Refusal => "refusal",
            Self::Deaths => "deaths",
            Self::Cancel => "cancel",
            Self::RoundTrips => "round-trips",
        }
    }
}

/// What a scenario cost.
#[derive(Debug, Default)]
pub struct Cost {
    /// The longest that the guest stood still, as QEMU tells it; of migrations only.
    pub downtime: Option<Duration>,
    /// What each device's state was, the last time; none if none was saved.
    pub states: Vec<(&'static str, SavedState)>,
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (device, state) in &self.states {
            let (bytes, time) = (state.bytes, state.milliseconds);
            write!(formatter, "{device} {bytes} B in {time} ms  ")?;
        }
        Ok(())
    }
}

/// The machine that all scenarios happen to, one after the other.
#[derive(Debug)]
pub struct Scene {
    rig: Rig,
    share: PathBuf,
    image: PathBuf,
    machine: Option<WholeMachine>,
    picture: Vec<u8>,
    /// Of machines: their names differ.
    count: u32,
}

impl Scene {
    /// Boots a guest with all devices, and sets it to work.
    pub fn prepare() -> Result<Self> {
        let rig = Rig::prepare_with(&MODULES)?.with_stateful_devices()?;
        let (share, image) = (rig.path("shared"), rig.path("disk"));
        std::fs::create_dir(&share)?;
        File::create_new(&image)?.set_len(DISK_BYTES)?;
        let mut scene = Self {
            rig,
            share,
            image,
            machine: None,
            picture: Vec::new(),
            count: 0,
        };
        let mut machine = scene.start(Start::Boot)?;
        scene.picture = machine.start_work()?;
        machine.check(&scene.picture)?;
        scene.machine = Some(machine);
        Ok(scene)
    }

    /// Does something to the machine, and looks whether its guest has noticed.
    pub fn play(&mut self, scenario: Scenario) -> Result<Cost> {
        let result = match scenario {
            Scenario::Stops => self.stop(),
            Scenario::Snapshot => self.snapshot(),
            Scenario::Migration => self.migrate(),
            Scenario::Refusal => {
                self.fail(|_| Box::new(channel::damage))?;
                self.migrate()
            }
            Scenario::Deaths => self.kill_each(),
            Scenario::Cancel => {
                self.cancel()?;
                self.migrate()
            }
            Scenario::RoundTrips => self.move_to_and_fro(),
        };
        result.with_context(|| scenario.name())
    }

    /// Ends the guest's programs and everything else; what they have left is compared.
    pub fn end(mut self) -> Result<()> {
        self.take()?.end(&self.share)
    }

    fn stop(&mut self) -> Result<Cost> {
        let mut machine = self.take()?;
        for _ in 0..STOPS {
            machine.vm.stop()?;
            machine.vm.cont()?;
        }
        self.go_on(machine)?;
        Ok(Cost::default())
    }

    fn snapshot(&mut self) -> Result<Cost> {
        let mut machine = self.take()?;
        let file = self.rig.path(&format!("snapshot{}", self.count));
        migration::save(&mut machine.vm, &file)?.completed()?;
        let states = states(&machine)?;
        machine.quit()?;
        let mut restored = self.start(Start::Incoming)?;
        migration::restore(&mut restored.vm, &file)?;
        std::fs::remove_file(&file)?;
        self.go_on(restored)?;
        Ok(Cost {
            downtime: None,
            states,
        })
    }

    fn migrate(&mut self) -> Result<Cost> {
        let mut source = self.take()?;
        let mut destination = self.start(Start::Incoming)?;
        let socket = self.rig.path(&format!("migration{}", self.count));
        let outcome = migration::live(&mut source.vm, &mut destination.vm, &socket)?;
        let transfer = outcome.completed()?;
        let states = states(&source)?;
        source.quit()?;
        self.go_on(destination)?;
        Ok(Cost {
            downtime: Some(transfer.downtime),
            states,
        })
    }

    /// What comes of `disturb` for the destination happens when the first state is on its way.
    fn fail(&mut self, disturb: impl FnOnce(&WholeMachine) -> Disturbance) -> Result<()> {
        let mut source = self.take()?;
        let mut destination = self.start(Start::Incoming)?;
        let [between, listen] =
            ["between", "listen"].map(|name| self.rig.path(&format!("{name}{}", self.count)));
        let seen = channel::intercept(&between, &listen, disturb(&destination))?;
        let outcome =
            migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
        let failure = outcome.failed()?;
        ensure!(seen.get(), "failed before the state: {}", failure.report);
        drop(destination);
        source.vm.wait_status("running")?;
        self.go_on(source)
    }

    fn kill_each(&mut self) -> Result<Cost> {
        for device in 0..DEVICES {
            self.fail(|destination| {
                let victim = destination
                    .daemons
                    .get(device)
                    .map(|(_, daemon)| daemon.id());
                // It has not been waited for, so the process is there.
                Box::new(move |_| {
                    let _killed = victim.map(|id| kill_process(id, Signal::KILL));
                })
            })?;
        }
        self.migrate()
    }

    fn cancel(&mut self) -> Result<()> {
        let mut source = self.take()?;
        let mut destination = self.start(Start::Incoming)?;
        let socket = self.rig.path(&format!("cancelled{}", self.count));
        migration::cancelled(&mut source.vm, &mut destination.vm, &socket)?;
        drop(destination);
        source.vm.expect_status("running")?;
        self.go_on(source)
    }

    fn move_to_and_fro(&mut self) -> Result<Cost> {
        let mut worst = Cost::default();
        for _ in 0..2 * ROUND_TRIPS {
            let cost = self.migrate()?;
            worst = Cost {
                downtime: worst.downtime.max(cost.downtime),
                ..cost
            };
        }
        Ok(worst)
    }

    fn start(&mut self, start: Start) -> Result<WholeMachine> {
        self.count += 1;
        let name = format!("machine{}", self.count);
        WholeMachine::start(&self.rig, &name, start, &self.share, &self.image)
    }

    fn take(&mut self) -> Result<WholeMachine> {
        let machine = self.machine.take();
        machine.context("an earlier scenario has lost the machine")
    }

    /// All is as it was, and something new can be drawn.
    fn go_on(&mut self, mut machine: WholeMachine) -> Result<()> {
        machine.check(&self.picture)?;
        self.picture = machine.draw(&self.picture)?;
        self.machine = Some(machine);
        Ok(())
    }
}

fn states(machine: &WholeMachine) -> Result<Vec<(&'static str, SavedState)>> {
    let daemons = machine.daemons.iter();
    daemons
        .map(|(name, daemon)| Ok((*name, saved_state(daemon)?)))
        .collect()
}
