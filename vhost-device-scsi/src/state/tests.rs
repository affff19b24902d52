//! States that are sound, and states that only look so.

use common::state::{Limits, read_state, write_state};
use proptest::prelude::*;

use super::*;

fn unit(lun: u16) -> UnitV1 {
    UnitV1 {
        lun,
        serial: "DISK-1".to_owned(),
        wwn: 3 << 60 | 7,
        block_size: 512,
        readonly: false,
        thin: true,
        blocks: 1000,
        blocks_reported: 900,
        attentions: vec![(0x2a, 0x09), (0x3f, 0x0e)],
        deferred: Some(SenseV1 {
            key: 3,
            asc: 0x0c,
            ascq: 0,
            information: Some(5),
        }),
        write_cache: true,
        descriptor_sense: false,
        write_protect: false,
        stopped: false,
        removal_prevented: true,
        shared: false,
        reservations: ReservationsV1 {
            generation: 4,
            registrations: vec![RegistrationV1 {
                initiator: vec![1, 2, 3],
                key: 9,
            }],
            holder: Some(HolderV1 {
                kind: 5,
                initiator: vec![1, 2, 3],
            }),
            legacy: None,
        },
    }
}

fn state() -> ScsiState {
    ScsiState {
        target: TargetV1 {
            target: 0,
            initiator: vec![5, 0],
            command_bytes: 32,
            sense_bytes: 96,
            events_missed: true,
        },
        units: vec![unit(0), unit(7)],
        events: vec![EventV1 {
            kind: 3,
            lun: 7,
            reason: (0x2a, 9),
        }],
    }
}

fn bytes(state: &ScsiState) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_state(state, ScsiState::VERSION, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_state_comes_back_as_it_went() {
    let state = state();
    assert_eq!(state.validate(), Ok(()));
    let back: ScsiState = read_state(&mut &bytes(&state)[..], &Limits::default()).unwrap();
    assert_eq!(back, state);
}

#[test]
fn states_that_make_no_sense_are_refused() {
    type Change = fn(&mut ScsiState);
    let changes: [(&str, Change); 17] = [
        ("cdb_size 0", |state| state.target.command_bytes = 0),
        ("sense_size 257", |state| state.target.sense_bytes = 257),
        ("units in disorder", |state| state.units.reverse()),
        ("a unit twice", |state| state.units[1].lun = 0),
        ("a unit too far", |state| state.units[1].lun = 16384),
        ("no serial", |state| state.units[0].serial.clear()),
        ("a long serial", |state| {
            state.units[0].serial = "x".repeat(37);
        }),
        ("blocks of 513", |state| state.units[0].block_size = 513),
        ("no blocks", |state| state.units[0].blocks = 0),
        ("too many blocks", |state| state.units[0].blocks = 1 << 60),
        ("an attention twice", |state| {
            state.units[0].attentions.push((0x2a, 0x09));
        }),
        ("a sense key", |state| {
            state.units[0].deferred.as_mut().unwrap().key = 1;
        }),
        ("key 0", |state| {
            state.units[0].reservations.registrations[0].key = 0;
        }),
        ("a holder that is not registered", |state| {
            state.units[0]
                .reservations
                .holder
                .as_mut()
                .unwrap()
                .initiator = vec![9];
        }),
        ("shared and here", |state| state.units[0].shared = true),
        ("an event of no kind", |state| state.events[0].kind = 4),
        ("too many events", |state| {
            state.events = vec![state.events[0].clone(); 1025];
        }),
    ];
    for (what, change) in changes {
        let mut state = state();
        change(&mut state);
        assert!(state.validate().is_err(), "{what}");
    }
}

proptest! {
    /// A damaged stream is refused, or is another sound stream's; in no case does reading it panic.
    #[test]
    fn damage_is_found(at in 0_usize..2000, flip in 1_u8..=255) {
        let state = state();
        let mut bytes = bytes(&state);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert!(read_state::<ScsiState>(&mut &bytes[..], &Limits::default()).is_err());
    }
}
