//! What can be told without a log; with one, which only the stock handler can make, see `tests/tests/dirty_log.rs`.

use vm_memory::{Bytes as _, GuestAddress};

use super::*;

const PAGES: usize = 8;

fn memory() -> Arc<GuestMemory> {
    let ranges = [(GuestAddress(0), PAGES * PAGE_BYTES)];
    Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
}

fn only_region(memory: &GuestMemory) -> &RegionLog {
    &bitmap(memory.iter().next().unwrap()).region
}

fn waiting(memory: &GuestMemory) -> Vec<(usize, usize)> {
    read(&only_region(memory).marks).waiting.clone()
}

#[test]
fn marks_wait_until_the_region_is_attached() {
    let memory = memory();
    memory.write_slice(b"abc", GuestAddress(0x1ffe)).unwrap();
    memory.write_obj(0_u8, GuestAddress(0x1fff)).unwrap();
    memory.write_obj(0_u8, GuestAddress(0x3000)).unwrap();
    memory.write_obj(0_u8, GuestAddress(0x3000)).unwrap();
    assert_eq!(
        waiting(&memory),
        [(0x1000, 0x1001), (0x1000, 0x1000), (0x3000, 1)]
    );
    let mut switch = LogSwitch::default();
    switch.update(&memory).unwrap();
    assert_eq!(waiting(&memory), []);
    memory.write_obj(0_u8, GuestAddress(0)).unwrap();
    assert_eq!(waiting(&memory), [], "attached, and off");
}

#[test]
fn too_many_marks_are_the_whole_region_and_not_too_much_memory() {
    let log = RegionLog {
        len: 1 << 30,
        ..RegionLog::default()
    };
    for page in 0..WAITING_MAX {
        log.mark(page * PAGE_BYTES, 1);
    }
    assert_eq!(read(&log.marks).waiting.len(), WAITING_MAX);
    log.mark(WAITING_MAX * PAGE_BYTES, 1);
    assert_eq!(read(&log.marks).waiting, [(0, 1 << 30)]);
}

#[test]
fn nothing_written_is_nothing_marked() {
    let memory = memory();
    memory.write_slice(b"", GuestAddress(0)).unwrap();
    let mut byte = [0];
    memory.read_slice(&mut byte, GuestAddress(0)).unwrap();
    assert_eq!(waiting(&memory), []);
}

#[test]
fn slices_of_slices_count_from_the_start_of_the_region() {
    let log = DirtyLog::with_len(PAGES * PAGE_BYTES);
    let slice = log.slice_at(PAGE_BYTES).slice_at(PAGE_BYTES);
    slice.mark_dirty(PAGE_BYTES, 1);
    assert_eq!(read(&log.region.marks).waiting, [(3 * PAGE_BYTES, 1)]);
    log.slice_at(usize::MAX).mark_dirty(1, usize::MAX); // no overflow
}

#[test]
fn the_switch_reaches_the_tables_that_requests_in_flight_hold() {
    let mode = |memory: &GuestMemory| only_region(memory).mode.load(Ordering::Relaxed);
    let (old, new) = (memory(), memory());
    let mut switch = LogSwitch::default();
    switch.update(&old).unwrap();
    assert_eq!(mode(&old), OFF);
    switch.update(&new).unwrap();
    switch.set(true);
    assert_eq!((mode(&old), mode(&new)), (ON, ON));
    switch.set(false);
    assert_eq!((mode(&old), mode(&new)), (OFF, OFF));
    drop(old);
    switch.update(&new).unwrap();
    assert_eq!(switch.earlier.len(), 1, "only the one that is held");
}

#[test]
fn a_barrier_on_all_threads_can_be_had_again_and_again() {
    for _ in 0..3 {
        super::super::membarrier::all_threads();
    }
}
