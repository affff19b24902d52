//! The file system on real directories, as root where the test says so.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::*;
use crate::config::Config;
use crate::operations::{
    Caller, Entry, Extensions, FsResult, Lock, LockKind, OpenReply, ROOT_NODEID, SecurityContext,
    SetAttributes, SetTime, XattrReply,
};

mod identity;
mod limits;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    supplementary_group: None,
};

/// A share in a directory of its own.
struct Share {
    directory: tempfile::TempDir,
    fs: FileSystem,
}

impl Share {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path());
        config.descriptors_max = 64;
        change(&mut config);
        let fs = FileSystem::new(&config).unwrap();
        Self { directory, fs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn birth_of_a_new_file(&self) -> std::time::SystemTime {
        let path = self.path("probe");
        fs::write(&path, "").unwrap();
        let born = fs::metadata(&path).unwrap().created().unwrap();
        fs::remove_file(path).unwrap();
        born
    }

    fn lookup(&self, path: &str) -> Entry {
        let mut entry = None;
        for name in path.split('/') {
            let parent = entry.map_or(ROOT_NODEID, |entry: Entry| entry.nodeid);
            entry = Some(self.fs.lookup(&ROOT, parent, name.as_bytes()).unwrap());
        }
        entry.unwrap()
    }

    fn open(&self, nodeid: u64, flags: OFlags) -> OpenReply {
        self.fs.open(&ROOT, nodeid, flags.bits(), false).unwrap()
    }

    fn create(&self, name: &str) -> (Entry, OpenReply) {
        let flags = OFlags::RDWR.bits();
        self.fs
            .create(
                &ROOT,
                ROOT_NODEID,
                name.as_bytes(),
                flags,
                0o644,
                0,
                Extensions::default(),
            )
            .unwrap()
    }

    /// Reads through a handle, as READ would.
    fn content(&self, handle: u64) -> FsResult<Vec<u8>> {
        let handle = self.fs.tables().handles.get(handle)?;
        let mut buffer = vec![0; 1 << 16];
        let read = rustix::io::pread(handle.file()?, &mut buffer, 0)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    fn names(&self, nodeid: u64, handle: u64, from: u64, limit: usize) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        self.fs
            .read_directory(nodeid, handle, from, &mut |entry| {
                if names.len() == limit {
                    return false;
                }
                names.push((
                    String::from_utf8_lossy(entry.name).into(),
                    entry.next_offset,
                ));
                true
            })
            .unwrap();
        names
    }
}

#[test]
fn hostile_names_are_refused_everywhere() {
    let share = Share::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), share.path("out")).unwrap();
    fs::write(share.path("f"), "f").unwrap();
    let file = share.lookup("f").nodeid;
    let absolute = outside.path().join("secret");
    let none = Extensions::default();
    let names: [&[u8]; 7] = [
        b"",
        b".",
        b"..",
        b"out/secret",
        b"a\0b",
        b"../f",
        absolute.as_os_str().as_bytes(),
    ];
    for name in names {
        let fs = &share.fs;
        let results = [
            fs.lookup(&ROOT, ROOT_NODEID, name).err(),
            fs.symlink(&ROOT, ROOT_NODEID, name, b"t", none).err(),
            fs.make_node(&ROOT, ROOT_NODEID, name, 0o100_644, 0, 0, none)
                .err(),
            fs.make_directory(&ROOT, ROOT_NODEID, name, 0o755, 0, none)
                .err(),
            fs.unlink(ROOT_NODEID, name).err(),
            fs.remove_directory(ROOT_NODEID, name).err(),
            fs.rename(ROOT_NODEID, name, ROOT_NODEID, b"x", 0).err(),
            fs.rename(ROOT_NODEID, b"f", ROOT_NODEID, name, 0).err(),
            fs.link(file, ROOT_NODEID, name).err(),
            fs.create(&ROOT, ROOT_NODEID, name, 2, 0o644, 0, none).err(),
        ];
        assert_eq!(results, [Some(Errno::INVAL); 10], "{name:?}");
    }
    // A link out of the share is a link, never a way.
    let link = share.lookup("out").nodeid;
    assert_eq!(share.fs.lookup(&ROOT, link, b"secret"), Err(Errno::NOTDIR));
    assert_eq!(share.fs.open(&ROOT, link, 0, false), Err(Errno::LOOP));
    assert_eq!(share.fs.open_directory(link, 0), Err(Errno::NOTDIR));
    assert_eq!(
        share.fs.read_link(link),
        Ok(outside.path().as_os_str().as_bytes().to_vec())
    );
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let share = Share::with(|config| config.descriptors_max = 1);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), "secret").unwrap();
    fs::create_dir(share.path("d")).unwrap();
    fs::write(share.path("d/f"), "public").unwrap();
    let file = share.lookup("d/f").nodeid;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop_at_end = StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(share.path("d"), share.path("away")).unwrap();
                std::os::unix::fs::symlink(outside.path(), share.path("d")).unwrap();
                fs::remove_file(share.path("d")).unwrap();
                fs::rename(share.path("away"), share.path("d")).unwrap();
            }
        });
        for _ in 0..3_000 {
            // One descriptor only: the file's pushes out the directory's, so that each walk starts at the root.
            match share.fs.open(&ROOT, file, 0, false) {
                Ok(reply) => {
                    assert_eq!(share.content(reply.handle).unwrap(), b"public");
                    share.fs.release(reply.handle).unwrap();
                }
                Err(errno) => assert_eq!(errno, Errno::STALE),
            }
            share.fs.tables().nodes.drop_descriptors();
        }
        drop(stop_at_end);
    });
}

/// Ends a thread, also if the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn numbers_that_were_never_given_are_errors() {
    let share = Share::new();
    let fs = &share.fs;
    for nodeid in [0, 2, 77, u64::MAX] {
        assert_eq!(fs.lookup(&ROOT, nodeid, b"x"), Err(Errno::STALE));
        assert_eq!(fs.get_attributes(nodeid, None), Err(Errno::STALE));
        assert_eq!(fs.open(&ROOT, nodeid, 0, false), Err(Errno::STALE));
        assert_eq!(fs.statfs(nodeid).err(), Some(Errno::STALE));
        fs.forget(nodeid, u64::MAX);
    }
    for handle in [0, 1, u64::MAX] {
        assert_eq!(fs.release(handle), Err(Errno::BADF));
        assert_eq!(fs.fsync(handle, false), Err(Errno::BADF));
        assert_eq!(fs.get_attributes(1, Some(handle)), Err(Errno::BADF));
        assert_eq!(
            fs.read_directory(1, handle, 0, &mut |_| true),
            Err(Errno::BADF)
        );
    }
    let opened = fs.open_directory(ROOT_NODEID, 0).unwrap().handle;
    assert_eq!(fs.seek(opened, 0, 3), Err(Errno::ISDIR));
    assert_eq!(fs.fallocate(opened, 0, 0, 1), Err(Errno::ISDIR));
    assert_eq!(fs.open(&ROOT, ROOT_NODEID, 3, false), Err(Errno::INVAL));
}

#[test]
fn ten_thousand_nodes_need_eight_descriptors() {
    let share = Share::with(|config| config.descriptors_max = 16);
    let mut nodes = Vec::new();
    for directory in 0..10 {
        fs::create_dir(share.path(&format!("d{directory}"))).unwrap();
        let parent = share.lookup(&format!("d{directory}")).nodeid;
        for file in 0..1_000 {
            let name = format!("f{file}");
            fs::write(share.path(&format!("d{directory}/{name}")), &name).unwrap();
            let entry = share.fs.lookup(&ROOT, parent, name.as_bytes()).unwrap();
            nodes.push((entry.nodeid, entry.attributes.ino, name));
        }
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    for (nodeid, ino, name) in &nodes {
        let attributes = share.fs.get_attributes(*nodeid, None).unwrap();
        assert_eq!((attributes.ino, attributes.size), (*ino, name.len() as u64));
    }
    let now = fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests run in this process: they may have opened some, but not thousands.
    assert!(now < open + 1_000, "{open} descriptors before, {now} now");
    assert!(share.fs.tables().nodes.cached() <= 8);
}

#[test]
fn what_is_known_below_a_directory_survives_its_renaming() {
    let share = Share::new();
    fs::create_dir_all(share.path("a/b")).unwrap();
    fs::write(share.path("a/b/f"), "f").unwrap();
    let file = share.lookup("a/b/f").nodeid;
    share
        .fs
        .rename(ROOT_NODEID, b"a", ROOT_NODEID, b"z", 0)
        .unwrap();
    share.fs.tables().nodes.drop_descriptors();
    assert_eq!(share.fs.get_attributes(file, None).unwrap().size, 1);
    // Moved on the host, behind our back: stale until it is looked up again, and then the same node.
    fs::rename(share.path("z/b"), share.path("b")).unwrap();
    share.fs.tables().nodes.drop_descriptors();
    assert_eq!(share.fs.get_attributes(file, None), Err(Errno::STALE));
    assert_eq!(share.lookup("b/f").nodeid, file);
    assert_eq!(share.fs.get_attributes(file, None).unwrap().size, 1);
}

#[test]
fn an_exchange_moves_both() {
    let share = Share::new();
    fs::write(share.path("a"), "a").unwrap();
    fs::write(share.path("b"), "bb").unwrap();
    let (a, b) = (share.lookup("a").nodeid, share.lookup("b").nodeid);
    let exchange = RenameFlags::EXCHANGE.bits();
    share
        .fs
        .rename(ROOT_NODEID, b"a", ROOT_NODEID, b"b", exchange)
        .unwrap();
    share.fs.tables().nodes.drop_descriptors();
    assert_eq!(share.fs.get_attributes(a, None).unwrap().size, 1);
    assert_eq!(share.fs.get_attributes(b, None).unwrap().size, 2);
    assert_eq!((share.lookup("b").nodeid, share.lookup("a").nodeid), (a, b));
    let no_replace = RenameFlags::NOREPLACE.bits();
    let refused = share
        .fs
        .rename(ROOT_NODEID, b"a", ROOT_NODEID, b"b", no_replace);
    assert_eq!(refused, Err(Errno::EXIST));
}

#[test]
fn hard_links_are_one_node_and_any_name_leads_to_it() {
    let share = Share::new();
    fs::write(share.path("a"), "x").unwrap();
    let a = share.lookup("a").nodeid;
    let entry = share.fs.link(a, ROOT_NODEID, b"b").unwrap();
    assert_eq!((entry.nodeid, entry.attributes.nlink), (a, 2));
    // The newest name goes, behind our back.
    fs::remove_file(share.path("b")).unwrap();
    share.fs.tables().nodes.drop_descriptors();
    assert_eq!(share.fs.get_attributes(a, None).unwrap().nlink, 1);
    // rename(2) of one name to the other of the same inode does nothing.
    fs::hard_link(share.path("a"), share.path("c")).unwrap();
    share.lookup("c");
    share
        .fs
        .rename(ROOT_NODEID, b"a", ROOT_NODEID, b"c", 0)
        .unwrap();
    share.fs.tables().nodes.drop_descriptors();
    fs::remove_file(share.path("c")).unwrap();
    assert_eq!(share.fs.get_attributes(a, None).unwrap().nlink, 1);
}

/// Each of two requests sees the name that the other one removes.
#[test]
fn two_names_that_go_at_the_same_time_leave_a_way() {
    let share = Share::new();
    fs::create_dir(share.path("d")).unwrap();
    let directory = share.lookup("d").nodeid;
    for round in 0..500 {
        fs::write(share.path("a"), "x").unwrap();
        let file = share.lookup("a").nodeid;
        share.fs.link(file, directory, b"b").unwrap();
        share.fs.tables().nodes.drop_descriptors();
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (parent, name) in [(ROOT_NODEID, b"a"), (directory, b"b")] {
                let (share, barrier) = (&share, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    share.fs.unlink(parent, name).unwrap();
                });
            }
        });
        let attributes = share.fs.get_attributes(file, None);
        assert_eq!(attributes.map(|found| found.nlink), Ok(0), "round {round}");
        share.fs.forget(file, 2);
    }
    assert_eq!(share.fs.tables().nodes.pinned(), 1, "the root's");
}

#[test]
fn what_is_unlinked_while_known_stays_usable() {
    let share = Share::new();
    let (file, opened) = share.create("f");
    fs::write(share.path("f"), "still here").unwrap();
    let directory = share
        .fs
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o755, 0, Extensions::default())
        .unwrap();
    fs::write(share.path("victim"), "v").unwrap();
    let victim = share.lookup("victim").nodeid;
    share.fs.unlink(ROOT_NODEID, b"f").unwrap();
    share.fs.remove_directory(ROOT_NODEID, b"d").unwrap();
    fs::write(share.path("new"), "n").unwrap();
    share
        .fs
        .rename(ROOT_NODEID, b"new", ROOT_NODEID, b"victim", 0)
        .unwrap();
    share.fs.tables().nodes.drop_descriptors();
    assert_eq!(share.content(opened.handle).unwrap(), b"still here");
    assert_eq!(share.fs.get_attributes(file.nodeid, None).unwrap().nlink, 0);
    let again = share.open(file.nodeid, OFlags::RDONLY);
    assert_eq!(share.content(again.handle).unwrap(), b"still here");
    assert_eq!(
        share
            .fs
            .get_attributes(directory.nodeid, None)
            .unwrap()
            .nlink,
        0
    );
    assert_eq!(share.fs.get_attributes(victim, None).unwrap().nlink, 0);
    for handle in [opened.handle, again.handle] {
        share.fs.release(handle).unwrap();
    }
    for nodeid in [file.nodeid, directory.nodeid, victim] {
        share.fs.forget(nodeid, 1);
        assert_eq!(share.fs.get_attributes(nodeid, None), Err(Errno::STALE));
    }
}

#[test]
fn another_file_under_the_old_name_is_not_taken_for_it() {
    let share = Share::new();
    fs::write(share.path("f"), "old").unwrap();
    let old = share.lookup("f").nodeid;
    share.fs.tables().nodes.drop_descriptors();
    // The inode number is likely to be used again at once; the time of birth is not, after a tick of the clock.
    let born = fs::metadata(share.path("f")).unwrap().created().unwrap();
    while share.birth_of_a_new_file() == born {}
    fs::remove_file(share.path("f")).unwrap();
    fs::write(share.path("f"), "new").unwrap();
    assert_eq!(share.fs.get_attributes(old, None), Err(Errno::STALE));
    assert_ne!(share.lookup("f").nodeid, old);
}

#[test]
fn special_files_are_made_and_never_opened() {
    let share = Share::new();
    let none = Extensions::default();
    let fifo = share
        .fs
        .make_node(&ROOT, ROOT_NODEID, b"p", 0o010_600, 0, 0, none)
        .unwrap();
    let socket = share
        .fs
        .make_node(&ROOT, ROOT_NODEID, b"s", 0o140_600, 0, 0, none)
        .unwrap();
    for entry in [fifo, socket] {
        for flags in [0, 1, 2] {
            assert_eq!(
                share.fs.open(&ROOT, entry.nodeid, flags, false),
                Err(Errno::NXIO)
            );
        }
    }
    // CREATE without O_EXCL on one that somebody put there.
    let created = share.fs.create(&ROOT, ROOT_NODEID, b"p", 2, 0o644, 0, none);
    assert_eq!(created.err(), Some(Errno::NXIO));
    // A file that is swapped for a pipe after LOOKUP.
    fs::write(share.path("f"), "x").unwrap();
    let file = share.lookup("f").nodeid;
    fs::remove_file(share.path("f")).unwrap();
    fs::rename(share.path("p"), share.path("f")).unwrap();
    assert_eq!(share.fs.open(&ROOT, file, 0, false), Err(Errno::STALE));
    if rustix::process::geteuid().is_root() {
        let zero = (1 << 8) | 5;
        let node = share
            .fs
            .make_node(&ROOT, ROOT_NODEID, b"zero", 0o020_666, zero, 0, none);
        assert_eq!(node.unwrap().attributes.rdev, zero);
        assert!(
            fs::metadata(share.path("zero"))
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
}

#[test]
fn what_a_caller_creates_belongs_to_the_caller() {
    if !rustix::process::geteuid().is_root() {
        return; // An unprivileged daemon creates as itself: nothing to see.
    }
    let share = Share::new();
    let caller = Caller {
        uid: 1_234,
        gid: 4_321,
        pid: 1,
        supplementary_group: None,
    };
    let none = Extensions::default();
    let fs = &share.fs;
    fs.make_directory(&caller, ROOT_NODEID, b"d", 0o777, 0o022, none)
        .unwrap();
    fs.symlink(&caller, ROOT_NODEID, b"l", b"t", none).unwrap();
    fs.make_node(&caller, ROOT_NODEID, b"p", 0o010_600, 0, 0, none)
        .unwrap();
    fs.create(&caller, ROOT_NODEID, b"f", 2, 0o666, 0o002, none)
        .unwrap();
    fs.temporary_file(&caller, ROOT_NODEID, 2, 0o600, 0, none)
        .unwrap();
    for (name, mode) in [("d", 0o755), ("p", 0o600), ("f", 0o664)] {
        let metadata = fs::symlink_metadata(share.path(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1_234, 4_321), "{name}");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(fs::symlink_metadata(share.path("l")).unwrap().uid(), 1_234);
    // In a set-group-id directory of a group that the caller is not in, the bit goes (CVE-2022-0358).
    fs::create_dir(share.path("sgid")).unwrap();
    std::os::unix::fs::chown(share.path("sgid"), Some(0), Some(99)).unwrap();
    fs::set_permissions(share.path("sgid"), fs::Permissions::from_mode(0o2777)).unwrap();
    let sgid = share.lookup("sgid").nodeid;
    fs.create(&caller, sgid, b"x", 2, 0o2777, 0, none).unwrap();
    let made = fs::metadata(share.path("sgid/x")).unwrap();
    assert_eq!(
        (made.gid(), made.permissions().mode() & 0o7777),
        (99, 0o777)
    );
    let member = Caller {
        supplementary_group: Some(99),
        ..caller
    };
    fs.create(&member, sgid, b"y", 2, 0o2777, 0, none).unwrap();
    let made = fs::metadata(share.path("sgid/y")).unwrap();
    assert_eq!(
        (made.gid(), made.permissions().mode() & 0o7777),
        (99, 0o2777)
    );
}

#[test]
fn attributes_change_one_by_one_and_through_a_handle() {
    let share = Share::new();
    let (file, opened) = share.create("f");
    let set = |wanted: SetAttributes| {
        share
            .fs
            .set_attributes(&ROOT, file.nodeid, &wanted)
            .unwrap()
    };
    let none = SetAttributes::default();
    assert_eq!(
        set(SetAttributes {
            mode: Some(0o100_600),
            ..none
        })
        .mode,
        0o100_600
    );
    assert_eq!(
        set(SetAttributes {
            size: Some(100),
            ..none
        })
        .size,
        100
    );
    let time = SetAttributes {
        mtime: Some(SetTime::At(5, 6)),
        ..none
    };
    assert_eq!(set(time).mtime, (5, 6));
    assert_ne!(
        set(SetAttributes {
            mtime: Some(SetTime::Now),
            ..none
        })
        .mtime,
        (5, 6)
    );
    share.fs.unlink(ROOT_NODEID, b"f").unwrap();
    let through = SetAttributes {
        size: Some(7),
        handle: Some(opened.handle),
        ..none
    };
    assert_eq!(set(through).size, 7);
    let other = SetAttributes {
        handle: Some(opened.handle),
        ..none
    };
    assert_eq!(
        share.fs.set_attributes(&ROOT, ROOT_NODEID, &other),
        Err(Errno::BADF)
    );
    let root = SetAttributes {
        size: Some(0),
        ..none
    };
    assert_eq!(
        share.fs.set_attributes(&ROOT, ROOT_NODEID, &root),
        Err(Errno::ISDIR)
    );
    let nobody = SetAttributes {
        uid: Some(u32::MAX),
        ..none
    };
    assert_eq!(
        share.fs.set_attributes(&ROOT, file.nodeid, &nobody),
        Err(Errno::INVAL)
    );
    // Times of a link are its own.
    std::os::unix::fs::symlink("nowhere", share.path("l")).unwrap();
    let link = share.lookup("l").nodeid;
    let changed = share.fs.set_attributes(&ROOT, link, &time).unwrap();
    assert_eq!(
        (changed.mtime, changed.mode & 0o170_000),
        ((5, 6), 0o120_000)
    );
}

#[test]
fn a_read_only_share_is_not_changed() {
    let share = Share::with(|config| config.readonly = true);
    fs::write(share.path("f"), "x").unwrap();
    let file = share.lookup("f").nodeid;
    let none = Extensions::default();
    let fs = &share.fs;
    let truncate = (OFlags::RDONLY | OFlags::TRUNC).bits();
    let results = [
        fs.open(&ROOT, file, truncate, false).err(),
        fs.open(&ROOT, file, OFlags::WRONLY.bits(), false).err(),
        fs.create(&ROOT, ROOT_NODEID, b"n", 2, 0o644, 0, none).err(),
        fs.temporary_file(&ROOT, ROOT_NODEID, 2, 0o644, 0, none)
            .err(),
        fs.make_directory(&ROOT, ROOT_NODEID, b"n", 0o755, 0, none)
            .err(),
        fs.symlink(&ROOT, ROOT_NODEID, b"n", b"t", none).err(),
        fs.link(file, ROOT_NODEID, b"n").err(),
        fs.unlink(ROOT_NODEID, b"f").err(),
        fs.rename(ROOT_NODEID, b"f", ROOT_NODEID, b"n", 0).err(),
        fs.set_attributes(&ROOT, file, &SetAttributes::default())
            .err(),
        fs.set_xattr(file, b"user.a", b"v", 0, false).err(),
    ];
    assert_eq!(results, [Some(Errno::ROFS); 11]);
    assert_eq!(fs::read_to_string(share.path("f")).unwrap(), "x");
    let opened = share.open(file, OFlags::RDONLY).handle;
    assert_eq!(share.content(opened).unwrap(), b"x");
}

#[test]
fn directories_are_read_in_pieces_and_from_any_offset() {
    let share = Share::new();
    for number in 0..2_000 {
        fs::write(share.path(&format!("file-{number:04}")), "").unwrap();
    }
    let handle = share.fs.open_directory(ROOT_NODEID, 0).unwrap().handle;
    let whole = share.names(ROOT_NODEID, handle, 0, usize::MAX);
    assert_eq!(whole.len(), 2_002);
    let mut pieces: Vec<(String, u64)> = Vec::new();
    loop {
        let from = pieces.last().map_or(0, |(_, next)| *next);
        let piece = share.names(ROOT_NODEID, handle, from, 7);
        if piece.is_empty() {
            break;
        }
        pieces.extend(piece);
    }
    assert_eq!(pieces, whole);
    // Back to the middle, and to an offset that means nothing to the host.
    let middle = share.names(ROOT_NODEID, handle, whole[1_000].1, usize::MAX);
    assert_eq!(middle, whole[1_001..]);
    let far = share
        .fs
        .read_directory(ROOT_NODEID, handle, u64::MAX, &mut |_| true);
    assert_eq!(far, Err(Errno::INVAL));
}

#[test]
fn extended_attributes_are_an_option() {
    let share = Share::with(|config| config.xattr = true);
    fs::write(share.path("f"), "x").unwrap();
    let file = share.lookup("f").nodeid;
    let fs = &share.fs;
    fs.set_xattr(file, b"user.a", b"value", 0, false).unwrap();
    assert_eq!(fs.get_xattr(file, b"user.a", 0), Ok(XattrReply::Size(5)));
    assert_eq!(
        fs.get_xattr(file, b"user.a", 4_000_000_000),
        Ok(XattrReply::Value(b"value".to_vec()))
    );
    assert_eq!(fs.get_xattr(file, b"user.a", 4), Err(Errno::RANGE));
    assert_eq!(
        fs.list_xattr(file, 100),
        Ok(XattrReply::Value(b"user.a\0".to_vec()))
    );
    fs.remove_xattr(file, b"user.a").unwrap();
    assert_eq!(fs.get_xattr(file, b"user.a", 10), Err(Errno::NODATA));
    assert_eq!(fs.set_xattr(file, b"", b"", 0, false), Err(Errno::RANGE));
    assert_eq!(
        fs.set_xattr(file, b"user.\0", b"", 0, false),
        Err(Errno::INVAL)
    );
    assert_eq!(
        fs.set_xattr(file, b"user.a", b"", 99, false),
        Err(Errno::INVAL)
    );
    let acl = fs.set_xattr(file, b"system.posix_acl_access", b"", 0, false);
    assert_eq!(acl, Err(Errno::OPNOTSUPP));
    let without = Share::new();
    assert_eq!(without.fs.list_xattr(ROOT_NODEID, 0), Err(Errno::NOSYS));
    assert_eq!(
        without.fs.get_xattr(ROOT_NODEID, b"user.a", 0),
        Err(Errno::NOSYS)
    );
}

#[test]
fn what_is_created_has_its_label_or_does_not_exist() {
    let share = Share::new();
    let labelled = |name: &'static [u8]| Extensions {
        security_context: Some(SecurityContext {
            name,
            value: b"label",
        }),
    };
    share
        .fs
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o755, 0, labelled(b"user.label"))
        .unwrap();
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(share.path("d"), "user.label", &mut value).unwrap();
    assert_eq!(&value[..len], b"label");
    let refused = labelled(b"no.such.namespace");
    let fs = &share.fs;
    assert!(
        fs.make_directory(&ROOT, ROOT_NODEID, b"x", 0o755, 0, refused)
            .is_err()
    );
    assert!(
        fs.create(&ROOT, ROOT_NODEID, b"x", 2, 0o644, 0, refused)
            .is_err()
    );
    assert!(fs.symlink(&ROOT, ROOT_NODEID, b"x", b"t", refused).is_err());
    assert!(!Path::exists(&share.path("x")));
}

#[test]
fn a_guest_that_begins_anew_knows_nothing() {
    let share = Share::new();
    let (file, opened) = share.create("f");
    share.fs.destroy();
    assert_eq!(
        share.fs.get_attributes(file.nodeid, None),
        Err(Errno::STALE)
    );
    assert_eq!(share.fs.release(opened.handle), Err(Errno::BADF));
    let again = share.lookup("f");
    assert_ne!(again.nodeid, file.nodeid);
    assert_ne!(
        share.open(again.nodeid, OFlags::RDONLY).handle,
        opened.handle
    );
}

#[test]
fn access_follows_mode_and_group() {
    let share = Share::new();
    let (file, _) = share.create("f");
    let attributes = share.fs.get_attributes(file.nodeid, None).unwrap();
    let mode = SetAttributes {
        mode: Some(0o640),
        ..SetAttributes::default()
    };
    share.fs.set_attributes(&ROOT, file.nodeid, &mode).unwrap();
    let caller = |uid, gid| Caller {
        uid,
        gid,
        ..Caller::default()
    };
    let group = attributes.gid;
    let access = |caller: Caller, mask| share.fs.access(&caller, file.nodeid, mask);
    assert_eq!(access(ROOT, 6), Ok(()));
    assert_eq!(access(ROOT, 1), Err(Errno::ACCESS));
    assert_eq!(access(caller(5, group), 4), Ok(()));
    assert_eq!(access(caller(5, group), 2), Err(Errno::ACCESS));
    assert_eq!(access(caller(5, group + 1), 4), Err(Errno::ACCESS));
}

#[test]
fn a_lookup_that_is_overtaken_by_a_rename_does_not_bring_back_the_old_name() {
    let share = Share::new();
    fs::create_dir(share.path("a")).unwrap();
    let directory = share.lookup("a").nodeid;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop_at_end = StopAtEnd(&stop);
        // What a guest's kernel does to be sure of a name that it knows, without any lock.
        for name in [b"a", b"b"] {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(entry) = share.fs.lookup(&ROOT, ROOT_NODEID, name) {
                        share.fs.forget(entry.nodeid, 1);
                    }
                }
            });
        }
        for turn in 0..5_000 {
            let (from, to) = if turn % 2 == 0 {
                (b"a", b"b")
            } else {
                (b"b", b"a")
            };
            share
                .fs
                .rename(ROOT_NODEID, from, ROOT_NODEID, to, 0)
                .unwrap();
            let view = share.fs.tables().nodes.view(directory).unwrap();
            let names: Vec<_> = view
                .locations
                .iter()
                .map(|location| &*location.name)
                .collect();
            assert_eq!(names, [to], "turn {turn}");
        }
        drop(stop_at_end);
    });
}

#[test]
fn a_sync_in_the_middle_of_a_change_does_not_make_it_forgotten() {
    let share = Share::new();
    let changed = || share.fs.changed.load(Ordering::Relaxed);
    let changing = share.fs.changing();
    share.fs.sync_changed().unwrap();
    drop(changing);
    assert!(changed());
    share.fs.sync_changed().unwrap();
    assert!(!changed());
    // A request that changes something says so.
    share
        .fs
        .symlink(&ROOT, ROOT_NODEID, b"l", b"to", Extensions::default())
        .unwrap();
    assert!(changed());
}

#[test]
fn locks_of_owners_hold_a_descriptor_each_and_are_refused_beyond_what_is_kept() {
    let share = Share::with(|config| config.remote_posix_locks = true);
    let (_, open) = share.create("f");
    let lock = |owner, kind, start, end| {
        let lock = Lock {
            owner,
            pid: 7,
            kind,
            start,
            end,
            whole_file: false,
        };
        share.fs.set_lock(open.handle, &lock)
    };
    // 64 descriptors, of which half are kept: one for the handle, and one is the root's, which does not count.
    for owner in 0..32 {
        let result = lock(owner, LockKind::Shared, owner, owner);
        assert_eq!(
            result,
            if owner < 31 {
                Ok(())
            } else {
                Err(Errno::NFILE)
            },
            "{owner}"
        );
    }
    assert_eq!(lock(5, LockKind::Exclusive, 5, 5), Ok(()), "no new owner");
    assert_eq!(lock(6, LockKind::None, 0, i64::MAX as u64), Ok(()));
    assert_eq!(lock(5, LockKind::Exclusive, 7, 7), Err(Errno::AGAIN));
    for (start, end) in [(2, 1), (0, 1 << 63), (u64::MAX, u64::MAX)] {
        assert_eq!(lock(5, LockKind::Shared, start, end), Err(Errno::INVAL));
    }
    assert_eq!(share.fs.tables().locks.descriptors(), 30);
    share.fs.flush(ROOT_NODEID, open.handle, 5).unwrap();
    assert_eq!(share.fs.tables().locks.descriptors(), 30, "of another file");
    share.fs.release(open.handle).unwrap();
    assert!(share.fs.tables().locks.is_empty());
}

#[test]
fn a_lock_that_somebody_takes_while_the_guest_is_stopped_costs_the_guest_its_handle() {
    let share = Share::with(|config| config.remote_flock = true);
    let (_, kept) = share.create("kept");
    let (_, taken) = share.create("taken");
    let lock = Lock {
        owner: 1,
        pid: 0,
        kind: LockKind::Exclusive,
        start: 0,
        end: 0,
        whole_file: true,
    };
    for handle in [kept.handle, taken.handle] {
        share.fs.set_lock(handle, &lock).unwrap();
    }
    share.fs.take_locks_again();
    let somebody = fs::File::open(share.path("taken")).unwrap();
    let operation = rustix::fs::FlockOperation::NonBlockingLockShared;
    assert_eq!(rustix::fs::flock(&somebody, operation), Err(Errno::AGAIN));
    share.fs.let_locks_go();
    rustix::fs::flock(&somebody, operation).unwrap();
    share.fs.take_locks_again();
    assert_eq!(share.content(taken.handle), Err(Errno::IO));
    assert_eq!(share.content(kept.handle), Ok(Vec::new()));
    let kept_by_us = fs::File::open(share.path("kept")).unwrap();
    assert_eq!(rustix::fs::flock(&kept_by_us, operation), Err(Errno::AGAIN));
    share.fs.release(taken.handle).unwrap();
    share.fs.release(kept.handle).unwrap();
    rustix::fs::flock(&kept_by_us, operation).unwrap();
}

/// What a request got that takes a descriptor.
#[derive(Debug)]
enum Taken {
    Handle(u64),
    /// An inode without a name, which is pinned or not.
    Node(u64),
}

/// A way to take one; it is told a name to use.
type Way<'a> = dyn Fn(&str) -> FsResult<Taken> + Sync + 'a;

/// Room for one more, and two that want it: one gets it at most, whichever way it is taken.
#[test]
fn the_last_room_for_a_descriptor_is_not_given_twice() {
    let share = Share::with(|config| config.descriptors_max = 8);
    let (first, _) = share.create("first");
    for _ in 0..2 {
        share.open(first.nodeid, OFlags::RDONLY);
    }
    let flags = OFlags::RDWR.bits();
    let none = Extensions::default();
    let create = || {
        let created = share
            .fs
            .create(&ROOT, ROOT_NODEID, b"made", flags, 0o600, 0, none);
        created.map(|(entry, open)| {
            share.fs.forget(entry.nodeid, 1);
            open.handle
        })
    };
    let ways: [&Way<'_>; 4] = [
        &|_| {
            let opened = share.fs.open(&ROOT, first.nodeid, flags, false)?;
            Ok(Taken::Handle(opened.handle))
        },
        &|_| {
            let opened = share.fs.open_directory(ROOT_NODEID, 0)?;
            Ok(Taken::Handle(opened.handle))
        },
        &|_| create().map(Taken::Handle),
        &|name| {
            let name = name.as_bytes();
            let made = share
                .fs
                .make_node(&ROOT, ROOT_NODEID, name, 0o100_600, 0, 0, none)?;
            share.fs.unlink(ROOT_NODEID, name)?;
            Ok(Taken::Node(made.nodeid))
        },
    ];
    for round in 0..2_000 {
        let barrier = std::sync::Barrier::new(2);
        let attempt = |way: &Way<'_>, name: &str| {
            barrier.wait();
            way(name)
        };
        let (one, other) = (ways[round % 4], ways[round / 4 % 4]);
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(|| attempt(other, "other"));
            [attempt(one, "one"), other.join().unwrap()]
        });
        let tables = share.fs.tables();
        let held = tables.handles.len() + tables.nodes.pinned() - 1;
        assert!(held <= 4, "round {round}: {held} with {results:?}");
        for result in results {
            match result {
                Ok(Taken::Handle(handle)) => share.fs.release(handle).unwrap(),
                Ok(Taken::Node(nodeid)) => share.fs.forget(nodeid, 1),
                Err(errno) => assert_eq!(errno, Errno::NFILE),
            }
        }
    }
    // It is there already, so that it is opened instead: that takes one, and not two.
    let last = create().unwrap();
    share.fs.release(last).unwrap();
    let temporary = share
        .fs
        .temporary_file(&ROOT, ROOT_NODEID, flags, 0o600, 0, none);
    assert_eq!(temporary.map(drop), Err(Errno::NFILE), "it takes two");
    // What was refused holds nothing.
    assert_eq!(share.fs.tables().handles.len(), 3);
    assert_eq!(share.fs.tables().nodes.pinned(), 1);
    share.open(first.nodeid, OFlags::RDONLY);
}
