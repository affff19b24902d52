//! Who holds what after each service action, and which unit attention each initiator hears of it (SPC-5, 5.14.10 and 5.14.11).

use anyhow::{Result, ensure};
use tests::scsi_suite::initiator::Data;

use crate::rig::{
    A, B, C, CONFLICT, DONE, EXCLUSIVE_ACCESS, REFUSED, REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED, RESERVATIONS_RELEASED, Rig, WRITE_EXCLUSIVE, at_rest_and_migrating,
};

/// All of them register, and A reserves.
fn reserved(rig: &mut Rig, kind: u8) -> Result<()> {
    for number in [A, B, C] {
        rig.register(number)?;
    }
    rig.act(A, "--reserve", kind, DONE)
}

#[test]
fn registrations_are_seen_by_all_and_need_the_right_key() -> Result<()> {
    at_rest_and_migrating(|rig| {
        // A key that one does not have.
        rig.out(
            A,
            &["--register", "--param-rk=0x9", "--param-sark=0xa"],
            CONFLICT,
        )?;
        rig.register(A)?;
        rig.register(B)?;
        ensure!(rig.keys()? == ["0xa", "0xb"]);
        rig.out(
            B,
            &["--register", "--param-rk=0xa", "--param-sark=0x1"],
            CONFLICT,
        )?;
        rig.out(
            B,
            &["--register", "--param-rk=0xb", "--param-sark=0x77"],
            DONE,
        )?;
        rig.out(B, &["--register-ignore", "--param-sark=0x99"], DONE)?;
        ensure!(rig.keys()? == ["0xa", "0x99"]);
        // Who is not registered can do nothing else; nor can one with the wrong key.
        rig.act(C, "--reserve", WRITE_EXCLUSIVE, CONFLICT)?;
        rig.act(C, "--clear", WRITE_EXCLUSIVE, CONFLICT)?;
        rig.act(B, "--reserve", WRITE_EXCLUSIVE, CONFLICT)?;
        ensure!(rig.reservation()?.is_none());
        rig.out(B, &["--register-ignore", "--param-sark=0"], DONE)?;
        ensure!(rig.keys()? == ["0xa"]);
        rig.all_heard([&[], &[], &[]])
    })
}

#[test]
fn a_release_is_heard_by_the_other_registrants_of_types_for_registrants() -> Result<()> {
    at_rest_and_migrating(|rig| {
        for &kind in rig.kinds() {
            reserved(rig, kind)?;
            // Another type than the one that is held.
            let other = if kind == 1 { 3 } else { 1 };
            rig.act(A, "--release", other, REFUSED)?;
            if kind < 7 {
                // Not its own: no error, and nothing is released.
                rig.act(B, "--release", kind, DONE)?;
                ensure!(rig.reservation()?.is_some(), "type {kind}");
            }
            rig.act(A, "--release", kind, DONE)?;
            ensure!(rig.reservation()?.is_none(), "type {kind}");
            if kind >= 5 {
                rig.all_heard([&[], &[RESERVATIONS_RELEASED], &[RESERVATIONS_RELEASED]])?;
            } else {
                rig.all_heard([&[], &[], &[]])?;
            }
            ensure!(rig.writers()? == [A, B, C]);
            rig.act(A, "--clear", 0, DONE)?;
            rig.all_heard([&[], &[RESERVATIONS_PREEMPTED], &[RESERVATIONS_PREEMPTED]])?;
        }
        Ok(())
    })
}

#[test]
fn a_holder_that_leaves_takes_its_reservation_with_it() -> Result<()> {
    at_rest_and_migrating(|rig| {
        let leave =
            |rig: &mut Rig, number| rig.out(number, &["--register-ignore", "--param-sark=0"], DONE);
        for &kind in rig.kinds() {
            reserved(rig, kind)?;
            leave(rig, A)?;
            let of_all = kind >= 7;
            ensure!(rig.reservation()?.is_some() == of_all, "type {kind}");
            match kind {
                5 | 6 => {
                    rig.all_heard([&[], &[RESERVATIONS_RELEASED], &[RESERVATIONS_RELEASED]])?;
                }
                _ => rig.all_heard([&[], &[], &[]])?,
            }
            if of_all {
                ensure!(rig.writers()? == [B, C], "type {kind}");
            }
            leave(rig, B)?;
            leave(rig, C)?;
            ensure!(rig.reservation()?.is_none() && rig.keys()?.is_empty());
            rig.all_heard([&[], &[], &[]])?;
        }
        Ok(())
    })
}

#[test]
fn a_preempted_holder_is_fenced_at_once_and_hears_why() -> Result<()> {
    for action in ["--preempt", "--preempt-abort"] {
        at_rest_and_migrating(|rig| {
            reserved(rig, WRITE_EXCLUSIVE)?;
            ensure!(rig.writers()? == [A]);
            // A key that nobody has.
            rig.preempt(B, action, "0x123", EXCLUSIVE_ACCESS, CONFLICT)?;
            rig.preempt(B, action, "0xa", EXCLUSIVE_ACCESS, DONE)?;
            ensure!(rig.keys()? == ["0xb", "0xc"]);
            let (key, kind) = rig.reservation()?.unwrap_or_default();
            ensure!(
                (key.as_str(), kind.as_str()) == ("0xb", "Exclusive Access"),
                "{kind}"
            );
            // Its type has changed, of which those hear that stay.
            rig.all_heard([&[REGISTRATIONS_PREEMPTED], &[], &[RESERVATIONS_RELEASED]])?;
            ensure!(rig.writers()? == [B]);
            rig.act(A, "--release", WRITE_EXCLUSIVE, CONFLICT)?;

            // Of one that holds nothing, and of the same type: the reservation stays what it is.
            rig.preempt(B, action, "0xc", EXCLUSIVE_ACCESS, DONE)?;
            ensure!(rig.keys()? == ["0xb"]);
            rig.all_heard([&[], &[], &[REGISTRATIONS_PREEMPTED]])?;
            ensure!(rig.writers()? == [B]);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn of_a_reservation_of_all_registrants_all_are_preempted_by_the_key_zero() -> Result<()> {
    for action in ["--preempt", "--preempt-abort"] {
        at_rest_and_migrating(|rig| {
            // Without one, and with one that is not of all, 0 is nobody's key.
            rig.register(B)?;
            rig.preempt(B, action, "0", WRITE_EXCLUSIVE, REFUSED)?;
            reserved_again(rig)?;
            rig.preempt(B, action, "0xa", 7, DONE)?;
            ensure!(rig.keys()? == ["0xb", "0xc"], "one");
            rig.all_heard([&[REGISTRATIONS_PREEMPTED], &[], &[]])?;
            ensure!(rig.writers()? == [B, C]);
            // Its type has changed, but there is nobody left to hear of that.
            rig.preempt(B, action, "0", 5, DONE)?;
            ensure!(rig.keys()? == ["0xb"], "all");
            rig.all_heard([&[], &[], &[REGISTRATIONS_PREEMPTED]])?;
            ensure!(rig.writers()? == [B]);
            Ok(())
        })?;
    }
    Ok(())
}

/// B is registered; the others register, and A reserves for all registrants.
fn reserved_again(rig: &mut Rig) -> Result<()> {
    rig.register(A)?;
    rig.register(C)?;
    rig.act(A, "--reserve", 7, DONE)
}

#[test]
fn a_clear_takes_all_and_the_others_hear_of_it() -> Result<()> {
    at_rest_and_migrating(|rig| {
        for &kind in rig.kinds() {
            reserved(rig, kind)?;
            // By one who does not hold it.
            rig.act(B, "--clear", 0, DONE)?;
            ensure!(rig.keys()?.is_empty() && rig.reservation()?.is_none());
            rig.all_heard([&[RESERVATIONS_PREEMPTED], &[], &[RESERVATIONS_PREEMPTED]])?;
            ensure!(rig.writers()? == [A, B, C]);
        }
        Ok(())
    })
}

#[test]
fn what_waits_for_an_initiator_is_heard_in_order_and_once() -> Result<()> {
    at_rest_and_migrating(|rig| {
        reserved(rig, 5)?;
        rig.act(A, "--release", 5, DONE)?;
        // B has not heard of that. INQUIRY does not tell, and takes nothing away.
        rig.command(B, &[0x12, 0, 0, 0, 36, 0], Data::In(36))?;
        rig.step()?;
        rig.act(A, "--reserve", 5, DONE)?;
        rig.preempt(A, "--preempt", "0xb", 5, DONE)?;
        rig.all_heard([
            &[],
            &[RESERVATIONS_RELEASED, REGISTRATIONS_PREEMPTED],
            &[RESERVATIONS_RELEASED],
        ])?;
        rig.all_heard([&[], &[], &[]])
    })
}

#[test]
fn the_generation_counts_what_changes_registrations() -> Result<()> {
    at_rest_and_migrating(|rig| {
        let generation = |rig: &mut Rig| {
            let outcome = rig.command(C, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], Data::In(8))?;
            let [a, b, c, d, ..] = outcome.data[..] else {
                anyhow::bail!("{outcome:?}");
            };
            Ok(u32::from_be_bytes([a, b, c, d]))
        };
        ensure!(generation(rig)? == 0);
        rig.register(A)?;
        rig.register(B)?;
        ensure!(generation(rig)? == 2);
        // Neither of these counts (SPC-5, 6.15.2).
        rig.act(A, "--reserve", WRITE_EXCLUSIVE, DONE)?;
        rig.act(A, "--release", WRITE_EXCLUSIVE, DONE)?;
        rig.act(C, "--clear", 0, CONFLICT)?;
        ensure!(generation(rig)? == 2);
        rig.preempt(A, "--preempt", "0xb", WRITE_EXCLUSIVE, DONE)?;
        ensure!(generation(rig)? == 3);
        rig.act(A, "--clear", 0, DONE)?;
        ensure!(generation(rig)? == 4);
        Ok(())
    })
}
