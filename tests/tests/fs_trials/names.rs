//! Finding again what the guest knows: by names that are no text, without the host's help, at a cost that is that of the guest's files and
//! not of the share.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use tests::fuse_client::ROOT;

use super::rig::{Device, Maker, folder_in_memory, forget_files_on_host};
use super::{Peer, judge};

/// Latin-1.
const NO_UTF8: &[u8] = b"caf\xe9.txt";

fn share_with_foreign_name() -> Result<tempfile::TempDir> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join(OsStr::from_bytes(NO_UTF8)), "")?;
    Ok(share)
}

fn foreign_name(maker: Maker) -> Result<()> {
    let share = share_with_foreign_name()?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let nodeid = device.client.lookup(ROOT, NO_UTF8)?.nodeid;
    device.migrate()?;
    device.client.get_attr(nodeid, None)?;
    Ok(())
}

#[test]
fn t5_a_name_that_is_no_text_moves() -> Result<()> {
    judge(Peer::Fails("has lost inode"), foreign_name)
}

fn foreign_name_after_cancelled_migration(maker: Maker) -> Result<()> {
    let share = share_with_foreign_name()?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    device.begin_to_migrate()?;
    device.wait_idle()?;
    device.cancel()?;
    device.client.lookup(ROOT, NO_UTF8)?;
    Ok(())
}

#[test]
fn t5_a_name_that_is_no_text_is_found_after_a_cancelled_migration() -> Result<()> {
    judge(
        Peer::Fails("Lookup failed with error number 5"),
        foreign_name_after_cancelled_migration,
    )
}

/// How many files the share of the next trial has besides those that the guest looks at.
const STRANGERS: u32 = 200;

/// The guest knows a file by a name that somebody has removed on the host; it has another one elsewhere.
fn removed_name(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    for folder in ["known", "other"] {
        fs::create_dir(share.path().join(folder))?;
    }
    for number in 0..STRANGERS {
        fs::create_dir(share.path().join(format!("stranger{number}")))?;
    }
    let (first, second) = (share.path().join("known/x"), share.path().join("other/y"));
    fs::write(&first, "")?;
    fs::hard_link(&first, &second)?;
    let options = ["--inode-file-handles=never"];
    let mut device = Device::boot(maker, share.path(), &options)?;
    let known = device.client.lookup(ROOT, "known")?.nodeid;
    device.client.lookup(known, "x")?;
    fs::remove_file(first)?;
    forget_files_on_host()?;
    // A folder that is read gets a new time of access if its last one is older than its modification.
    let strangers = || (0..STRANGERS).map(|number| share.path().join(format!("stranger{number}")));
    let times = |path: &Path| fs::metadata(path)?.accessed();
    for path in strangers() {
        let old = fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
        fs::File::open(path)?.set_times(old)?;
    }
    device.begin_to_migrate()?;
    device.wait_idle()?;
    device.migrate()?;
    device.client.get_attr(known, None)?;
    let mut walked = 0;
    for path in strangers() {
        walked += u32::from(times(&path)? != SystemTime::UNIX_EPOCH);
    }
    ensure!(
        walked == 0,
        "{walked} folders were read that the guest does not know"
    );
    Ok(())
}

#[test]
fn t13_the_share_is_not_searched_for_a_file_whose_name_was_removed() -> Result<()> {
    judge(Peer::Fails("folders were read"), removed_name)
}

/// The host has forgotten how the file is called; the guest has not.
fn forgotten_dentry(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::create_dir(share.path().join("sub"))?;
    fs::write(share.path().join("sub/f"), "")?;
    let mut device = Device::boot(maker, share.path(), &[])?;
    let sub = device.client.lookup(ROOT, "sub")?.nodeid;
    let file = device.client.lookup(sub, "f")?.nodeid;
    forget_files_on_host()?;
    device.client.get_attr(file, None)?;
    device.migrate()?;
    device.client.get_attr(file, None)?;
    device.client.lookup(sub, "f")?;
    Ok(())
}

#[test]
fn t14_what_the_host_has_forgotten_moves() -> Result<()> {
    judge(Peer::Fails("loading"), forgotten_dentry)
}

const ENTRIES: usize = 3000;

/// A folder that was read in part before, and is read on where directories are kept in another order.
fn half_read_folder(maker: Maker) -> Result<()> {
    let (first, second) = (tempfile::tempdir()?, folder_in_memory()?);
    for number in 0..ENTRIES {
        for share in [&first, &second] {
            fs::write(share.path().join(format!("name{number}")), "")?;
        }
    }
    let mut device = Device::boot(maker, first.path(), &[])?;
    let handle = device.client.open_dir(ROOT)?.handle;
    let (mut names, mut offset) = (Vec::new(), 0);
    for batch in 0.. {
        if batch == 10 {
            device.migrate_to_share(second.path())?;
        }
        let entries = device.client.read_dir(ROOT, handle, offset, 4096)?;
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        names.extend(entries.into_iter().map(|entry| entry.name));
    }
    let count = names.len();
    names.sort();
    names.dedup();
    let twice = count - names.len();
    let missing = (ENTRIES + 2)
        .checked_sub(names.len())
        .context("too many names")?;
    ensure!(
        twice == 0 && missing == 0,
        "{twice} names came twice, {missing} never"
    );
    Ok(())
}

#[test]
fn t12_a_folder_that_is_half_read_gives_each_name_once() -> Result<()> {
    judge(Peer::Fails("names came twice"), half_read_folder)
}
