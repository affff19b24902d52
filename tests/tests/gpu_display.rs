//! Does the device get on with every kind of display: one that answers, one that is slow, one that has gone, and none? And does what
//! the guest asks, and only the display knows, get its answer whatever happens meanwhile?

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon_runner::{DEADLINE, Daemon};
use tests::gpu::display::{Display, Seen};
use tests::gpu::driver::Driver;
use tests::gpu::picture::Picture;
use tests::gpu::start_daemon;
use tests::gpu::wire::answer::{ERR_INVALID_SCANOUT_ID, OK_DISPLAY_INFO, OK_EDID, OK_NODATA};
use tests::gpu::wire::{self, Rect, SCANOUTS_MAX};
use tests::guest::Manner;

/// No arguments.
const PLAIN: [&str; 0] = [];

/// `VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM`.
const FORMAT: u32 = 2;

/// How long something that must not happen is waited for.
const WATCH: Duration = Duration::from_millis(50);

/// A guest that looks at two monitors, and its daemon.
fn guest() -> Result<(Daemon, Display, Driver)> {
    let daemon = start_daemon(PLAIN)?;
    let display = Display::new(&[(640, 480), (800, 600)]);
    let driver = Driver::start(daemon.connect()?, Some(&display))?;
    Ok((daemon, display, driver))
}

/// A resource of one colour after the other, on head 0.
struct Canvas {
    size: (u32, u32),
    backing: u64,
}

impl Canvas {
    const ID: u32 = 5;

    fn new(driver: &mut Driver, width: u32, height: u32) -> Result<Self> {
        let bytes = width * height * 4;
        let backing = driver.memory().allocate(bytes.into())?;
        driver.succeed(&wire::create_2d(Self::ID, FORMAT, width, height))?;
        driver.succeed(&wire::attach_backing(Self::ID, &[(backing, bytes)]))?;
        driver.succeed(&wire::set_scanout(
            0,
            Self::ID,
            Rect::of_size(width, height),
        ))?;
        Ok(Self {
            size: (width, height),
            backing,
        })
    }

    fn fill(&self, driver: &mut Driver, colour: u32) -> Result<Picture> {
        let (width, height) = self.size;
        let all = Rect::of_size(width, height);
        let bytes = colour.to_le_bytes().repeat((width * height) as usize);
        driver.memory().write(self.backing, &bytes)?;
        driver.succeed(&wire::transfer(Self::ID, all, 0))?;
        driver.succeed(&wire::flush(Self::ID, all))?;
        let mut picture = Picture::new(width, height);
        picture.paint(all, &bytes);
        Ok(picture)
    }
}

/// Host memory that a process has, in bytes.
fn resident(daemon: &Daemon) -> Result<u64> {
    let path = format!("/proc/{}/statm", daemon.id().as_raw_nonzero());
    let statm = fs::read_to_string(path)?;
    let pages = statm
        .split(' ')
        .nth(1)
        .context("statm without a second field")?;
    Ok(pages.parse::<u64>()? * 4096)
}

#[test]
fn the_guest_is_told_what_the_display_says() -> Result<()> {
    let (_daemon, display, mut driver) = guest()?;
    let info = driver.expect(OK_DISPLAY_INFO, &wire::get_display_info())?;
    assert_eq!(info.body, display.display_info());
    for scanout in [0, 1] {
        let edid = driver.expect(OK_EDID, &wire::get_edid(scanout))?;
        assert_eq!(edid.body, display.edid(scanout), "{scanout}");
    }
    // Asked each time: monitors come and go.
    display.set_monitors(&[None, Some((1024, 768))]);
    let info = driver.expect(OK_DISPLAY_INFO, &wire::get_display_info())?;
    assert_eq!(info.body, display.display_info());
    Ok(())
}

/// QEMU does not answer `GET_EDID` of a scanout that it does not have: nobody may wait for that.
#[test]
fn a_question_that_is_never_answered_holds_up_nobody() -> Result<()> {
    let (_daemon, display, mut driver) = guest()?;
    for scanout in 2..u32::try_from(SCANOUTS_MAX)? {
        let answer = driver.ask(&wire::get_edid(scanout))?;
        ensure!(
            answer.kind == ERR_INVALID_SCANOUT_ID,
            "{scanout}: {:#x}",
            answer.kind
        );
    }
    let edid = driver.expect(OK_EDID, &wire::get_edid(1))?;
    assert_eq!(edid.body, display.edid(1));
    Ok(())
}

/// A large picture passes through a buffer as large, which is given back when nothing has been said for a while.
#[test]
fn a_display_that_has_seen_a_large_picture_costs_no_memory() -> Result<()> {
    const SIDE: u32 = 2048;
    let bytes = u64::from(SIDE) * u64::from(SIDE) * 4;
    let (daemon, display, mut driver) = guest()?;
    let canvas = Canvas::new(&mut driver, SIDE, SIDE)?;
    let expected = canvas.fill(&mut driver, 0x0012_3456)?;
    display.wait("the picture", shows(expected))?;
    // The resource and what is seen of it; and half of another one for all the rest.
    let end = Instant::now() + DEADLINE;
    while daemon.resident_kib()? * 1024 > 2 * bytes + bytes / 2 {
        ensure!(
            Instant::now() < end,
            "{} KiB are still in use",
            daemon.resident_kib()?
        );
        thread::sleep(WATCH);
    }
    // It is there again when it is wanted.
    let expected = canvas.fill(&mut driver, 0x0065_4321)?;
    display.wait("the next", shows(expected))?;
    Ok(())
}

/// Whether head 0 shows this.
fn shows(expected: Picture) -> impl FnMut(&Seen) -> bool {
    move |seen| {
        let head = seen.heads.first();
        head.is_some_and(|head| head.picture.as_ref() == Some(&expected))
    }
}

/// What can happen while a question is open.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Suspend,
    Stop,
    Migrate { suspend: bool },
}

/// A question in flight, with another command behind it.
fn interrupt(question: &[u8], right: &[u8], meanwhile: Meanwhile) -> Result<()> {
    let (mut daemon, display, mut driver) = guest()?;
    driver.succeed(&wire::create_2d(1, FORMAT, 16, 16))?;
    let done = driver.machine().ring(0)?.next_used();
    display.hold_answers(true);
    let pending = vec![
        driver.submit(question)?,
        driver.submit(&wire::create_2d(2, FORMAT, 16, 16))?,
    ];
    display.wait("the question", |seen| seen.unanswered == 1)?;
    match meanwhile {
        Meanwhile::Suspend => {
            driver.suspend()?;
            let before = driver.memory().snapshot()?;
            // The answer comes at the worst time.
            display.hold_answers(false);
            display.wait("the answer", |seen| seen.unanswered == 0)?;
            thread::sleep(WATCH);
            let changed = driver.memory().changed_pages(&before)?;
            ensure!(changed.is_empty(), "guest memory changed at {changed:x?}");
            driver.resume()?;
        }
        Meanwhile::Stop => {
            let bases = driver.machine().stop()?;
            let base = bases.first().context("no ring")?;
            ensure!(*base == u32::from(done), "stopped at {base}, not at {done}");
            display.hold_answers(false);
            driver.machine().start(&bases)?;
        }
        Meanwhile::Migrate { suspend } => {
            let destination = start_daemon(PLAIN)?;
            let manner = Manner {
                suspend,
                ..Manner::QEMU
            };
            driver.migrate_to(destination.connect()?, manner)?;
            daemon = destination;
            display.wait("the question, once more", |seen| seen.unanswered == 1)?;
            display.hold_answers(false);
        }
    }
    let answers = driver.finish_all(pending)?;
    let [asked, behind] = answers.as_slice() else {
        anyhow::bail!("{} answers", answers.len());
    };
    ensure!(asked.body == right, "answered by {:#x}", asked.kind);
    ensure!(behind.kind == OK_NODATA, "{:#x} behind it", behind.kind);
    // Once, and not twice.
    driver.succeed(&wire::unref(2))?;
    driver.succeed(&wire::unref(1))?;
    ensure!(daemon.status()?.is_none(), "the daemon has ended");
    Ok(())
}

#[test]
fn questions_in_flight_are_asked_again() -> Result<()> {
    let display = Display::new(&[(640, 480), (800, 600)]);
    let questions = [
        (wire::get_display_info(), display.display_info()),
        (wire::get_edid(1), display.edid(1)),
    ];
    for (question, right) in &questions {
        for meanwhile in [
            Meanwhile::Suspend,
            Meanwhile::Stop,
            Meanwhile::Migrate { suspend: false },
            Meanwhile::Migrate { suspend: true },
        ] {
            interrupt(question, right, meanwhile).with_context(|| format!("{meanwhile:?}"))?;
        }
    }
    Ok(())
}

/// One who reads nothing holds up neither commands nor SUSPEND, costs no memory, and sees the last picture in the end.
#[test]
fn a_display_that_reads_nothing_holds_up_nobody() -> Result<()> {
    let (daemon, display, mut driver) = guest()?;
    let canvas = Canvas::new(&mut driver, 1920, 1080)?;
    let picture = canvas.fill(&mut driver, 0x11_2233)?;
    display.expect(0, &picture)?;
    display.hold_reading(true);
    canvas.fill(&mut driver, 1)?;
    let before = resident(&daemon)?;
    let mut last = picture;
    for colour in 2..20 {
        last = canvas.fill(&mut driver, colour * 0x0001_0101)?;
    }
    let grown = resident(&daemon)?.saturating_sub(before);
    let most = 3 * 1920 * 1080 * 4;
    ensure!(grown < most, "{grown} bytes more for nobody");

    driver.machine().frontend().suspend()?;
    let unread = display.unread()?;
    thread::sleep(WATCH);
    ensure!(display.unread()? == unread, "messages while suspended");
    driver.machine().frontend().resume()?;
    display.hold_reading(false);
    display.expect(0, &last)?;

    // Nor does it hold up the end of a connection in the middle of a message.
    display.hold_reading(true);
    last = canvas.fill(&mut driver, 0x77_0077)?;
    let bases = driver.machine().stop()?;
    display.hold_reading(false);
    driver.machine().start(&bases)?;
    display.expect(0, &last)
}

/// The front-end closes the socket while the device runs; the device goes on, and is seen again at the next start.
#[test]
fn a_display_that_has_gone_holds_up_nobody() -> Result<()> {
    let (mut daemon, display, mut driver) = guest()?;
    let canvas = Canvas::new(&mut driver, 64, 64)?;
    display.close();
    let picture = canvas.fill(&mut driver, 0x12_3456)?;
    let answer = driver.ask(&wire::get_display_info())?;
    ensure!(answer.kind == OK_DISPLAY_INFO, "{:#x}", answer.kind);
    driver.stop_and_start()?;
    display.expect(0, &picture)?;
    assert_eq!(daemon.status()?, None);
    Ok(())
}

/// A front-end that gives no socket at all: the guest works, and is told something sensible.
#[test]
fn no_display_at_all() -> Result<()> {
    for arguments in [&["--headless"][..], &[]] {
        let daemon = start_daemon(arguments)?;
        let mut driver = Driver::start(daemon.connect()?, None)?;
        let canvas = Canvas::new(&mut driver, 64, 64)?;
        canvas.fill(&mut driver, 7)?;
        let info = driver.expect(OK_DISPLAY_INFO, &wire::get_display_info())?;
        let words: Vec<u32> = (0..6)
            .map(|word| wire::word_at(&info.body, word * 4))
            .collect::<Result<_>>()?;
        assert_eq!(words, [0, 0, 1280, 800, 1, 0], "{arguments:?}");
        let edid = driver.expect(OK_EDID, &wire::get_edid(0))?;
        let magic = [0, 255, 255, 255, 255, 255, 255, 0];
        let (size, edid) = edid.body.split_at(8);
        assert_eq!(edid.get(..8), Some(&magic[..]), "{arguments:?}");
        assert_eq!(wire::word_at(size, 0)? % 128, 0);
        let block = edid.get(..128).context("no block")?;
        let sum = block
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "{arguments:?}: the checksum");
    }
    Ok(())
}

/// A daemon that is told not to use the socket does not.
#[test]
fn a_headless_daemon_says_nothing() -> Result<()> {
    let daemon = start_daemon(["--headless"])?;
    let display = Display::new(&[(640, 480)]);
    let mut driver = Driver::start(daemon.connect()?, Some(&display))?;
    let canvas = Canvas::new(&mut driver, 64, 64)?;
    canvas.fill(&mut driver, 7)?;
    driver.expect(OK_DISPLAY_INFO, &wire::get_display_info())?;
    thread::sleep(WATCH);
    assert_eq!(display.seen()?.bytes, 0);
    Ok(())
}
