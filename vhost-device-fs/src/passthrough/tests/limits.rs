//! What a guest can make us keep, at most.

use std::sync::Arc;

use super::*;
use crate::passthrough::lock_table::LockTable;
use crate::store::Range;

/// A state holds so many of both sorts together, so that is how many there may be.
#[test]
fn locks_of_both_sorts_have_one_limit() {
    let share = Share::new();
    let tables = share.fs.tables();
    let files: Vec<(u64, Arc<Handle>)> = ["a", "b", "c", "d"]
        .map(|name| share.create(name).1.handle)
        .map(|handle| (handle, tables.handles.get(handle).unwrap()))
        .into();
    let locks = LockTable::at_most(4);
    let take = |byte: u64| {
        let (handle, file) = &files[0];
        let range = Range {
            start: byte,
            end: byte,
            exclusive: true,
        };
        locks.take(&tables, (*handle, file), (1, 1), range)
    };
    let take_whole = |index: usize, exclusive| {
        let (handle, file) = &files[index];
        locks.take_whole(*handle, file, 1, exclusive)
    };
    assert_eq!(take(0), Ok(()));
    assert_eq!(take(2), Ok(()));
    assert_eq!(take(4), Ok(()));
    assert_eq!(take(6), Err(Errno::NOLCK), "one may become three");
    assert_eq!(take_whole(1, true), Ok(()));
    assert_eq!(take_whole(2, true), Err(Errno::NOLCK));
    assert_eq!(take_whole(1, false), Ok(()), "in place of what there is");
    assert_eq!(locks.images().len(), 4);
    assert_eq!(locks.give_back(files[0].1.nodeid, 1, 2, 2), Ok(true));
    assert_eq!(take_whole(2, true), Ok(()));
    assert_eq!(take_whole(3, true), Err(Errno::NOLCK));
}

/// By what the guest has been told each of the two is in the other one.
#[test]
fn a_way_that_leads_in_a_circle_has_an_end() {
    let share = Share::new();
    fs::create_dir_all(share.path("a/b")).unwrap();
    let (a, b) = (share.lookup("a").nodeid, share.lookup("a/b").nodeid);
    share.fs.get_attributes(b, None).unwrap(); // leaves a descriptor of it at hand
    fs::rename(share.path("a/b"), share.path("b")).unwrap();
    fs::rename(share.path("a"), share.path("b/a")).unwrap();
    let found = share.fs.lookup(&ROOT, b, b"a").unwrap();
    assert_eq!(found.nodeid, a);
    share.fs.tables().nodes.drop_descriptors();
    for nodeid in [a, b] {
        let attributes = share.fs.get_attributes(nodeid, None);
        assert_eq!(attributes.map(drop), Err(Errno::STALE));
    }
}
