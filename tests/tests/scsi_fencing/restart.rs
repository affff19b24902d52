//! What outlives daemons: while one of them runs, everything; otherwise what was to persist through a power loss (APTPL).

use anyhow::{Result, ensure};

use crate::rig::{
    A, B, C, DONE, EXCLUSIVE_ACCESS, POWER_ON, REGISTRATIONS_PREEMPTED, Rig, WRITE_EXCLUSIVE,
    at_rest_and_migrating,
};

fn reserve(rig: &mut Rig, aptpl: bool) -> Result<()> {
    let aptpl: &[&str] = if aptpl { &["--param-aptpl"] } else { &[] };
    for (number, key) in [(A, "--param-sark=0xa"), (B, "--param-sark=0xb")] {
        rig.out(number, &[&["--register", key], aptpl].concat(), DONE)?;
    }
    rig.act(A, "--reserve", EXCLUSIVE_ACCESS, DONE)
}

#[test]
fn a_reservation_outlives_the_daemon_of_its_holder_while_others_run() -> Result<()> {
    at_rest_and_migrating(|rig| {
        reserve(rig, false)?;
        let before = rig.reservation()?;
        rig.restart(&[A])?;
        rig.all_heard([&[POWER_ON], &[], &[]])?;
        ensure!(rig.reservation()? == before && before.is_some());
        ensure!(rig.writers()? == [A]);
        rig.restart(&[B, C])?;
        rig.all_heard([&[], &[POWER_ON], &[POWER_ON]])?;
        ensure!(rig.reservation()? == before);
        ensure!(rig.writers()? == [A]);
        Ok(())
    })
}

#[test]
fn a_power_loss_ends_what_was_not_to_persist_and_nothing_else() -> Result<()> {
    for aptpl in [false, true] {
        at_rest_and_migrating(|rig| {
            reserve(rig, aptpl)?;
            let before = rig.reservation()?;
            rig.power_loss()?;
            rig.all_heard([&[POWER_ON], &[POWER_ON], &[POWER_ON]])?;
            if aptpl {
                ensure!(rig.reservation()? == before && before.is_some());
                ensure!(rig.keys()? == ["0xa", "0xb"]);
                ensure!(rig.writers()? == [A]);
                // The last REGISTER says how it is to be (SPC-5, 5.14.5).
                rig.out(
                    B,
                    &["--register", "--param-rk=0xb", "--param-sark=0xbb"],
                    DONE,
                )?;
                rig.power_loss()?;
                rig.all_heard([&[POWER_ON], &[POWER_ON], &[POWER_ON]])?;
            }
            ensure!(rig.reservation()?.is_none() && rig.keys()?.is_empty());
            ensure!(rig.writers()? == [A, B, C]);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_dead_node_is_fenced_and_hears_of_it_when_it_comes_back() -> Result<()> {
    for action in ["--preempt", "--preempt-abort"] {
        at_rest_and_migrating(|rig| {
            reserve(rig, false)?;
            rig.port(A)?.daemon().kill()?;
            // Nobody waits for commands of a daemon that is dead.
            let kind = format!("--prout-type={WRITE_EXCLUSIVE}");
            let preempt = [
                "--out",
                action,
                "--param-rk=0xb",
                "--param-sark=0xa",
                kind.as_str(),
            ];
            let persisted = rig.persist(B, &preempt)?;
            ensure!(persisted.status == DONE, "{persisted:?}");
            rig.replace(A)?;
            rig.step()?;
            ensure!(rig.heard(A)? == [POWER_ON, REGISTRATIONS_PREEMPTED]);
            ensure!(rig.writers()? == [B]);
            Ok(())
        })?;
    }
    Ok(())
}
