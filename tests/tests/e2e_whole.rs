//! Do all devices of one guest at once survive what is done to its machine? See `tests/src/scenarios.rs`.

use std::time::Instant;

use anyhow::Result;
use tests::scenarios::{Scenario, Scene};

/// How often all is played: a guest that has been through everything is to go through it again.
const ROUNDS: u32 = 3;

#[test]
fn a_guest_with_all_devices_does_not_notice() -> Result<()> {
    let mut scene = Scene::prepare()?;
    for round in 1..=ROUNDS {
        for scenario in Scenario::ALL {
            let began = Instant::now();
            let cost = scene.play(scenario)?;
            let (name, time) = (scenario.name(), began.elapsed());
            println!("{round}: {name}: {time:?}, {cost:?}");
        }
    }
    scene.end()
}
