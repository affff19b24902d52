//! The store without a file system: identities are made up.

use super::record::LOCATIONS_MAX;
use super::*;
use crate::store::Name;

fn descriptor() -> Arc<OwnedFd> {
    Arc::new(descriptor_of_own())
}

fn sighting(ino: u64, kind: FileKind) -> Sighting {
    Sighting {
        identity: Identity {
            mount: 0,
            ino,
            birth_ns: ino * 10,
        },
        kind,
    }
}

fn store() -> NodeStore {
    NodeStore::new(sighting(2, FileKind::Directory), descriptor(), 64)
}

fn named(parent: u64, name: &str) -> Location {
    Location::new(parent, Name::new(name.as_bytes()).unwrap())
}

fn count(store: &NodeStore) -> usize {
    store.still().records().len()
}

#[test]
fn one_inode_is_one_node_whatever_its_name() {
    let store = store();
    let file = sighting(10, FileKind::Regular);
    let first = store.found(file, Some(named(ROOT_NODEID, "a"))).unwrap();
    let second = store.found(file, Some(named(ROOT_NODEID, "b"))).unwrap();
    let again = store.found(file, Some(named(ROOT_NODEID, "a"))).unwrap();
    assert_eq!((first, second), (second, again));
    let view = store.view(first.nodeid).unwrap();
    assert_eq!(
        *view.locations,
        [named(ROOT_NODEID, "b"), named(ROOT_NODEID, "a")],
        "the newest is last"
    );
    store.forget(first.nodeid, 2);
    assert!(store.view(first.nodeid).is_ok());
    store.forget(first.nodeid, 1);
    assert_eq!(store.view(first.nodeid).unwrap_err(), Errno::STALE);
    assert_eq!(count(&store), 1);
}

#[test]
fn the_way_for_what_is_known_takes_nothing_else() {
    let store = store();
    let file = sighting(10, FileKind::Regular);
    let again = |sighting, parent, name: &str| {
        store.found_again(sighting, parent, Name::new(name.as_bytes()).unwrap())
    };
    assert_eq!(again(file, ROOT_NODEID, "a"), None, "not known yet");
    let known = store.found(file, Some(named(ROOT_NODEID, "a"))).unwrap();
    assert_eq!(again(file, ROOT_NODEID, "b"), None, "another name");
    assert_eq!(again(file, 77, "a"), None, "another directory");
    let other = sighting(10, FileKind::Symlink);
    assert_eq!(again(other, ROOT_NODEID, "a"), None, "another type");
    let other = sighting(11, FileKind::Regular);
    assert_eq!(again(other, ROOT_NODEID, "a"), None, "another inode");
    assert_eq!(again(file, ROOT_NODEID, "a"), Some(known));
    store.forget(known.nodeid, 1);
    assert!(store.view(known.nodeid).is_ok(), "found twice");
    store.forget(known.nodeid, 1);
    assert_eq!(again(file, ROOT_NODEID, "a"), None, "forgotten");
    assert_eq!(count(&store), 1);
}

#[test]
fn nodeids_are_never_given_twice() {
    let store = store();
    let file = sighting(10, FileKind::Regular);
    let first = store
        .found(file, Some(named(ROOT_NODEID, "a")))
        .unwrap()
        .nodeid;
    store.forget(first, 1);
    let second = store
        .found(file, Some(named(ROOT_NODEID, "a")))
        .unwrap()
        .nodeid;
    assert_ne!(first, second);
}

#[test]
fn hostile_forgets_do_no_harm() {
    let store = store();
    let file = store
        .found(
            sighting(10, FileKind::Regular),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap();
    store.forget(ROOT_NODEID, u64::MAX);
    store.forget(u64::MAX, 1);
    store.forget(0, 1);
    store.forget(file.nodeid, u64::MAX);
    store.forget(file.nodeid, 1);
    assert!(store.view(ROOT_NODEID).is_ok());
    assert_eq!(count(&store), 1);
    assert_eq!(
        store.found(
            sighting(11, FileKind::Regular),
            Some(named(file.nodeid, "x"))
        ),
        Err(Errno::STALE)
    );
}

#[test]
fn directories_live_as_long_as_what_is_known_below_them() {
    let store = store();
    let mut parent = ROOT_NODEID;
    // Deep enough to overflow the stack of a recursive removal.
    for depth in 0..50_000_u64 {
        let directory = sighting(100 + depth, FileKind::Directory);
        let child = store
            .found(directory, Some(named(parent, "d")))
            .unwrap()
            .nodeid;
        if parent != ROOT_NODEID {
            store.forget(parent, 1);
        }
        parent = child;
    }
    assert_eq!(count(&store), 50_001);
    store.forget(parent, 1);
    assert_eq!(count(&store), 1);
}

#[test]
fn an_open_handle_keeps_a_forgotten_node() {
    let store = store();
    let file = store
        .found(
            sighting(10, FileKind::Regular),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap();
    store.hold(file.nodeid).unwrap();
    store.forget(file.nodeid, 1);
    assert!(store.view(file.nodeid).is_ok());
    // Found again: the same nodeid.
    let again = store.found(
        sighting(10, FileKind::Regular),
        Some(named(ROOT_NODEID, "a")),
    );
    assert_eq!(again, Ok(file));
    store.forget(file.nodeid, 1);
    store.release(file.nodeid);
    assert_eq!(count(&store), 1);
}

#[test]
fn a_reused_inode_number_is_another_node() {
    let store = store();
    let file = store
        .found(
            sighting(10, FileKind::Regular),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap();
    let directory = store
        .found(
            sighting(10, FileKind::Directory),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap();
    assert_ne!(file.nodeid, directory.nodeid);
    store.forget(file.nodeid, 1);
    let again = store
        .found(
            sighting(10, FileKind::Directory),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap();
    assert_eq!(directory, again);
}

#[test]
fn the_last_name_gone_leaves_a_pin() {
    let store = store();
    let file = store
        .found(
            sighting(10, FileKind::Regular),
            Some(named(ROOT_NODEID, "a")),
        )
        .unwrap()
        .nodeid;
    store.add_location(file, named(ROOT_NODEID, "b"));
    store.remove_location(file, &named(ROOT_NODEID, "a"), Some(descriptor()));
    assert!(store.descriptor(file).unwrap().is_none(), "b is left");
    store.remove_location(file, &named(ROOT_NODEID, "b"), Some(descriptor()));
    assert!(store.descriptor(file).unwrap().is_some());
    assert!(store.view(file).unwrap().locations.is_empty());
    store.forget(file, 1);
    assert_eq!(count(&store), 1);
}

#[test]
fn names_of_one_inode_are_bounded_and_a_directory_has_one() {
    let store = store();
    let file = sighting(10, FileKind::Regular);
    let directory = sighting(11, FileKind::Directory);
    for number in 0..100 {
        store
            .found(file, Some(named(ROOT_NODEID, &format!("f{number}"))))
            .unwrap();
        store
            .found(directory, Some(named(ROOT_NODEID, &format!("d{number}"))))
            .unwrap();
    }
    let names = |sighting: Sighting| {
        let nodeid = store.nodeid(&sighting.identity).unwrap();
        store.view(nodeid).unwrap().locations
    };
    assert_eq!(names(file).len(), LOCATIONS_MAX);
    assert_eq!(names(file).last(), Some(&named(ROOT_NODEID, "f99")));
    assert_eq!(*names(directory), [named(ROOT_NODEID, "d99")]);
    let root = lock(&store.shards[1])
        .records
        .get(ROOT_NODEID)
        .unwrap()
        .references;
    assert_eq!(root, LOCATIONS_MAX as u64 + 1, "a reference for each name");
}

#[test]
fn lookups_and_forgets_from_many_threads_balance() {
    let store = store();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for turn in 0..5_000_u64 {
                    let directory = sighting(20 + turn % 3, FileKind::Directory);
                    let name = format!("d{}", turn % 3);
                    let parent = store
                        .found(directory, Some(named(ROOT_NODEID, &name)))
                        .unwrap();
                    let file = sighting(100 + (turn + thread) % 5, FileKind::Regular);
                    let child = store.found(file, Some(named(parent.nodeid, "x"))).unwrap();
                    store.cache(child.nodeid, descriptor());
                    store.forget(parent.nodeid, 1);
                    store.forget(child.nodeid, 1);
                }
            });
        }
    });
    assert_eq!(count(&store), 1);
    assert!(
        store
            .identities
            .iter()
            .map(|shard| lock(shard).len())
            .sum::<usize>()
            == 1
    );
}

#[test]
fn a_guest_cannot_make_us_keep_records_without_end() {
    let mut store = store();
    store.records_max = 10 * store.shards.len();
    let look_up = |store: &NodeStore, ino: u64| {
        let name = format!("f{ino}");
        store.found(
            sighting(ino, FileKind::Regular),
            Some(named(ROOT_NODEID, &name)),
        )
    };
    let known: Vec<_> = (10..1_000)
        .filter_map(|ino| look_up(&store, ino).ok())
        .collect();
    assert!(known.len() < store.records_max);
    assert_eq!(count(&store), known.len() + 1);
    assert_eq!(look_up(&store, 5_000), Err(Errno::NFILE));
    // What is known is found as before, and what is forgotten makes room.
    assert_eq!(look_up(&store, 10).map(|again| again.nodeid), Ok(2));
    store.forget(2, 1);
    for again in known {
        store.forget(again.nodeid, 1);
    }
    assert_eq!(count(&store), 1, "what was refused holds no reference");
    assert!(look_up(&store, 5_000).is_ok());
}

#[test]
fn pinned_descriptors_are_counted() {
    let store = store();
    assert_eq!(store.pinned(), 1, "the root's");
    let file = sighting(10, FileKind::Regular);
    let name = named(ROOT_NODEID, "a");
    let nodeid = store.found(file, Some(name.clone())).unwrap().nodeid;
    store.remove_location(nodeid, &name, Some(Arc::new(descriptor_of_own())));
    store.pin(nodeid, descriptor_of_own());
    assert_eq!(store.pinned(), 2);
    let temporary = sighting(11, FileKind::Regular);
    let temporary = store.found(temporary, None).unwrap().nodeid;
    store.pin(temporary, descriptor_of_own());
    assert_eq!(store.pinned(), 3);
    store.unpin(temporary);
    store.unpin(temporary);
    assert_eq!(store.pinned(), 2);
    store.forget(nodeid, 1);
    store.forget(temporary, 1);
    assert_eq!(store.pinned(), 1);
}

/// Found by fuzzing: the root was counted twice behind a migration.
#[test]
fn a_record_that_takes_the_place_of_another_is_counted_once() {
    let mut store = store();
    store.place(Record {
        pinned: Some(descriptor()),
        ..Record::new(ROOT_NODEID, sighting(2, FileKind::Directory))
    });
    assert_eq!(store.pinned(), 1);
}

fn descriptor_of_own() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}
