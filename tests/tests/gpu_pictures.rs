//! Is what a guest draws what is seen, whatever happens to the device meanwhile? Random commands to the daemon, compared with a
//! model pixel by pixel; the same commands with and without interruptions.

use anyhow::{Context, Result, ensure};
use common::frontend::Channel;
use tests::daemon_runner::Daemon;
use tests::gpu::script::Script;
use tests::gpu::start_daemon;
use tests::guest::{LoadOrder, Manner};

/// No arguments.
const PLAIN: [&str; 0] = [];

/// Parts of a script, with a checkpoint after each.
const PARTS: u64 = 6;

/// Steps in a part.
const STEPS: u64 = 100;

/// A script on a daemon, with `interrupt` five times in each part; what was seen at each checkpoint.
fn play(
    seed: u64,
    heads: u32,
    arguments: &[&str],
    mut interrupt: impl FnMut(&mut Script, &mut Daemon, u64) -> Result<()>,
) -> Result<Vec<Vec<u64>>> {
    let mut daemon = start_daemon(arguments)?;
    let mut script = Script::new(seed, heads, daemon.connect()?)?;
    let mut seen = Vec::new();
    for part in 0..PARTS {
        for slice in 0..5 {
            script
                .steps(STEPS / 5)
                .and_then(|()| interrupt(&mut script, &mut daemon, part * 5 + slice))
                .with_context(|| {
                    let log = daemon.log().unwrap_or_default();
                    format!("seed {seed}, {heads} heads, part {part}.{slice}\n{log}")
                })?;
        }
        let checked = script.checkpoint();
        seen.push(checked.with_context(|| format!("{heads} heads, part {part}"))?);
    }
    Ok(seen)
}

/// What is seen without interruptions.
fn undisturbed(seed: u64, heads: u32) -> Result<Vec<Vec<u64>>> {
    play(seed, heads, &PLAIN, |_, _, _| Ok(()))
}

#[test]
fn random_commands_on_1_2_and_16_heads() -> Result<()> {
    for heads in [1, 2, 16] {
        let seen = undisturbed(heads.into(), heads)?;
        let mut all = seen.concat();
        all.sort_unstable();
        all.dedup();
        ensure!(
            all.len() as u64 >= PARTS,
            "hardly anything was seen: {all:x?}"
        );
    }
    Ok(())
}

#[test]
fn suspended_and_stopped_in_the_middle() -> Result<()> {
    for heads in [1, 16] {
        let seen = play(7, heads, &PLAIN, |script, _, number| match number % 4 {
            0 => script.suspend(),
            1 => script.stop_and_start(true),
            2 => script.stop_and_start(false),
            _ => {
                script.suspend()?;
                script.stop_and_start(false)
            }
        })?;
        assert_eq!(seen, undisturbed(7, heads)?);
    }
    Ok(())
}

#[test]
fn rebooted_in_the_middle() -> Result<()> {
    let mut daemon = start_daemon(PLAIN)?;
    let mut script = Script::new(3, 2, daemon.connect()?)?;
    for boot in 0..5 {
        script
            .steps(150)
            .and_then(|()| script.checkpoint())
            .and_then(|_| script.reset())
            .and_then(|()| script.checkpoint())
            .with_context(|| format!("boot {boot}\n{}", daemon.log().unwrap_or_default()))?;
    }
    assert_eq!(daemon.status()?, None);
    Ok(())
}

/// Somebody who reads nothing for a while holds up nobody, and sees everything afterwards.
#[test]
fn nobody_looks_for_a_while() -> Result<()> {
    let seen = play(11, 2, &PLAIN, |script, _, number| {
        script.set_blind(number % 5 != 4);
        match number % 4 {
            0 => script.stop_and_start(number % 8 == 0),
            _ => Ok(()),
        }
    })?;
    assert_eq!(seen, undisturbed(11, 2)?);
    Ok(())
}

/// In every manner that there is, with all pixels in the state or only with those that are needed.
#[test]
fn migrated_in_the_middle() -> Result<()> {
    for (heads, pixels) in [(1, "full"), (2, "delta"), (16, "delta")] {
        let arguments = ["--state-pixels", pixels];
        let seen = play(5, heads, &arguments, |script, daemon, number| {
            let destination = start_daemon(arguments)?;
            let manner = Manner {
                order: match number % 3 {
                    0 => LoadOrder::BeforeFeatures,
                    1 => LoadOrder::BeforeMemory,
                    _ => LoadOrder::BeforeRings,
                },
                channel: match number % 4 {
                    0 | 1 => Channel::Pipe,
                    2 => Channel::SocketPair,
                    _ => Channel::File,
                },
                suspend: number % 2 == 1,
            };
            script
                .migrate_to(destination.connect()?, manner)
                .with_context(|| destination.log().unwrap_or_default())?;
            *daemon = destination;
            Ok(())
        })?;
        assert_eq!(seen, undisturbed(5, heads)?, "{heads} heads, {pixels}");
    }
    Ok(())
}

/// Saving consumes nothing, and what is saved twice is the same.
#[test]
fn saved_in_the_middle() -> Result<()> {
    for pixels in ["full", "delta"] {
        let arguments = ["--state-pixels", pixels];
        let seen = play(9, 2, &arguments, |script, _, _| {
            let first = script.snapshot()?;
            ensure!(script.snapshot()? == first, "two saves in a row differ");
            Ok(())
        })?;
        assert_eq!(seen, undisturbed(9, 2)?, "{pixels}");
    }
    Ok(())
}
