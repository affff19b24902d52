//! Does a driver that others have written get its picture on the screen?

use anyhow::{Context, Result};
use tests::gpu::display::{Display, Seen};
use tests::gpu::foreign::Wires;
use tests::gpu::picture::Picture;
use tests::gpu::start_daemon;
use tests::guest::Memory;
use tests::guest::memory::PAGE;

/// No arguments.
const PLAIN: [&str; 0] = [];

/// The monitor.
const SIZE: (u32, u32) = (320, 200);

/// A picture that depends on `seed`, in a framebuffer and as it has to be seen.
fn draw(seed: u32, (width, height): (u32, u32), framebuffer: &mut [u8]) -> Picture {
    let mut picture = Picture::new(width, height);
    for (bytes, number) in framebuffer.chunks_exact_mut(4).zip(0..width * height) {
        let pixel = number.wrapping_mul(seed).rotate_left(7);
        bytes.copy_from_slice(&pixel.to_le_bytes());
        picture.put(number % width, number / width, pixel);
    }
    picture
}

#[test]
fn the_driver_of_virtio_drivers_is_seen() -> Result<()> {
    let daemon = start_daemon(PLAIN)?;
    let display = Display::new(&[SIZE]);
    let memory = Memory::new(&[4096 * PAGE])?;
    let wires = Wires::new(daemon.connect()?, &display, &memory)?;
    let mut driver = wires.driver()?;
    assert_eq!(driver.resolution()?, SIZE);
    driver.get_edid(0)?;

    let expected = draw(77, SIZE, driver.setup_framebuffer()?);
    driver.flush()?;
    display.expect(0, &expected)?;

    let image: Vec<u8> = (0..64 * 64 * 4_u32)
        .map(|index| (index % 253) as u8)
        .collect();
    driver.setup_cursor(&image, 10, 20, 3, 4)?;
    driver.move_cursor(30, 40)?;
    let moved = |seen: &Seen| {
        let cursor = seen.heads.first().map(|head| &head.cursor);
        cursor.is_some_and(|cursor| {
            cursor.visible && cursor.at == (30, 40) && cursor.hot == (3, 4) && cursor.image == image
        })
    };
    display.wait("the cursor", moved)?;

    wires.stop_and_start()?;
    display.expect(0, &expected)?;
    let destination = start_daemon(PLAIN)?;
    display.forget_at_close(true);
    wires.migrate_to(destination.connect()?)?;
    display.expect(0, &expected).context("migrated")?;
    display.wait("the cursor, migrated", moved)?;

    let small = (160, 100);
    let expected = draw(99, small, driver.change_resolution(small.0, small.1)?);
    driver.flush()?;
    display
        .expect(0, &expected)
        .context("after the migration")?;
    Ok(())
}
