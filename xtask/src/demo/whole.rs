//! The story with a share, a disk and a screen at once, in a QEMU whose device types carry their states.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ::tests::daemon_runner::built;
use ::tests::painter::parse_pixmap;
use ::tests::qemu::provision::target_folder;
use ::tests::qemu::whole_machine::{MODULES, WholeMachine};
use ::tests::qemu::{Rig, Start, channel, migration};
use ::tests::transfer_log::StateCost;
use anyhow::{Result, bail, ensure};

use super::pictures;
use super::story::{Row, Story, size};
use crate::table::Table;

/// How often the guest is stopped and continued.
const STOPS: u32 = 10;

/// How many devices a machine has.
const DEVICES: usize = 3;

/// Size of the disk in bytes.
const DISK_BYTES: u64 = 64 << 20;

/// Where the machine can be found, and what has to stay as it is.
struct Scene {
    rig: Rig,
    share: PathBuf,
    image: PathBuf,
    /// What the screen shows, from the first step to the last.
    picture: Vec<u8>,
    /// What each move cost each device.
    costs: Table<8>,
}

/// What this machine has for the story; an error if it cannot be told here.
pub(super) fn prepare(story: &mut Story) -> Result<Rig> {
    story.begin("providing QEMU, a guest kernel and busybox, and building our module for QEMU");
    let rig = Rig::prepare_with(&MODULES)?.with_stateful_devices()?;
    story.add(&Row {
        step: "provided".to_owned(),
        check: format!(
            "{}, accelerator {}",
            rig.provision.qemu_version, rig.accelerator
        ),
        ..Row::default()
    });
    Ok(rig)
}

/// Everything, in order. The programs in the guest work from the first step to the last.
pub(super) fn tell(story: &mut Story, rig: Rig) -> Result<()> {
    story.begin("building the daemons");
    for daemon in ["vhost-device-fs", "vhost-device-scsi", "vhost-device-gpu"] {
        built(daemon)?;
    }
    let (share, image) = (rig.path("shared"), rig.path("disk"));
    std::fs::create_dir(&share)?;
    File::create_new(&image)?.set_len(DISK_BYTES)?;
    let mut scene = Scene {
        rig,
        share,
        image,
        picture: Vec::new(),
        costs: Table::new([
            "device", "move", "bytes", "SAVE", "transfer", "CHECK", "LOAD", "resume",
        ]),
    };
    let first = scene.boot(story)?;
    let first = scene.stop_and_continue(story, first)?;
    let second = scene.restore(story, first)?;
    let third = scene.migrate(story, second, "third")?;
    let third = scene.fail_to_migrate(story, third)?;
    let fourth = scene.migrate(story, third, "fourth")?;
    scene.end(story, fourth)
}

/// What was checked, in words.
const INTACT: &str = "files, disk and screen as they have to be, and all programs go on";

impl Scene {
    fn start(&self, name: &str, start: Start) -> Result<WholeMachine> {
        WholeMachine::start(&self.rig, name, start, &self.share, &self.image)
    }

    fn boot(&mut self, story: &mut Story) -> Result<WholeMachine> {
        story.begin(
            "booting Linux with a share, a disk and a screen, and starting programs on all three",
        );
        let began = Instant::now();
        let mut machine = self.start("first", Start::Boot)?;
        machine.start_work()?;
        // Another one each time: nobody shall think that the picture is an old one.
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        self.picture = machine.draw_card(u32::try_from(since.as_secs() % 100_000)?)?;
        machine.check(&self.picture)?;
        let kernel = machine.vm.run("uname -r")?;
        story.add(&Row {
            step: "booted, programs started, drawn".to_owned(),
            time: Some(began.elapsed()),
            check: format!("Linux {}: {INTACT}", kernel.trim()),
            ..Row::default()
        });
        Ok(machine)
    }

    fn stop_and_continue(
        &self,
        story: &mut Story,
        mut machine: WholeMachine,
    ) -> Result<WholeMachine> {
        story.begin("stopping and continuing the guest");
        let began = Instant::now();
        for _ in 0..STOPS {
            machine.vm.stop()?;
            machine.vm.cont()?;
        }
        let time = Some(began.elapsed());
        machine.check(&self.picture)?;
        story.add(&Row {
            step: format!("stopped and continued {STOPS} times"),
            time,
            check: INTACT.to_owned(),
            ..Row::default()
        });
        Ok(machine)
    }

    /// A snapshot, and nothing else is left of the machine.
    fn restore(&mut self, story: &mut Story, mut machine: WholeMachine) -> Result<WholeMachine> {
        story.begin("saving the machine to a file, ending it, and restoring it in new processes");
        let began = Instant::now();
        let file = self.rig.path("snapshot");
        migration::save(&mut machine.vm, &file)?.completed()?;
        let source = logs(&machine)?;
        machine.quit()?;
        let mut restored = self.start("second", Start::Incoming)?;
        migration::restore(&mut restored.vm, &file)?;
        let time = Some(began.elapsed());
        std::fs::remove_file(&file)?;
        let state = self.note("restored", &source, &restored)?;
        restored.check(&self.picture)?;
        story.add(&Row {
            step: "saved to a file, all ended, restored".to_owned(),
            state,
            time,
            downtime: None,
            check: INTACT.to_owned(),
        });
        Ok(restored)
    }

    fn migrate(
        &mut self,
        story: &mut Story,
        mut source: WholeMachine,
        name: &str,
    ) -> Result<WholeMachine> {
        story.begin(&format!(
            "migrating the running guest to a {name} QEMU with daemons of its own"
        ));
        let mut destination = self.start(name, Start::Incoming)?;
        let socket = self.rig.path(&format!("{name}.migration"));
        let outcome = migration::live(&mut source.vm, &mut destination.vm, &socket)?;
        let transfer = outcome.completed()?;
        let state = self.note(&format!("to the {name}"), &logs(&source)?, &destination)?;
        source.quit()?;
        destination.check(&self.picture)?;
        story.add(&Row {
            step: format!("migrated live to the {name} machine"),
            state,
            time: Some(transfer.total),
            downtime: Some(transfer.silence),
            check: INTACT.to_owned(),
        });
        Ok(destination)
    }

    fn fail_to_migrate(&self, story: &mut Story, mut source: WholeMachine) -> Result<WholeMachine> {
        story.begin("migrating with one bit of a device's state flipped on the way");
        let mut destination = self.start("refusing", Start::Incoming)?;
        let (between, listen) = (self.rig.path("between"), self.rig.path("listen"));
        let seen = channel::intercept(&between, &listen, channel::damage)?;
        let began = Instant::now();
        let outcome =
            migration::live_through(&mut source.vm, &mut destination.vm, &between, &listen)?;
        outcome.failed()?;
        let time = Some(began.elapsed());
        ensure!(seen.get(), "the migration failed before the state was sent");
        drop(destination);
        source.vm.wait_status("running")?;
        source.check(&self.picture)?;
        story.add(&Row {
            step: "refused a damaged state".to_owned(),
            time,
            check: format!("the source goes on: {INTACT}"),
            ..Row::default()
        });
        Ok(source)
    }

    /// Compares the pictures, writes them for people to see, and ends everything.
    fn end(self, story: &mut Story, mut machine: WholeMachine) -> Result<()> {
        story.begin("comparing what is on the screen now with what was drawn at the beginning");
        let (before, after) = (
            parse_pixmap(&self.picture)?,
            parse_pixmap(&machine.shown()?)?,
        );
        if let Some(place) = before.difference(&after) {
            bail!("the screen differs at {place:?}");
        }
        let folder = target_folder()?.join("demo");
        let path = pictures::write_pair(&folder, &before, &after)?;
        let (width, height) = before.size();
        story.add(&Row {
            step: "compared the screen".to_owned(),
            check: format!("{width} by {height} pixels, all alike"),
            ..Row::default()
        });
        story.begin(
            "drawing anew, ending the programs, and looking at share and disk from the host",
        );
        ensure!(
            machine.draw_card(1)? != self.picture,
            "the guest cannot draw any more"
        );
        machine.end(&self.share)?;
        story.add(&Row {
            step: "drew anew, ended, compared on the host".to_owned(),
            check: "nothing lost, nothing twice".to_owned(),
            ..Row::default()
        });
        println!("\nEach move of each device, in ms:\n\n{}", self.costs);
        println!("The screen before and after: {}", path.display());
        Ok(())
    }

    /// Remembers what a move cost each device; how large their states were, in words.
    fn note(
        &mut self,
        step: &str,
        source: &[String; DEVICES],
        destination: &WholeMachine,
    ) -> Result<String> {
        let mut sizes = Vec::new();
        for ((name, daemon), source) in destination.daemons.iter().zip(source) {
            let cost = StateCost::moved_in(source, &daemon.log()?)?;
            let bytes = cost.saved.bytes;
            let numbers = cost.numbers().map(|number| number.to_string());
            let [bytes_text, save, transfer, check, load, resume] = numbers.each_ref();
            self.costs
                .row([name, step, bytes_text, save, transfer, check, load, resume]);
            sizes.push(format!("{name} {}", size(bytes)));
        }
        Ok(sizes.join(", "))
    }
}

/// What the daemons of a machine have logged.
fn logs(machine: &WholeMachine) -> Result<[String; DEVICES]> {
    let [fs, scsi, gpu] = &machine.daemons[..] else {
        bail!("a machine without one of its daemons");
    };
    Ok([fs.1.log()?, scsi.1.log()?, gpu.1.log()?])
}
