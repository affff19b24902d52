//! Room for pictures: black pixels that cost nothing before they are touched, and few page faults when they are.
//!
//! A device that is loaded fills tens of megabytes while its guest stands still. Writing zeroes there first would be half of the time, and
//! a fault for each 4 KiB the rest. Knows bytes, not pictures.

#![expect(
    unsafe_code,
    reason = "no safe allocation is zeroed by the kernel and may fail, and none takes advice"
)]

use std::alloc::{Layout, alloc_zeroed};

use rustix::mm::{Advice, madvise};

/// What is smaller than this gets no advice.
const HUGE_PAGE: usize = 2 << 20;

/// A multiple of every size of page that a host of ours has.
const GRAIN: usize = 64 << 10;

/// This many zeroes; `None` if the host has no memory for them.
pub(crate) fn black(bytes: u64) -> Option<Vec<u8>> {
    let bytes = usize::try_from(bytes).ok()?;
    let layout = Layout::array::<u8>(bytes).ok()?;
    if bytes == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: allocated a moment ago by the global allocator, with the alignment of a byte and this size, and all of it is zero.
    let mut room = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, bytes)) };
    prefer_huge_pages(&mut room);
    Some(room.into_vec())
}

fn prefer_huge_pages(room: &mut [u8]) {
    let before = room.as_ptr().align_offset(GRAIN).min(room.len());
    let (_, room) = room.split_at_mut(before);
    let (room, _) = room.split_at_mut(room.len() / GRAIN * GRAIN);
    if room.len() < HUGE_PAGE {
        return;
    }
    // SAFETY: whole pages, all of them ours; which pages the kernel takes changes nothing of what is in them.
    let taken = unsafe { madvise(room.as_mut_ptr().cast(), room.len(), Advice::LinuxHugepage) };
    if let Err(error) = taken {
        log::debug!("host: no huge pages for pictures: {error}"); // which only makes them slower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_black_and_can_be_written_from_end_to_end() {
        for bytes in [0, 1, 4096, (2 << 20) + 12_345, 33_177_600] {
            let mut room = black(bytes).unwrap();
            assert_eq!(room.len() as u64, bytes);
            assert!(room.iter().all(|byte| *byte == 0));
            room.fill(7);
            assert!(room.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn what_no_host_has_is_none() {
        assert_eq!(black(u64::MAX), None);
        assert_eq!(black(1 << 62), None);
    }
}
