//! State streams that were cut off, damaged or forged: refused, or a sound device.
//!
//! They are loaded into the device that they came from, while its rings are stopped.

#![expect(
    clippy::indexing_slicing,
    reason = "a sample that is not what its forger thinks ends the test"
)]

use anyhow::{Context, Result, ensure};
use common::state::{Limits, StateSchema as _, read_state, write_state};
use tests::random::Random;
use vhost_device_scsi::state::{EventV1, HolderV1, RegistrationV1, ScsiState, SenseV1, UnitV1};

use crate::rig::{CONTROL, LUNS, REQUESTS, RESPONSE, Rig, address, header, task};

/// A stopped device with a reservation and all else, where its rings stopped, and its state.
struct Stopped {
    rig: Rig,
    bases: Vec<u32>,
    state: Vec<u8>,
}

impl Stopped {
    fn new() -> Result<Self> {
        let mut rig = Rig::start(&[])?;
        let mut list = [0; 24];
        list[15] = 9;
        rig.command(0, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)?;
        list[15] = 0;
        list[7] = 9;
        let (_, status, _) = rig.command(0, &[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], &list, 0)?;
        ensure!(status == 0, "RESERVE: {status}");
        rig.command(LUNS[1], &[0x1e, 0, 0, 0, 1, 0], &[], 0)?;
        let bases = rig.machine.stop()?;
        let mut state = Vec::new();
        rig.machine.frontend().save(&mut state)?;
        Ok(Self { rig, bases, state })
    }

    /// Whether a stream is accepted.
    fn load(&mut self, mut stream: &[u8]) -> Result<bool> {
        let loaded = self.rig.machine.frontend().load(&mut stream).is_ok();
        // A refusal ends nothing.
        self.rig.machine.frontend().features()?;
        Ok(loaded)
    }

    /// A refusal has changed nothing.
    fn is_unchanged(&mut self) -> Result<()> {
        let mut state = Vec::new();
        self.rig.machine.frontend().save(&mut state)?;
        ensure!(
            state == self.state,
            "a refused state has changed the device"
        );
        Ok(())
    }

    /// Requests are given back, whatever the state says of sizes and reservations.
    fn is_sound(&mut self) -> Result<()> {
        self.rig.machine.start(&self.bases)?;
        for lun in LUNS {
            for cdb in [
                [0; 6],
                [0x12, 0, 0, 0, 36, 0],
                [0x08, 0, 0, 0, 1, 0],
                [0x1a, 0, 0x3f, 0, 255, 0],
            ] {
                let request = header(address(lun), &cdb);
                self.rig.exchange(REQUESTS, &[&request], &[RESPONSE, 600])?;
            }
            self.rig
                .exchange(CONTROL, &[&task(5, address(lun), 0)], &[1])?;
        }
        self.bases = self.rig.machine.stop()?;
        // And it can be saved, and loaded again.
        let mut state = Vec::new();
        self.rig.machine.frontend().save(&mut state)?;
        ensure!(self.load(&state)?, "its own state is refused");
        Ok(())
    }

    fn survived(mut self) -> Result<()> {
        let state = self.state.clone();
        ensure!(self.load(&state)?, "the true state is refused");
        self.is_unchanged()?;
        self.rig.machine.start(&self.bases)?;
        self.rig.survived()
    }
}

fn decode(mut state: &[u8]) -> Result<ScsiState> {
    Ok(read_state(&mut state, &Limits::default())?)
}

fn encode(state: &ScsiState) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_state(state, ScsiState::VERSION, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() -> Result<()> {
    let mut device = Stopped::new()?;
    let state = device.state.clone();
    for length in 0..state.len() {
        ensure!(!device.load(&state[..length])?, "cut at {length}");
    }
    for bit in 0..state.len() * 8 {
        let mut flipped = state.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        ensure!(!device.load(&flipped)?, "bit {bit}");
    }
    device.is_unchanged()?;
    device.survived()
}

type Forge = fn(&mut ScsiState);

fn registration(number: u8) -> RegistrationV1 {
    let mut initiator = vec![6, 0, 0, 0];
    initiator.resize(24, number);
    RegistrationV1 { initiator, key: 1 }
}

/// States that make no sense, or are another device's.
const FORGED: &[(&str, Forge)] = &[
    ("a key of 0", |state| {
        state.units[0].reservations.registrations[0].key = 0;
    }),
    ("somebody twice", |state| {
        let registrations = &mut state.units[0].reservations.registrations;
        registrations.push(registrations[0].clone());
    }),
    ("too many registrations", |state| {
        let more = (0..=255).map(registration);
        state.units[0].reservations.registrations.extend(more);
    }),
    ("a holder that is not registered", |state| {
        state.units[0].reservations.registrations.clear();
    }),
    ("another holder", |state| {
        state.units[0].reservations.holder = Some(HolderV1 {
            kind: 5,
            initiator: registration(1).initiator,
        });
    }),
    ("a type that there is not", |state| {
        if let Some(holder) = &mut state.units[0].reservations.holder {
            holder.kind = 4;
        }
    }),
    ("a name that is none", |state| {
        let other = RegistrationV1 {
            initiator: vec![5, 0, 0, 200, 1],
            key: 1,
        };
        state.units[0].reservations.registrations.push(other);
    }),
    ("a name of no bytes", |state| {
        state.units[1].reservations.legacy = Some(Vec::new());
    }),
    ("a name of many bytes", |state| {
        state.units[1].reservations.legacy = Some(vec![5; 100_000]);
    }),
    ("both kinds of reservations", |state| {
        state.units[0].reservations.legacy = Some(registration(1).initiator);
    }),
    ("shared, and here as well", |state| {
        state.units[0].shared = true;
    }),
    ("shared, where nothing is", |state| {
        state.units[1].shared = true;
    }),
    ("another serial number", |state| {
        state.units[0].serial.push('x');
    }),
    ("a serial number that is not printable", |state| {
        "\n".clone_into(&mut state.units[0].serial);
    }),
    ("a long serial number", |state| {
        state.units[0].serial = "x".repeat(1 << 16);
    }),
    ("another name", |state| state.units[0].wwn ^= 1),
    ("another block size", |state| {
        state.units[0].block_size = 4096;
    }),
    ("no block size", |state| state.units[0].block_size = 0),
    ("no blocks", |state| state.units[0].blocks = 0),
    ("all blocks", |state| state.units[0].blocks = u64::MAX),
    ("read-only", |state| state.units[0].readonly = true),
    ("not thin", |state| state.units[0].thin = false),
    ("too many unit attentions", |state| {
        state.units[0].attentions = (0..=255).map(|code| (0x29, code)).collect();
    }),
    ("a unit attention twice", |state| {
        state.units[0].attentions = vec![(0x2a, 9); 2];
    }),
    ("a sense key that there is not", |state| {
        state.units[0].deferred = Some(SenseV1 {
            key: 0x10,
            asc: 0,
            ascq: 0,
            information: None,
        });
    }),
    ("a unit that is not here", |state| state.units[1].lun = 6),
    ("a unit of a great number", |state| {
        state.units[1].lun = u16::MAX;
    }),
    ("a unit twice", |state| {
        state.units[1].lun = state.units[0].lun;
    }),
    ("units in disorder", |state| state.units.reverse()),
    ("many units", |state| {
        let unit = state.units[1].clone();
        let numbers = 6..=16_383;
        state.units.extend(numbers.map(|lun| UnitV1 {
            lun,
            ..unit.clone()
        }));
    }),
    ("no cdb_size", |state| state.target.command_bytes = 0),
    ("a great cdb_size", |state| {
        state.target.command_bytes = u32::MAX;
    }),
    ("no sense_size", |state| state.target.sense_bytes = 0),
    ("a great sense_size", |state| state.target.sense_bytes = 257),
    ("another target", |state| state.target.target = 1),
    ("another initiator", |state| {
        state.target.initiator = registration(1).initiator;
    }),
    ("an event of no kind", |state| {
        state.events.push(event(0, 0, (0, 0)));
    }),
    ("an event of a great unit", |state| {
        state.events.push(event(1, u16::MAX, (0, 0)));
    }),
    ("an event with a reason", |state| {
        state.events.push(event(2, 0, (0x2a, 9)));
    }),
    ("an event without one", |state| {
        state.events.push(event(3, 0, (0, 0)));
    }),
    ("a disk that was larger", |state| {
        state.units[0].blocks += 1;
    }),
    ("many events", |state| {
        state.events = vec![event(1, 0, (0, 0)); 100_000];
    }),
];

fn event(kind: u8, lun: u16, reason: (u8, u8)) -> EventV1 {
    EventV1 { kind, lun, reason }
}

#[test]
fn forged_states_are_refused_and_change_nothing() -> Result<()> {
    let mut device = Stopped::new()?;
    let sound = decode(&device.state)?;
    for (what, forge) in FORGED {
        let mut state = sound.clone();
        forge(&mut state);
        ensure!(state != sound, "{what} is as it was");
        ensure!(!device.load(&encode(&state)?)?, "accepted: {what}");
        device.is_unchanged().with_context(|| (*what).to_owned())?;
    }
    device.survived()
}

/// Changes something, perhaps so that it still makes sense.
fn forge(state: &mut ScsiState, random: &mut Random) {
    let number = random.one_of(
        &[
            0,
            1,
            2,
            255,
            256,
            1 << 31,
            u32::MAX.into(),
            1 << 63,
            u64::MAX,
        ],
        0,
    );
    let byte = random.byte();
    let bytes = number.to_le_bytes();
    let short = u16::from_le_bytes([bytes[0], bytes[1]]);
    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let which = random.below(2);
    let choice = random.below(20);
    let Some(unit) = state.units.get_mut(which) else {
        return;
    };
    match choice {
        0 => unit.blocks = number,
        1 => unit.blocks_reported = number,
        2 => unit.attentions.push((byte, random.byte())),
        3 => {
            unit.deferred = Some(SenseV1 {
                key: byte & 0x0f,
                asc: random.byte(),
                ascq: random.byte(),
                information: Some(number),
            });
        }
        4 => unit.write_cache = !unit.write_cache,
        5 => unit.descriptor_sense = true,
        6 => unit.write_protect = true,
        7 => unit.stopped = true,
        8 => unit.reservations.generation = word,
        9 => unit.reservations.registrations.push(registration(byte)),
        10 => unit.reservations.legacy = Some(registration(byte).initiator),
        11 => {
            let initiator = registration(byte).initiator;
            let key = number;
            unit.reservations.registrations.push(RegistrationV1 {
                initiator: initiator.clone(),
                key,
            });
            unit.reservations.holder = Some(HolderV1 {
                kind: random.one_of(&[1, 3, 5, 6, 7, 8], byte),
                initiator,
            });
        }
        12 => state.target.command_bytes = word,
        13 => state.target.sense_bytes = word,
        14 => state.target.command_bytes = byte.into(),
        15 => state.target.sense_bytes = byte.into(),
        16 => state.target.events_missed = true,
        17 => state
            .events
            .push(event(byte % 5, short, (random.byte(), 0))),
        18 => state.events.push(event(1 + byte % 2, 5, (0, 0))),
        _ => {
            state.units.remove(which);
        }
    }
}

#[test]
fn a_state_that_is_accepted_is_a_sound_device_whatever_was_changed() -> Result<()> {
    let seed = Random::seed_of_the_time();
    let mut random = Random::new(seed);
    let mut device = Stopped::new()?;
    let sound = decode(&device.state)?;
    let mut accepted = 0;
    for number in 0..400 {
        let mut state = sound.clone();
        for _ in 0..=random.below(3) {
            forge(&mut state, &mut random);
        }
        let place = || format!("seed {seed}, state {number}: {state:?}");
        if device.load(&encode(&state)?).with_context(place)? {
            accepted += 1;
            device.is_sound().with_context(place)?;
        }
    }
    println!("{accepted} of 400 were accepted");
    ensure!(
        (40..360).contains(&accepted),
        "{accepted} of 400 were accepted"
    );
    device.survived()
}
