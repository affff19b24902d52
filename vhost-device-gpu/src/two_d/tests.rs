//! Every command with every argument that it refuses; and random commands against the simplest device there is.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers that the test makes itself"
)]

use std::cell::RefCell;

use memory::TestMemory;
use model::{Look, MEMORY_BYTES, Model, Random, SCANOUTS};

use super::*;
use crate::wire::BackingEntry;

pub(crate) mod memory;
pub(crate) mod model;

pub(crate) struct TestStage(pub(crate) RefCell<Screens>);

impl Stage for TestStage {
    fn change<R>(&self, change: impl FnOnce(&mut Screens) -> R) -> R {
        change(&mut self.0.borrow_mut())
    }
}

pub(crate) fn new_stage() -> TestStage {
    TestStage(RefCell::new(Screens::new(model::BYTES_MAX)))
}

pub(crate) fn new_core() -> Core {
    let limits = Limits {
        bytes_max: model::BYTES_MAX,
        scanouts: SCANOUTS,
    };
    Core::new(limits, || [7; 16])
}

pub(crate) fn look(screens: &Screens, head: usize) -> Look {
    let picture = screens.picture(head)?;
    let tiles::Size { width, height } = picture.size;
    Some((width, height, picture.pixels.clone()))
}

/// A guest that talks to a core.
struct Guest {
    core: Core,
    stage: TestStage,
    memory: TestMemory,
}

impl Guest {
    fn new() -> Self {
        Self {
            core: new_core(),
            stage: new_stage(),
            memory: TestMemory((0..MEMORY_BYTES).map(|at| (at % 253) as u8).collect()),
        }
    }

    fn ask(&mut self, command: Command) -> Result<Answer, Refusal> {
        self.core.execute(command, &self.memory, &self.stage)
    }

    /// With a resource 1 of 100 by 50 pixels with backing, one without (2), and a blob of 20,000 bytes (3).
    fn prepared() -> Self {
        let mut guest = Self::new();
        for resource in [1, 2] {
            guest.ask(create(resource, 1, 100, 50)).unwrap();
        }
        guest.ask(attach(1, &[(0, 20_000)])).unwrap();
        guest.ask(blob(3, 1, 0, 20_000, &[(100, 20_000)])).unwrap();
        guest
    }

    fn look(&self, head: usize) -> Look {
        look(&self.stage.0.borrow(), head)
    }
}

fn create(resource: u32, format: u32, width: u32, height: u32) -> Command {
    Command::Create2d {
        resource,
        format,
        width,
        height,
    }
}

fn entries(pieces: &[(u64, u32)]) -> Vec<BackingEntry> {
    let entry = |(address, len): &(u64, u32)| BackingEntry {
        address: *address,
        len: *len,
    };
    pieces.iter().map(entry).collect()
}

fn attach(resource: u32, pieces: &[(u64, u32)]) -> Command {
    Command::AttachBacking {
        resource,
        entries: entries(pieces),
    }
}

fn blob(resource: u32, memory: u32, flags: u32, size: u64, pieces: &[(u64, u32)]) -> Command {
    Command::CreateBlob {
        resource,
        memory,
        flags,
        blob: 9,
        size,
        entries: entries(pieces),
    }
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect {
        x,
        y,
        width,
        height,
    }
}

fn scanout(scanout: u32, resource: u32, rect: Rect) -> Command {
    Command::SetScanout {
        scanout,
        resource,
        rect,
    }
}

fn transfer(resource: u32, rect: Rect, offset: u64) -> Command {
    Command::TransferToHost {
        resource,
        rect,
        offset,
    }
}

fn flush(resource: u32, rect: Rect) -> Command {
    Command::Flush { resource, rect }
}

fn update_cursor(scanout: u32, resource: u32) -> Command {
    Command::UpdateCursor {
        scanout,
        position: (5, 6),
        resource,
        hot: (1, 2),
    }
}

const LAYOUT: Layout = Layout {
    format: 1,
    width: 50,
    height: 40,
    stride: 200,
    offset: 0,
};

fn scanout_blob(resource: u32, rect: Rect, layout: Layout) -> Command {
    Command::SetScanoutBlob {
        scanout: 0,
        resource,
        rect,
        layout,
    }
}

/// Commands for [`Guest::prepared`], each with one argument that makes no sense.
fn refused() -> Vec<(Command, Refusal)> {
    use Refusal::{
        InvalidParameter, InvalidResourceId, InvalidScanoutId, OutOfMemory, Unspecified,
    };
    let far = rect(u32::MAX, 0, 1, 1);
    let small = rect(0, 0, 15, 16);
    let good = rect(0, 0, 20, 20);
    let with = |change: fn(&mut Layout)| {
        let mut layout = LAYOUT;
        change(&mut layout);
        scanout_blob(3, good, layout)
    };
    vec![
        (create(0, 1, 9, 9), InvalidResourceId),
        (create(1, 1, 9, 9), InvalidResourceId),
        (create(9, 0, 9, 9), InvalidParameter),
        (create(9, 5, 9, 9), InvalidParameter),
        (create(9, 1, 0, 9), InvalidParameter),
        (create(9, 1, 9, 0), InvalidParameter),
        (create(9, 1, u32::MAX, u32::MAX), OutOfMemory),
        (create(9, 1, 1 << 16, 1 << 16), OutOfMemory),
        (create(9, 1, 1 << 9, 1 << 9), OutOfMemory),
        (blob(0, 1, 0, 9, &[(0, 9)]), InvalidResourceId),
        (blob(3, 1, 0, 9, &[(0, 9)]), InvalidResourceId),
        (blob(9, 0, 0, 9, &[(0, 9)]), InvalidParameter),
        (blob(9, 2, 0, 9, &[(0, 9)]), InvalidParameter),
        (blob(9, 3, 0, 9, &[(0, 9)]), InvalidParameter),
        (blob(9, 1, 8, 9, &[(0, 9)]), InvalidParameter),
        (blob(9, 1, 0, 0, &[(0, 9)]), InvalidParameter),
        (blob(9, 1, 0, 9, &[]), InvalidParameter),
        (blob(9, 1, 0, 9, &[(0, 8)]), InvalidParameter),
        (blob(9, 1, 0, u64::MAX, &[(0, 8)]), InvalidParameter),
        (Command::Unref { resource: 9 }, InvalidResourceId),
        (attach(9, &[(0, 9)]), InvalidResourceId),
        (attach(1, &[(0, 9)]), Unspecified),
        (attach(3, &[(0, 20_000)]), Unspecified),
        (attach(2, &[]), InvalidParameter),
        (attach(2, &[(0, 0)]), InvalidParameter),
        (attach(2, &[(u64::MAX, 1)]), InvalidParameter),
        (attach(2, &[(MEMORY_BYTES as u64, 1)]), InvalidParameter),
        (Command::DetachBacking { resource: 9 }, InvalidResourceId),
        (Command::DetachBacking { resource: 2 }, Unspecified),
        (transfer(9, good, 0), InvalidResourceId),
        (transfer(2, good, 0), Unspecified),
        (transfer(1, far, 0), InvalidParameter),
        (transfer(1, rect(1, 0, 100, 1), 0), InvalidParameter),
        (transfer(1, rect(0, 1, 1, 50), 0), InvalidParameter),
        (transfer(1, rect(0, 0, 100, 50), 1), InvalidParameter),
        (transfer(1, rect(0, 0, 1, 1), 19_997), InvalidParameter),
        (transfer(1, rect(0, 0, 1, 1), u64::MAX), InvalidParameter),
        (flush(9, good), InvalidResourceId),
        (flush(1, far), InvalidParameter),
        (flush(1, rect(0, 0, 101, 1)), InvalidParameter),
        (scanout(2, 1, good), InvalidScanoutId),
        (scanout(u32::MAX, 0, good), InvalidScanoutId),
        (scanout(0, 9, good), InvalidResourceId),
        (scanout(0, 1, small), InvalidParameter),
        (scanout(0, 1, far), InvalidParameter),
        (scanout(0, 1, rect(90, 0, 16, 16)), InvalidParameter),
        (scanout(0, 3, good), InvalidParameter),
        (scanout_blob(1, good, LAYOUT), InvalidParameter),
        (scanout_blob(9, good, LAYOUT), InvalidResourceId),
        (scanout_blob(3, small, LAYOUT), InvalidParameter),
        (
            scanout_blob(3, rect(31, 0, 20, 20), LAYOUT),
            InvalidParameter,
        ),
        (with(|layout| layout.format = 5), InvalidParameter),
        (with(|layout| layout.stride = 199), InvalidParameter),
        (with(|layout| layout.width = 0), InvalidParameter),
        (with(|layout| layout.height = 0), InvalidParameter),
        (with(|layout| layout.height = u32::MAX), InvalidParameter),
        (with(|layout| layout.offset = 12_001), InvalidParameter),
        (with(|layout| layout.offset = u32::MAX), InvalidParameter),
        (update_cursor(2, 0), InvalidScanoutId),
        (update_cursor(0, 9), InvalidResourceId),
        (update_cursor(0, 1), InvalidParameter),
        (
            Command::MoveCursor {
                scanout: 2,
                position: (0, 0),
                resource: 0,
            },
            InvalidScanoutId,
        ),
        (Command::AssignUuid { resource: 9 }, InvalidResourceId),
        (Command::GetDisplayInfo, Unspecified),
        (Command::GetEdid { scanout: 0 }, Unspecified),
    ]
}

#[test]
fn every_argument_that_makes_no_sense_is_refused_and_changes_nothing() {
    let mut guest = Guest::prepared();
    guest.ask(scanout(1, 1, rect(0, 0, 20, 20))).unwrap();
    let before = (format!("{:?}", guest.core), guest.look(1));
    for (command, refusal) in refused() {
        let text = format!("{command:?}");
        assert_eq!(guest.ask(command), Err(refusal), "{text}");
        assert!(
            before == (format!("{:?}", guest.core), guest.look(1)),
            "{text}"
        );
        assert_eq!(guest.look(0), None, "{text}");
        assert!(guest.stage.0.borrow().cursor(0).is_none(), "{text}");
    }
}

#[test]
fn the_last_pixel_needs_no_row_behind_it() {
    let mut guest = Guest::prepared();
    // The rectangle ends where the backing does.
    let end = (49 * 100 + 99) * 4;
    assert_eq!(
        guest.ask(transfer(1, rect(99, 49, 1, 1), end)),
        Ok(Answer::Done)
    );
    let last = transfer(1, rect(0, 49, 100, 1), 49 * 400);
    assert_eq!(guest.ask(last), Ok(Answer::Done));
    let empty = transfer(1, rect(100, 50, 0, 0), 0);
    assert_eq!(guest.ask(empty), Ok(Answer::Done));
}

#[test]
fn a_guest_has_as_much_memory_as_it_may_and_gets_it_back() {
    let mut guest = Guest::new();
    guest.ask(create(1, 1, 512, 511)).unwrap();
    assert_eq!(guest.ask(create(2, 1, 512, 2)), Err(Refusal::OutOfMemory));
    guest.ask(create(2, 1, 512, 1)).unwrap();
    // Even a description of a backing is too much now.
    assert_eq!(guest.ask(attach(1, &[(0, 4)])), Err(Refusal::OutOfMemory));
    guest.ask(scanout(0, 1, rect(0, 0, 512, 511))).unwrap();
    let second = scanout(1, 1, rect(0, 0, 512, 16));
    assert_eq!(guest.ask(second), Err(Refusal::OutOfMemory), "screens, too");
    guest.ask(Command::Unref { resource: 2 }).unwrap();
    assert_eq!(guest.ask(attach(1, &[(0, 4)])), Ok(Answer::Done));
    let added: u64 = guest
        .core
        .resources()
        .values()
        .map(Resource::footprint)
        .sum();
    assert_eq!(guest.core.used_bytes(), added);
    guest.core.reset(&guest.stage);
    assert_eq!(guest.core.used_bytes(), 0);
    assert_eq!(guest.look(0), None);
    guest.ask(create(1, 1, 512, 512)).unwrap();
}

#[test]
fn there_are_only_so_many_resources() {
    let mut guest = Guest::new();
    for resource in 1..=u32::try_from(RESOURCES_MAX).unwrap() {
        guest.ask(create(resource, 1, 1, 1)).unwrap();
    }
    assert_eq!(
        guest.ask(create(99_999, 1, 1, 1)),
        Err(Refusal::OutOfMemory)
    );
}

#[test]
fn a_name_stays_the_same() {
    let mut guest = Guest::prepared();
    let name = Ok(Answer::Uuid([7; 16]));
    assert_eq!(guest.ask(Command::AssignUuid { resource: 3 }), name);
    guest.core.random = || [8; 16];
    assert_eq!(guest.ask(Command::AssignUuid { resource: 3 }), name);
}

/// rutabaga 0.1.85 adds the rectangle's place to an offset that contains it.
#[test]
fn an_offset_is_where_the_rectangle_begins() {
    let mut guest = Guest::new();
    guest.ask(create(1, 2, 64, 64)).unwrap();
    for (index, pixel) in guest.memory.0.chunks_exact_mut(4).enumerate() {
        pixel.copy_from_slice(&u32::try_from(index).unwrap().to_le_bytes());
    }
    guest.ask(attach(1, &[(0, 64 * 64 * 4)])).unwrap();
    let part = rect(8, 4, 16, 8);
    guest.ask(transfer(1, part, (4 * 64 + 8) * 4)).unwrap();
    guest.ask(scanout(0, 1, rect(8, 4, 16, 16))).unwrap();
    let (_, _, pixels) = guest.look(0).unwrap();
    assert_eq!(pixels[..4], 264_u32.to_le_bytes());
    assert_eq!(pixels[7 * 64..][..4], (11 * 64 + 8_u32).to_le_bytes());
    assert_eq!(pixels[8 * 64..][..4], [0; 4], "only the rectangle");
}

#[test]
fn a_cursor_keeps_the_image_that_it_was_defined_with() {
    let mut guest = Guest::new();
    guest.ask(create(5, 2, 64, 64)).unwrap();
    guest.ask(attach(5, &[(0, 64 * 64 * 4)])).unwrap();
    guest.ask(transfer(5, Rect::of_size(64, 64), 0)).unwrap();
    guest.ask(update_cursor(1, 5)).unwrap();
    let cursor = guest.stage.0.borrow().cursor(1).cloned().unwrap();
    let image = cursor.image.clone().unwrap();
    assert_eq!(image[..8], [0, 1, 2, 0xff, 4, 5, 6, 0xff], "opaque");
    assert_eq!(
        (cursor.position, cursor.hot, cursor.visible),
        ((5, 6), (1, 2), true)
    );

    guest.memory.0.fill(0);
    guest.ask(transfer(5, Rect::of_size(64, 64), 0)).unwrap();
    guest.ask(Command::Unref { resource: 5 }).unwrap();
    let moved = |resource| Command::MoveCursor {
        scanout: 1,
        position: (8, 9),
        resource,
    };
    guest.ask(moved(5)).unwrap();
    let cursor = guest.stage.0.borrow().cursor(1).cloned().unwrap();
    assert_eq!((cursor.position, cursor.visible), ((8, 9), true));
    assert_eq!(cursor.image, Some(image));
    guest.ask(moved(0)).unwrap();
    assert!(!guest.stage.0.borrow().cursor(1).unwrap().visible);
    assert!(guest.stage.0.borrow().cursor(0).is_none());
}

#[test]
fn a_picture_does_not_change_by_transfers() {
    let mut guest = Guest::prepared();
    guest.ask(scanout(0, 1, rect(10, 10, 16, 16))).unwrap();
    let black = guest.look(0);
    guest.ask(transfer(1, Rect::of_size(100, 50), 0)).unwrap();
    assert_eq!(guest.look(0), black);
    guest.ask(flush(1, rect(0, 0, 11, 11))).unwrap();
    let (_, _, pixels) = guest.look(0).unwrap();
    let expected = &guest.memory.0[(10 * 100 + 10) * 4..][..4];
    assert_eq!(pixels[..4], *expected);
    assert!(pixels[4..64].iter().all(|byte| *byte == 0));
    guest.ask(Command::Unref { resource: 1 }).unwrap();
    assert_eq!(guest.look(0), None);
    assert_eq!(guest.core.scanouts[0], None);
}

/// The real core and the simplest one give the same answers and show the same, whatever comes.
#[test]
fn random_commands_do_what_the_simplest_device_does() {
    let mut done = 0;
    for seed in 1..=60 {
        let mut random = Random::new(seed);
        let (mut guest, mut model) = (Guest::new(), Model::default());
        for step in 0..200 {
            if random.below(4) == 0 {
                random.draw(&mut guest.memory);
            }
            let command = random.command();
            let text = format!("seed {seed}, step {step}: {command:?}");
            let expected = model.execute(&command, &guest.memory);
            let found = guest.ask(command);
            done += usize::from(found.is_ok());
            assert_eq!(found.map(drop), expected, "{text}");
            for head in 0..SCANOUTS {
                assert!(
                    guest.look(head) == model.look(head),
                    "{text}: screen {head}"
                );
            }
        }
    }
    assert!(done > 3000, "only {done} commands were good ones");
}
