//! News of the screens as messages, one at a time, in an order that no reader stumbles over.
//!
//! QEMU dies of an UPDATE before the first SCANOUT, and uses freed memory at one after a SCANOUT of width 0
//! (hw/display/vhost-user-gpu.c, `vhost_user_gpu_handle_display`). So: first all sizes, then each new picture whole, then the
//! cursors, then what has changed, screen after screen. Knows no socket.

use common::report::Sparse;

use super::protocol::{Request, begin};
use crate::screens::{CURSOR_BYTES, Head, Picture, Screens};
use crate::two_d::tiles::Size;
use crate::wire::Rect;

/// What an `UPDATE` has besides pixels, in bytes, and more.
const ROOM_FOR_REST: usize = 64;

/// Updates that had to wait: a guest can ask for one whenever it likes.
static NO_MEMORY: Sparse = Sparse::new();

/// Puts the next message into `out`; false if there is nothing to tell.
pub(crate) fn compose(screens: &mut Screens, out: &mut Vec<u8>) -> bool {
    let mut heads = screens.heads.iter_mut().zip(0..);
    if heads.any(|(head, number)| size(head, number, out)) {
        return true;
    }
    let mut heads = screens.heads.iter_mut().zip(0..);
    if heads.any(|(head, number)| head.news.whole && update(head, number, out)) {
        return true;
    }
    let mut heads = screens.heads.iter_mut().zip(0..);
    if heads.any(|(head, number)| cursor(head, number, out)) {
        return true;
    }
    let turn = screens.turn;
    let mut heads = screens.heads.iter_mut().zip(0..).enumerate();
    let later = heads.find_map(|(index, (head, number))| {
        (index >= turn && update(head, number, out)).then_some(index + 1)
    });
    screens.turn = later.unwrap_or(0);
    let mut heads = screens.heads.iter_mut().zip(0..);
    later.is_some() || heads.any(|(head, number)| update(head, number, out))
}

fn size(head: &mut Head, number: u32, out: &mut Vec<u8>) -> bool {
    let news = &mut head.news;
    match &head.picture {
        Some(picture) if picture.awaited.is_some() => false, // it is told when it is whole
        Some(picture) if news.told != Some(picture.size) => {
            let Size { width, height } = picture.size;
            begin(out, Request::Scanout, &[number, width, height], 0);
            news.told = Some(picture.size);
            news.lit = true;
            news.dark = false;
            news.whole = true;
            news.damage = Some(Rect::of_size(width, height));
            true
        }
        None if news.lit && !news.dark => {
            begin(out, Request::Scanout, &[number, 0, 0], 0);
            news.told = None;
            news.dark = true;
            news.whole = false;
            true
        }
        _ => false,
    }
}

fn update(head: &mut Head, number: u32, out: &mut Vec<u8>) -> bool {
    let whole = head
        .picture
        .as_ref()
        .filter(|picture| picture.awaited.is_none());
    let Some(Picture { size, pixels, .. }) = whole else {
        return false;
    };
    let Some(part) = head.news.damage.take() else {
        return false;
    };
    let bytes = part.width as usize * part.height as usize * 4;
    out.clear();
    if out.try_reserve(bytes + ROOM_FOR_REST).is_err() {
        if let Some(count) = NO_MEMORY.count() {
            log::error!(
                "host: no memory to tell the display of {bytes} bytes; that waits for the next change ({count} times so far)"
            );
        }
        head.news.damage = Some(part);
        return false;
    }
    head.news.whole = false;
    let words = [number, part.x, part.y, part.width, part.height];
    begin(out, Request::Update, &words, bytes);
    for row in size.rows(part) {
        out.extend_from_slice(pixels.get(row).unwrap_or_default());
    }
    true
}

fn cursor(head: &mut Head, number: u32, out: &mut Vec<u8>) -> bool {
    let Head { cursor, news, .. } = head;
    match cursor {
        Some(cursor) if news.cursor_image && cursor.visible => {
            let ((x, y), (hot_x, hot_y)) = (cursor.position, cursor.hot);
            let words = [number, x, y, hot_x, hot_y];
            begin(out, Request::CursorUpdate, &words, CURSOR_BYTES);
            out.extend_from_slice(cursor.image.as_deref().unwrap_or(&[0; CURSOR_BYTES]));
            news.cursor_image = false;
        }
        _ if !news.cursor_place => return false,
        Some(cursor) => {
            let request = if cursor.visible {
                Request::CursorPosition
            } else {
                Request::CursorHide
            };
            let (x, y) = cursor.position;
            begin(out, request, &[number, x, y], 0);
        }
        None => begin(out, Request::CursorHide, &[number, 0, 0], 0),
    }
    news.cursor_place = false; // which an image tells as well
    news.pointed |= cursor.is_some();
    true
}

#[cfg(test)]
mod tests;
