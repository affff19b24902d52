//! Is our file system daemon, with this host's kernel as its guest, a file system?

use std::fs;

use anyhow::Result;
use tests::bridge::Bridge;
use tests::daemon_runner::Daemon;

/// A daemon that shares `folder`.
fn daemon(folder: &std::path::Path) -> Result<Daemon> {
    let folder = folder
        .to_str()
        .expect("a temporary folder has a plain name");
    Daemon::start("vhost-device-fs", ["--shared-dir", folder])
}

#[test]
fn files_are_those_of_the_shared_folder() -> Result<()> {
    let (share, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(share.path().join("before"), "text")?;
    let mut daemon = daemon(share.path())?;
    let bridge = Bridge::mount(daemon.connect()?, mountpoint.path())?;
    let at = |name: &str| mountpoint.path().join(name);

    assert_eq!(fs::read_to_string(at("before"))?, "text");
    let data = vec![7; 5_000_000];
    fs::write(at("data"), &data)?;
    assert!(fs::read(share.path().join("data"))? == data);
    assert!(fs::read(at("data"))? == data);
    fs::create_dir_all(at("a/b/c"))?;
    fs::rename(at("data"), at("a/b/c/data"))?;
    fs::hard_link(at("a/b/c/data"), at("link"))?;
    std::os::unix::fs::symlink("a/b", at("symlink"))?;
    assert!(fs::read(at("symlink/c/data"))? == data);
    for number in 0..300 {
        fs::write(at(&format!("a/{number}")), number.to_string())?;
    }
    assert_eq!(fs::read_dir(at("a"))?.count(), 301);
    fs::remove_dir_all(at("a"))?;
    assert!(!share.path().join("a").exists());
    fs::remove_file(at("link"))?;

    let traffic = bridge.unmount()?;
    assert!(traffic.answered > 300, "{traffic:?}");
    assert!(daemon.wait()?.success());
    Ok(())
}
