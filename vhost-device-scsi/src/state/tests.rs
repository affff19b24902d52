//! States that are sound, and states that only look so.

use std::path::Path;

use common::state::golden::check;
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

/// A target with one unit to which nothing has happened.
fn fresh() -> ScsiState {
    ScsiState {
        target: TargetV1 {
            target: 0,
            initiator: transport_id("iqn.2026-01.org.vhost-device:guest"),
            command_bytes: 32,
            sense_bytes: 96,
            events_missed: false,
        },
        units: vec![fresh_unit()],
        events: Vec::new(),
    }
}

fn fresh_unit() -> UnitV1 {
    UnitV1 {
        lun: 0,
        serial: "6d0f3c5ab1e2".to_owned(),
        wwn: 0x3d0f_3c5a_b1e2_4788,
        block_size: 512,
        readonly: false,
        thin: true,
        blocks: 204_800,
        blocks_reported: 204_800,
        attentions: vec![(0x29, 0x00)],
        deferred: None,
        write_cache: true,
        descriptor_sense: false,
        write_protect: false,
        stopped: false,
        removal_prevented: false,
        shared: false,
        reservations: ReservationsV1::default(),
    }
}

/// The bytes that live code makes of a name; a state is plain data, and does not know the code.
fn transport_id(name: &str) -> Vec<u8> {
    let initiator = crate::scsi::reservation::Initiator::parse(name).unwrap();
    initiator.transport_id().to_vec()
}

/// Units of all sorts; no two fields of a struct have the same value, as far as there are as many.
fn typical() -> ScsiState {
    let [first, second] = ["iqn.2026-01.org.example:vm7", "sas:5000c50012345678"].map(transport_id);
    ScsiState {
        target: TargetV1 {
            target: 3,
            initiator: first.clone(),
            command_bytes: 64,
            sense_bytes: 252,
            events_missed: true,
        },
        units: vec![
            UnitV1 {
                lun: 1,
                serial: "DATA-1".to_owned(),
                wwn: 0x3123_4567_89ab_cdef,
                block_size: 512,
                readonly: false,
                thin: true,
                blocks: 1 << 33,
                blocks_reported: 1 << 32,
                attentions: vec![(0x2a, 0x09), (0x2a, 0x05), (0x3f, 0x0e)],
                deferred: Some(SenseV1 {
                    key: 0x3,
                    asc: 0x0c,
                    ascq: 0x02,
                    information: Some(0x1_0000_0005),
                }),
                write_cache: true,
                descriptor_sense: false,
                write_protect: false,
                stopped: true,
                removal_prevented: false,
                shared: false,
                reservations: ReservationsV1 {
                    generation: 41,
                    registrations: vec![
                        RegistrationV1 {
                            initiator: second.clone(),
                            key: 0xfeed_face_cafe_beef,
                        },
                        RegistrationV1 {
                            initiator: first.clone(),
                            key: 7,
                        },
                    ],
                    holder: Some(HolderV1 {
                        kind: 6,
                        initiator: second,
                    }),
                    legacy: None,
                },
            },
            UnitV1 {
                lun: 300,
                serial: "LEGACY-300".to_owned(),
                wwn: 0x3000_0000_0000_0300,
                block_size: 4096,
                readonly: true,
                thin: false,
                blocks: 2000,
                blocks_reported: 1999,
                attentions: vec![(0x29, 0x07)],
                deferred: None,
                write_cache: false,
                descriptor_sense: true,
                write_protect: true,
                stopped: false,
                removal_prevented: true,
                shared: false,
                reservations: ReservationsV1 {
                    generation: 5,
                    legacy: Some(first),
                    ..ReservationsV1::default()
                },
            },
            UnitV1 {
                lun: 16_383,
                shared: true,
                serial: "SHARED".to_owned(),
                wwn: 0x3fff_ffff_ffff_ffff,
                ..fresh_unit()
            },
        ],
        events: vec![
            event(1, 300, (0, 0)),
            event(2, 17, (0, 0)),
            event(3, 1, (0x2a, 0x09)),
        ],
    }
}

fn event(kind: u8, lun: u16, reason: (u8, u8)) -> EventV1 {
    EventV1 { kind, lun, reason }
}

fn bytes(state: &ScsiState) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_state(state, ScsiState::VERSION, &mut bytes).unwrap();
    bytes
}

#[test]
fn golden_states() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    check(&folder, &[("fresh", fresh()), ("typical", typical())]);
    assert_eq!(fresh().validate(), Ok(()));
    assert_eq!(typical().validate(), Ok(()));
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
