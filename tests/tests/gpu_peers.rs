//! What other GPUs get wrong, each as a test that they would fail: QEMU's in-process device and its C back-end, rust-vmm's back-end,
//! rutabaga, crosvm.
//!
//! What needs a whole QEMU is in `e2e_gpu.rs`; commands of renderers that are not there in `gpu_commands.rs`; questions in flight in
//! `gpu_display.rs`.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::protocol::messages::{DirtyLog, feature, protocol_feature};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tests::daemon_runner::Daemon;
use tests::gpu::display::{DEADLINE, Display};
use tests::gpu::driver::{CONTROL, Driver};
use tests::gpu::picture::Picture;
use tests::gpu::start_daemon;
use tests::gpu::wire::{self, BLOB_MEM_GUEST, BlobLayout, CURSOR_SIZE, Format, Position, Rect};
use tests::guest::Manner;
use tests::guest::memory::PAGE;

/// No arguments.
const PLAIN: [&str; 0] = [];

/// Width and height of a resource.
const SIDE: u32 = 64;

/// All of it.
const ALL: Rect = Rect::of_size(SIDE, SIDE);

/// How long something that must not happen is waited for.
const WATCH: Duration = Duration::from_millis(50);

struct Guest {
    daemon: Daemon,
    display: Display,
    driver: Driver,
}

impl Guest {
    fn start(arguments: &[&str]) -> Result<Self> {
        let daemon = start_daemon(arguments)?;
        let display = Display::new(&[(640, 480), (640, 480)]);
        let driver = Driver::start(daemon.connect()?, Some(&display))?;
        Ok(Self {
            daemon,
            display,
            driver,
        })
    }

    /// A resource with a backing in which each pixel is its own number; where the backing is.
    fn numbered(&mut self, id: u32, format: Format) -> Result<u64> {
        let size = SIDE * SIDE * 4;
        let backing = self.driver.memory().allocate(size.into())?;
        self.write(backing, |number| number)?;
        self.driver
            .succeed(&wire::create_2d(id, format.number, SIDE, SIDE))?;
        self.driver
            .succeed(&wire::attach_backing(id, &[(backing, size)]))?;
        Ok(backing)
    }

    fn write(&self, backing: u64, pixel: impl Fn(u32) -> u32) -> Result<()> {
        let pixels = (0..SIDE * SIDE).flat_map(|number| pixel(number).to_le_bytes());
        self.driver
            .memory()
            .write(backing, &pixels.collect::<Vec<u8>>())
    }

    /// Everything comes to the host, and everything is shown on head 0.
    fn show(&mut self, id: u32) -> Result<()> {
        self.driver.succeed(&wire::transfer(id, ALL, 0))?;
        self.driver.succeed(&wire::set_scanout(0, id, ALL))?;
        self.driver.succeed(&wire::flush(id, ALL))
    }

    fn migrate(&mut self, arguments: &[&str]) -> Result<usize> {
        let destination = start_daemon(arguments)?;
        self.display.forget_at_close(true);
        let moved = self
            .driver
            .migrate_to(destination.connect()?, Manner::QEMU)?;
        self.daemon = destination;
        Ok(moved.state_size)
    }
}

/// A picture of [`ALL`].
fn picture(pixel: impl Fn(u32, u32) -> u32) -> Picture {
    let mut picture = Picture::new(SIDE, SIDE);
    for y in 0..SIDE {
        for x in 0..SIDE {
            picture.put(x, y, pixel(x, y));
        }
    }
    picture
}

/// rust-vmm's back-end offers VIRGL without a renderer, which blocks migration; QEMU's loses the device without a word.
#[test]
fn what_is_offered_is_there_and_migration_is_asked_for() -> Result<()> {
    for (arguments, migratable) in [(&[][..], false), (&["--migratable"], true)] {
        let daemon = start_daemon(arguments)?;
        let mut frontend = daemon.connect()?;
        let offer = frontend.negotiate(u64::MAX)?;
        let (virgl, context_init) = (1, 1 << 4);
        ensure!(offer.features & (virgl | context_init) == 0);
        ensure!((offer.features & feature::LOG_ALL != 0) == migratable);
        // QEMU lets the guest accept these whatever is offered.
        let unasked = feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_RESET;
        ensure!(offer.features & unasked == unasked);
        let needed = protocol_feature::DEVICE_STATE | protocol_feature::RESET_DEVICE;
        ensure!(offer.protocol_features & needed == needed);
    }
    Ok(())
}

/// QEMU 10 reads 16 bytes and QEMU 11 reads 20; rust-vmm's back-end then has no scanouts.
#[test]
fn the_config_space_has_any_size() -> Result<()> {
    let daemon = start_daemon(["--max-outputs", "3"])?;
    let mut frontend = daemon.connect()?;
    frontend.negotiate(protocol_feature::CONFIG | protocol_feature::REPLY_ACK)?;
    for size in [16, 20, 24, 256] {
        let space = frontend.config(0, size)?;
        let mut expected = vec![0; size];
        expected[8] = 3;
        assert_eq!(space, expected);
    }
    assert_eq!(frontend.config(8, 4)?, [3, 0, 0, 0]);
    Ok(())
}

/// The offset of a transfer is where its rectangle begins in the backing; rutabaga adds the rectangle once more.
#[test]
fn a_part_is_transferred_from_where_it_is() -> Result<()> {
    let mut guest = Guest::start(&[])?;
    guest.numbered(1, Format::BGRX)?;
    guest.driver.succeed(&wire::set_scanout(0, 1, ALL))?;
    let part = Rect::new(8, 4, 16, 8);
    let offset = u64::from(part.y * SIDE + part.x) * 4;
    guest.driver.succeed(&wire::transfer(1, part, offset))?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    let expected = picture(|x, y| if part.contains(x, y) { y * SIDE + x } else { 0 });
    guest.display.expect(0, &expected)?;
    assert_eq!(expected.get(8, 4), 264);
    Ok(())
}

/// QEMU's C back-end copies all of the picture if a transfer begins at its origin and is as wide.
#[test]
fn a_transfer_of_the_first_rows_is_no_more_than_that() -> Result<()> {
    let mut guest = Guest::start(&[])?;
    guest.numbered(1, Format::BGRX)?;
    guest.driver.succeed(&wire::set_scanout(0, 1, ALL))?;
    let part = Rect::of_size(SIDE, 2);
    guest.driver.succeed(&wire::transfer(1, part, 0))?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    let expected = picture(|x, y| if y < 2 { y * SIDE + x } else { 0 });
    guest.display.expect(0, &expected)
}

/// rutabaga's snapshots have no pixels; QEMU's read the cursor again. What the guest has drawn since must not be seen.
#[test]
fn pixels_are_those_of_the_host_and_not_those_of_the_guest() -> Result<()> {
    for pixels in ["full", "delta"] {
        let arguments = ["--state-pixels", pixels];
        let mut guest = Guest::start(&arguments)?;
        let backing = guest.numbered(1, Format::BGRX)?;
        guest.show(1)?;
        let old = picture(|x, y| y * SIDE + x);
        guest.display.expect(0, &old)?;
        // A part, then everything: tiles that are the same, and none.
        for changed in [SIDE * 3, SIDE * SIDE] {
            let new = |number: u32| if number < changed { !number } else { number };
            guest.write(backing, new)?;
            guest.migrate(&arguments)?;
            guest.display.expect(0, &old)?;
            guest.driver.succeed(&wire::flush(1, ALL))?;
            guest.driver.succeed(&wire::set_scanout(1, 1, ALL))?;
            guest.display.expect(1, &old)?;
            guest.display.expect(0, &old)?;
        }
        guest.show(1)?;
        guest.display.expect(0, &picture(|x, y| !(y * SIDE + x)))?;
    }
    Ok(())
}

/// A resource that the guest has drawn and transferred costs nothing, whatever its size.
#[test]
fn a_state_has_only_the_pixels_that_are_nowhere_else() -> Result<()> {
    let mut sizes = Vec::new();
    for pixels in ["full", "delta"] {
        let arguments = ["--state-pixels", pixels];
        let mut guest = Guest::start(&arguments)?;
        guest.numbered(1, Format::BGRX)?;
        guest.show(1)?;
        sizes.push(guest.migrate(&arguments)?);
        guest.display.expect(0, &picture(|x, y| y * SIDE + x))?;
    }
    let bytes = (SIDE * SIDE * 4) as usize;
    ensure!(sizes[0] > bytes && sizes[1] < bytes / 4, "{sizes:?}");
    Ok(())
}

/// QEMU's C back-end sends pixels as they are, so that red and blue change places.
#[test]
fn all_formats_are_seen_in_their_colours() -> Result<()> {
    let mut guest = Guest::start(&[])?;
    for (format, id) in Format::ALL.into_iter().zip(1..) {
        let backing = guest.numbered(id, format)?;
        guest.write(backing, |number| number.wrapping_mul(0x0804_0201))?;
        guest.show(id)?;
        let expected = picture(|x, y| {
            let number = y * SIDE + x;
            format.to_rgb(number.wrapping_mul(0x0804_0201))
        });
        let shown = guest.display.expect(0, &expected);
        shown.with_context(|| format!("{format:?}"))?;
    }
    Ok(())
}

/// QEMU's C back-end sends updates of a head at an offset where the resource has them.
#[test]
fn two_heads_on_one_resource() -> Result<()> {
    let mut guest = Guest::start(&[])?;
    guest.numbered(1, Format::BGRX)?;
    let (left, right) = (Rect::new(0, 0, 32, 64), Rect::new(32, 16, 32, 48));
    for (head, rect) in [(0, left), (1, right)] {
        guest.driver.succeed(&wire::set_scanout(head, 1, rect))?;
    }
    guest.driver.succeed(&wire::transfer(1, ALL, 0))?;
    let part = Rect::new(30, 20, 6, 10);
    guest.driver.succeed(&wire::flush(1, part))?;
    for (head, rect) in [(0, left), (1, right)] {
        let mut expected = Picture::new(rect.width, rect.height);
        for y in part.y..part.y + part.height {
            for x in part.x..part.x + part.width {
                if rect.contains(x, y) {
                    expected.put(x - rect.x, y - rect.y, y * SIDE + x);
                }
            }
        }
        guest.display.expect(head, &expected)?;
    }
    Ok(())
}

/// QEMU dies of an update of a head that is off.
#[test]
fn a_head_that_is_off_has_no_updates() -> Result<()> {
    let mut guest = Guest::start(&[])?;
    guest.numbered(1, Format::BGRX)?;
    guest.show(1)?;
    guest.display.expect(0, &picture(|x, y| y * SIDE + x))?;
    guest
        .driver
        .succeed(&wire::set_scanout(0, 0, Rect::default()))?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    guest.display.expect_dark(0)?;
    thread::sleep(WATCH);
    let seen = guest.display.seen()?;
    guest.driver.stop_and_start()?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    thread::sleep(WATCH);
    let updates = |seen: &tests::gpu::display::Seen| seen.heads.first().map(|head| head.updates);
    assert_eq!(updates(&guest.display.seen()?), updates(&seen));
    guest.show(1)?;
    guest.display.expect(0, &picture(|x, y| y * SIDE + x))
}

/// QEMU's in-process device shows the cursor of the last head on the first one after a migration, with what its resource has then.
#[test]
fn a_cursor_stays_on_its_head_as_it_was() -> Result<()> {
    for gone in [false, true] {
        let mut guest = Guest::start(&[])?;
        let backing = guest.numbered(2, Format::BGRA)?;
        ensure!(SIDE == CURSOR_SIZE, "it is a cursor");
        guest.driver.succeed(&wire::transfer(2, ALL, 0))?;
        let at = Position {
            scanout: 1,
            x: 300,
            y: 200,
        };
        guest.driver.cursor(&wire::update_cursor(at, 2, (3, 4)))?;
        guest.write(backing, |number| !number)?;
        if gone {
            guest.driver.succeed(&wire::unref(2))?;
        } else {
            guest.driver.succeed(&wire::transfer(2, ALL, 0))?;
        }
        guest.migrate(&PLAIN)?;
        let image: Vec<u8> = (0..SIDE * SIDE).flat_map(u32::to_le_bytes).collect();
        let seen = guest.display.wait("a cursor", |seen| {
            seen.heads.get(1).is_some_and(|head| head.cursor.visible)
        })?;
        let cursor = &seen.heads[1].cursor;
        assert_eq!((cursor.at, cursor.hot), ((300, 200), (3, 4)));
        ensure!(cursor.image == image, "another image, gone: {gone}");
        ensure!(!seen.heads[0].cursor.visible, "on the wrong head as well");
    }
    Ok(())
}

/// rust-vmm's back-end panics. Guest memory is shown as it is at a flush, and none of it travels.
#[test]
fn a_blob_is_guest_memory() -> Result<()> {
    let arguments = ["--state-pixels", "full"];
    let mut guest = Guest::start(&arguments)?;
    let (stride, offset) = (SIDE * 4 + 32, 100);
    let size = stride * SIDE + offset;
    let memory = guest.driver.memory();
    let (first, second) = (memory.allocate(5000)?, memory.allocate(size.into())?);
    let pieces = [(first, 5000), (second, size - 5000)];
    let fill = |seed: u32| -> Result<Picture> {
        let bytes: Vec<u8> = (0..size)
            .map(|index| index.wrapping_mul(seed).to_le_bytes()[index as usize % 2])
            .collect();
        let (one, two) = bytes.split_at(5000);
        memory.write(first, one)?;
        memory.write(second, two)?;
        let row = |y: u32| (offset + y * stride) as usize;
        Ok(picture(|x, y| {
            wire::word_at(&bytes, row(y) + x as usize * 4).unwrap_or_default()
        }))
    };
    let expected = fill(7)?;
    guest
        .driver
        .succeed(&wire::create_blob(1, BLOB_MEM_GUEST, size.into(), &pieces))?;
    let layout = BlobLayout {
        format: Format::BGRX.number,
        width: SIDE,
        height: SIDE,
        stride,
        offset,
    };
    guest
        .driver
        .succeed(&wire::set_scanout_blob(0, 1, ALL, layout))?;
    guest.display.expect(0, &expected)?;
    let expected = fill(11)?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    guest.display.expect(0, &expected)?;
    guest.migrate(&arguments)?;
    guest.display.expect(0, &expected)?;
    let expected = fill(13)?;
    guest.driver.succeed(&wire::flush(1, ALL))?;
    guest.display.expect(0, &expected)
}

/// Every page that the device writes to is marked: answers and used rings. While a guest moves, QEMU would lose them otherwise.
#[test]
fn what_the_device_writes_is_in_the_dirty_log() -> Result<()> {
    let mut guest = Guest::start(&["--migratable"])?;
    let log_bytes = ((1 << 32) + (4 << 10) * PAGE) / PAGE / 8;
    let file = memfd_create("log", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, log_bytes)?;
    let log = DirtyLog {
        size: log_bytes,
        file_offset: 0,
    };
    let features = guest.driver.machine().features();
    guest.driver.machine().frontend().set_log(log, &file)?;
    guest
        .driver
        .machine()
        .frontend()
        .set_features(features | feature::LOG_ALL)?;

    guest.driver.machine().frontend().suspend()?;
    let mut pending = Vec::new();
    for id in 1..12 {
        // Answers on pages of their own.
        guest.driver.memory().allocate(2 * PAGE)?;
        for request in [wire::create_2d(id, 2, 16, 16), wire::get_display_info()] {
            pending.push(guest.driver.submit(&request)?);
        }
    }
    let mut count = pending.len();
    let memory = guest.driver.memory();
    let before = memory.snapshot()?;
    guest.driver.machine().frontend().resume()?;
    let end = Instant::now() + DEADLINE;
    while count > 0 {
        ensure!(Instant::now() < end, "{count} commands were not answered");
        count -= guest.driver.machine().ring(CONTROL)?.collect()?.len();
        thread::sleep(Duration::from_millis(1));
    }
    guest.driver.machine().frontend().suspend()?;
    let changed: BTreeSet<u64> = memory.changed_pages(&before)?.into_iter().collect();
    let mut bits = vec![0; usize::try_from(log_bytes)?];
    File::from(file).read_exact_at(&mut bits, 0)?;
    let is_marked = |page: &u64| {
        let number = page / PAGE;
        let byte = usize::try_from(number / 8).ok().and_then(|at| bits.get(at));
        byte.is_some_and(|byte| byte >> (number % 8) & 1 != 0)
    };
    ensure!(changed.len() > 10, "only {} pages changed", changed.len());
    let missing: Vec<_> = changed.iter().filter(|page| !is_marked(page)).collect();
    ensure!(missing.is_empty(), "changed and not marked: {missing:x?}");
    Ok(())
}
