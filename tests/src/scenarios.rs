//! What is done to a machine with all devices while its guest works: each scenario leaves it working, or is an error.
//!
//! `cargo xtask e2e` shows them, and `tests/tests/e2e_whole.rs` asks for them. [`cost`] is what they tell; `faults` has the ways in
//! which a migration fails.

pub mod cost;
mod faults;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::state::DeviceKind;
use serde_json::json;

pub use self::cost::Cost;
use self::faults::Fault;
use crate::qemu::process::POLL_INTERVAL;
use crate::qemu::vm::DEADLINE;
use crate::qemu::whole_machine::setup::{DEVICES, Setup, oldest};
use crate::qemu::whole_machine::work::Work;
use crate::qemu::whole_machine::{MODULES, WholeMachine};
use crate::qemu::{Rig, Start, migration};

/// How often a machine is stopped.
const STOPS: u32 = 20;

/// How often a machine moves away, and back.
const ROUND_TRIPS: u32 = 10;

/// Size of the disk in bytes.
const DISK_BYTES: u64 = 64 << 20;

/// Something that is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Stopped and continued under load.
    Stops,
    /// Saved to a file, ended, and restored in new processes.
    Snapshot,
    /// Migrated live.
    Migration,
    /// Refused by a destination that finds a state damaged, each of them once; each time migrated afterwards.
    Refusal,
    /// A daemon of the destination is killed, each of them at each step of the transfer, and then QEMU itself; each time migrated
    /// afterwards.
    Deaths,
    /// Refused by a destination that has not got the guest's files or disk, or a smaller one; each time migrated afterwards.
    Mismatch,
    /// Refused because one side has a daemon that does not offer to move its state; migrated afterwards.
    NoState,
    /// Cancelled while memory is copied, and migrated afterwards.
    Cancel,
    /// Migrated to and fro.
    RoundTrips,
    /// Migrated to daemons that write the oldest versions of their states, or are of an earlier build, and back.
    Versions,
}

impl Scenario {
    /// All, in the order in which they are done.
    pub const ALL: [Self; 10] = [
        Self::Stops,
        Self::Snapshot,
        Self::Migration,
        Self::Refusal,
        Self::Deaths,
        Self::Mismatch,
        Self::NoState,
        Self::Cancel,
        Self::RoundTrips,
        Self::Versions,
    ];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stops => "stops",
            Self::Snapshot => "snapshot",
            Self::Migration => "migration",
            Self::Refusal => "refusal",
            Self::Deaths => "deaths",
            Self::Mismatch => "mismatch",
            Self::NoState => "no-state",
            Self::Cancel => "cancel",
            Self::RoundTrips => "round-trips",
            Self::Versions => "versions",
        }
    }
}

/// How a scene is set.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine's devices.
    pub devices: Vec<DeviceKind>,
    /// A folder with daemons of an earlier build, for [`Scenario::Versions`].
    pub previous: Option<PathBuf>,
    /// Leave the scene's folder and those of its daemons behind, with logs and sockets.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            devices: DEVICES.into(),
            previous: None,
            keep: false,
        }
    }
}

/// The machine that all scenarios happen to, one after the other.
#[derive(Debug)]
pub struct Scene {
    rig: Rig,
    options: Options,
    setup: Setup,
    machine: Option<WholeMachine>,
    work: Work,
    /// Of machines: their names differ.
    count: u32,
    /// Of the scenario that is played.
    cost: Cost,
}

impl Scene {
    /// Boots a guest with all devices, and sets it to work.
    pub fn prepare() -> Result<Self> {
        Self::prepare_with(Options::default())
    }

    /// As [`prepare`](Self::prepare), with choices.
    pub fn prepare_with(options: Options) -> Result<Self> {
        let mut rig = Rig::prepare_with(&MODULES)?.with_stateful_devices()?;
        if options.keep {
            rig.keep();
        }
        let (share, image) = (rig.path("shared"), rig.path("disk"));
        std::fs::create_dir(&share)?;
        File::create_new(&image)?.set_len(DISK_BYTES)?;
        let setup = Setup {
            devices: options.devices.clone(),
            ..Setup::new(&share, &image)
        };
        let name = "machine0";
        let mut machine = start_machine(&rig, name, Start::Boot, &setup, options.keep)?;
        let mut work = Work::start(&mut machine)?;
        work.check(&mut machine)?;
        Ok(Self {
            rig,
            options,
            setup,
            machine: Some(machine),
            work,
            count: 0,
            cost: Cost::default(),
        })
    }

    /// The folder with everything of the scene.
    pub fn folder(&self) -> &Path {
        self.rig.folder()
    }

    /// Does something to the machine, and looks whether its guest has noticed.
    pub fn play(&mut self, scenario: Scenario) -> Result<Cost> {
        self.cost = Cost::default();
        let result = match scenario {
            Scenario::Stops => self.stop(),
            Scenario::Snapshot => self.snapshot(),
            Scenario::Migration => self.migrate(),
            Scenario::Refusal => self.fail_each(Fault::damages),
            Scenario::Deaths => self.fail_each(Fault::deaths),
            Scenario::Mismatch => self.fail_each(Fault::mismatches),
            Scenario::NoState => self.refuse_without_state(),
            Scenario::Cancel => self.cancel(),
            Scenario::RoundTrips => self.move_to_and_fro(),
            Scenario::Versions => self.change_versions(),
        };
        result
            .and_then(|()| self.check())
            .with_context(|| scenario.name())?;
        Ok(self.cost.clone())
    }

    /// Ends the guest's programs and everything else; what they have left is compared.
    pub fn end(mut self) -> Result<()> {
        let machine = self.take()?;
        self.work.end(machine, &self.setup.share)
    }

    fn stop(&mut self) -> Result<()> {
        let mut machine = self.take()?;
        for _ in 0..STOPS {
            machine.vm.stop()?;
            machine.vm.cont()?;
        }
        self.go_on(machine)
    }

    fn snapshot(&mut self) -> Result<()> {
        let mut machine = self.take()?;
        let file = self.rig.path(&format!("snapshot{}", self.count));
        migration::save(&mut machine.vm, &file)?.completed()?;
        self.cost.add_snapshot(&machine)?;
        machine.quit()?;
        let mut restored = self.start(Start::Incoming, &self.setup.clone())?;
        migration::restore(&mut restored.vm, &file)?;
        std::fs::remove_file(&file)?;
        self.go_on(restored)
    }

    fn migrate(&mut self) -> Result<()> {
        self.migrate_to(&self.setup.clone())
    }

    fn migrate_to(&mut self, setup: &Setup) -> Result<()> {
        let mut source = self.take()?;
        let mut destination = self.start(Start::Incoming, setup)?;
        let socket = self.rig.path(&format!("migration{}", self.count));
        let outcome = migration::live(&mut source.vm, &mut destination.vm, &socket)?;
        let transfer = outcome.completed()?;
        self.cost
            .add_migration(transfer.downtime, &source, &destination)?;
        source.quit()?;
        self.go_on(destination)
    }

    fn fail_each(&mut self, faults: impl Fn(&[DeviceKind]) -> Vec<Fault>) -> Result<()> {
        for fault in faults(&self.setup.devices) {
            self.fail(fault).with_context(|| fault.to_string())?;
            self.migrate().with_context(|| format!("after {fault}"))?;
        }
        Ok(())
    }

    /// A migration that fails because of a fault at the destination; the source goes on.
    fn fail(&mut self, fault: Fault) -> Result<()> {
        let mut source = self.take()?;
        let mut setup = self.setup.clone();
        let [folder, image, between, listen] = ["folder", "image", "between", "listen"]
            .map(|name| self.rig.path(&format!("{name}{}", self.count)));
        fault.prepare(&mut setup, [&folder, &image])?;
        let mut destination = self.start(Start::Incoming, &setup)?;
        let happened = fault.lie_in_wait(&destination, &between, &listen)?;
        let outcome =
            migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
        let failure = outcome.failed()?;
        ensure!(happened.wait(), "failed before: {}", failure.report);
        wait_until_told(fault, &destination)?;
        self.cost.failed += 1;
        drop(destination);
        source.vm.wait_status("running")?;
        self.go_on(source)
    }

    /// A side has a daemon that does not offer to move its state, the destination or the source.
    fn refuse_without_state(&mut self) -> Result<()> {
        for kind in self.setup.devices.clone() {
            let fault = Fault::WithoutState(kind);
            self.fail(fault).with_context(|| fault.to_string())?;
            self.refuse_to_leave(kind)
                .with_context(|| format!("source with {kind} without DEVICE_STATE"))?;
        }
        self.migrate()
    }

    /// A machine whose only device cannot be saved is not migrated, and goes on. Its guest need not have booted for that.
    fn refuse_to_leave(&mut self, kind: DeviceKind) -> Result<()> {
        let [share, image] =
            ["share", "image"].map(|name| self.rig.path(&format!("other-{name}{}", self.count)));
        std::fs::create_dir(&share)?;
        File::create_new(&image)?.set_len(DISK_BYTES)?;
        let setup = Setup {
            devices: vec![kind],
            without_state: Some(kind),
            ..Setup::new(&share, &image)
        };
        let mut machine = self.start(Start::Boot, &setup)?;
        let uri = format!("file:{}", self.rig.path("never").display());
        let refused = machine.vm.qmp().execute("migrate", &json!({ "uri": uri }));
        let reason = refused.err().context("it is migrated")?.to_string();
        let expected =
            format!("Migration disabled: the back-end of vhost-user-{kind}-stateful device");
        ensure!(
            reason.contains(&expected)
                && reason.contains("does not offer VHOST_USER_PROTOCOL_F_DEVICE_STATE"),
            "{reason}"
        );
        self.cost.failed += 1;
        machine.vm.expect_status("running")?;
        machine.quit()
    }

    fn cancel(&mut self) -> Result<()> {
        let mut source = self.take()?;
        let mut destination = self.start(Start::Incoming, &self.setup.clone())?;
        let socket = self.rig.path(&format!("cancelled{}", self.count));
        migration::cancelled(&mut source.vm, &mut destination.vm, &socket)?;
        self.cost.failed += 1;
        drop(destination);
        source.vm.expect_status("running")?;
        self.go_on(source)?;
        self.migrate()
    }

    fn move_to_and_fro(&mut self) -> Result<()> {
        (0..2 * ROUND_TRIPS).try_for_each(|_| self.migrate())
    }

    /// From daemons of this build that write the oldest versions to earlier ones, and from these to daemons of this build.
    fn change_versions(&mut self) -> Result<()> {
        let current = self.setup.clone();
        let oldest_written = Setup {
            writes_oldest: true,
            ..current.clone()
        };
        let earlier = Setup {
            programs: self.options.previous.clone(),
            ..oldest_written.clone()
        };
        self.migrate_to(&oldest_written)?;
        for destination in [&earlier, &current] {
            self.migrate_to(destination)?;
            for (kind, state) in &self.cost.states {
                // A daemon of an earlier build may not tell.
                let is_oldest = |version| version == u64::from(oldest(*kind));
                ensure!(
                    state.version.is_none_or(is_oldest),
                    "{kind}: the state has version {:?}",
                    state.version
                );
            }
        }
        Ok(())
    }

    fn start(&mut self, start: Start, setup: &Setup) -> Result<WholeMachine> {
        self.count += 1;
        let name = format!("machine{}", self.count);
        start_machine(&self.rig, &name, start, setup, self.options.keep)
    }

    fn take(&mut self) -> Result<WholeMachine> {
        let machine = self.machine.take();
        machine.context("an earlier scenario has lost the machine")
    }

    fn go_on(&mut self, mut machine: WholeMachine) -> Result<()> {
        self.work.goes_on(&mut machine)?;
        self.machine = Some(machine);
        Ok(())
    }

    /// Everything is as it was.
    fn check(&mut self) -> Result<()> {
        let mut machine = self.take()?;
        self.work.check(&mut machine)?;
        self.machine = Some(machine);
        Ok(())
    }
}

/// Waits until somebody at the destination has said what has happened: they may still be about to.
fn wait_until_told(fault: Fault, destination: &WholeMachine) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let said = destination.vm.report();
        if fault.is_told_by(&said) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "nobody tells of it, but:\n{said}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Starts a machine; if what is left of it is to be kept, with links to what is left of its daemons.
fn start_machine(
    rig: &Rig,
    name: &str,
    start: Start,
    setup: &Setup,
    keep: bool,
) -> Result<WholeMachine> {
    let mut machine = WholeMachine::start_with(rig, name, start, setup)?;
    if keep {
        for (device, daemon) in &mut machine.daemons {
            std::os::unix::fs::symlink(daemon.keep(), rig.path(&format!("{name}-{device}")))?;
        }
    }
    Ok(machine)
}
