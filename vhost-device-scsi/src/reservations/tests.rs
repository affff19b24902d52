//! Several daemons' stores in one process: open file description locks keep them apart as they do processes.

use std::os::unix::fs::FileExt;

use super::*;
use crate::scsi::reservation::Registration;

fn initiator(number: u8) -> Initiator {
    Initiator::parse(&format!("iqn.2026-01.test:{number}")).unwrap()
}

fn register(store: &Store, number: u8) {
    store
        .transaction(|table| {
            table.registrations.push(Registration {
                initiator: initiator(number),
                key: 7,
            });
        })
        .unwrap();
}

fn registered(store: &Store) -> usize {
    store
        .transaction(|table| table.registrations.len())
        .unwrap()
}

#[test]
fn a_change_is_seen_by_the_others_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let [one, other] = [1, 2].map(|number| Store::open(&path, &initiator(number)).unwrap());
    assert_eq!((registered(&one), registered(&other)), (0, 0));
    assert!(!one.changed() && !other.changed());
    register(&one, 1);
    assert!(!one.changed());
    assert!(other.changed());
    assert_eq!(registered(&other), 1);
    assert!(!other.changed());
}

#[test]
fn reservations_end_with_the_last_user_unless_they_are_to_stay() {
    let folder = tempfile::tempdir().unwrap();
    for stays in [false, true] {
        let path = folder.path().join(format!("store {stays}"));
        let one = Store::open(&path, &initiator(1)).unwrap();
        register(&one, 1);
        one.transaction(|table| table.aptpl = stays).unwrap();
        let other = Store::open(&path, &initiator(2)).unwrap();
        drop(one);
        assert_eq!(registered(&other), 1, "there was always a user");
        drop(other);
        let later = Store::open(&path, &initiator(1)).unwrap();
        assert_eq!(registered(&later), usize::from(stays));
    }
}

#[test]
fn a_change_that_was_cut_off_leaves_the_table_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::open(&path, &initiator(1)).unwrap();
    register(&store, 1);
    // The next copy is half written, and the generation not raised.
    store.file.write_all_at(&[0xff; 100], 4096).unwrap();
    assert_eq!(registered(&store), 1);
}

#[test]
fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(
        Store::open(&path, &initiator(1)),
        Err(StoreError::Damaged {
            source: Damage::Length(14),
            ..
        })
    ));
    let path = folder.path().join("damaged");
    let store = Store::open(&path, &initiator(1)).unwrap();
    register(&store, 1);
    store
        .file
        .write_all_at(b"?", 4096 + (256 << 10) + 20)
        .unwrap();
    assert!(matches!(
        store.transaction(|_| ()),
        Err(StoreError::Damaged {
            source: Damage::Checksum,
            ..
        })
    ));
}

#[test]
fn who_preempts_waits_for_the_commands_of_the_preempted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let [one, other] = [1, 2].map(|number| Store::open(&path, &initiator(number)).unwrap());
    let in_flight = other.enter();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(in_flight);
    });
    let began = Instant::now();
    assert!(one.wait_for(&[initiator(2)]));
    assert!(began.elapsed() >= Duration::from_millis(40));
    ends.join().unwrap();
    // The dead are not waited for, and neither are others.
    let counted = other.mapping.slot(other.slot).unwrap();
    counted.in_flight.fetch_add(1, Ordering::SeqCst);
    assert!(one.wait_for(&[initiator(3)]));
    drop(other);
    assert!(one.wait_for(&[initiator(2)]));
}
