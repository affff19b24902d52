//! Requests that are cut off, split up, longer or shorter than they say, and replies that there is no room for.

use std::fs;

use anyhow::{Result, ensure};
use tests::fuse_client::{ROOT, encode};
use vhost_device_fs::fuse::abi::*;

use crate::rig::{DEFAULT, Rig, empty, name, outcome, refused, request, request_of_length};

/// A sound request of each opcode on a share that has a file `f`, open as `handle`, and a directory `d`, open as
/// `directory`. Whether it changes the number of names in the share if it is served.
struct Sample {
    opcode: Opcode,
    nodeid: u64,
    body: Vec<u8>,
}

struct Known {
    file: u64,
    handle: u64,
    directory: u64,
}

#[expect(clippy::too_many_lines, reason = "one line or two for each opcode")]
fn samples(known: &Known) -> Vec<Sample> {
    let &Known {
        file,
        handle,
        directory,
    } = known;
    let read = |handle| {
        encode(&ReadIn {
            handle,
            size: 200,
            ..ReadIn::default()
        })
    };
    let create = encode(&CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | 0o600,
        ..CreateIn::default()
    });
    let with = |structure: Vec<u8>, names: &[&str]| {
        let names = names.iter().flat_map(name);
        structure.into_iter().chain(names).collect::<Vec<u8>>()
    };
    let sync = |handle| {
        encode(&FsyncIn {
            handle,
            ..FsyncIn::default()
        })
    };
    let copy = encode(&CopyFileRangeIn {
        handle_in: handle,
        nodeid_out: file,
        handle_out: handle,
        offset_out: 8,
        len: 4,
        ..CopyFileRangeIn::default()
    });
    let fallocate = FallocateIn {
        handle,
        length: 4096,
        ..FallocateIn::default()
    };
    let seek = LseekIn {
        handle,
        whence: 3,
        ..LseekIn::default()
    };
    let write = WriteIn {
        handle,
        size: 4,
        ..WriteIn::default()
    };
    let make_node = MkNodIn {
        mode: libc::S_IFREG | 0o600,
        ..MkNodIn::default()
    };
    let rename = Rename2In {
        new_parent: ROOT,
        flags: libc::RENAME_NOREPLACE,
        padding: 0,
    };
    let get = GetXattrIn {
        size: 0,
        padding: 0,
    };
    [
        (Opcode::Lookup, ROOT, with(vec![], &["f"])),
        (Opcode::GetAttr, file, encode(&GetAttrIn::default())),
        (Opcode::SetAttr, file, encode(&SetAttrIn::default())),
        (Opcode::Symlink, ROOT, with(vec![], &["symlink", "target"])),
        (Opcode::MkNod, ROOT, with(encode(&make_node), &["node"])),
        (
            Opcode::MkDir,
            ROOT,
            with(
                encode(&MkDirIn {
                    mode: 0o755,
                    umask: 0,
                }),
                &["made"],
            ),
        ),
        (
            Opcode::Link,
            ROOT,
            with(encode(&LinkIn { old_nodeid: file }), &["link"]),
        ),
        (Opcode::Unlink, ROOT, with(vec![], &["gone"])),
        (Opcode::RmDir, ROOT, with(vec![], &["gone-too"])),
        (
            Opcode::Rename,
            ROOT,
            with(encode(&RenameIn { new_parent: ROOT }), &["old", "new"]),
        ),
        (
            Opcode::Rename2,
            ROOT,
            with(encode(&rename), &["old", "new"]),
        ),
        (Opcode::Open, file, encode(&OpenIn::default())),
        (Opcode::Create, ROOT, with(create.clone(), &["created"])),
        (Opcode::TmpFile, ROOT, with(create, &["temporary"])),
        (Opcode::Read, file, read(handle)),
        (
            Opcode::Write,
            file,
            [encode(&write), b"data".to_vec()].concat(),
        ),
        (Opcode::StatFs, ROOT, vec![]),
        (Opcode::Release, file, encode(&ReleaseIn::default())),
        (Opcode::Fsync, file, sync(handle)),
        (
            Opcode::Flush,
            file,
            encode(&FlushIn {
                handle,
                ..FlushIn::default()
            }),
        ),
        (Opcode::OpenDir, ROOT, encode(&OpenIn::default())),
        (Opcode::ReadDir, ROOT, read(directory)),
        (Opcode::ReadDirPlus, ROOT, read(directory)),
        (Opcode::ReleaseDir, ROOT, encode(&ReleaseIn::default())),
        (Opcode::FsyncDir, ROOT, sync(directory)),
        (
            Opcode::Access,
            ROOT,
            encode(&AccessIn {
                mask: 4,
                padding: 0,
            }),
        ),
        (Opcode::Fallocate, file, encode(&fallocate)),
        (Opcode::Lseek, file, encode(&seek)),
        (Opcode::CopyFileRange, file, copy.clone()),
        (Opcode::CopyFileRange64, file, copy),
        (Opcode::SyncFs, ROOT, vec![0; 8]),
        (Opcode::GetXattr, file, with(encode(&get), &["user.a"])),
        (Opcode::ListXattr, file, encode(&get)),
        (
            Opcode::SetXattr,
            file,
            [
                with(encode(&SetXattrIn { size: 1, flags: 0 }), &["user.b"]),
                vec![1],
            ]
            .concat(),
        ),
        (Opcode::RemoveXattr, file, with(vec![], &["user.c"])),
        (Opcode::Interrupt, 0, vec![0; 8]),
        (Opcode::Ioctl, file, vec![0; 32]),
        (Opcode::Poll, file, vec![0; 24]),
        (Opcode::Statx, file, vec![0; 24]),
        (Opcode::SetLkW, file, vec![0; 48]),
    ]
    .map(|(opcode, nodeid, body)| Sample {
        opcode,
        nodeid,
        body,
    })
    .into()
}

fn start() -> Result<(Rig, Known)> {
    let mut rig = Rig::start(&["--xattr"], |share| {
        for file in ["f", "gone", "old"] {
            fs::write(share.join(file), "text")?;
        }
        for value in ["user.a", "user.c"] {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(share.join("f"), value, b"value", flags)?;
        }
        Ok(fs::create_dir(share.join("gone-too"))?)
    })?;
    let file = rig.client.lookup(ROOT, "f")?.nodeid;
    let known = Known {
        file,
        handle: rig.client.open(file, libc::O_RDWR.cast_unsigned())?.handle,
        directory: rig.client.open_dir(ROOT)?.handle,
    };
    Ok((rig, known))
}

/// What the share holds: names, sizes and times of change.
fn listing(rig: &Rig) -> Result<Vec<(std::ffi::OsString, u64, std::time::SystemTime)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(rig.path(""))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        names.push((entry.file_name(), metadata.len(), metadata.modified()?));
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_request_cut_off_anywhere_is_refused_without_effect() -> Result<()> {
    let (mut rig, known) = start()?;
    let before = listing(&rig)?;
    for Sample {
        opcode,
        nodeid,
        body,
    } in samples(&known)
    {
        // These need no more than they are given.
        let optional = matches!(opcode, Opcode::SyncFs | Opcode::Interrupt);
        for len in 0..body.len() {
            let cut = body.get(..len).unwrap_or_default();
            // Honest about it, and with a header that tells the whole length.
            let honest = request(opcode.number(), nodeid, cut);
            let whole = u32::try_from(40 + body.len())?;
            let boasting = request_of_length(whole, opcode.number(), nodeid, cut);
            for (bytes, is_honest) in [(honest, true), (boasting, false)] {
                let reply = rig.exchange(&bytes, &[40], &[16, 4096])?;
                let errno = outcome(&reply)?;
                let fine = match errno {
                    libc::EINVAL | libc::ENOSYS => true,
                    0 => is_honest && optional,
                    _ => false,
                };
                ensure!(fine, "{opcode:?} cut to {len} of {}: {errno}", body.len());
            }
        }
    }
    ensure!(listing(&rig)? == before, "{:?}", listing(&rig)?);
    rig.survived()
}

#[test]
fn headers_that_lie_about_the_length() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, empty)?;
    let body = name("x");
    for len in [
        0,
        1,
        39,
        43,
        44,
        1 << 20,
        i32::MAX.cast_unsigned(),
        u32::MAX,
    ] {
        let bytes = request_of_length(len, Opcode::Lookup.number(), ROOT, &body);
        let errno = outcome(&rig.exchange(&bytes, &[], &[512])?)?;
        ensure!(errno == libc::EINVAL, "{len}: {errno}");
    }
    // What the chain holds beyond the request is no part of it.
    for extra in [1, 100, 100_000] {
        let mut bytes = request(Opcode::Lookup.number(), ROOT, &body);
        bytes.resize(bytes.len() + extra, b'/');
        ensure!(outcome(&rig.exchange(&bytes, &[40], &[512])?)? == libc::ENOENT);
    }
    for opcode in [0, 7, 19, 54, 99, 4096, u32::MAX] {
        let bytes = request(opcode, ROOT, &[0; 64]);
        ensure!(outcome(&rig.exchange(&bytes, &[40], &[512])?)? == libc::ENOSYS);
    }
    // Extensions that the header announces and nobody sent.
    let mut bytes = request(Opcode::Lookup.number(), ROOT, &body);
    if let Some(length) = bytes.get_mut(36..38) {
        length.fill(0xff);
    }
    ensure!(outcome(&rig.exchange(&bytes, &[40], &[512])?)? == libc::ENOENT);
    for len in 1..40 {
        ensure!(rig.exchange(&vec![0xff; len], &[], &[512])?.is_empty());
    }
    rig.survived()
}

/// Bytes of the sound reply to each sample at this room, or an error and no effect at all.
#[test]
fn what_cannot_be_answered_is_not_done() -> Result<()> {
    let (mut rig, known) = start()?;
    for Sample {
        opcode,
        nodeid,
        body,
    } in samples(&known)
    {
        let before = listing(&rig)?;
        let bytes = request(opcode.number(), nodeid, &body);
        let mut needed = None;
        for room in 0..400 {
            let reply = if room == 0 {
                rig.exchange(&bytes, &[40], &[])?
            } else {
                rig.exchange(&bytes, &[40], &[room])?
            };
            if room < 16 {
                ensure!(reply.is_empty(), "{opcode:?} in {room}: {reply:?}");
            } else if outcome(&reply)? == 0 {
                needed = Some(room);
                break;
            }
            ensure!(listing(&rig)? == before, "{opcode:?} in {room}");
        }
        let refused = matches!(
            opcode,
            Opcode::Interrupt | Opcode::Ioctl | Opcode::Poll | Opcode::SetLkW
        ) || matches!(opcode, Opcode::Release | Opcode::ReleaseDir); // of handle 0
        // The second rename finds its file moved by the first, and may not replace it.
        let moved = opcode == Opcode::Rename2;
        ensure!(
            needed.is_some() != (refused || moved),
            "{opcode:?} needs {needed:?}"
        );
    }
    rig.survived()
}

#[test]
fn buffers_of_any_shape() -> Result<()> {
    let (mut rig, known) = start()?;
    let write = WriteIn {
        handle: known.handle,
        size: 100,
        ..WriteIn::default()
    };
    let data: Vec<u8> = (0..100).collect();
    let bytes = request(
        Opcode::Write.number(),
        known.file,
        &[encode(&write), data.clone()].concat(),
    );
    let read = ReadIn {
        handle: known.handle,
        size: 100,
        ..ReadIn::default()
    };
    let ask = request(Opcode::Read.number(), known.file, &encode(&read));
    for size in [1, 2, 3, 7, 39, 41, 80, 179] {
        let pieces = vec![size; bytes.len() / size];
        ensure!(outcome(&rig.exchange(&bytes, &pieces, &[3, 5, 1, 7, 8])?)? == 0);
        ensure!(fs::read(rig.path("f"))? == data);
        let reply = rig.exchange(&ask, &pieces, &vec![size; 116_usize.div_ceil(size)])?;
        ensure!(outcome(&reply)? == 0 && reply.ends_with(&data), "{size}");
    }
    // Nothing to read at all, and nothing to write at all.
    ensure!(rig.exchange(&[], &[], &[4096])?.is_empty());
    ensure!(
        rig.exchange(&request(Opcode::MkDir.number(), ROOT, &[0; 10]), &[], &[])?
            .is_empty()
    );
    rig.survived()
}

#[test]
fn more_than_was_agreed_on_is_refused() -> Result<()> {
    let (mut rig, known) = start()?;
    // Many requests' worth of data in one: all descriptors lead to the same pages.
    let size = 2 << 20;
    let write = WriteIn {
        handle: known.handle,
        size,
        ..WriteIn::default()
    };
    let body = [encode(&write), vec![b'x'; size as usize]].concat();
    ensure!(refused(rig.client.call(Opcode::Write, known.file, &body))? == libc::EINVAL);
    ensure!(fs::read(rig.path("f"))? == b"text");
    rig.survived()
}
