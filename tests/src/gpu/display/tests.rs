//! Devices that break the protocol, each in its way, and one that does not.

use std::io::{Read as _, Write as _};

use super::super::wire::Rect;
use super::*;

fn message(request: u32, words: &[u32]) -> Vec<u8> {
    let size = u32::try_from(4 * words.len()).unwrap();
    let header = [request, 0, size];
    let words = header.iter().chain(words);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

fn update(scanout: u32, rect: Rect, pixel: u32) -> Vec<u8> {
    let Rect {
        x,
        y,
        width,
        height,
    } = rect;
    let pixels = vec![pixel; (width * height) as usize];
    message(8, &[&[scanout, x, y, width, height][..], &pixels].concat())
}

/// What the display says about a device that sends these messages.
fn verdict(messages: &[Vec<u8>]) -> Result<Seen> {
    let display = Display::new(&[(64, 64)]);
    let mut device = display.connect().unwrap();
    device.write_all(&messages.concat()).unwrap();
    display.settle()?;
    display.seen()
}

#[test]
fn what_is_shown_is_seen() {
    let seen = verdict(&[
        message(7, &[1, 4, 2]),
        update(1, Rect::new(1, 1, 2, 1), 0xff12_3456),
        message(5, &[0, 7, 8]),
    ])
    .unwrap();
    let mut expected = Picture::new(4, 2);
    expected.put(1, 1, 0x12_3456);
    expected.put(2, 1, 0x12_3456);
    assert_eq!(seen.heads[1].picture.as_ref(), Some(&expected));
    assert_eq!(seen.heads[0].cursor.at, (7, 8));
    assert_eq!(seen.heads[0].picture, None);
}

#[test]
fn devices_that_break_the_protocol_are_found_out() {
    let scanout = || message(7, &[0, 4, 4]);
    let whole = || update(0, Rect::of_size(4, 4), 1);
    let cases = [
        ("no SCANOUT", vec![whole()]),
        ("off", vec![scanout(), message(7, &[0, 0, 0]), whole()]),
        (
            "too wide",
            vec![scanout(), update(0, Rect::new(1, 0, 4, 1), 1)],
        ),
        (
            "too low",
            vec![scanout(), update(0, Rect::new(0, 1, 1, 4), 1)],
        ),
        ("no such head", vec![message(7, &[16, 4, 4])]),
        ("no feature", vec![message(11, &[0])]),
        ("not offered", vec![message(2, &[8, 0])]),
        (
            "no such head for EDID",
            vec![message(2, &[1, 0]), message(11, &[16])],
        ),
    ];
    for (what, messages) in cases {
        assert!(verdict(&messages).is_err(), "{what}");
    }
}

#[test]
fn a_socket_that_is_new_has_seen_no_scanout() {
    let display = Display::new(&[(64, 64)]);
    let mut device = display.connect().unwrap();
    device.write_all(&message(7, &[0, 4, 4])).unwrap();
    display.settle().unwrap();
    let mut device = display.connect().unwrap();
    let heads = display.seen().unwrap().heads;
    assert!(heads[0].picture.is_some(), "a console keeps its picture");
    let whole = update(0, Rect::of_size(4, 4), 1);
    device.write_all(&whole).unwrap();
    assert!(display.settle().is_err());
}

#[test]
fn a_device_that_is_not_silent_is_found_out() {
    let display = Display::new(&[(64, 64)]);
    let mut device = display.connect().unwrap();
    device.write_all(&message(7, &[0, 4, 4])).unwrap();
    display.expect_silence().unwrap();
    display.listen().unwrap();
    device.write_all(&message(7, &[0, 8, 8])).unwrap();
    display.expect_silence().unwrap();
    device.write_all(&message(7, &[0, 4, 4])).unwrap();
    assert!(display.listen().is_err());
}

#[test]
fn answers_are_held_and_given_and_the_end_is_noticed() {
    let display = Display::new(&[(64, 48)]);
    display.hold_answers(true);
    let mut device = display.connect().unwrap();
    device.write_all(&message(1, &[])).unwrap();
    let mut reply = [0; 20];
    device.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], [1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0]);
    device.write_all(&message(3, &[])).unwrap();
    display
        .wait("a question", |seen| seen.unanswered == 1)
        .unwrap();
    display.hold_answers(false);
    let mut reply = [0; 12 + 408];
    device.read_exact(&mut reply).unwrap();
    let size = [44, 48].map(|at| reply[at]);
    assert_eq!(size, [64, 48], "width and height of the first head");
    drop(device);
    display.wait("the end", |seen| seen.left).unwrap();
}

#[test]
fn nobody_reads_while_reading_is_held() {
    let display = Display::new(&[(64, 64)]);
    let mut device = display.connect().unwrap();
    device.set_nonblocking(true).unwrap();
    display.hold_reading(true);
    let rubbish = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(count) = device.write(&rubbish) {
        sent += count;
        assert!(sent < 1 << 26, "somebody reads");
    }
    display.hold_reading(false);
    display
        .wait("what breaks the protocol", |_| false)
        .unwrap_err();
}
