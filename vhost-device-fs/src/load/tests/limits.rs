//! What a state takes along, and what is taken from one, at most.

use super::*;

/// Names that are still to come from directories that are read: 4 MiB of one, 32 MiB of all, with 32 bytes beside each name.
#[test]
fn names_that_are_still_to_come_have_limits() {
    const FIT: usize = (4 << 20) / (255 + 32);
    let share = tempfile::tempdir().unwrap();
    let make = |number: usize| {
        let name = format!("{number:0>255}");
        fs::File::create(share.path().join(name)).unwrap();
    };
    (0..FIT - 10).for_each(make);
    let source = start(share.path(), |_| ());
    let reading: Vec<u64> = (0..9)
        .map(|_| {
            let handle = source.open_directory(ROOT_NODEID, 0).unwrap().handle;
            assert_eq!(names_from(&source, handle, 0, 2).len(), 2);
            handle
        })
        .collect();
    let rests = |expected: &[bool]| {
        let state = save(&source).unwrap();
        let handles = state.handles.iter();
        let there: Vec<bool> = handles.map(|handle| handle.rest.is_some()).collect();
        assert_eq!(there, expected);
    };
    let mut expected = [true; 9];
    expected[8] = false;
    rests(&expected);
    for handle in &reading[1..] {
        source.release_directory(*handle).unwrap();
    }
    rests(&[true]);
    (FIT..FIT + 20).for_each(make);
    rests(&[false]);
}

/// The guest looks up once more what it has looked up as often as a state can tell.
#[test]
fn lookups_are_saved_as_many_as_can_be_loaded() {
    const MOST: u64 = 1 << 48;
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    let source = start(share.path(), |_| ());
    lookup(&source, "f");
    let mut state = state_of(&source);
    let mut nodes = state.nodes.to_vec();
    nodes[1].lookups = MOST;
    state.nodes = nodes.into_iter().collect();
    let destination = start(share.path(), |_| ());
    load(&destination, &state).unwrap();
    lookup(&destination, "f");
    let again = state_of(&destination);
    assert_eq!(again.nodes.to_vec()[1].lookups, MOST);
    load(&start(share.path(), |_| ()), &again).unwrap();
}

/// Requests as large as were agreed on elsewhere, and larger than are taken here.
#[test]
fn a_session_with_larger_requests_is_refused() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |_| ());
    let refused = |max_write, max_pages| {
        let mut state = state_of(&source);
        let session = state.session.as_mut().unwrap();
        (session.max_write, session.max_pages) = (max_write, max_pages);
        let result = load(&start(share.path(), |_| ()), &state);
        matches!(result, Err(LoadError::Mismatch(_)))
    };
    assert!(!refused(1 << 20, 256));
    assert!(refused((1 << 20) + 1, 256));
    assert!(refused(1 << 20, 257));
}

#[test]
fn of_many_reasons_the_first_ten_are_told() {
    let mut failures = Failures::default();
    for number in 0..100 {
        failures.add(|| {
            assert!(number < 10, "nobody reads it");
            number.to_string()
        });
    }
    assert_eq!((failures.count, failures.reasons.len()), (100, 10));
}
