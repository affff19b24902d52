//! Do all devices of one guest at once survive what is done to its machine? See `tests/src/scenarios.rs`.

use anyhow::Result;
use tests::scenarios::{Scenario, Scene};

#[test]
fn a_guest_with_all_devices_does_not_notice() -> Result<()> {
    let mut scene = Scene::prepare()?;
    for scenario in Scenario::ALL {
        let cost = scene.play(scenario)?;
        println!("{}: {:?} {cost}", scenario.name(), cost.downtime);
    }
    scene.end()
}
