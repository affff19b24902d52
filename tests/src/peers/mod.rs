//! What other daemons do in the scenarios that ours have to pass: observed, beside ours, in the same QEMU.
//!
//! A peer that fails is no error here but an [`Observation`]: what happened, and who said what about it. Only that a thing cannot be
//! observed at all (no QEMU, no peer) is an error.
//!
//! | file | what |
//! |---|---|
//! | `participant.rs` | daemons, with the options that they get, and the guests that work on them |
//! | `fs.rs`, `scsi.rs`, `gpu.rs` | who takes part, what the guest does, and how it is seen that nothing is lost |
//! | `stage.rs` | where it all happens: machines, and what came of them |
//! | `scenario.rs` | what is done to a machine |
//! | `special.rs` | what a guest may have done before it moves, and must find again |
//! | `observation.rs` | what came of it, in few words, with the messages behind them |
//! | `report.rs` | all of it as a table |
//!
//! One device at a time. `cargo xtask e2e --peers` shows the table; `tests/tests/peers.rs` asks for what is decisive in it.

pub mod fs;
pub mod gpu;
mod marker;
pub mod observation;
pub mod participant;
pub mod report;
pub mod scenario;
pub mod scsi;
pub mod special;
pub mod stage;

use anyhow::Result;

use crate::qemu::Rig;
use crate::qemu::provision::guest_tools;
use stage::Guest;

pub use observation::{Observation, Verdict};
pub use participant::Participant;
pub use report::Report;
pub use scenario::Scenario;
pub use special::Special;
pub use stage::Stage;

/// A device of which there are several makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A share.
    Fs,
    /// A disk.
    Scsi,
    /// A screen.
    Gpu,
}

impl Device {
    /// All, in the order in which they are compared.
    pub const ALL: [Self; 3] = [Self::Fs, Self::Scsi, Self::Gpu];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Scsi => "scsi",
            Self::Gpu => "gpu",
        }
    }

    /// Those that are compared, peers first.
    pub fn participants(self) -> Result<Vec<Participant>> {
        match self {
            Self::Fs => fs::participants(),
            Self::Scsi => scsi::participants(),
            Self::Gpu => gpu::participants(),
        }
    }

    /// What a machine needs, with this device as its only one; and what the shell of its guest has to be told.
    fn rig(self) -> Result<(Rig, String)> {
        let (modules, tools): (&[&str], &[&str]) = match self {
            Self::Fs => (&[], fs::TOOLS),
            Self::Scsi => (scsi::MODULES, scsi::TOOLS),
            Self::Gpu => (gpu::MODULES, &[]),
        };
        let rig = Rig::prepare_with(modules)?;
        rig.with_tools(&guest_tools()?, tools)
    }

    /// What its guest does.
    fn guest(self) -> Result<Box<dyn Guest>> {
        Ok(match self {
            Self::Fs => Box::new(fs::Writer),
            Self::Scsi => Box::new(scsi::Writers),
            Self::Gpu => Box::new(gpu::Painter::new()?),
        })
    }

    /// What a guest of this device may have done before it moves.
    pub const fn specials(self) -> &'static [Special] {
        match self {
            Self::Fs => fs::SPECIALS,
            Self::Scsi => scsi::SPECIALS,
            Self::Gpu => &[],
        }
    }
}

/// Puts every participant whose title has `who` in it through everything. `tell` hears of each observation as it is made.
pub fn compare(
    device: Device,
    who: &str,
    mut tell: impl FnMut(&str, &str, &Observation),
) -> Result<Report> {
    let mut participants = device.participants()?;
    participants.retain(|one| one.title.contains(who));
    let titles = participants.iter().map(|one| one.title.clone());
    let mut report = Report::new(device.name(), titles.collect());
    for (column, participant) in participants.into_iter().enumerate() {
        let title = participant.title.clone();
        let mut stage = Stage::new(participant)?;
        for scenario in Scenario::ALL {
            let observation = stage.observe(scenario);
            tell(&title, scenario.title(), &observation);
            report.add(column, scenario.title(), observation);
        }
        for special in device.specials() {
            let observation = stage.observe_special(special);
            tell(&title, special.title, &observation);
            report.add(column, special.title, observation);
        }
    }
    Ok(report)
}
