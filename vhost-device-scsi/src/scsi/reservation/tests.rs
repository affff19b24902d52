//! The rules, by table and by chance.

use proptest::prelude::*;

use super::*;
use crate::scsi::command::Command;
use crate::scsi::sense::Sense;

fn initiator(number: u8) -> Initiator {
    Initiator::parse(&format!("iqn.2026-01.test:{number}")).unwrap()
}

fn key(number: u8) -> u64 {
    0x1000 + u64::from(number)
}

fn out(
    table: &mut Reservations,
    who: u8,
    action: u8,
    kind: u8,
    keys: (u64, u64),
) -> Result<Vec<Attention>, Refusal> {
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let mut parameters = keys.0.to_be_bytes().to_vec();
    parameters.extend_from_slice(&keys.1.to_be_bytes());
    parameters.extend_from_slice(&[0; 8]);
    table.change(&initiator(who), Command(&cdb), Command(&parameters), false)
}

/// Initiators 0 and 1 are registered, 2 is not; 0 holds a reservation.
fn held(kind: Kind) -> Reservations {
    let mut table = Reservations::default();
    for who in [0, 1] {
        out(&mut table, who, 0, 0, (0, key(who))).unwrap();
    }
    out(&mut table, 0, 1, kind as u8, (key(0), 0)).unwrap();
    table
}

/// SPC-5, table 66, in short: who may read and write under which type.
#[test]
fn the_table_of_conflicts() {
    for kind in Kind::ALL {
        let table = held(kind);
        let may = |who: u8, class| !table.conflicts(&initiator(who), class);
        let (registrant, other_reads) = match kind {
            Kind::WriteExclusive => ((true, false), true),
            Kind::ExclusiveAccess => ((false, false), false),
            Kind::WriteExclusiveRegistrantsOnly | Kind::WriteExclusiveAllRegistrants => {
                ((true, true), true)
            }
            Kind::ExclusiveAccessRegistrantsOnly | Kind::ExclusiveAccessAllRegistrants => {
                ((true, true), false)
            }
        };
        assert!(may(0, Class::Read) && may(0, Class::Write), "{kind:?}");
        assert_eq!(
            (may(1, Class::Read), may(1, Class::Write)),
            registrant,
            "{kind:?}"
        );
        assert_eq!(may(2, Class::Read), other_reads, "{kind:?}");
        assert!(!may(2, Class::Write), "{kind:?}");
        assert!(may(2, Class::Always), "{kind:?}");
    }
}

#[test]
fn only_registrants_reserve_and_only_with_their_key() {
    let mut table = Reservations::default();
    assert_eq!(out(&mut table, 0, 1, 1, (0, 0)), Err(Refusal::Conflict));
    out(&mut table, 0, 0, 0, (0, key(0))).unwrap();
    assert_eq!(out(&mut table, 0, 1, 1, (1, 0)), Err(Refusal::Conflict));
    assert!(matches!(
        out(&mut table, 0, 1, 2, (key(0), 0)),
        Err(Refusal::Sense(Sense { asc: 0x24, .. }))
    ));
    out(&mut table, 0, 1, 1, (key(0), 0)).unwrap();
    assert_eq!(table.generation, 1, "RESERVE does not count");
    // The same once more is no error; another type is.
    out(&mut table, 0, 1, 1, (key(0), 0)).unwrap();
    assert_eq!(
        out(&mut table, 0, 1, 3, (key(0), 0)),
        Err(Refusal::Conflict)
    );
    assert!(matches!(
        out(&mut table, 0, 2, 3, (key(0), 0)),
        Err(Refusal::Sense(Sense {
            asc: 0x26,
            ascq: 4,
            ..
        }))
    ));
    out(&mut table, 0, 2, 1, (key(0), 0)).unwrap();
    assert!(table.is_free());
}

#[test]
fn a_holder_that_unregisters_releases_and_the_registrants_hear_of_it() {
    for (kind, told) in [
        (Kind::WriteExclusive, false),
        (Kind::WriteExclusiveRegistrantsOnly, true),
    ] {
        let mut table = held(kind);
        out(&mut table, 0, 0, 0, (key(0), 0)).unwrap();
        assert!(table.is_free());
        let expected: &[_] = if told {
            &[(initiator(1), Attention::RESERVATIONS_RELEASED)]
        } else {
            &[]
        };
        assert_eq!(table.notices, expected);
    }
    let mut table = held(Kind::WriteExclusiveAllRegistrants);
    out(&mut table, 0, 0, 0, (key(0), 0)).unwrap();
    assert!(table.holds(&initiator(1)), "all registrants hold it");
    out(&mut table, 1, 0, 0, (key(1), 0)).unwrap();
    assert!(table.is_free());
}

#[test]
fn preempting_the_holder_takes_its_reservation_over() {
    for action in [4, 5] {
        let mut table = held(Kind::ExclusiveAccess);
        out(&mut table, 1, action, 1, (key(1), key(0))).unwrap();
        assert_eq!(table.key_of(&initiator(0)), None);
        assert_eq!(
            table.holder,
            Some(Holder {
                kind: Kind::WriteExclusive,
                initiator: initiator(1)
            })
        );
        assert_eq!(
            table.notices,
            [(initiator(0), Attention::REGISTRATIONS_PREEMPTED)]
        );
    }
    let mut table = held(Kind::ExclusiveAccess);
    assert_eq!(
        out(&mut table, 1, 4, 1, (key(1), 77)),
        Err(Refusal::Conflict),
        "nobody has this key"
    );
    assert_eq!(table, held(Kind::ExclusiveAccess));
}

#[test]
fn clearing_ends_everything() {
    let mut table = held(Kind::WriteExclusive);
    out(&mut table, 1, 3, 0, (key(1), 0)).unwrap();
    assert!(table.is_free() && table.registrations.is_empty());
    assert_eq!(
        table.notices,
        [(initiator(0), Attention::RESERVATIONS_PREEMPTED)]
    );
}

#[test]
fn the_reservation_of_spc_2() {
    let mut table = Reservations::default();
    table.reserve_legacy(&initiator(0)).unwrap();
    table.reserve_legacy(&initiator(0)).unwrap();
    assert_eq!(table.reserve_legacy(&initiator(1)), Err(Refusal::Conflict));
    assert!(table.conflicts(&initiator(1), Class::Read));
    assert!(!table.conflicts(&initiator(0), Class::Write));
    table.release_legacy(&initiator(1));
    assert!(!table.is_free());
    table.release_legacy(&initiator(0));
    assert!(table.is_free());
    let mut table = held(Kind::WriteExclusive);
    assert_eq!(
        table.reserve_legacy(&initiator(0)),
        Err(Refusal::Conflict),
        "CRH is 0"
    );
}

#[test]
fn forged_tables_are_refused() {
    let good = held(Kind::WriteExclusive);
    assert_eq!(good.validate(), Ok(()));
    let mut table = good.clone();
    table.registrations[0].key = 0;
    assert!(matches!(table.validate(), Err(ForgedReservations::Key(_))));
    let mut table = good.clone();
    table.registrations[1].initiator = initiator(0);
    assert!(matches!(
        table.validate(),
        Err(ForgedReservations::Twice(_))
    ));
    let mut table = good.clone();
    table.registrations.remove(0);
    assert!(matches!(
        table.validate(),
        Err(ForgedReservations::Holder(_))
    ));
    let mut table = good;
    table.legacy = Some(initiator(0));
    assert_eq!(table.validate(), Err(ForgedReservations::Both));
}

proptest! {
    /// Whatever three initiators do: the table makes sense, the generation never goes back, and a refusal changes nothing.
    #[test]
    fn any_sequence_leaves_a_table_that_makes_sense(
        steps in proptest::collection::vec((0_u8..3, 0_u8..8, 0_u8..10, 0_u8..5, 0_u8..5), 0..60)
    ) {
        let mut table = Reservations::default();
        for (who, action, kind, first, second) in steps {
            let named = |number: u8| if number == 4 { 0 } else { key(number) };
            let before = table.clone();
            let result = out(&mut table, who, action, kind, (named(first), named(second)));
            prop_assert_eq!(table.validate(), Ok(()));
            let counted = table.generation - before.generation;
            prop_assert!(counted <= 1);
            if result.is_err() {
                prop_assert_eq!(&table, &before);
            }
            table.notices.clear();
        }
    }
}
