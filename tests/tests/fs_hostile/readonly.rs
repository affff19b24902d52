//! A share that the operator wants unchanged, and a guest that wants to change it.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::fuse_client::{ROOT, encode};
use vhost_device_fs::fuse::abi::{
    CopyFileRangeIn, CreateIn, FallocateIn, Opcode, OpenIn, SetAttrIn, setattr,
};

use crate::rig::{Rig, name, refused};

fn prepare(share: &Path) -> Result<()> {
    fs::write(share.join("f"), "text")?;
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(share.join("f"), "user.a", b"value", flags)?;
    fs::create_dir(share.join("d"))?;
    Ok(fs::write(share.join("d/g"), "text")?)
}

#[test]
fn nothing_changes_a_read_only_share() -> Result<()> {
    let mut rig = Rig::start(&["--readonly", "--xattr", "--writeback"], prepare)?;
    let before = state(&rig)?;
    let client = &mut rig.client;
    let file = client.lookup(ROOT, "f")?.nodeid;
    let read_only = |errno: i32| {
        ensure!(errno == libc::EROFS, "error number {errno}");
        Ok(())
    };
    let truncate = libc::O_TRUNC.cast_unsigned();
    for flags in [1, 2, truncate, truncate | 1, truncate | 2] {
        read_only(refused(client.open(file, flags))?)?;
        let body = encode(&OpenIn {
            flags,
            open_flags: u32::MAX,
        });
        read_only(refused(client.call(Opcode::Open, file, &body))?)?;
    }
    for flags in [0, 1, 2, truncate, libc::O_EXCL.cast_unsigned()] {
        for file in ["f", "new"] {
            read_only(refused(client.create(ROOT, file, flags, 0o600))?)?;
        }
        let create = CreateIn {
            flags,
            mode: 0o600,
            ..CreateIn::default()
        };
        let body = [encode(&create), name("x")].concat();
        read_only(refused(client.call(Opcode::TmpFile, ROOT, &body))?)?;
    }
    read_only(refused(client.mk_dir(ROOT, "new", 0o755))?)?;
    read_only(refused(client.mk_nod(ROOT, "new", libc::S_IFIFO, 0))?)?;
    read_only(refused(client.symlink(ROOT, "new", "x"))?)?;
    read_only(refused(client.link(file, ROOT, "new"))?)?;
    read_only(refused(client.unlink(ROOT, "f"))?)?;
    read_only(refused(client.rm_dir(ROOT, "d"))?)?;
    for flags in [0, 1, 2, 4] {
        read_only(refused(client.rename((ROOT, "f"), (ROOT, "d"), flags))?)?;
    }
    read_only(refused(client.set_xattr(file, "user.b", b"x"))?)?;
    read_only(refused(client.remove_xattr(file, "user.a"))?)?;
    read_only(refused(client.access(file, 2))?)?;
    let handle = client.open(file, 0)?.handle;
    for valid in 0..1 << 12 {
        let change = SetAttrIn {
            valid,
            handle,
            mode: 0o777,
            ..SetAttrIn::default()
        };
        read_only(refused(client.set_attr(file, &change))?)?;
    }
    let change = SetAttrIn {
        valid: setattr::HANDLE | setattr::SIZE,
        handle,
        ..SetAttrIn::default()
    };
    read_only(refused(client.set_attr(file, &change))?)?;
    // Through a handle that is open, although it cannot be open for writing.
    ensure!(refused(client.write(file, handle, 0, b"x"))? == libc::EBADF);
    let allocate = FallocateIn {
        handle,
        length: 1,
        ..FallocateIn::default()
    };
    ensure!(refused(client.fallocate(file, &allocate))? == libc::EBADF);
    let copy = CopyFileRangeIn {
        handle_in: handle,
        handle_out: handle,
        nodeid_out: file,
        offset_out: 100,
        len: 4,
        ..CopyFileRangeIn::default()
    };
    ensure!(refused(client.copy_file_range(file, &copy))? == libc::EBADF);
    ensure!(client.read(file, handle, 0, 100)? == b"text");
    ensure!(client.get_xattr(file, "user.a")? == b"value");
    ensure!(state(&rig)? == before);
    rig.survived()
}

/// What can be seen of the share: names, contents, modes and times of change.
fn state(rig: &Rig) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in ["", "f", "d", "d/g"] {
        let metadata = fs::symlink_metadata(rig.path(name))?;
        lines.push(format!(
            "{name} {:?} {:?} {}",
            metadata.permissions(),
            metadata.modified()?,
            metadata.len()
        ));
        if metadata.is_dir() {
            lines.push(fs::read_dir(rig.path(name))?.count().to_string());
        }
    }
    lines.push(fs::read_to_string(rig.path("f"))?);
    Ok(lines)
}
