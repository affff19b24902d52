//! Nodeids and handles that were never given, or are given back; counts, offsets and sizes beyond all bounds.

use std::fs;

use anyhow::{Result, ensure};
use tests::fuse_client::{ROOT, encode};
use vhost_device_fs::fuse::abi::{
    BatchForgetIn, CopyFileRangeIn, FallocateIn, ForgetIn, ForgetOne, GetXattrIn, LseekIn, Opcode,
    ReadIn, Rename2In, SetAttrIn, SetXattrIn, WriteIn, setattr,
};

use crate::rig::{DEFAULT, Rig, empty, name, outcome, refused, request};

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

#[test]
fn nodeids_that_mean_nothing_are_stale() -> Result<()> {
    let mut rig = Rig::start(&["--xattr"], |share| Ok(fs::write(share.join("f"), "x")?))?;
    let forgotten = rig.client.lookup(ROOT, "f")?.nodeid;
    rig.client.forget(forgotten, 1)?;
    for nodeid in [0, forgotten, 4711, 1 << 32, u64::MAX] {
        for opcode in Opcode::ALL {
            // Enough for any opcode's structure, with a name behind it and in it.
            let body = [0; 256];
            let silent = matches!(
                opcode,
                Opcode::Forget | Opcode::BatchForget | Opcode::Init | Opcode::Destroy
            );
            if silent {
                continue;
            }
            let errno = refused(rig.client.call(*opcode, nodeid, &body))?;
            ensure!(
                [
                    libc::ESTALE,
                    libc::EBADF,
                    libc::ENOSYS,
                    libc::EINVAL,
                    libc::ERANGE
                ]
                .contains(&errno),
                "{opcode:?} of {nodeid}: {errno}"
            );
        }
        ensure!(refused(rig.client.get_attr(nodeid, None))? == libc::ESTALE);
        ensure!(refused(rig.client.lookup(nodeid, "f"))? == libc::ESTALE);
        ensure!(refused(rig.client.open(nodeid, 0))? == libc::ESTALE);
        ensure!(refused(rig.client.open_dir(nodeid))? == libc::ESTALE);
        ensure!(refused(rig.client.unlink(nodeid, "f"))? == libc::ESTALE);
        ensure!(refused(rig.client.link(nodeid, ROOT, "g"))? == libc::ESTALE);
        ensure!(refused(rig.client.rename((ROOT, "f"), (nodeid, "g"), 0))? == libc::ESTALE);
    }
    // The same file again is another number: the old one stays stale.
    let again = rig.client.lookup(ROOT, "f")?.nodeid;
    ensure!(again != forgotten);
    ensure!(refused(rig.client.get_attr(forgotten, None))? == libc::ESTALE);
    rig.survived()
}

#[test]
fn handles_are_only_what_was_given_for_what_it_was_given() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| {
        fs::write(share.join("f"), "content")?;
        Ok(fs::create_dir(share.join("d"))?)
    })?;
    let client = &mut rig.client;
    let (file, folder) = (
        client.lookup(ROOT, "f")?.nodeid,
        client.lookup(ROOT, "d")?.nodeid,
    );
    let released = client.open(file, READ_WRITE)?.handle;
    client.release(file, released)?;
    ensure!(refused(client.release(file, released))? == libc::EBADF);
    for handle in [0, released, 4711, u64::MAX] {
        ensure!(refused(client.read(file, handle, 0, 10))? == libc::EBADF);
        ensure!(refused(client.write(file, handle, 0, b"x"))? == libc::EBADF);
        ensure!(refused(client.flush(file, handle))? == libc::EBADF);
        ensure!(refused(client.fsync(file, handle))? == libc::EBADF);
        ensure!(refused(client.get_attr(file, Some(handle)))? == libc::EBADF);
        ensure!(refused(client.read_dir(folder, handle, 0, 4096))? == libc::EBADF);
        ensure!(refused(client.release_dir(folder, handle))? == libc::EBADF);
        let change = SetAttrIn {
            valid: setattr::HANDLE | setattr::SIZE,
            handle,
            ..SetAttrIn::default()
        };
        ensure!(refused(client.set_attr(file, &change))? == libc::EBADF);
    }
    // Of the wrong kind.
    let directory = client.open_dir(folder)?.handle;
    let open = client.open(file, READ_WRITE)?.handle;
    ensure!(refused(client.read(folder, directory, 0, 10))? == libc::EISDIR);
    ensure!(refused(client.write(folder, directory, 0, b"x"))? == libc::EISDIR);
    ensure!(refused(client.read_dir(file, open, 0, 4096))? == libc::ENOTDIR);
    // Of another inode.
    ensure!(refused(client.get_attr(folder, Some(open)))? == libc::EBADF);
    ensure!(refused(client.read_dir(ROOT, directory, 0, 4096))? == libc::EBADF);
    // Not open for it.
    let reading = client.open(file, 0)?.handle;
    ensure!(refused(client.write(file, reading, 0, b"x"))? == libc::EBADF);
    // A handle outlives what the guest knows of the inode, and dies with its release.
    client.forget(file, u64::MAX)?;
    ensure!(client.read(file, open, 0, 100)? == b"content");
    client.release(file, open)?;
    client.release(file, reading)?;
    ensure!(refused(client.read(file, open, 0, 100))? == libc::EBADF);
    rig.survived()
}

#[test]
fn forgetting_too_much_harms_nobody() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| {
        fs::create_dir(share.join("d"))?;
        Ok(fs::write(share.join("d/f"), "x")?)
    })?;
    let client = &mut rig.client;
    for count in [0, 1, u64::MAX, u64::MAX] {
        client.forget(ROOT, count)?;
        ensure!(client.get_attr(ROOT, None)?.ino != 0);
    }
    let folder = client.lookup(ROOT, "d")?.nodeid;
    let file = client.lookup(folder, "f")?.nodeid;
    // The folder is forgotten, but the way to the file leads through it.
    client.forget(folder, u64::MAX)?;
    client.forget(folder, u64::MAX)?;
    let open = client.open(file, 0)?;
    ensure!(client.read(file, open.handle, 0, 10)? == b"x");
    client.release(file, open.handle)?;
    client.forget(file, u64::MAX)?;
    ensure!(refused(client.get_attr(file, None))? == libc::ESTALE);
    ensure!(refused(client.get_attr(folder, None))? == libc::ESTALE);

    let file = client.walk("d/f")?.nodeid;
    let one = |nodeid| {
        encode(&ForgetOne {
            nodeid,
            nlookup: u64::MAX,
        })
    };
    let list = [one(ROOT), one(file), one(file), one(0), one(u64::MAX)].concat();
    for count in [0, 1, 4, 5, 6, u32::MAX] {
        for short in [0, 1, 15, 16, 17, list.len() - 1, list.len()] {
            let head = encode(&BatchForgetIn { count, padding: 0 });
            let body = [head.as_slice(), list.get(..short).unwrap_or_default()].concat();
            let request = request(Opcode::BatchForget.number(), 0, &body);
            ensure!(rig.exchange(&request, &[40], &[])?.is_empty());
        }
    }
    let client = &mut rig.client;
    ensure!(refused(client.get_attr(file, None))? == libc::ESTALE);
    for short in 0..8 {
        let body = encode(&ForgetIn { nlookup: 1 });
        let request = request(
            Opcode::Forget.number(),
            ROOT,
            body.get(..short).unwrap_or(&[]),
        );
        ensure!(rig.exchange(&request, &[], &[])?.is_empty());
    }
    rig.survived()
}

/// The ends of ranges.
const OFFSETS: [u64; 9] = [
    0,
    1,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 1,
    u64::MAX,
];

#[test]
fn offsets_and_lengths_beyond_all_bounds() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, empty)?;
    let client = &mut rig.client;
    let (file, open) = client.create(ROOT, "f", READ_WRITE, 0o600)?;
    let (nodeid, handle) = (file.nodeid, open.handle);
    client.write(nodeid, handle, 0, b"text")?;
    for offset in OFFSETS {
        match client.read(nodeid, handle, offset, 100) {
            Ok(data) => ensure!(offset < 4 || data.is_empty(), "{offset}: {data:?}"),
            Err(error) => ensure!(error.errno().is_some(), "{error}"),
        }
        if offset >= 1 << 40 {
            // Either the file has a hole then, or its file system cannot.
            if let Err(error) = client.write(nodeid, handle, offset, b"x") {
                ensure!(error.errno().is_some(), "{error}");
            }
        }
        for length in OFFSETS {
            for mode in [0, 1, 3, 0x10, 0x20, 8, u32::MAX] {
                // Anything in between may be had, or is had until the disk of the test is full.
                if length > 1 && length < i64::MAX as u64 - 1 && mode != 3 {
                    continue;
                }
                let arguments = FallocateIn {
                    handle,
                    offset,
                    length,
                    mode,
                    padding: 0,
                };
                if length >= 1 << 40 || mode == u32::MAX {
                    // None has that much space; punching is no question of space.
                    let answer = client.fallocate(nodeid, &arguments);
                    ensure!(
                        ![0, u32::MAX].contains(&mode) || answer.is_err(),
                        "{arguments:?}"
                    );
                }
            }
            if offset > 4 && length > 1 {
                continue; // there may be a hole of that size by now, and its copy would fill the disk of the test
            }
            for (flags, offset_out) in [(0, offset), (1, 0), (u64::MAX, 0)] {
                let copy = CopyFileRangeIn {
                    handle_in: handle,
                    offset_in: offset,
                    nodeid_out: nodeid,
                    handle_out: handle,
                    offset_out,
                    len: length,
                    flags,
                };
                for opcode in [Opcode::CopyFileRange, Opcode::CopyFileRange64] {
                    match client.call(opcode, nodeid, &encode(&copy)) {
                        Ok(_) => ensure!(flags == 0, "{copy:?}"),
                        Err(error) => ensure!(error.errno().is_some(), "{error}"),
                    }
                }
            }
        }
        for whence in [0, 1, 2, 3, 4, 5, u32::MAX] {
            let seek = LseekIn {
                handle,
                offset,
                whence,
                padding: 0,
            };
            if let Err(error) = client.lseek(nodeid, &seek) {
                ensure!(error.errno().is_some(), "{error}");
            }
        }
    }
    rig.survived()
}

#[test]
fn sizes_beyond_all_bounds_need_no_memory() -> Result<()> {
    let mut rig = Rig::start(&["--xattr"], |share| {
        fs::write(share.join("f"), "text")?;
        let value = [7; 100];
        let flags = rustix::fs::XattrFlags::empty();
        Ok(rustix::fs::setxattr(
            share.join("f"),
            "user.a",
            &value,
            flags,
        )?)
    })?;
    let before = rig.daemon.resident_kib()?;
    let file = rig.client.lookup(ROOT, "f")?.nodeid;
    let handle = rig.client.open(file, READ_WRITE)?.handle;
    let directory = rig.client.open_dir(ROOT)?.handle;
    let room: &[usize] = &[16, 4096];
    for size in [
        4096 + 1,
        65_536,
        1 << 20,
        (1 << 20) + 1,
        i32::MAX as u32,
        u32::MAX,
    ] {
        let read = |handle| {
            encode(&ReadIn {
                handle,
                size,
                ..ReadIn::default()
            })
        };
        let ask = |rig: &mut Rig, opcode: Opcode, nodeid, body: &[u8]| {
            let reply = rig.exchange(&request(opcode.number(), nodeid, body), &[40], room)?;
            outcome(&reply)
        };
        // A short reply would be the end of the file.
        ensure!(ask(&mut rig, Opcode::Read, file, &read(handle))? == libc::EINVAL);
        ensure!(ask(&mut rig, Opcode::ReadDir, ROOT, &read(directory))? == 0);
        ensure!(ask(&mut rig, Opcode::ReadDirPlus, ROOT, &read(directory))? == 0);
        let get = encode(&GetXattrIn { size, padding: 0 });
        ensure!(ask(&mut rig, Opcode::ListXattr, file, &get)? == 0);
        let get = [get, name("user.a")].concat();
        ensure!(ask(&mut rig, Opcode::GetXattr, file, &get)? == 0);
        // More data announced than sent.
        let write = encode(&WriteIn {
            handle,
            size,
            ..WriteIn::default()
        });
        let write = [write.as_slice(), &[b'x'; 4096]].concat();
        ensure!(ask(&mut rig, Opcode::Write, file, &write)? == libc::EINVAL);
        let set = [
            encode(&SetXattrIn { size, flags: 0 }),
            name("user.b"),
            vec![b'x'; 4096],
        ];
        ensure!(ask(&mut rig, Opcode::SetXattr, file, &set.concat())? == libc::EINVAL);
    }
    // All there, and more than there may be.
    for size in [65_537_usize, 100_000, 200_000] {
        let value = vec![1; size];
        let errno = refused(rig.client.set_xattr(file, "user.b", &value))?;
        ensure!(
            [libc::E2BIG, libc::ENOSPC, libc::EOPNOTSUPP].contains(&errno),
            "{errno}"
        );
    }
    let name = "user.".to_owned() + &"n".repeat(300);
    ensure!(refused(rig.client.set_xattr(file, &name, b""))? == libc::ERANGE);
    ensure!(refused(rig.client.set_xattr(file, "", b""))? == libc::ERANGE);
    ensure!(fs::read_to_string(rig.path("f"))? == "text");
    let grown = rig.daemon.resident_kib()?.saturating_sub(before);
    ensure!(grown < 64 << 10, "{grown} KiB more are resident");
    rig.survived()
}

#[test]
fn attributes_of_nonsense() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| Ok(fs::write(share.join("f"), "x")?))?;
    let client = &mut rig.client;
    let file = client.lookup(ROOT, "f")?.nodeid;
    for bit in 0..32 {
        for word in [0, u64::MAX, 1 << 63, i64::MAX as u64] {
            let low = u32::try_from(word & u64::from(u32::MAX))?;
            let change = SetAttrIn {
                valid: 1 << bit,
                handle: word,
                size: word,
                lock_owner: word,
                atime: word,
                mtime: word,
                ctime: word,
                atime_nsec: low,
                mtime_nsec: low,
                ctime_nsec: low,
                mode: low,
                uid: low,
                gid: low,
                ..SetAttrIn::default()
            };
            match client.set_attr(file, &change) {
                Ok(attributes) => ensure!(
                    attributes.mode & libc::S_IFMT == libc::S_IFREG,
                    "bit {bit}: {attributes:?}"
                ),
                Err(error) => ensure!(error.errno().is_some(), "{error}"),
            }
        }
    }
    // Nanoseconds that mean "now" and "leave alone" to the host, and are neither to the guest.
    for nanoseconds in [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe, u32::MAX] {
        let change = SetAttrIn {
            valid: setattr::MTIME,
            mtime_nsec: nanoseconds,
            ..SetAttrIn::default()
        };
        ensure!(refused(client.set_attr(file, &change))? == libc::EINVAL);
    }
    // To the host this number means "leave as it is".
    for valid in [setattr::UID, setattr::GID] {
        let change = SetAttrIn {
            valid,
            uid: u32::MAX,
            gid: u32::MAX,
            ..SetAttrIn::default()
        };
        ensure!(refused(client.set_attr(file, &change))? == libc::EINVAL);
    }
    rig.survived()
}

#[test]
fn renames_and_directory_offsets_of_nonsense() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| {
        fs::write(share.join("a"), "a")?;
        Ok(fs::create_dir_all(share.join("d/e"))?)
    })?;
    let client = &mut rig.client;
    let folder = client.lookup(ROOT, "d")?.nodeid;
    for bit in 3..32 {
        let rename = Rename2In {
            new_parent: ROOT,
            flags: 1 << bit,
            padding: 0,
        };
        let body = [encode(&rename), name("a"), name("b")].concat();
        ensure!(refused(client.call(Opcode::Rename2, ROOT, &body))? == libc::EINVAL);
    }
    // Into itself, onto its parent, and over the root.
    ensure!(refused(client.rename((ROOT, "d"), (folder, "e"), 0))? == libc::EINVAL);
    ensure!(refused(client.rename((folder, "e"), (ROOT, "d"), 0))? == libc::ENOTEMPTY);
    ensure!(
        refused(client.rename((ROOT, "d"), (folder, "x"), libc::RENAME_EXCHANGE))? == libc::ENOENT
    );
    let directory = client.open_dir(ROOT)?.handle;
    for offset in [
        1,
        2,
        3,
        1 << 31,
        1 << 62,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ] {
        for _ in 0..2 {
            // Whatever is read from a place that was never told: names of this directory, the end, or an error.
            match client.read_dir(ROOT, directory, offset, 4096) {
                Ok(entries) => {
                    for entry in entries {
                        let known: [&[u8]; 4] = [b".", b"..", b"a", b"d"];
                        ensure!(known.contains(&entry.name.as_slice()), "{entry:?}");
                    }
                }
                Err(error) => ensure!(error.errno().is_some(), "{error}"),
            }
        }
    }
    ensure!(client.read_dir(ROOT, directory, 0, 4096)?.len() == 4);
    rig.survived()
}
