//! From one file system to another one: on the same directory, on a copy, and on what is left of it.

use std::error::Error as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use common::state::{Limits, StateSchema, read_state, write_state};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::*;
use crate::operations::{
    Caller, DirectoryEntry, Entry, Extensions, FsResult, Lock, LockKind, ROOT_NODEID, SetAttributes,
};
use crate::save::save;
use crate::state::HandleV1;

mod identity;
mod limits;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    supplementary_group: None,
};
const WRITEBACK: u64 = 1 << 16;
const POSIX_LOCKS: u64 = 1 << 1;

fn session_with(flags: u64) -> SessionOptions {
    SessionOptions {
        minor: 38,
        flags_offered: u64::MAX,
        flags,
        max_readahead: 1,
        max_write: 4096,
        max_pages: 2,
        max_background: 3,
        congestion_threshold: 4,
        time_granularity_ns: 1,
    }
}

fn start(directory: &Path, change: impl Fn(&mut Config)) -> FileSystem {
    let mut config = Config::new(directory);
    config.descriptors_max = 64;
    change(&mut config);
    let fs = FileSystem::new(&config).unwrap();
    let flags = if config.writeback { WRITEBACK } else { 0 };
    fs.session_started(session_with(flags));
    fs
}

fn bytes_of(state: &FsState) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_state(state, FsState::VERSION, &mut bytes).unwrap();
    bytes
}

fn state_of(fs: &FileSystem) -> FsState {
    read_state(
        &mut bytes_of(&save(fs).unwrap()).as_slice(),
        &Limits::default(),
    )
    .unwrap()
}

/// As the device is told to load: never without a check.
fn load(fs: &FileSystem, state: &FsState) -> Result<(), LoadError> {
    check(&fs.host().config, state)?;
    super::load(fs, state)
}

/// A second file system on `directory` that goes on where `source` is.
fn migrate(source: &FileSystem, directory: &Path, change: impl Fn(&mut Config)) -> FileSystem {
    let destination = start(directory, change);
    load(&destination, &state_of(source)).unwrap();
    destination
}

fn lookup(fs: &FileSystem, path: &str) -> Entry {
    lookup_bytes(fs, path.as_bytes())
}

fn lookup_bytes(fs: &FileSystem, path: &[u8]) -> Entry {
    let mut entry = None;
    for name in path.split(|byte| *byte == b'/') {
        let parent = entry.map_or(ROOT_NODEID, |entry: Entry| entry.nodeid);
        entry = Some(fs.lookup(&ROOT, parent, name).unwrap());
    }
    entry.unwrap()
}

fn open(fs: &FileSystem, nodeid: u64, flags: OFlags) -> u64 {
    fs.open(&ROOT, nodeid, flags.bits(), false).unwrap().handle
}

fn create(fs: &FileSystem, name: &str, flags: OFlags) -> (u64, u64) {
    let (entry, reply) = fs
        .create(
            &ROOT,
            ROOT_NODEID,
            name.as_bytes(),
            flags.bits(),
            0o640,
            0,
            Extensions::default(),
        )
        .unwrap();
    (entry.nodeid, reply.handle)
}

fn read(fs: &FileSystem, handle: u64) -> FsResult<Vec<u8>> {
    let handle = fs.tables().handles.get(handle)?;
    let mut buffer = vec![0; 1 << 16];
    let read = rustix::io::pread(handle.file()?, &mut buffer, 0)?;
    buffer.truncate(read);
    Ok(buffer)
}

fn write(fs: &FileSystem, handle: u64, offset: u64, data: &[u8]) {
    let handle = fs.tables().handles.get(handle).unwrap();
    rustix::io::pwrite(handle.file().unwrap(), data, offset).unwrap();
}

fn names_from(fs: &FileSystem, handle: u64, offset: u64, limit: usize) -> Vec<(Vec<u8>, u64)> {
    let mut names = Vec::new();
    fs.read_directory(ROOT_NODEID, handle, offset, &mut |entry| {
        if names.len() < limit {
            names.push((entry.name.to_vec(), entry.next_offset));
            return true;
        }
        false
    })
    .unwrap();
    names
}

/// A copy with other inode numbers.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn nodes_handles_and_session_go_on() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    fs::write(share.path().join("a/b/f"), "hello").unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "a/b/f");
    let handle = open(&source, file.nodeid, OFlags::RDWR);
    let destination = migrate(&source, share.path(), |_| ());
    let attributes = destination.get_attributes(file.nodeid, None).unwrap();
    assert_eq!(attributes, file.attributes);
    assert_eq!(read(&destination, handle).unwrap(), b"hello");
    assert_eq!(lookup(&destination, "a/b/f").nodeid, file.nodeid);
    assert_eq!(destination.session(), source.session());
    // What is new is not taken for what is old.
    let (new_node, new_handle) = create(&destination, "new", OFlags::RDWR);
    assert!(new_node > file.nodeid && new_handle > handle);
    // The guest gives back what it held, no more and no less.
    destination.forget(file.nodeid, 2);
    assert!(
        destination.get_attributes(file.nodeid, None).is_ok(),
        "it is open"
    );
    destination.release(handle).unwrap();
    assert_eq!(
        destination.get_attributes(file.nodeid, None),
        Err(Errno::STALE)
    );
}

#[test]
fn saving_consumes_nothing() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |config| config.xattr = true);
    let (file, handle) = create(&source, "f", OFlags::RDWR | OFlags::APPEND);
    write(&source, handle, 0, b"data");
    source.unlink(ROOT_NODEID, b"f").unwrap();
    assert_eq!(read(&source, handle).unwrap(), b"data");
    let first = state_of(&source);
    assert_eq!(first, state_of(&source));
    // Save, load, save: the same but for the identity of the orphan, which was made anew.
    let destination = migrate(&source, share.path(), |config| config.xattr = true);
    let mut second = state_of(&destination);
    let mut nodes = second.nodes.to_vec();
    for (node, before) in nodes.iter_mut().zip(first.nodes.iter()) {
        if node.nodeid == file {
            assert_ne!((node.ino, node.birth_ns), (before.ino, before.birth_ns));
            (node.ino, node.birth_ns) = (before.ino, before.birth_ns);
        }
    }
    second.nodes = nodes.into_iter().collect();
    assert_eq!(second, first);
    // And the source goes on, changes, and is another state then.
    create(&source, "g", OFlags::RDWR);
    assert_ne!(state_of(&source), first);
}

#[test]
fn t2_a_host_file_never_appends() {
    let share = tempfile::tempdir().unwrap();
    let writeback = |config: &mut Config| config.writeback = true;
    let source = start(share.path(), writeback);
    let (_, handle) = create(&source, "f", OFlags::RDWR | OFlags::APPEND);
    write(&source, handle, 0, b"AAAAAAAA");
    let destination = migrate(&source, share.path(), writeback);
    write(&destination, handle, 0, b"CCCC");
    assert_eq!(read(&destination, handle).unwrap(), b"CCCCAAAA");
}

#[test]
fn t3_a_handle_stays_readable_for_writing_back() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("f"), "hello").unwrap();
    let writeback = |config: &mut Config| config.writeback = true;
    let source = start(share.path(), writeback);
    let handle = open(&source, lookup(&source, "f").nodeid, OFlags::WRONLY);
    let destination = migrate(&source, share.path(), writeback);
    assert_eq!(read(&destination, handle).unwrap(), b"hello");
}

#[test]
fn t4_direct_io_stays_filtered() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("f"), "hello").unwrap();
    let source = start(share.path(), |_| ());
    let handle = open(&source, lookup(&source, "f").nodeid, OFlags::DIRECT);
    let destination = migrate(&source, share.path(), |_| ());
    let tables = destination.tables();
    let handle = tables.handles.get(handle).unwrap();
    let flags = rustix::fs::fcntl_getfl(handle.file().unwrap()).unwrap();
    assert!(!flags.contains(OFlags::DIRECT));
    assert!(
        handle
            .flags
            .contains(crate::passthrough::GuestFlags::DIRECT),
        "not forgotten"
    );
}

#[test]
fn t5_names_need_not_be_text() {
    let share = tempfile::tempdir().unwrap();
    let name = b"caf\xe9.txt";
    let path = share.path().join(std::ffi::OsStr::from_bytes(name));
    fs::write(path, "x").unwrap();
    fs::write(share.path().join("x (deleted)"), "xx").unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup_bytes(&source, name).nodeid;
    let deleted = lookup(&source, "x (deleted)").nodeid;
    let destination = migrate(&source, share.path(), |_| ());
    assert_eq!(destination.get_attributes(file, None).unwrap().size, 1);
    assert_eq!(destination.get_attributes(deleted, None).unwrap().size, 2);
}

#[test]
fn t6_what_is_unlinked_and_open_travels() {
    let share = tempfile::tempdir().unwrap();
    let with_xattr = |config: &mut Config| config.xattr = true;
    let source = start(share.path(), with_xattr);
    let (file, handle) = create(&source, "f", OFlags::RDWR);
    // Data, a hole of 1 GiB, data.
    write(&source, handle, 0, b"begin");
    write(&source, handle, 1 << 30, b"end");
    source.set_xattr(file, b"user.a", b"v", 0, false).unwrap();
    let mode = SetAttributes {
        mode: Some(0o604),
        mtime: Some(crate::operations::SetTime::At(7, 8)),
        ..SetAttributes::default()
    };
    source.set_attributes(&ROOT, file, &mode).unwrap();
    let directory = source
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o711, 0, Extensions::default())
        .unwrap()
        .nodeid;
    let open_directory = source.open_directory(directory, 0).unwrap().handle;
    source
        .symlink(&ROOT, ROOT_NODEID, b"l", b"target", Extensions::default())
        .unwrap();
    let link = lookup(&source, "l").nodeid;
    source.unlink(ROOT_NODEID, b"f").unwrap();
    source.unlink(ROOT_NODEID, b"l").unwrap();
    source.remove_directory(ROOT_NODEID, b"d").unwrap();
    let state = state_of(&source);
    assert!(state.orphan_data.len() < 1 << 20, "holes do not travel");
    let elsewhere = tempfile::tempdir().unwrap();
    // A snapshot may be restored more than once, and nothing is left on the share.
    for directory_of_share in [share.path(), share.path(), elsewhere.path()] {
        let destination = start(directory_of_share, with_xattr);
        load(&destination, &state).unwrap();
        assert_eq!(fs::read_dir(directory_of_share).unwrap().count(), 0);
        let attributes = destination.get_attributes(file, None).unwrap();
        assert_eq!((attributes.mode, attributes.mtime), (0o100_604, (7, 8)));
        assert_eq!((attributes.size, attributes.nlink), ((1 << 30) + 3, 0));
        let content = fs::File::from(
            destination
                .tables()
                .handles
                .get(handle)
                .unwrap()
                .file()
                .unwrap()
                .try_clone_to_owned()
                .unwrap(),
        );
        let mut ends = [0; 8];
        content.read_exact_at(&mut ends[..5], 0).unwrap();
        content.read_exact_at(&mut ends[5..], 1 << 30).unwrap();
        assert_eq!(&ends, b"beginend");
        assert_eq!(content.metadata().unwrap().blocks(), attributes.blocks);
        assert!(attributes.blocks < 1 << 20, "the hole is one again");
        let value = destination.get_xattr(file, b"user.a", 10).unwrap();
        assert_eq!(value, crate::operations::XattrReply::Value(b"v".to_vec()));
        assert_eq!(destination.read_link(link).unwrap(), b"target");
        assert_eq!(
            destination.get_attributes(directory, None).unwrap().mode,
            0o040_711
        );
        destination.release_directory(open_directory).unwrap();
        destination.release(handle).unwrap();
    }
    // What the host unlinked, while the guest has it open, travels too.
    let (_, handle) = create(&source, "g", OFlags::RDWR);
    write(&source, handle, 0, b"gone");
    fs::remove_file(share.path().join("g")).unwrap();
    let destination = migrate(&source, share.path(), with_xattr);
    assert_eq!(read(&destination, handle).unwrap(), b"gone");
}

#[test]
fn t7_another_file_under_the_same_name_is_noticed() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("f"), "x").unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "f").nodeid;
    let state = state_of(&source);
    fs::rename(share.path().join("f"), share.path().join("elsewhere")).unwrap();
    fs::create_dir(share.path().join("f")).unwrap();
    let destination = start(share.path(), |_| ());
    load(&destination, &state).unwrap();
    assert_eq!(destination.get_attributes(file, None), Err(Errno::STALE));
    // The other inode is another node, and the moved one is the same when it is found again.
    assert_ne!(lookup(&destination, "f").nodeid, file);
    assert_eq!(lookup(&destination, "elsewhere").nodeid, file);
}

#[test]
fn a_copy_is_as_good_as_the_original() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    fs::write(share.path().join("a/b/f"), "hello").unwrap();
    fs::write(share.path().join("g"), "g").unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "a/b/f");
    let other = lookup(&source, "g");
    let handle = open(&source, file.nodeid, OFlags::RDWR);
    for parent in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(elsewhere) = tempfile::tempdir_in(parent) else {
            continue; // No second file system here.
        };
        // In another order, so that the numbers differ also where they are counted from 1.
        fs::write(elsewhere.path().join("first"), "").unwrap();
        copy(share.path(), elsewhere.path());
        let destination = migrate(&source, elsewhere.path(), |_| ());
        assert_eq!(read(&destination, handle).unwrap(), b"hello");
        let attributes = destination.get_attributes(file.nodeid, None).unwrap();
        assert_eq!(
            attributes.ino, file.attributes.ino,
            "the guest sees the same number"
        );
        let again = lookup(&destination, "a/b/f");
        assert_eq!(again.nodeid, file.nodeid);
        assert_eq!(again.attributes.ino, file.attributes.ino);
        // From there to the original again, which is a copy of the copy.
        let back = migrate(&destination, share.path(), |_| ());
        assert_eq!(lookup(&back, "g").nodeid, other.nodeid);
        assert_eq!(read(&back, handle).unwrap(), b"hello");
    }
}

#[test]
fn two_inodes_that_are_one_in_the_copy_are_not_mixed_up() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("a"), "a").unwrap();
    fs::write(share.path().join("b"), "b").unwrap();
    let source = start(share.path(), |_| ());
    lookup(&source, "a");
    lookup(&source, "b");
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("a"), "a").unwrap();
    fs::hard_link(elsewhere.path().join("a"), elsewhere.path().join("b")).unwrap();
    let refused = load(&start(elsewhere.path(), |_| ()), &state_of(&source)).unwrap_err();
    let reason = refused.source().unwrap().to_string();
    assert!(reason.contains("1 inodes and handles"), "{reason}");
    assert!(reason.contains("(\"b\")"), "{reason}");
}

#[test]
fn what_is_missing_aborts_and_changes_nothing_or_is_an_error_of_the_guest() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |_| ());
    let mut handles = Vec::new();
    for number in 0..15 {
        handles.push(create(&source, &format!("f{number}"), OFlags::RDWR));
    }
    let (kept, kept_handle) = create(&source, "kept", OFlags::RDWR);
    let state = state_of(&source);
    for number in 0..15 {
        fs::remove_file(share.path().join(format!("f{number}"))).unwrap();
    }
    let destination = start(share.path(), |_| ());
    let (before_node, before_handle) = create(&destination, "mine", OFlags::RDWR);
    let error = load(&destination, &state).unwrap_err();
    let LoadError::Host(reason) = error else {
        panic!("{error:?}");
    };
    let failures = reason.downcast::<Failures>().unwrap();
    assert_eq!((failures.count, failures.reasons.len()), (15, 10));
    assert!(
        failures.to_string().contains("15 inodes and handles"),
        "{failures}"
    );
    // The destination is as it was, and so is the source.
    assert!(
        destination
            .get_attributes(before_node, Some(before_handle))
            .is_ok()
    );
    assert_eq!(read(&source, handles[0].1).unwrap(), b"");

    let lenient = start(share.path(), |config| {
        config.migration_on_error = MigrationOnError::GuestError;
    });
    load(&lenient, &state).unwrap();
    let (lost, lost_handle) = handles[0];
    assert_eq!(read(&lenient, lost_handle), Err(Errno::IO));
    assert_eq!(
        lenient.get_attributes(lost, Some(lost_handle)),
        Err(Errno::IO)
    );
    assert!(lenient.get_attributes(kept, Some(kept_handle)).is_ok());
    // A second migration carries the loss along without failing for it.
    let second = start(share.path(), |_| ());
    load(&second, &state_of(&lenient)).unwrap();
    assert_eq!(read(&second, lost_handle), Err(Errno::IO));
    assert_eq!(read(&second, kept_handle).unwrap(), b"");
    second.release(lost_handle).unwrap();
}

#[test]
fn what_a_copy_does_not_have_stays_lost_through_all_migrations() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("d")).unwrap();
    fs::write(share.path().join("d/gone"), "gone").unwrap();
    fs::write(share.path().join("kept"), "kept").unwrap();
    let source = start(share.path(), |_| ());
    let gone = lookup(&source, "d/gone").nodeid;
    let gone_handle = open(&source, gone, OFlags::RDWR);
    let kept_handle = open(&source, lookup(&source, "kept").nodeid, OFlags::RDWR);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("d")).unwrap();
    fs::write(elsewhere.path().join("kept"), "kept").unwrap();
    let mut now = migrate(&source, elsewhere.path(), |config| {
        config.migration_on_error = MigrationOnError::GuestError;
    });
    // Back where the file is, it is not found again by chance: the guest has seen errors on it.
    for directory in [elsewhere.path(), elsewhere.path(), share.path()] {
        assert_eq!(now.get_attributes(gone, None), Err(Errno::IO));
        assert_eq!(read(&now, gone_handle), Err(Errno::IO));
        assert_eq!(read(&now, kept_handle).unwrap(), b"kept");
        now = migrate(&now, directory, |_| ());
    }
    assert_eq!(now.get_attributes(gone, None), Err(Errno::IO));
    now.release(gone_handle).unwrap();
}

#[test]
fn an_orphan_in_a_forgotten_orphan_travels_alone() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |_| ());
    let none = Extensions::default();
    let directory = source
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o755, 0, none)
        .unwrap()
        .nodeid;
    let flags = OFlags::RDWR.bits();
    let (_, reply) = source
        .create(&ROOT, directory, b"f", flags, 0o644, 0, none)
        .unwrap();
    write(&source, reply.handle, 0, b"data");
    // The file goes on the host, the directory through the guest, which forgets it.
    fs::remove_file(share.path().join("d/f")).unwrap();
    source.remove_directory(ROOT_NODEID, b"d").unwrap();
    source.forget(directory, 1);
    let destination = migrate(&source, share.path(), |_| ());
    assert_eq!(read(&destination, reply.handle).unwrap(), b"data");
}

#[test]
fn orphans_have_a_limit() {
    let share = tempfile::tempdir().unwrap();
    let small = |config: &mut Config| config.orphan_bytes_max = 10;
    let source = start(share.path(), small);
    let (file, handle) = create(&source, "f", OFlags::RDWR);
    write(&source, handle, 0, b"more than ten bytes");
    source.unlink(ROOT_NODEID, b"f").unwrap();
    let error = save(&source).unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("--migration-orphan-bytes-max"), "{reason}");
    assert_eq!(read(&source, handle).unwrap(), b"more than ten bytes");
    // The same limit where it is loaded.
    let generous = start(share.path(), |_| ());
    let (_, handle) = create(&generous, "f", OFlags::RDWR);
    write(&generous, handle, 0, b"more than ten bytes");
    generous.unlink(ROOT_NODEID, b"f").unwrap();
    let refused = load(&start(share.path(), small), &state_of(&generous)).unwrap_err();
    assert!(matches!(refused, LoadError::Mismatch(_)), "{refused:?}");
    // Closed, but not yet forgotten by the guest: no reason to fail.
    source.release(1).unwrap();
    let destination = migrate(&source, share.path(), small);
    assert_eq!(destination.get_attributes(file, None), Err(Errno::IO));
}

#[test]
fn attributes_of_orphans_count_as_their_data_does() {
    let share = tempfile::tempdir().unwrap();
    let limited = |bytes| {
        move |config: &mut Config| {
            config.xattr = true;
            config.orphan_bytes_max = bytes;
        }
    };
    let orphaned = |bytes| {
        let source = start(share.path(), limited(bytes));
        let (file, handle) = create(&source, "f", OFlags::RDWR);
        write(&source, handle, 0, b"data");
        source
            .set_xattr(file, b"user.a", b"value", 0, false)
            .unwrap();
        source.unlink(ROOT_NODEID, b"f").unwrap();
        source
    };
    let state = state_of(&orphaned(15));
    let error = save(&orphaned(14)).unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("14 bytes"), "{reason}");
    load(&start(share.path(), limited(15)), &state).unwrap();
    let refused = load(&start(share.path(), limited(14)), &state).unwrap_err();
    assert!(matches!(refused, LoadError::Mismatch(_)), "{refused:?}");
}

#[test]
fn a_name_that_the_guest_never_used_is_no_way_to_an_inode() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |_| ());
    create(&source, "f", OFlags::RDWR);
    fs::hard_link(share.path().join("f"), share.path().join("unknown")).unwrap();
    source.unlink(ROOT_NODEID, b"f").unwrap();
    let error = save(&source).unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("1 names left"), "{reason}");
    lookup(&source, "unknown");
    let destination = migrate(&source, share.path(), |_| ());
    assert_eq!(lookup(&destination, "unknown").attributes.nlink, 1);
}

#[test]
fn t12_every_name_of_a_directory_comes_once() {
    let share = tempfile::tempdir().unwrap();
    for number in 0..3_000 {
        fs::write(share.path().join(format!("file-{number:04}")), "").unwrap();
    }
    let source = start(share.path(), |_| ());
    let handle = source.open_directory(ROOT_NODEID, 0).unwrap().handle;
    let begin = names_from(&source, handle, 0, 1_000);
    let position = begin.last().unwrap().1;
    let mut places = vec![share.path().to_path_buf()];
    let elsewhere = tempfile::tempdir_in("/dev/shm");
    if let Ok(elsewhere) = &elsewhere {
        copy(share.path(), elsewhere.path());
        places.push(elsewhere.path().to_path_buf());
    }
    for place in places {
        let middle = migrate(&source, &place, |_| ());
        let some = names_from(&middle, handle, position, 500);
        // In the middle of the list, a second time.
        let last = migrate(&middle, &place, |_| ());
        let rest = names_from(&last, handle, some.last().unwrap().1, usize::MAX);
        let mut all: Vec<_> = [begin.clone(), some, rest]
            .concat()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        all.sort_unstable();
        assert_eq!(all.len(), 3_002, "{}", place.display());
        all.dedup();
        assert_eq!(all.len(), 3_002, "{}", place.display());
        // From the beginning again.
        assert_eq!(names_from(&last, handle, 0, usize::MAX).len(), 3_002);
    }
}

#[test]
fn a_directory_that_was_removed_half_read_has_nothing_more_to_tell() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("d");
    fs::create_dir(&path).unwrap();
    for number in 0..50 {
        fs::write(path.join(format!("file-{number}")), "").unwrap();
    }
    let source = start(share.path(), |_| ());
    let directory = lookup(&source, "d").nodeid;
    let handle = source.open_directory(directory, 0).unwrap().handle;
    let mut given = None;
    let one = &mut |entry: DirectoryEntry<'_>| {
        let is_first = given.is_none();
        given.get_or_insert(entry.next_offset);
        is_first
    };
    source.read_directory(directory, handle, 0, one).unwrap();
    for number in 0..50 {
        let name = format!("file-{number}");
        source.unlink(directory, name.as_bytes()).unwrap();
    }
    source.remove_directory(ROOT_NODEID, b"d").unwrap();

    let destination = migrate(&source, share.path(), |_| ());
    let mut more = 0;
    let count = &mut |_: DirectoryEntry<'_>| {
        more += 1;
        true
    };
    let position = given.unwrap();
    destination
        .read_directory(directory, handle, position, count)
        .unwrap();
    assert_eq!(more, 0);
}

#[test]
fn a_directory_of_a_copy_with_the_same_number_is_another_one() {
    let share = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for place in [&share, &elsewhere] {
        fs::create_dir(place.path().join("d")).unwrap();
        fs::write(place.path().join("d/f"), "").unwrap();
    }
    let source = start(share.path(), |_| ());
    let directory = lookup(&source, "d").nodeid;
    let handle = source.open_directory(directory, 0).unwrap().handle;
    let read_one = |fs: &FileSystem, offset| {
        let mut first = None;
        fs.read_directory(directory, handle, offset, &mut |entry| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| (entry.name.to_vec(), entry.next_offset));
            is_first
        })
        .unwrap();
        first.unwrap()
    };
    let (_, position) = read_one(&source, 0);
    let mut state = state_of(&source);
    // As on a file system without times of birth, where a copy may well have the same numbers.
    let copied = start(elsewhere.path(), |_| ());
    lookup(&copied, "d");
    let of_copy = state_of(&copied).nodes.to_vec().remove(1);
    let mut nodes = state.nodes.to_vec();
    let node = nodes.last_mut().unwrap();
    (node.ino, node.birth_ns) = (of_copy.ino, of_copy.birth_ns);
    state.nodes = nodes.into_iter().collect();
    state.handles[0].rest.as_mut().unwrap()[0].name = b"from the state".to_vec();
    let destination = start(elsewhere.path(), |_| ());
    load(&destination, &state).unwrap();
    assert_eq!(read_one(&destination, position).0, b"from the state");
}

#[test]
fn t13_another_known_name_will_do() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("d")).unwrap();
    fs::write(share.path().join("d/x"), "x").unwrap();
    fs::hard_link(share.path().join("d/x"), share.path().join("y")).unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "y").nodeid;
    assert_eq!(lookup(&source, "d/x").nodeid, file);
    fs::remove_file(share.path().join("d/x")).unwrap();
    let destination = migrate(&source, share.path(), |_| ());
    assert_eq!(destination.get_attributes(file, None).unwrap().nlink, 1);
}

#[test]
fn what_was_moved_in_a_circle_is_lost_and_nothing_else() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    let source = start(share.path(), |_| ());
    let (a, b) = (lookup(&source, "a").nodeid, lookup(&source, "a/b").nodeid);
    // On the host: b out of a, a into b. The guest finds a in b by its old knowledge of b.
    fs::rename(share.path().join("a/b"), share.path().join("b")).unwrap();
    fs::rename(share.path().join("a"), share.path().join("b/a")).unwrap();
    source.get_attributes(b, None).ok();
    let entry = source.lookup(&ROOT, b, b"a");
    let state = state_of(&source);
    let destination = start(share.path(), |_| ());
    load(&destination, &state).unwrap();
    assert!(destination.get_attributes(ROOT_NODEID, None).is_ok());
    for nodeid in [a, b] {
        let result = destination.get_attributes(nodeid, None);
        assert!(
            result.is_ok() || matches!(result, Err(Errno::IO | Errno::STALE)),
            "{entry:?}"
        );
    }
}

#[test]
fn configurations_must_fit() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |config| {
        config.xattr = true;
        config.writeback = true;
    });
    let state = state_of(&source);
    let refused = |change: fn(&mut Config)| {
        let error = load(&start(share.path(), change), &state).unwrap_err();
        let LoadError::Mismatch(reason) = &error else {
            panic!("{error:?}");
        };
        let mut text = reason.to_string();
        let mut source = reason.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    };
    assert!(refused(|config| config.writeback = true).contains("--xattr"));
    assert!(refused(|config| config.xattr = true).contains("--writeback"));
    let read_only = refused(|config| {
        config.xattr = true;
        config.writeback = true;
        config.readonly = true;
    });
    assert!(read_only.contains("--readonly"), "{read_only}");
}

#[test]
fn many_handles_are_opened_together() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |config| config.descriptors_max = 2_000);
    let handles: Vec<_> = (0..300)
        .map(|number| create(&source, &format!("f{number}"), OFlags::RDWR).1)
        .collect();
    for (number, handle) in (0_u32..).zip(&handles) {
        write(&source, *handle, 0, &number.to_le_bytes());
    }
    let destination = migrate(&source, share.path(), |config| {
        config.descriptors_max = 2_000;
    });
    for (number, handle) in (0_u32..).zip(&handles) {
        assert_eq!(read(&destination, *handle).unwrap(), number.to_le_bytes());
    }
}

#[test]
fn a_state_with_more_open_files_than_there_are_descriptors_for_is_refused() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |_| ());
    for number in 0..7 {
        create(&source, &format!("f{number}"), OFlags::RDWR);
    }
    let mut state = state_of(&source);
    let few = start(share.path(), |config| config.descriptors_max = 12);
    let LoadError::Mismatch(reason) = load(&few, &state).unwrap_err() else {
        panic!("the configuration is to blame");
    };
    let text = reason.to_string();
    assert!(text.contains("7 open files"), "{text}");
    assert!(
        text.contains("for 6 (about a half of --rlimit-nofile)"),
        "{text}"
    );
    let many = HandleV1 {
        handle: 0,
        ..state.handles[0].clone()
    };
    let mut forged = state.clone();
    forged.share.next_handle = 100_001;
    forged.handles = (1..=100_000)
        .map(|handle| HandleV1 {
            handle,
            ..many.clone()
        })
        .collect();
    let refused = load(&few, &forged).unwrap_err();
    let text = refused.source().unwrap().to_string();
    assert!(text.contains("100000 open files"), "{text}");
    // What is lost needs none.
    state.handles[5].lost = true;
    load(&few, &state).unwrap();
}

/// Found by fuzzing: the descriptors beside those of the handles were counted, which the source had done without.
#[test]
fn a_guest_with_as_many_open_files_as_it_may_have_moves_when_they_are_unlinked() {
    let share = tempfile::tempdir().unwrap();
    let few = |config: &mut Config| {
        config.descriptors_max = 12;
        config.remote_posix_locks = true;
    };
    let source = start(share.path(), few);
    source.session_started(session_with(POSIX_LOCKS));
    let names = (0..5).map(|number| format!("f{number}"));
    let files: Vec<_> = names
        .map(|name| {
            let (_, handle) = create(&source, &name, OFlags::RDWR);
            write(&source, handle, 0, name.as_bytes());
            (name, handle)
        })
        .collect();
    let lock = Lock {
        owner: 1,
        pid: 2,
        kind: LockKind::Exclusive,
        start: 0,
        end: 9,
        whole_file: false,
    };
    let (_, locked) = files[0];
    source.set_lock(locked, &lock).unwrap();
    for (name, _) in &files {
        source.unlink(ROOT_NODEID, name.as_bytes()).unwrap();
    }
    let mut from = source;
    for _ in 0..3 {
        let room = from.tables().reserve_descriptors(1).map(drop);
        assert_eq!(room, Err(Errno::NFILE));
        let state = state_of(&from);
        from.let_locks_go();
        let to = start(share.path(), few);
        load(&to, &state).unwrap();
        assert_eq!(to.tables().reserve_descriptors(1).map(drop), room);
        for (name, handle) in &files {
            assert_eq!(read(&to, *handle).unwrap(), name.as_bytes());
        }
        from = to;
    }
}

#[test]
fn verification_ends_with_the_tables_it_verifies() {
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), |config| config.descriptors_max = 2_000);
    for number in 0..500 {
        create(&source, &format!("f{number}"), OFlags::RDWR);
    }
    let destination = migrate(&source, share.path(), |config| {
        config.descriptors_max = 2_000;
    });
    let weak = Arc::downgrade(&destination.tables());
    destination.destroy();
    let deadline = Instant::now() + Duration::from_secs(30);
    while weak.strong_count() > 0 {
        assert!(Instant::now() < deadline, "the old tables are still in use");
        std::thread::yield_now();
    }
}

#[test]
fn an_unprivileged_mode_is_kept() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    fs::set_permissions(share.path().join("f"), fs::Permissions::from_mode(0o400)).unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "f");
    let destination = migrate(&source, share.path(), |_| ());
    assert_eq!(
        destination.get_attributes(file.nodeid, None).unwrap().mode,
        0o100_400
    );
}

/// Everything that may happen on the host between SAVE and LOAD, each to an open file: what is told of it, and to whom it happens.
#[test]
fn what_the_host_changes_in_between_is_told_one_by_one_and_concerns_nothing_else() {
    let share = tempfile::tempdir().unwrap();
    let path = |name: &str| share.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    let names = ["moved", "replaced", "retyped", "folder/deleted"];
    for name in names.into_iter().chain(["linked", "kept"]) {
        fs::write(path(name), name).unwrap();
    }
    fs::hard_link(path("linked"), path("link")).unwrap();
    let source = start(share.path(), |_| ());
    let file = |name: &str| {
        let nodeid = lookup(&source, name).nodeid;
        (nodeid, open(&source, nodeid, OFlags::RDWR))
    };
    let concerned = names.map(file);
    let (linked, kept) = (file("linked"), file("kept"));
    assert_eq!(lookup(&source, "link").nodeid, linked.0);
    let known = lookup(&source, "folder").nodeid;
    let state = state_of(&source);
    fs::rename(path("moved"), path("elsewhere")).unwrap();
    fs::write(path("new"), "another one").unwrap();
    fs::rename(path("new"), path("replaced")).unwrap();
    fs::remove_file(path("retyped")).unwrap();
    fs::create_dir(path("retyped")).unwrap();
    fs::remove_dir_all(path("folder")).unwrap();
    fs::remove_file(path("link")).unwrap();

    let strict = start(share.path(), |_| ());
    let LoadError::Host(reason) = load(&strict, &state).unwrap_err() else {
        panic!("the host is to blame");
    };
    let failures = reason.downcast::<Failures>().unwrap();
    assert_eq!(failures.count, 4, "{failures}");
    for (nodeid, handle) in concerned {
        let told = format!("handle {handle} of nodeid {nodeid}: ");
        assert!(
            failures.reasons.iter().any(|reason| reason.contains(&told)),
            "{failures}"
        );
    }
    let lenient = start(share.path(), |config| {
        config.migration_on_error = MigrationOnError::GuestError;
    });
    load(&lenient, &state).unwrap();
    for (nodeid, handle) in concerned {
        assert_eq!(read(&lenient, handle), Err(Errno::IO));
        assert_eq!(lenient.get_attributes(nodeid, None), Err(Errno::STALE));
    }
    assert_eq!(
        lenient.get_attributes(known, None),
        Err(Errno::STALE),
        "not open"
    );
    assert_eq!(read(&lenient, kept.1).unwrap(), b"kept");
    assert_eq!(read(&lenient, linked.1).unwrap(), b"linked");
    assert_eq!(lenient.get_attributes(linked.0, None).unwrap().nlink, 1);
    // What is there now is another inode to the guest, and what was moved is the same one when it is found.
    assert_ne!(lookup(&lenient, "replaced").nodeid, concerned[1].0);
    assert_eq!(lookup(&lenient, "elsewhere").nodeid, concerned[0].0);
    // A second migration takes the rest along.
    let second = migrate(&lenient, share.path(), |config| {
        config.migration_on_error = MigrationOnError::GuestError;
    });
    assert_eq!(read(&second, kept.1).unwrap(), b"kept");
    assert_eq!(lookup(&second, "elsewhere").nodeid, concerned[0].0);
}

#[test]
fn many_directories_that_were_read_in_part_go_on_where_they_were() {
    const DIRECTORIES: usize = 20;
    let share = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(share.path().join(format!("file-{number}")), "").unwrap();
    }
    let source = start(share.path(), |_| ());
    // Each of them somewhere else: at the beginning, in the middle, at the end.
    let reading: Vec<_> = (0..DIRECTORIES)
        .map(|number| {
            let handle = source.open_directory(ROOT_NODEID, 0).unwrap().handle;
            (handle, names_from(&source, handle, 0, number * 6))
        })
        .collect();
    let elsewhere = tempfile::tempdir().unwrap();
    copy(share.path(), elsewhere.path());
    for place in [share.path(), elsewhere.path()] {
        let destination = migrate(&source, place, |_| ());
        for (handle, begin) in &reading {
            let position = begin.last().map_or(0, |(_, position)| *position);
            let rest = names_from(&destination, *handle, position, usize::MAX);
            let mut all: Vec<_> = begin.iter().chain(&rest).map(|(name, _)| name).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!((begin.len() + rest.len(), all.len()), (102, 102));
        }
    }
}

#[test]
fn directories_that_were_moved_below_their_younger_ones_travel() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("old/deep")).unwrap();
    fs::write(share.path().join("old/deep/file"), "x").unwrap();
    fs::create_dir(share.path().join("young")).unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "old/deep/file").nodeid;
    let (old, young) = (
        lookup(&source, "old").nodeid,
        lookup(&source, "young").nodeid,
    );
    source
        .rename(ROOT_NODEID, b"old", young, b"moved", 0)
        .unwrap();
    let state = state_of(&source);
    let order: Vec<u64> = state.nodes.iter().map(|node| node.nodeid).collect();
    assert!(
        !order.is_sorted(),
        "a parent is younger than its child: {order:?}"
    );
    let destination = start(share.path(), |_| ());
    load(&destination, &state).unwrap();
    for nodeid in [file, old, young] {
        assert!(destination.get_attributes(nodeid, None).is_ok());
    }
    assert_eq!(state_of(&destination), state);
    assert_eq!(lookup(&destination, "young/moved/deep/file").nodeid, file);
}

/// Without orphans there is a short way to save; this compares it with the long one.
#[test]
fn an_orphan_more_changes_nothing_of_how_the_rest_is_saved() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    fs::write(share.path().join("a/b/file"), "x").unwrap();
    fs::hard_link(share.path().join("a/b/file"), share.path().join("a/link")).unwrap();
    let source = start(share.path(), |_| ());
    lookup(&source, "a/b/file");
    lookup(&source, "a/link");
    // Only known by what is in it, and only by being open.
    source.forget(lookup(&source, "a").nodeid, 3);
    let file = lookup(&source, "a/b/file").nodeid;
    open(&source, file, OFlags::RDONLY);
    source.forget(file, 3);
    let short = state_of(&source);
    let (orphan, _) = create(&source, "orphan", OFlags::RDWR);
    source.unlink(ROOT_NODEID, b"orphan").unwrap();
    let mut long = state_of(&source).nodes.to_vec();
    long.retain(|node| node.nodeid != orphan);
    assert_eq!(short.nodes.to_vec(), long);
    assert_eq!(short.orphans, []);
    let unused = |nodeid: u64| {
        long.iter()
            .any(|node| node.nodeid == nodeid && node.lookups == 0)
    };
    assert!(unused(file), "it is only open");
    load(&start(share.path(), |_| ()), &short).unwrap();
}

#[test]
fn a_forgotten_directory_of_a_file_that_was_removed_on_the_host_stays_behind() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("d")).unwrap();
    fs::write(share.path().join("d/f"), "data").unwrap();
    let source = start(share.path(), |_| ());
    let file = lookup(&source, "d/f").nodeid;
    let directory = lookup(&source, "d").nodeid;
    let handle = open(&source, file, OFlags::RDONLY);
    source.forget(directory, 2);
    fs::remove_file(share.path().join("d/f")).unwrap();
    let state = state_of(&source);
    assert!(state.nodes.iter().all(|node| node.nodeid != directory));
    let destination = start(share.path(), |_| ());
    load(&destination, &state).unwrap();
    assert_eq!(read(&destination, handle).unwrap(), b"data");
}
