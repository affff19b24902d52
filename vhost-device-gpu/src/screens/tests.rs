//! What becomes news.

use super::*;

fn shown(screens: &mut Screens, width: u32, height: u32, byte: u8) -> Result<(), NoRoom> {
    screens.show(1, width, height, |_, row| {
        row.fill(byte);
        true
    })
}

fn damage(screens: &mut Screens) -> Option<Rect> {
    screens.heads[1].news.damage.take()
}

#[test]
fn news_are_what_changed_and_grow_together() {
    let mut screens = Screens::new(1 << 20);
    shown(&mut screens, 40, 30, 1).unwrap();
    assert_eq!(damage(&mut screens), Some(Rect::of_size(40, 30)));
    let part = |x, y| Rect {
        x,
        y,
        width: 2,
        height: 1,
    };
    let paint = |screens: &mut Screens, part| {
        screens.paint(1, part, |_, row| {
            row.fill(2);
            true
        });
    };
    paint(&mut screens, part(3, 4));
    paint(&mut screens, part(10, 9));
    let union = Rect {
        x: 3,
        y: 4,
        width: 9,
        height: 6,
    };
    assert_eq!(damage(&mut screens), Some(union));
    paint(&mut screens, Rect::default());
    assert_eq!(damage(&mut screens), None);
}

/// A guest that flips between two buffers changes what differs between them.
#[test]
fn the_same_size_again_is_news_of_the_difference() {
    let mut screens = Screens::new(1 << 20);
    shown(&mut screens, 40, 30, 1).unwrap();
    damage(&mut screens);
    shown(&mut screens, 40, 30, 1).unwrap();
    assert_eq!(damage(&mut screens), None);
    let other = |y: u32, row: &mut [u8]| {
        row.fill(if y == 7 || y == 9 { 3 } else { 1 });
        true
    };
    screens.show(1, 40, 30, other).unwrap();
    let rows = Rect {
        x: 0,
        y: 7,
        width: 40,
        height: 3,
    };
    assert_eq!(damage(&mut screens), Some(rows));
    screens.show(1, 40, 30, |_, _| false).unwrap();
    assert_eq!(damage(&mut screens), Some(Rect::of_size(40, 30)));
    assert!(
        screens
            .picture(1)
            .unwrap()
            .pixels
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn pictures_take_no_more_memory_than_they_may() {
    let mut screens = Screens::new(40 * 40 * 4);
    shown(&mut screens, 40, 40, 1).unwrap();
    assert_eq!(shown(&mut screens, 40, 41, 1), Err(NoRoom));
    assert_eq!(shown(&mut screens, u32::MAX, u32::MAX, 1), Err(NoRoom));
    assert_eq!(screens.picture(1).unwrap().size.height, 40, "still there");
    let another = screens.show(2, 1, 1, |_, _| true);
    assert_eq!(another, Err(NoRoom));
    shown(&mut screens, 20, 20, 1).unwrap();
    screens.show(2, 20, 20, |_, _| true).unwrap();
    screens.turn_off(1);
    screens.show(3, 30, 30, |_, _| true).unwrap();
}

#[test]
fn heads_that_there_are_not_are_no_harm() {
    let mut screens = Screens::new(1 << 20);
    screens.turn_off(16);
    screens.move_cursor(16, (0, 0), true);
    screens.define_cursor(16, (0, 0), (0, 0), &[0; CURSOR_BYTES]);
    screens.paint(16, Rect::of_size(1, 1), |_, _| true);
    screens.paint(0, Rect::of_size(1, 1), |_, _| true);
    assert!(screens.picture(0).is_none() && screens.cursor(16).is_none());
}
