//! Messages in an order that no reader stumbles over.

use super::super::protocol::{HEADER_BYTES, words};
use super::*;

const SCANOUT: u32 = Request::Scanout as u32;
const UPDATE: u32 = Request::Update as u32;
const POSITION: u32 = Request::CursorPosition as u32;
const HIDE: u32 = Request::CursorHide as u32;
const CURSOR: u32 = Request::CursorUpdate as u32;

/// All there is to tell: request and the first five words.
fn told(screens: &mut Screens) -> Vec<(u32, [u32; 5])> {
    let mut out = Vec::new();
    let mut all = Vec::new();
    while compose(screens, &mut out) {
        let [request, flags, size] = words(&out);
        assert_eq!((flags, size as usize), (0, out.len() - HEADER_BYTES));
        let body = words(&out[HEADER_BYTES..]);
        if request == UPDATE {
            assert_eq!(size, 20 + body[3] * body[4] * 4);
        }
        all.push((request, body));
        assert!(all.len() < 100, "an endless story");
    }
    all
}

fn show(screens: &mut Screens, head: usize, width: u32, height: u32) {
    let shown = screens.show(head, width, height, |_, row| {
        row.fill(7);
        true
    });
    shown.unwrap();
}

fn paint(screens: &mut Screens, head: usize, x: u32) {
    let part = Rect {
        x,
        y: 1,
        width: 2,
        height: 3,
    };
    screens.paint(head, part, |_, row| {
        row.fill(9);
        true
    });
}

#[test]
fn sizes_come_first_then_whole_pictures_then_cursors_then_changes() {
    let mut screens = Screens::new(1 << 20);
    let image = [5; CURSOR_BYTES];
    screens.define_cursor(0, (8, 9), (1, 2), &image);
    show(&mut screens, 0, 40, 30);
    show(&mut screens, 3, 20, 16);
    paint(&mut screens, 0, 4);
    let first = [
        (SCANOUT, [0, 40, 30, 0, 0]),
        (SCANOUT, [3, 20, 16, 0, 0]),
        (UPDATE, [0, 0, 0, 40, 30]),
        (UPDATE, [3, 0, 0, 20, 16]),
        (CURSOR, [0, 8, 9, 1, 2]),
    ];
    assert_eq!(told(&mut screens), first);

    paint(&mut screens, 3, 4);
    paint(&mut screens, 0, 4);
    paint(&mut screens, 0, 10);
    screens.move_cursor(0, (11, 12), true);
    let later = [
        (POSITION, [0, 11, 12, 0, 0]),
        (UPDATE, [0, 4, 1, 8, 3]),
        (UPDATE, [3, 4, 1, 2, 3]),
    ];
    assert_eq!(told(&mut screens), later);

    // Another socket.
    screens.introduce();
    let mut again = first;
    again[4].1[1..3].copy_from_slice(&[11, 12]);
    assert_eq!(told(&mut screens), again);
}

#[test]
fn a_dark_screen_gets_no_update_and_is_told_its_size_when_it_is_lit_again() {
    let mut screens = Screens::new(1 << 20);
    show(&mut screens, 1, 40, 30);
    told(&mut screens);
    paint(&mut screens, 1, 4);
    screens.turn_off(1);
    paint(&mut screens, 1, 4);
    assert_eq!(told(&mut screens), [(SCANOUT, [1, 0, 0, 0, 0])]);
    assert_eq!(told(&mut screens), []);
    show(&mut screens, 1, 40, 30);
    let lit = [(SCANOUT, [1, 40, 30, 0, 0]), (UPDATE, [1, 0, 0, 40, 30])];
    assert_eq!(told(&mut screens), lit);
    // The same size, another picture: the reader has the size.
    let differs = screens.show(1, 40, 30, |_, row| {
        row.fill(8);
        true
    });
    differs.unwrap();
    assert_eq!(told(&mut screens), [(UPDATE, [1, 0, 0, 40, 30])]);
}

#[test]
fn what_the_reader_before_saw_is_taken_back() {
    let mut screens = Screens::new(1 << 20);
    show(&mut screens, 1, 40, 30);
    screens.define_cursor(1, (1, 1), (0, 0), &[1; CURSOR_BYTES]);
    told(&mut screens);
    screens.reset();
    screens.introduce();
    let dark = [(SCANOUT, [1, 0, 0, 0, 0]), (HIDE, [1, 0, 0, 0, 0])];
    assert_eq!(told(&mut screens), dark);
    assert_eq!(told(&mut screens), []);
    // Whether that was read before the socket was closed, nobody knows.
    screens.introduce();
    assert_eq!(told(&mut screens), dark);
}

#[test]
fn a_hidden_cursor_is_said_to_be_hidden() {
    let mut screens = Screens::new(1 << 20);
    screens.define_cursor(1, (1, 1), (0, 0), &[1; CURSOR_BYTES]);
    screens.move_cursor(1, (2, 3), false);
    assert_eq!(told(&mut screens), [(HIDE, [1, 2, 3, 0, 0])]);
    screens.introduce();
    assert_eq!(told(&mut screens), [(HIDE, [1, 2, 3, 0, 0])]);
    // Shown again by a mere move: the reader has not seen the image yet.
    screens.move_cursor(1, (4, 5), true);
    assert_eq!(told(&mut screens), [(CURSOR, [1, 4, 5, 0, 0])]);
    screens.move_cursor(1, (6, 7), true);
    assert_eq!(told(&mut screens), [(POSITION, [1, 6, 7, 0, 0])]);
}

/// No screen waits for ever because another one changes all the time.
#[test]
fn screens_take_turns() {
    let mut screens = Screens::new(1 << 20);
    for head in [0, 5, 9] {
        show(&mut screens, head, 20, 16);
    }
    told(&mut screens);
    let mut out = Vec::new();
    let mut order = Vec::new();
    for head in [0, 5, 9] {
        paint(&mut screens, head, 1);
    }
    for _ in 0..6 {
        paint(&mut screens, 0, 1);
        assert!(compose(&mut screens, &mut out));
        let [head] = words(&out[HEADER_BYTES..]);
        order.push(head);
    }
    assert_eq!(order[..3], [0, 5, 9]);
}

/// A picture that a load has not made whole yet: nobody sees the half of it.
#[test]
fn what_is_awaited_is_not_told_yet() {
    let mut screens = Screens::new(1 << 20);
    show(&mut screens, 0, 64, 64);
    show(&mut screens, 1, 70, 64);
    let picture = screens.heads[0].picture.as_mut().unwrap();
    picture.awaited = Some(Vec::new());
    let heads: Vec<u32> = told(&mut screens).iter().map(|(_, body)| body[0]).collect();
    assert_eq!(heads, [1, 1], "size and picture");
    screens.fetch(0, |_, _, _| true);
    let story: Vec<(u32, u32)> = told(&mut screens)
        .iter()
        .map(|(request, body)| (*request, body[0]))
        .collect();
    assert_eq!(story, [(SCANOUT, 0), (UPDATE, 0)]);
}
