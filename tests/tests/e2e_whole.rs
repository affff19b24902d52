//! Do all devices of one guest at once survive what is done to its machine? See `tests/src/scenarios.rs`.

use std::time::Instant;

use anyhow::Result;
use tests::scenarios::{Scenario, Scene};

/// What is played twice more afterwards: a guest that has been through everything is to go through it again.
const AGAIN: [Scenario; 5] = [
    Scenario::Stops,
    Scenario::Snapshot,
    Scenario::Migration,
    Scenario::Refusal,
    Scenario::Cancel,
];

#[test]
fn a_guest_with_all_devices_does_not_notice() -> Result<()> {
    let mut scene = Scene::prepare()?;
    let scenarios = Scenario::ALL.into_iter().chain(AGAIN).chain(AGAIN);
    for scenario in scenarios {
        let began = Instant::now();
        let cost = scene.play(scenario)?;
        println!("{}: {:?}, {cost:?}", scenario.name(), began.elapsed());
    }
    scene.end()
}
