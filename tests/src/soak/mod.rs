//! The soak: file system programs of others at work for minutes, on a share whose device is stopped, suspended, saved and moved at
//! random times. Whatever differs from the bare file system, in results or in data, is a finding.
//!
//! A round is one program in a folder of its own; the share, and the chain of daemons that serve it, are the same for all rounds. Knows
//! when which program runs, and counts; what a program is told and how it is judged is in `work`, what happens to the device in
//! `bridge` and `guest`.

mod bare;
mod bridge;
mod guest;
mod place;
mod programs;
mod trees;
mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::random::Random;
pub use place::Event;
use place::Place;
use programs::Toolbox;
use work::{Choice, Judge, Work};
pub use work::{Effort, Program};

/// Where the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On this host, through its kernel's FUSE client. Needs root.
    Bridge,
    /// In a Linux guest under QEMU.
    Guest,
}

impl Where {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Guest => "guest",
        }
    }
}

/// What is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub at: Where,
    /// No round begins later than this, but every program has its turn.
    pub time: Duration,
    /// What is random comes from it, but for the time that things take.
    pub seed: u64,
    /// How much a program does in a round.
    pub effort: Effort,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Completed rounds of each program.
    pub rounds: BTreeMap<Program, u32>,
    /// What happened to the device while they ran.
    pub events: BTreeMap<Event, u32>,
    /// Requests in flight at those moments, if it is known.
    pub in_flight: Option<usize>,
    /// What differs from the bare file system, and what broke.
    pub differences: Vec<String>,
}

impl Report {
    /// How often `event` happened.
    pub fn count(&self, event: Event) -> u32 {
        self.events.get(&event).copied().unwrap_or(0)
    }
}

/// Soaks one place. `tell` hears of every round. An error means that it could not begin.
pub fn run(options: &Options, mut tell: impl FnMut(&str)) -> Result<Report> {
    let toolbox = Toolbox::prepare(options.effort)?;
    let mut random = Random::new(options.seed);
    let mut place: Box<dyn Place> = match options.at {
        Where::Bridge => Box::new(bridge::Bridged::new(&toolbox)?),
        Where::Guest => Box::new(guest::InGuest::new(&toolbox)?),
    };
    let mut judge = Judge::new(&toolbox)?;
    let mut choice = Choice::default();
    let mut report = Report::default();
    let began = Instant::now();
    let all = Program::ALL.into_iter();
    let programs = all.filter(|program| options.effort.includes(*program));
    let programs: Vec<_> = programs.collect();
    for number in 0.. {
        let Some(&program) = programs.get(number % programs.len().max(1)) else {
            break;
        };
        if number >= programs.len() && began.elapsed() > options.time {
            break;
        }
        let work = choice.work(program, options.effort, &mut random);
        let ended = round(
            number,
            &work,
            &mut *place,
            &mut judge,
            &mut random,
            &mut report,
        );
        let seconds = began.elapsed().as_secs();
        let result = match ended {
            Ok(differences) => {
                *report.rounds.entry(program).or_default() += 1;
                let result = match differences.len() {
                    0 => "no difference".to_owned(),
                    count => format!("{count} DIFFERENT\n{}", differences.join("\n")),
                };
                report.differences.extend(differences);
                Ok(result)
            }
            Err(error) => Err(format!("{work}: {error:#}\n{}", place.log())),
        };
        let text = result.as_ref().map_or("BROKEN", String::as_str);
        tell(&format!("{seconds:4} s  {work}: {text}"));
        if let Err(broken) = result {
            // What is left of the place is of no use.
            report.differences.push(broken);
            return Ok(report);
        }
    }
    match place.finish().context("at the end") {
        Ok(in_flight) => report.in_flight = in_flight,
        Err(error) => report.differences.push(format!("{error:#}")),
    }
    Ok(report)
}

/// One program in a new folder, with events meanwhile. Returns the differences.
fn round(
    number: usize,
    work: &Work,
    place: &mut dyn Place,
    judge: &mut Judge,
    random: &mut Random,
    report: &mut Report,
) -> Result<Vec<String>> {
    let folder = place.new_folder(&format!("round-{number}"))?;
    let script = work.script(place.programs(), &folder.inside);
    let ran = place::run(place, &script, |place| {
        let event = place.disturb(random)?;
        *report.events.entry(event).or_default() += 1;
        Ok(place.interval(random))
    })?;
    let differences = judge.differences(work, &ran, &folder.on_host)?;
    place.remove_folder(&folder)?;
    Ok(differences)
}
