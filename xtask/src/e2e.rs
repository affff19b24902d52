//! `cargo xtask e2e`: a real Linux guest with all devices at once, or one of them, and what is done to its machine.
//!
//! Ends with a row for each scenario. Knows how to tell about them; the tests crate has them. Exit codes: 0 all
//! passed, 1 one did not.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ::tests::peers::Device;
use ::tests::qemu::whole_machine::setup::DEVICES;
use ::tests::scenarios::{Cost, Options as Choices, Scenario, Scene};
use ::tests::transfer_log::StateCost;
use anyhow::Result;
use clap::Args;
use common::state::DeviceKind;

use crate::peers;
use crate::table::Table;

#[derive(Args)]
pub(crate) struct Options {
    /// The machine's device: fs, scsi, gpu or all
    #[arg(long, value_parser = parse_devices, default_value = "all")]
    device: Devices,
    /// Only this one, or those if there are several; all by default
    #[arg(long, value_parser = parse_scenario)]
    scenario: Vec<Scenario>,
    /// How often all of them are played, with the same guest
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// A folder with daemons of an earlier build, for the scenario "versions"
    #[arg(long, value_name = "FOLDER")]
    previous: Option<PathBuf>,
    /// Leave the machines' logs and sockets behind, and say where
    #[arg(long)]
    keep: bool,
    /// Observe virtiofsd, rust-vmm's vhost-device-scsi and QEMU's vhost-user-gpu instead, beside ours; only those of the named
    /// devices, if any are
    #[arg(long, value_name = "DEVICE", num_args = 0.., value_parser = peers::parse, conflicts_with_all = ["scenario", "device", "previous", "keep", "rounds"])]
    peers: Option<Vec<Device>>,

    /// With --peers: only columns with this in their title, such as "ours"
    #[arg(long, value_name = "TEXT", requires = "peers", default_value = "")]
    who: String,
}

/// What `--device` names.
#[derive(Clone)]
struct Devices(Vec<DeviceKind>);

fn parse_devices(name: &str) -> Result<Devices, String> {
    if name == "all" {
        return Ok(Devices(DEVICES.into()));
    }
    let found = DEVICES.into_iter().find(|kind| kind.to_string() == name);
    let names = DEVICES.map(|kind| kind.to_string()).join(", ");
    let kind = found.ok_or_else(|| format!("one of {names}, all"))?;
    Ok(Devices(vec![kind]))
}

fn parse_scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|one| one.name() == name);
    found.ok_or_else(|| format!("one of {}", Scenario::ALL.map(Scenario::name).join(", ")))
}

/// Plays them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(devices) = &options.peers {
        return peers::run(devices, &options.who);
    }
    println!("booting Linux, and setting it to work");
    let mut scene = Scene::prepare_with(Choices {
        devices: options.device.0.clone(),
        previous: options.previous.clone(),
        keep: options.keep,
    })?;
    if options.keep {
        println!("what is left stays in {}", scene.folder().display());
    }
    let all = options.scenario.is_empty();
    let wanted = |one: &Scenario| all || options.scenario.contains(one);
    for round in 1..=options.rounds {
        if options.rounds > 1 {
            println!("round {round} of {}", options.rounds);
        }
        let scenarios = Scenario::ALL.into_iter().filter(wanted);
        if let Err(error) = play(&mut scene, scenarios) {
            println!("FAILED: {error:#}");
            return Ok(ExitCode::FAILURE);
        }
    }
    scene.end()?;
    println!("Every check passed, in the guest and on the host.");
    Ok(ExitCode::SUCCESS)
}

/// Plays scenarios, and prints their table; the error of the first that does not pass.
fn play(scene: &mut Scene, scenarios: impl Iterator<Item = Scenario>) -> Result<()> {
    let mut table = Table::new([
        "scenario", "s", "failed", "moved", "downtime", "fs", "scsi", "gpu", "result",
    ]);
    let mut outcome = Ok(());
    for scenario in scenarios {
        println!("{}", scenario.name());
        let began = Instant::now();
        let played = scene.play(scenario);
        let seconds = began.elapsed().as_secs().to_string();
        match played {
            Ok(cost) => {
                let cells = cells(&cost);
                let [failed, moved, downtime, fs, scsi, gpu] = &cells;
                let row = [failed, moved, downtime, fs, scsi, gpu].map(String::as_str);
                let [failed, moved, downtime, fs, scsi, gpu] = row;
                table.row([
                    scenario.name(),
                    &seconds,
                    failed,
                    moved,
                    downtime,
                    fs,
                    scsi,
                    gpu,
                    "passed",
                ]);
            }
            Err(error) => {
                table.row([scenario.name(), &seconds, "", "", "", "", "", "", "FAILED"]);
                outcome = Err(error);
                break;
            }
        }
    }
    println!(
        "\n{table}\n\
         failed: migrations that failed, were refused or cancelled, as they should; moved: those that completed.\n\
         downtime: the longest, as QEMU reports it. A device: bytes of its last state, and milliseconds in\n\
         SAVE / transfer / CHECK / LOAD, as the daemons report them.\n"
    );
    outcome
}

/// Migrations that failed and that completed, downtime, and a cell for each device.
fn cells(cost: &Cost) -> [String; 6] {
    let device = |kind| {
        let state = cost.states.iter().find(|(one, _)| *one == kind);
        state.map(|(_, state)| device(state)).unwrap_or_default()
    };
    let [fs, scsi, gpu] = DEVICES.map(device);
    let downtime = cost.downtime.map(|time| format!("{time:?}"));
    [
        cost.failed.to_string(),
        cost.completed.to_string(),
        downtime.unwrap_or_default(),
        fs,
        scsi,
        gpu,
    ]
}

/// `12345 B 1/2/3/4`.
fn device(state: &StateCost) -> String {
    let (bytes, save) = (state.saved.bytes, state.saved.milliseconds);
    let Some(loaded) = state.loaded else {
        return format!("{bytes} B {save}/-/-/-");
    };
    let check = loaded
        .check
        .map_or_else(|| "?".to_owned(), |ms| ms.to_string());
    format!(
        "{bytes} B {save}/{}/{check}/{}",
        loaded.transfer, loaded.load
    )
}
