//! Is every command with every illegal argument refused with the right error, and is the device as it was afterwards?

use anyhow::{Context, Result, ensure};
use tests::daemon_runner::Daemon;
use tests::gpu::display::Display;
use tests::gpu::driver::{CONTROL, CURSOR, Driver};
use tests::gpu::start_daemon;
use tests::gpu::wire::answer::{
    ERR_INVALID_PARAMETER, ERR_INVALID_RESOURCE_ID, ERR_INVALID_SCANOUT_ID, ERR_OUT_OF_MEMORY,
    ERR_UNSPEC, OK_RESOURCE_UUID,
};
use tests::gpu::wire::{self, Answer, BLOB_MEM_GUEST, BlobLayout, CURSOR_SIZE, Position, Rect};
use tests::guest::Memory;
use tests::guest::memory::PAGE;

/// A format that Linux uses.
const FORMAT: u32 = 2;

/// Shown on head 0, with a backing.
const SHOWN: u32 = 1;
/// The cursor, with a backing.
const ARROW: u32 = 2;
/// Has no backing.
const BARE: u32 = 3;
/// A blob.
const BLOB: u32 = 4;
/// There is no such resource.
const NONE: u32 = 77;

/// Width and height of [`SHOWN`] and of [`BARE`].
const SIDE: u32 = 32;

/// Size of the blob.
const BLOB_SIZE: u32 = SIDE * SIDE * 4;

/// Memory for what the guest has.
const MAX_HOSTMEM: u32 = 1 << 20;

/// All of [`SHOWN`].
const ALL: Rect = Rect::of_size(SIDE, SIDE);

/// A guest that shows something.
struct Guest {
    daemon: Daemon,
    driver: Driver,
    display: Display,
    /// A page that is good for a backing.
    page: (u64, u32),
}

impl Guest {
    fn start() -> Result<Self> {
        let hostmem = MAX_HOSTMEM.to_string();
        let daemon = start_daemon(["--max-hostmem", &hostmem])?;
        let display = Display::new(&[(640, 480)]);
        let mut driver = Driver::start(daemon.connect()?, Some(&display))?;
        let memory = driver.memory();
        for (id, side) in [(SHOWN, SIDE), (ARROW, CURSOR_SIZE)] {
            let size = side * side * 4;
            let backing = memory.allocate(size.into())?;
            let bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            memory.write(backing, &bytes)?;
            let whole = Rect::of_size(side, side);
            driver.succeed(&wire::create_2d(id, FORMAT - id / 2, side, side))?;
            driver.succeed(&wire::attach_backing(id, &[(backing, size)]))?;
            driver.succeed(&wire::transfer(id, whole, 0))?;
        }
        driver.succeed(&wire::create_2d(BARE, FORMAT, SIDE, SIDE))?;
        let blob = memory.allocate(BLOB_SIZE.into())?;
        driver.succeed(&wire::create_blob(
            BLOB,
            BLOB_MEM_GUEST,
            BLOB_SIZE.into(),
            &[(blob, BLOB_SIZE)],
        ))?;
        driver.succeed(&wire::set_scanout(0, SHOWN, ALL))?;
        driver.cursor(&wire::update_cursor(Position::default(), ARROW, (1, 2)))?;
        // What was seen of monitors is state.
        driver.ask(&wire::get_display_info())?;
        driver.ask(&wire::get_edid(0))?;
        let page = memory.allocate(PAGE)?;
        Ok(Self {
            daemon,
            driver,
            display,
            page: (page, u32::try_from(PAGE)?),
        })
    }

    /// What is saved, and what is seen.
    fn state(&mut self) -> Result<(Vec<u8>, tests::gpu::display::Head)> {
        let state = self.driver.snapshot()?;
        let seen = self.display.wait("everything", |seen| {
            seen.heads.first().is_some_and(|head| {
                head.picture
                    .as_ref()
                    .is_some_and(|shown| shown.get(1, 0) != 0)
                    && head.cursor.visible
            })
        })?;
        let mut head = seen.heads.into_iter().next().context("no head")?;
        head.updates = 0;
        Ok((state, head))
    }

    /// Runs `act`, after which everything has to be as before.
    fn unchanged(&mut self, what: &str, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.state()?;
        act(self).with_context(|| what.to_owned())?;
        ensure!(self.state()? == before, "{what} left its mark");
        Ok(())
    }
}

type Cases = Vec<(&'static str, u32, Vec<u8>)>;

fn about_resources(page: (u64, u32)) -> Cases {
    let (parameter, resource) = (ERR_INVALID_PARAMETER, ERR_INVALID_RESOURCE_ID);
    let create = |id, format, width, height| wire::create_2d(id, format, width, height);
    let attach = |count, pieces: &[(u64, u32)]| wire::attach_backing_of(BARE, count, pieces);
    vec![
        ("create 0", resource, create(0, FORMAT, 16, 16)),
        ("create again", resource, create(SHOWN, FORMAT, 16, 16)),
        ("create of format 0", parameter, create(NONE, 0, 16, 16)),
        ("create of format 5", parameter, create(NONE, 5, 16, 16)),
        (
            "create of any format",
            parameter,
            create(NONE, u32::MAX, 16, 16),
        ),
        (
            "create without width",
            parameter,
            create(NONE, FORMAT, 0, 16),
        ),
        (
            "create without height",
            parameter,
            create(NONE, FORMAT, 16, 0),
        ),
        (
            "create that overflows",
            ERR_OUT_OF_MEMORY,
            create(NONE, FORMAT, u32::MAX, u32::MAX),
        ),
        (
            "create of 2^32 bytes",
            ERR_OUT_OF_MEMORY,
            create(NONE, FORMAT, 1 << 15, 1 << 15),
        ),
        (
            "create beyond --max-hostmem",
            ERR_OUT_OF_MEMORY,
            create(NONE, FORMAT, MAX_HOSTMEM / 4, 1),
        ),
        ("unref 0", resource, wire::unref(0)),
        ("unref unknown", resource, wire::unref(NONE)),
        (
            "attach unknown",
            resource,
            wire::attach_backing(NONE, &[page]),
        ),
        (
            "attach again",
            ERR_UNSPEC,
            wire::attach_backing(SHOWN, &[page]),
        ),
        (
            "attach to a blob",
            ERR_UNSPEC,
            wire::attach_backing(BLOB, &[page]),
        ),
        ("attach nothing", parameter, attach(0, &[])),
        ("attach no bytes", parameter, attach(1, &[(page.0, 0)])),
        ("attach fewer than said", parameter, attach(2, &[page])),
        ("attach 16385 pieces", parameter, attach(16385, &[page])),
        (
            "attach 2^32 - 1 pieces",
            parameter,
            attach(u32::MAX, &[page]),
        ),
        ("attach nowhere", parameter, attach(1, &[(1 << 40, 4096)])),
        (
            "attach half of it nowhere",
            parameter,
            attach(2, &[page, (1 << 40, 4096)]),
        ),
        (
            "attach at the end",
            parameter,
            attach(1, &[(u64::MAX, 4096)]),
        ),
        ("detach unknown", resource, wire::detach_backing(NONE)),
        ("detach nothing", ERR_UNSPEC, wire::detach_backing(BARE)),
        ("name unknown", resource, wire::assign_uuid(NONE)),
    ]
}

fn about_pictures() -> Cases {
    let (parameter, resource) = (ERR_INVALID_PARAMETER, ERR_INVALID_RESOURCE_ID);
    let (half, most) = (SIDE / 2, u32::MAX);
    let beyond = [
        Rect::new(1, 0, SIDE, SIDE),
        Rect::new(0, 1, SIDE, SIDE),
        Rect::new(most, 0, half, half),
        Rect::new(most - half + 1, 0, half, half),
        Rect::new(half, half, most, most),
        Rect::new(0, 0, SIDE, most),
    ];
    let mut cases = vec![
        (
            "transfer to unknown",
            resource,
            wire::transfer(NONE, ALL, 0),
        ),
        (
            "transfer without backing",
            ERR_UNSPEC,
            wire::transfer(BARE, ALL, 0),
        ),
        (
            "transfer of too much",
            parameter,
            wire::transfer(SHOWN, ALL, 4),
        ),
        (
            "transfer from nowhere",
            parameter,
            wire::transfer(SHOWN, ALL, u64::MAX),
        ),
        ("flush unknown", resource, wire::flush(NONE, ALL)),
        (
            "scanout 16",
            ERR_INVALID_SCANOUT_ID,
            wire::set_scanout(16, SHOWN, ALL),
        ),
        (
            "scanout 2^32 - 1",
            ERR_INVALID_SCANOUT_ID,
            wire::set_scanout(most, SHOWN, ALL),
        ),
        (
            "scanout of unknown",
            resource,
            wire::set_scanout(0, NONE, ALL),
        ),
        (
            "scanout of a blob as if it were none",
            parameter,
            wire::set_scanout(0, BLOB, ALL),
        ),
        (
            "narrow scanout",
            parameter,
            wire::set_scanout(0, SHOWN, Rect::of_size(15, 16)),
        ),
        (
            "low scanout",
            parameter,
            wire::set_scanout(0, SHOWN, Rect::of_size(16, 15)),
        ),
        (
            "EDID of scanout 16",
            ERR_INVALID_SCANOUT_ID,
            wire::get_edid(16),
        ),
        (
            "EDID of scanout 2^32 - 1",
            ERR_INVALID_SCANOUT_ID,
            wire::get_edid(most),
        ),
    ];
    for rect in beyond {
        cases.push(("transfer beyond", parameter, wire::transfer(SHOWN, rect, 0)));
        cases.push(("flush beyond", parameter, wire::flush(SHOWN, rect)));
        cases.push((
            "scanout beyond",
            parameter,
            wire::set_scanout(0, SHOWN, rect),
        ));
    }
    cases
}

fn about_blobs(page: (u64, u32)) -> Cases {
    let (parameter, resource) = (ERR_INVALID_PARAMETER, ERR_INVALID_RESOURCE_ID);
    let create =
        |id, memory, size, pieces: &[(u64, u32)]| wire::create_blob(id, memory, size, pieces);
    let of_guest = |id, size, pieces: &[(u64, u32)]| create(id, BLOB_MEM_GUEST, size, pieces);
    let mut flagged = of_guest(NONE, 4096, &[page]);
    flagged
        .iter_mut()
        .skip(32)
        .take(4)
        .for_each(|byte| *byte = 0xff);
    let nowhere = [(1 << 40, 4096)];
    vec![
        ("blob 0", resource, of_guest(0, 4096, &[page])),
        ("blob again", resource, of_guest(SHOWN, 4096, &[page])),
        (
            "blob of the host",
            parameter,
            create(NONE, 2, 4096, &[page]),
        ),
        ("blob of nobody", parameter, create(NONE, 0, 4096, &[page])),
        ("blob without size", parameter, of_guest(NONE, 0, &[page])),
        (
            "blob that is too large",
            parameter,
            of_guest(NONE, 4097, &[page]),
        ),
        ("blob without memory", parameter, of_guest(NONE, 4096, &[])),
        ("blob of any flags", parameter, flagged),
        ("blob nowhere", parameter, of_guest(NONE, 4096, &nowhere)),
    ]
}

fn about_pictures_of_blobs() -> Cases {
    let (parameter, resource) = (ERR_INVALID_PARAMETER, ERR_INVALID_RESOURCE_ID);
    let good = BlobLayout {
        format: FORMAT,
        width: SIDE,
        height: SIDE,
        stride: SIDE * 4,
        offset: 0,
    };
    let show = |head, id| wire::set_scanout_blob(head, id, ALL, good);
    let bad = |layout| wire::set_scanout_blob(0, BLOB, ALL, layout);
    vec![
        ("blob scanout 16", ERR_INVALID_SCANOUT_ID, show(16, BLOB)),
        ("blob scanout of unknown", resource, show(0, NONE)),
        ("blob scanout of no blob", parameter, show(0, SHOWN)),
        ("format 0", parameter, bad(BlobLayout { format: 0, ..good })),
        (
            "rows that overlap",
            parameter,
            bad(BlobLayout { stride: 4, ..good }),
        ),
        (
            "too short",
            parameter,
            bad(BlobLayout { offset: 4, ..good }),
        ),
        (
            "a wide stride",
            parameter,
            bad(BlobLayout {
                stride: u32::MAX,
                ..good
            }),
        ),
        (
            "lower than the scanout",
            parameter,
            bad(BlobLayout {
                height: SIDE - 1,
                ..good
            }),
        ),
        (
            "narrower than the scanout",
            parameter,
            bad(BlobLayout {
                width: SIDE - 1,
                ..good
            }),
        ),
    ]
}

#[test]
fn illegal_arguments_are_refused_and_change_nothing() -> Result<()> {
    let mut guest = Guest::start()?;
    let page = guest.page;
    let cases = [
        about_resources(page),
        about_pictures(),
        about_blobs(page),
        about_pictures_of_blobs(),
    ]
    .concat();
    for (what, kind, request) in cases {
        guest.unchanged(what, |guest| {
            // Also with a fence, which has to come back.
            guest.driver.refuse(kind, &request)?;
            let answer = guest
                .driver
                .ask(&wire::fenced(request, 0xfeed_f00d_0000_0001, 5))?;
            ensure!(answer.kind == kind && answer.fence == Some((0xfeed_f00d_0000_0001, 5)));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn commands_that_do_not_exist_are_refused() -> Result<()> {
    let mut guest = Guest::start()?;
    let renderers = wire::command::CTX_CREATE..=wire::command::UNMAP_BLOB;
    let capsets = [wire::command::GET_CAPSET_INFO, wire::command::GET_CAPSET];
    let none = [0, 0x0ff, 0x10e, 0x20a, 0x302, 0x1100, 0x1200, u32::MAX];
    guest.unchanged("commands that do not exist", |guest| {
        for kind in renderers.chain(capsets).chain(none) {
            guest
                .driver
                .refuse(ERR_UNSPEC, &wire::request(kind, &[1; 24]))?;
        }
        Ok(())
    })
}

/// Every command, cut everywhere.
#[test]
fn commands_that_end_too_early_are_refused() -> Result<()> {
    let mut guest = Guest::start()?;
    let layout = BlobLayout {
        format: FORMAT,
        width: SIDE,
        height: SIDE,
        stride: SIDE * 4,
        offset: 0,
    };
    let commands = [
        wire::get_edid(0),
        wire::create_2d(NONE, FORMAT, 16, 16),
        wire::unref(SHOWN),
        wire::set_scanout(0, BARE, ALL),
        wire::flush(SHOWN, ALL),
        wire::transfer(SHOWN, ALL, 0),
        wire::attach_backing(BARE, &[guest.page]),
        wire::detach_backing(SHOWN),
        wire::assign_uuid(BARE),
        wire::create_blob(NONE, BLOB_MEM_GUEST, 4096, &[guest.page]),
        wire::set_scanout_blob(0, BLOB, ALL, layout),
    ];
    guest.unchanged("commands that end too early", |guest| {
        for command in &commands {
            for length in 1..command.len() {
                let cut = command.get(..length).unwrap_or_default();
                let pending = guest.driver.submit_on(CONTROL, cut, 1056)?;
                let answer = guest.driver.finish(pending)?;
                ensure!(
                    answer.kind == ERR_INVALID_PARAMETER,
                    "{length} bytes of {command:x?}: {:#x}",
                    answer.kind
                );
            }
        }
        Ok(())
    })
}

/// A guest that leaves too little room for an answer, or none, gets what fits.
#[test]
fn answers_that_do_not_fit_harm_nobody() -> Result<()> {
    let mut guest = Guest::start()?;
    guest.unchanged("answers that do not fit", |guest| {
        for room in [0, 1, 8, 23, 24, 25, 100] {
            for request in [
                wire::get_display_info(),
                wire::get_edid(0),
                wire::flush(SHOWN, ALL),
            ] {
                let pending = guest.driver.submit_on(CONTROL, &request, room)?;
                let answer = guest.driver.finish_bytes(pending)?;
                ensure!(answer.len() <= room, "{} bytes in {room}", answer.len());
            }
        }
        Ok(())
    })
}

#[test]
fn illegal_cursors_change_nothing() -> Result<()> {
    let mut guest = Guest::start()?;
    let nowhere = |scanout| Position {
        scanout,
        x: 9,
        y: 9,
    };
    let cases = [
        wire::update_cursor(nowhere(16), ARROW, (0, 0)),
        wire::update_cursor(nowhere(u32::MAX), ARROW, (0, 0)),
        wire::update_cursor(nowhere(0), NONE, (0, 0)),
        wire::update_cursor(nowhere(0), SHOWN, (0, 0)),
        wire::move_cursor(nowhere(16), ARROW),
        wire::move_cursor(nowhere(u32::MAX), ARROW),
    ];
    for request in cases {
        guest.unchanged("an illegal cursor", |guest| guest.driver.cursor(&request))?;
        // Somebody who leaves room for an answer gets one.
        guest.unchanged("an illegal cursor", |guest| {
            let pending = guest.driver.submit_on(CURSOR, &request, 24)?;
            let answer = Answer::parse(&guest.driver.finish_bytes(pending)?)?;
            ensure!(answer.kind >= ERR_UNSPEC, "{:#x}", answer.kind);
            Ok(())
        })?;
    }
    Ok(())
}

/// The guest's memory for resources is counted, and given back.
#[test]
fn host_memory_has_a_limit_and_is_given_back() -> Result<()> {
    let mut guest = Guest::start()?;
    let side = 128;
    let mut ids = Vec::new();
    for id in 100..200 {
        let answer = guest.driver.ask(&wire::create_2d(id, FORMAT, side, side))?;
        if answer.kind == ERR_OUT_OF_MEMORY {
            break;
        }
        ids.push(id);
    }
    let count = u32::try_from(ids.len())?;
    let most = MAX_HOSTMEM / (side * side * 4);
    ensure!(count > most / 2 && count <= most, "{count} of {most}");
    for _ in 0..3 {
        let id = *ids.first().context("none")?;
        guest.driver.succeed(&wire::unref(id))?;
        guest
            .driver
            .succeed(&wire::create_2d(id, FORMAT, side, side))?;
        guest.driver.refuse(
            ERR_OUT_OF_MEMORY,
            &wire::create_2d(NONE, FORMAT, side, side),
        )?;
    }
    assert_eq!(guest.daemon.status()?, None);
    Ok(())
}

#[test]
fn a_name_stays_and_is_nobody_elses() -> Result<()> {
    let mut guest = Guest::start()?;
    let mut name = |id| {
        let answer = guest
            .driver
            .expect(OK_RESOURCE_UUID, &wire::assign_uuid(id))?;
        ensure!(answer.body.len() == 16 && answer.body != [0; 16]);
        Ok(answer.body)
    };
    let first = name(SHOWN)?;
    assert_eq!(name(SHOWN)?, first);
    assert_ne!(name(BARE)?, first);
    Ok(())
}

/// What the driver did not accept does not exist.
#[test]
fn features_that_were_not_accepted_are_not_there() -> Result<()> {
    let daemon = start_daemon::<&str>([])?;
    let display = Display::new(&[(640, 480)]);
    let memory = Memory::new(&[1024 * PAGE])?;
    let mut driver = Driver::start_in(&memory, 0, daemon.connect()?, Some(&display))?;
    driver.succeed(&wire::create_2d(SHOWN, FORMAT, 16, 16))?;
    let page = memory.allocate(PAGE)?;
    for request in [
        wire::get_edid(0),
        wire::assign_uuid(SHOWN),
        wire::create_blob(NONE, BLOB_MEM_GUEST, 4096, &[(page, 4096)]),
    ] {
        driver.refuse(ERR_UNSPEC, &request)?;
    }
    Ok(())
}
