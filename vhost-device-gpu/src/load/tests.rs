//! A device that was saved and loaded goes on as if nothing had happened, wherever that was; and one that is refused a state is as it
//! was.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers that the test makes itself"
)]

use common::state::{Limits, StateSchema as _, read_state, write_state};

use super::*;
use crate::config::StatePixels;
use crate::renderer::Stage as _;
use crate::save::Save as _;
use crate::state::ForgedState;
use crate::two_d::tests::memory::TestMemory;
use crate::two_d::tests::model::{MEMORY_BYTES, Model, Random, SCANOUTS};
use crate::two_d::tests::{TestStage, look, new_core, new_stage};
use crate::wire::{Command, Edid, feature};

/// A device without rings.
struct Whole {
    core: Core,
    stage: TestStage,
    info: Option<Box<DisplayInfo>>,
    edids: [Option<Edid>; SCANOUTS_MAX],
}

impl Whole {
    fn new() -> Self {
        Self {
            core: new_core(),
            stage: new_stage(),
            info: None,
            edids: Default::default(),
        }
    }

    fn save(&mut self, memory: &TestMemory, wanted: StatePixels) -> GpuState {
        let known = Known {
            info: &mut self.info,
            edids: &mut self.edids,
        };
        let screens = self.stage.0.borrow();
        self.core
            .save(memory, wanted, feature::EDID, &screens, &known)
    }

    fn load(&mut self, state: GpuState) -> Result<u64, LoadError> {
        let mut known = Known {
            info: &mut self.info,
            edids: &mut self.edids,
        };
        let mut screens = self.stage.0.borrow_mut();
        self.core.check(&state, &screens)?;
        self.core.load(state, &mut screens, &mut known)
    }
}

/// Through the stream and back.
fn travelled(state: &GpuState) -> GpuState {
    let mut bytes = Vec::new();
    write_state(state, GpuState::VERSION, &mut bytes).unwrap();
    read_state(&mut bytes.as_slice(), &Limits::default()).unwrap()
}

fn empty_memory() -> TestMemory {
    TestMemory(Vec::new())
}

/// Moves a device that is in the middle of something; returns the one at the destination, whose screens may not be whole yet, and the
/// bytes of pixels that travelled.
fn moved(source: &mut Whole, memory: &TestMemory, wanted: StatePixels) -> (Whole, usize) {
    let state = source.save(memory, wanted);
    assert_eq!(state, source.save(memory, wanted), "saving consumes");
    let mut destination = Whole::new();
    destination.load(travelled(&state)).unwrap();
    // As QEMU does: there is no memory yet, and the state may be wanted again before there is.
    assert_eq!(destination.save(&empty_memory(), wanted), state);
    destination.core.resume(memory, &destination.stage);
    let carried = state.pixels.iter().map(Vec::len).sum();
    (destination, carried)
}

#[test]
fn a_move_at_any_time_changes_nothing() {
    let (mut moves, mut waited, mut carried) = (0, 0, [0, 0]);
    for seed in 100..140 {
        let mut random = Random::new(seed);
        let mut memory = TestMemory(vec![0; MEMORY_BYTES]);
        let (mut device, mut model) = (Whole::new(), Model::default());
        for step in 0..150 {
            if random.below(6) == 0 {
                random.draw(&mut memory);
            }
            let command = random.command();
            let text = format!("seed {seed}, step {step}: {command:?}");
            let expected = model.execute(&command, &memory);
            let found = device.core.execute(command, &memory, &device.stage);
            assert_eq!(found.map(drop), expected, "{text}");
            if random.below(5) == 0 {
                let (wanted, sum) = match random.below(2) {
                    0 => (StatePixels::Full, 0),
                    _ => (StatePixels::Delta, 1),
                };
                let bytes;
                (device, bytes) = moved(&mut device, &memory, wanted);
                carried[sum] += bytes;
                moves += 1;
            }
            // Somebody else does it sometimes, and sometimes the next command, or the next move comes first.
            if random.below(4) == 0 {
                device.core.catch_up(&device.stage);
            }
            if device.stage.0.borrow().are_awaited() {
                waited += 1;
                continue;
            }
            for head in 0..SCANOUTS {
                let found = look(&device.stage.0.borrow(), head);
                assert!(found == model.look(head), "{text}: screen {head}");
            }
        }
    }
    assert!(moves > 1000);
    assert!(waited > 15, "{waited}");
    assert!(carried.iter().all(|bytes| *bytes > 0), "{carried:?}");
}

/// A screen of 300 by 200 pixels that shows a resource of this format, drawn, transferred and flushed.
fn drawn(memory: &TestMemory, format: u32) -> Whole {
    let mut device = Whole::new();
    let whole = Rect::of_size(300, 50);
    let commands = [
        Command::Create2d {
            resource: 1,
            format,
            width: 300,
            height: 50,
        },
        Command::AttachBacking {
            resource: 1,
            entries: vec![crate::wire::BackingEntry {
                address: 0,
                len: 60_000,
            }],
        },
        Command::TransferToHost {
            resource: 1,
            rect: whole,
            offset: 0,
        },
        Command::SetScanout {
            scanout: 1,
            resource: 1,
            rect: whole,
        },
    ];
    for command in commands {
        device.core.execute(command, memory, &device.stage).unwrap();
    }
    device
}

#[test]
fn what_guest_memory_has_does_not_travel() {
    let mut memory = TestMemory((0..MEMORY_BYTES).map(|at| (at % 249) as u8).collect());
    let mut device = drawn(&memory, 67);
    let picture = look(&device.stage.0.borrow(), 1);
    let state = device.save(&memory, StatePixels::Delta);
    assert_eq!(state.pixels.len(), 0);

    // The guest has drawn since, but not transferred: the host copy is stale, and stays so.
    memory.0[0] ^= 1;
    let (mut copy, carried) = moved(&mut device, &memory, StatePixels::Delta);
    assert_eq!(carried, 64 * 50 * 4, "one tile of the resource");
    // Whatever the guest does meanwhile.
    memory.0.fill(1);
    copy.core.catch_up(&copy.stage);
    assert!(look(&copy.stage.0.borrow(), 1) == picture);

    // Without guest memory nothing is lost either, if all of it travels.
    let (mut copy, carried) = moved(&mut device, &empty_memory(), StatePixels::Full);
    assert_eq!(carried, 300 * 50 * 4, "the resource, and not the screen");
    copy.core.catch_up(&copy.stage);
    assert!(look(&copy.stage.0.borrow(), 1) == picture);
    let all = copy.save(&memory, StatePixels::Full);
    let carried: usize = all.pixels.iter().map(Vec::len).sum();
    assert_eq!(carried, 300 * 50 * 4, "nothing is left to guest memory");
    assert_eq!(all, device.save(&memory, StatePixels::Full));
}

#[test]
fn memory_that_is_not_the_same_is_noticed_and_shown() {
    let memory = TestMemory((0..MEMORY_BYTES).map(|at| (at % 249) as u8).collect());
    let mut device = drawn(&memory, 1);
    let state = device.save(&memory, StatePixels::Delta);
    let mut other = TestMemory(memory.0.clone());
    other.0[4] ^= 0xff;
    let mut copy = Whole::new();
    copy.load(state).unwrap();
    assert_eq!(copy.core.fetch_images(&other), 1);
    assert!(copy.core.resume(&other, &copy.stage));
    assert_eq!(look(&copy.stage.0.borrow(), 1), None, "not yet");
    copy.core.catch_up(&copy.stage);
    let (_, _, pixels) = look(&copy.stage.0.borrow(), 1).unwrap();
    assert_eq!(pixels[4], memory.0[4] ^ 0xff);
    assert_eq!(pixels[8..400], memory.0[8..400]);
}

#[test]
fn everything_else_comes_along() {
    let memory = TestMemory(vec![1; MEMORY_BYTES]);
    let mut device = drawn(&memory, 1);
    let mut image = vec![0; CURSOR_BYTES];
    image[(10 * 64 + 20) * 4] = 0x80;
    image[(12 * 64 + 9) * 4 + 3] = 0x7f;
    let (cursor, hidden) = ((30, 40), (50, 60));
    device.stage.change(|screens| {
        screens.define_cursor(1, cursor, (3, 4), &image);
        screens.define_cursor(0, cursor, (3, 4), &vec![0; CURSOR_BYTES]);
        screens.move_cursor(0, hidden, false);
    });
    let name = Command::AssignUuid { resource: 1 };
    device.core.execute(name, &memory, &device.stage).unwrap();
    device.info = Some(Box::new(std::array::from_fn(|index| Mode {
        rect: Rect::of_size(u32::try_from(index).unwrap() + 7, 9),
        enabled: index < 2,
        flags: 0,
    })));
    device.edids[1] = Some(vec![1, 2, 3]);

    let (mut copy, _) = moved(&mut device, &memory, StatePixels::Delta);
    copy.core.catch_up(&copy.stage);
    assert_eq!(copy.info, device.info);
    assert_eq!(copy.edids, device.edids);
    assert_eq!(copy.core.resources()[&1].uuid, Some([7; 16]));
    assert_eq!(copy.core.scanouts, device.core.scanouts);
    assert_eq!(copy.core.used_bytes(), device.core.used_bytes());
    let state = travelled(&device.save(&memory, StatePixels::Delta));
    let cursor = state.heads[1].cursor.as_ref().unwrap();
    assert_eq!(cursor.image.as_ref().unwrap().pixels.len(), 12 * 3 * 4);
    let (ours, theirs) = (copy.stage.0.borrow(), device.stage.0.borrow());
    for head in 0..SCANOUTS {
        assert_eq!(ours.cursor(head), theirs.cursor(head));
        assert_eq!(ours.picture(head), theirs.picture(head));
    }
}

type Change = fn(&mut GpuState);

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let memory = TestMemory(vec![1; MEMORY_BYTES]);
    let good = drawn(&memory, 1).save(&memory, StatePixels::Delta);
    let changes: [(&str, Change); 5] = [
        ("features", |state| state.device.features = 1 << 4),
        ("screens that are not here", |state| {
            state.heads[0].number = 2;
        }),
        ("too many bytes", |state| {
            let ResourceKindV1::Image(image) = &mut state.resources[0].kind else {
                unreachable!("it is one");
            };
            image.height = 1 << 16;
            image.tiles.kinds = vec![1; 5 << 10];
            image.tiles.checksums.clear();
            state.heads.clear();
        }),
        ("too many bytes in sum", |state| {
            let ResourceKindV1::Image(image) = &mut state.resources[0].kind else {
                unreachable!("it is one");
            };
            image.tiles.kinds = vec![1; 5];
            image.tiles.checksums.clear();
            state.resources = (1..40)
                .map(|id| ResourceV1 {
                    id,
                    ..state.resources[0].clone()
                })
                .collect();
        }),
        ("too large a screen", |state| {
            let mut blob = state.resources[0].clone();
            blob.id = 2;
            blob.kind = ResourceKindV1::Blob(BlobV1 {
                size: 1 << 30,
                flags: 0,
                id: 0,
            });
            blob.backing = vec![PieceV1 {
                address: 0,
                len: 1 << 30,
            }];
            state.resources.push(blob);
            let scanout = state.heads[0].scanout.as_mut().unwrap();
            scanout.resource = 2;
            scanout.rect.width = 8192;
            scanout.rect.height = 8192;
            scanout.layout = LayoutV1 {
                format: 1,
                width: 8192,
                height: 8192,
                stride: 8192 * 4,
                offset: 0,
            };
            scanout.tiles.kinds = vec![1; 128 * 128];
            scanout.tiles.checksums.clear();
        }),
    ];
    for (what, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(bad.validate(), Ok::<(), ForgedState>(()), "{what}");
        let mut device = drawn(&memory, 2);
        let before = device.save(&memory, StatePixels::Full);
        let error = device.load(bad).unwrap_err();
        assert!(matches!(error, LoadError::Mismatch(_)), "{what}: {error}");
        assert_eq!(device.save(&memory, StatePixels::Full), before, "{what}");
    }
}
