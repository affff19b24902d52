//! What the kernel's FUSE client is offered beyond plain files: does it take it, and does it survive a migration?

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Result;
use tests::mounted_share::Share;

fn temporary_file(folder: &Path) -> Result<fs::File> {
    Ok(fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(folder)?)
}

/// What a program does with a file that it made without a name (open(2), "`O_TMPFILE`").
fn give_name(file: &fs::File, path: &Path) -> Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd as _;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[test]
fn a_file_made_without_a_name_migrates_and_gets_a_name_before_or_after() -> Result<()> {
    let mut rig = Share::new(&[])?;
    fs::create_dir(rig.at("folder"))?;
    let mut later = temporary_file(&rig.at("folder"))?;
    later.write_all(b"written before, ")?;
    let mut now = temporary_file(&rig.at("folder"))?;
    now.write_all(b"named before, ")?;
    give_name(&now, &rig.at("folder/now"))?;
    assert_eq!(fs::read_dir(rig.on_host("folder"))?.count(), 1);

    rig.migrate()?;
    later.write_all(b"and after")?;
    now.write_all(b"and after")?;
    give_name(&later, &rig.at("folder/later"))?;
    for (name, text) in [
        ("folder/later", "written before, and after"),
        ("folder/now", "named before, and after"),
    ] {
        assert_eq!(fs::read_to_string(rig.on_host(name))?, text);
        assert_eq!(fs::read_to_string(rig.at(name))?, text);
        assert_eq!(fs::metadata(rig.at(name))?.nlink(), 1);
    }

    // They are files like others now.
    rig.migrate()?;
    let mut content = vec![0; 7];
    later.read_exact_at(&mut content, 0)?;
    assert_eq!(content, b"written");
    fs::rename(rig.at("folder/later"), rig.at("renamed"))?;
    fs::remove_file(rig.at("folder/now"))?;
    now.read_exact_at(&mut content, 0)?;
    assert_eq!(content, b"named b");
    drop((later, now));
    assert_eq!(fs::read_dir(rig.on_host("folder"))?.count(), 0);
    rig.bridge.unmount()?;
    Ok(())
}

#[test]
fn the_time_of_birth_is_the_hosts() -> Result<()> {
    let mut rig = Share::new(&[])?;
    fs::write(rig.on_host("file"), "text")?;
    let born = fs::metadata(rig.on_host("file"))?.created()?;
    assert_eq!(fs::metadata(rig.at("file"))?.created()?, born);
    rig.migrate()?;
    assert_eq!(fs::metadata(rig.at("file"))?.created()?, born);
    rig.bridge.unmount()?;
    Ok(())
}

#[test]
fn that_there_is_nothing_is_remembered_for_as_long_as_the_operator_says() -> Result<()> {
    for (options, remembers) in [
        (&["--negative-timeout=3600"][..], true),
        (&["--cache=always"], true),
        (&["--cache=always", "--negative-timeout=0"], false),
        (&[], false),
    ] {
        let rig = Share::new(options)?;
        assert!(!rig.at("file").exists());
        fs::write(rig.on_host("file"), "")?;
        assert_eq!(rig.at("file").exists(), !remembers, "{options:?}");
        // What the guest makes itself it sees.
        assert!(!rig.at("own").exists());
        fs::write(rig.at("own"), "")?;
        assert!(rig.at("own").exists());
        rig.bridge.unmount()?;
    }
    Ok(())
}

#[test]
fn links_are_read_once_and_closing_asks_nothing() -> Result<()> {
    // Entries and attributes are trusted for a day, so that what is counted is what is meant.
    let mut rig = Share::new(&["--cache=metadata"])?;
    std::os::unix::fs::symlink("target", rig.on_host("link"))?;
    fs::write(rig.on_host("file"), "text")?;
    fs::metadata(rig.at("file"))?;
    let read_link = |rig: &Share| -> Result<()> {
        assert_eq!(fs::read_link(rig.at("link"))?, Path::new("target"));
        Ok(())
    };
    assert_eq!(rig.requests(read_link)?, 2, "LOOKUP, READLINK");
    assert_eq!(rig.requests(read_link)?, 0);
    rig.migrate()?;
    assert_eq!(rig.requests(read_link)?, 0);
    let opened = rig.requests(|rig| {
        for _ in 0..50 {
            drop(fs::File::open(rig.at("file"))?);
        }
        Ok(())
    })?;
    // The last RELEASE is not waited for.
    assert!((50..=100).contains(&opened), "OPEN, RELEASE: {opened}");
    rig.bridge.unmount()?;
    Ok(())
}
