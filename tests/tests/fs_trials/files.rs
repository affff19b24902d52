//! Open files: their flags on the host, and those that have no name any more.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};
use tests::fuse_client::ROOT;

use super::rig::{Device, Maker};
use super::{Peer, judge};

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

/// With writeback the guest's kernel knows where the end is: the host's file must not append by itself.
fn appending_file(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    let mut device = Device::boot(maker, share.path(), &["--writeback"])?;
    let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_APPEND).cast_unsigned();
    let (entry, open) = device.client.create(ROOT, "file", flags, 0o644)?;
    device.write_back(entry.nodeid, open.handle, 0, b"AAAAAAAA")?;
    device.write_back(entry.nodeid, open.handle, 0, b"BBBB")?;
    device.migrate()?;
    device.write_back(entry.nodeid, open.handle, 0, b"CCCC")?;
    let content = fs::read_to_string(share.path().join("file"))?;
    ensure!(content == "CCCCAAAA", "the file has {content:?}");
    Ok(())
}

#[test]
fn t2_a_file_that_the_guest_appends_to_is_written_where_the_guest_says() -> Result<()> {
    judge(Peer::Fails("BBBBAAAACCCC"), appending_file)
}

/// With writeback the guest's kernel reads around what it writes.
fn file_opened_for_writing(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join("file"), "hello")?;
    let mut device = Device::boot(maker, share.path(), &["--writeback"])?;
    let nodeid = device.client.lookup(ROOT, "file")?.nodeid;
    let handle = device
        .client
        .open(nodeid, libc::O_WRONLY.cast_unsigned())?
        .handle;
    ensure!(device.client.read(nodeid, handle, 0, 5)? == b"hello");
    device.migrate()?;
    ensure!(device.client.read(nodeid, handle, 0, 5)? == b"hello");
    Ok(())
}

#[test]
fn t3_a_file_opened_for_writing_is_read_around_what_is_written() -> Result<()> {
    judge(
        Peer::Fails("Read failed with error number 9"),
        file_opened_for_writing,
    )
}

/// `O_DIRECT` is the guest's wish, and was not granted.
fn direct_file(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join("file"), [7; 8192])?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let nodeid = device.client.lookup(ROOT, "file")?.nodeid;
    let handle = device
        .client
        .open(nodeid, libc::O_DIRECT.cast_unsigned())?
        .handle;
    ensure!(device.client.read(nodeid, handle, 3, 100)? == [7; 100]);
    device.migrate()?;
    ensure!(device.client.read(nodeid, handle, 3, 100)? == [7; 100]);
    Ok(())
}

#[test]
fn t4_what_was_not_granted_at_open_is_not_granted_afterwards() -> Result<()> {
    judge(Peer::Fails("Read failed with error number 22"), direct_file)
}

/// The file lives as long as it is open.
fn deleted_file(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join("file"), "hello")?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let nodeid = device.client.lookup(ROOT, "file")?.nodeid;
    let handle = device.client.open(nodeid, READ_WRITE)?.handle;
    device.client.unlink(ROOT, "file")?;
    for number in 0..2 {
        let content = device.client.read(nodeid, handle, 0, 100)?;
        ensure!(
            content.starts_with(b"hello") && content.len() == 5 + number,
            "{content:?}"
        );
        device
            .client
            .write(nodeid, handle, 5 + number as u64, b"!")?;
        device.migrate()?;
    }
    ensure!(device.client.read(nodeid, handle, 0, 100)? == b"hello!!");
    ensure!(
        fs::read_dir(share.path())?.count() == 0,
        "something is left on the share"
    );
    Ok(())
}

#[test]
fn t6_a_deleted_file_that_is_open_moves() -> Result<()> {
    judge(Peer::Fails("has lost inode"), deleted_file)
}

/// Another file under the same name is not the same file.
fn replaced_file(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    let path = share.path().join("file");
    fs::write(&path, "hello")?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let nodeid = device.client.lookup(ROOT, "file")?.nodeid;
    let mode = device.client.get_attr(nodeid, None)?.mode;
    device.migrate_with(|| {
        fs::rename(&path, share.path().join("away"))?;
        Ok(fs::create_dir(&path)?)
    })?;
    // The device lives, and never passes the folder off as the file.
    match device.client.get_attr(nodeid, None) {
        Ok(attributes) => ensure!(
            attributes.mode == mode,
            "a file has become {:#o}",
            attributes.mode
        ),
        Err(error) => ensure!(error.errno() == Some(libc::ESTALE), "{error}"),
    }
    ensure!(device.client.lookup(ROOT, "file")?.nodeid != nodeid);
    Ok(())
}

#[test]
fn t7_another_file_of_the_same_name_is_not_passed_off_as_the_first() -> Result<()> {
    judge(Peer::Fails("a file has become"), replaced_file)
}

/// What the guest wrote is on the file when the other host reads it, also if both write in turns.
fn written_file(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let flags = READ_WRITE | libc::O_CREAT.cast_unsigned();
    let (entry, open) = device.client.create(ROOT, "file", flags, 0o644)?;
    for number in 0..20_u8 {
        device
            .client
            .write(entry.nodeid, open.handle, number.into(), &[number])?;
        device.migrate()?;
    }
    let mut content = [0; 20];
    fs::File::open(share.path().join("file"))?.read_exact_at(&mut content, 0)?;
    ensure!(content.iter().copied().eq(0..20), "{content:?}");
    Ok(())
}

#[test]
fn an_open_file_moves_twenty_times() -> Result<()> {
    judge(Peer::Passes, written_file)
}
