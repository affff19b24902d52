//! Files that must not be opened, flags that must not arrive, and data that a guest must not have.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use anyhow::{Context, Result, ensure};
use tests::fuse_client::ROOT;
use vhost_device_fs::fuse::abi::{SetAttrIn, setattr};

use crate::rig::{DEFAULT, Rig, empty, refused};

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

/// Everything of an open request that is not the access mode.
const FLAGS: [i32; 14] = [
    libc::O_APPEND,
    libc::O_ASYNC,
    libc::O_CREAT,
    libc::O_DIRECT,
    libc::O_DIRECTORY,
    libc::O_DSYNC,
    libc::O_EXCL,
    libc::O_NOATIME,
    libc::O_NOCTTY,
    libc::O_NOFOLLOW,
    libc::O_NONBLOCK,
    libc::O_PATH,
    libc::O_TMPFILE,
    libc::O_TRUNC,
];

#[test]
fn special_files_are_never_opened() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, empty)?;
    let client = &mut rig.client;
    let null = (1 << 8) | 3;
    let full = (1 << 8) | 7;
    for (name, mode, device) in [
        ("fifo", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
        ("null", libc::S_IFCHR, null),
        ("full", libc::S_IFCHR, full),
        ("disk", libc::S_IFBLK, 7 << 8),
    ] {
        let made = client.mk_nod(ROOT, name, mode | 0o666, device);
        let node = match made {
            Ok(entry) => entry.nodeid,
            // Device nodes need a privilege.
            Err(error) if error.errno() == Some(libc::EPERM) => continue,
            Err(error) => return Err(error.into()),
        };
        // A FIFO would block an open for reading until somebody writes, and the other way round.
        for access in [0, 1, 2] {
            for flag in FLAGS.into_iter().chain([0]) {
                let flags = access | flag.cast_unsigned();
                let errno = refused(client.open(node, flags))?;
                ensure!(errno == libc::ENXIO, "{name} with {flags:#o}: {errno}");
                // It exists already.
                let errno = refused(client.create(ROOT, name, flags, 0o666))?;
                ensure!(
                    [libc::ENXIO, libc::EEXIST, libc::EINVAL].contains(&errno),
                    "CREATE {name} with {flags:#o}: {errno}"
                );
            }
        }
        ensure!(refused(client.open_dir(node))? == libc::ENOTDIR);
        let size = SetAttrIn {
            valid: setattr::SIZE,
            size: 10,
            ..SetAttrIn::default()
        };
        ensure!(
            refused(client.set_attr(node, &size))? == libc::EINVAL,
            "{name}"
        );
        let mode = SetAttrIn {
            valid: setattr::MODE | setattr::MTIME_NOW,
            mode: 0o600,
            ..SetAttrIn::default()
        };
        ensure!(client.set_attr(node, &mode)?.mode & 0o777 == 0o600);
        // A parent that is no folder.
        ensure!(refused(client.lookup(node, "x"))? == libc::ENOTDIR);
        ensure!(refused(client.mk_dir(node, "x", 0o755))? == libc::ENOTDIR);
        ensure!(refused(client.create(node, "x", READ_WRITE, 0o600))? == libc::ENOTDIR);
    }
    ensure!(
        fs::symlink_metadata(rig.path("fifo"))?
            .file_type()
            .is_fifo()
    );
    rig.survived()
}

#[test]
fn types_that_nothing_has_are_not_made() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, empty)?;
    for kind in 0..16 {
        let mode = kind << 12 | 0o644;
        let sound = [0, 1, 2, 6, 8, 12].contains(&kind);
        let made = rig
            .client
            .mk_nod(ROOT, format!("node-{kind}"), mode, 0x0103);
        match made {
            Ok(entry) => ensure!(sound, "{kind}: {entry:?}"),
            Err(error) => ensure!(
                matches!(error.errno(), Some(libc::EINVAL | libc::EPERM)),
                "{kind}: {error}"
            ),
        }
    }
    rig.survived()
}

#[test]
fn flags_of_an_open_do_only_what_they_may() -> Result<()> {
    let mut rig = Rig::start(&["--cache", "never"], |share| {
        fs::write(share.join("f"), "text")?;
        Ok(fs::create_dir(share.join("d"))?)
    })?;
    let file = rig.client.lookup(ROOT, "f")?.nodeid;
    let folder = rig.client.lookup(ROOT, "d")?.nodeid;
    let combinations = 1_u32 << FLAGS.len();
    // All of them, in steps that visit every pair of flags.
    for combination in (0..combinations).step_by(7) {
        let mut flags = combination % 4;
        for (bit, flag) in FLAGS.iter().enumerate() {
            if combination & (1 << bit) != 0 {
                flags |= flag.cast_unsigned();
            }
        }
        let client = &mut rig.client;
        let truncated = flags & libc::O_TRUNC.cast_unsigned() != 0;
        match client.open(file, flags) {
            Ok(open) => {
                let fdinfo = opened(rig.daemon.id().as_raw_nonzero().get(), "f")?;
                let client = &mut rig.client;
                let never = libc::O_APPEND | libc::O_ASYNC | libc::O_PATH | libc::O_DIRECT;
                ensure!(
                    fdinfo & never.cast_unsigned() == 0,
                    "{flags:#o} became {fdinfo:#o}"
                );
                ensure!(flags & 3 != 3, "{flags:#o} has no access mode");
                client.release(file, open.handle)?;
            }
            Err(error) => ensure!(
                error.errno() == Some(libc::EINVAL) && flags & 3 == 3,
                "{flags:#o}: {error}"
            ),
        }
        let text = if truncated && flags & 3 != 3 {
            ""
        } else {
            "text"
        };
        ensure!(fs::read_to_string(rig.path("f"))? == text, "{flags:#o}");
        fs::write(rig.path("f"), "text")?;
        let client = &mut rig.client;
        if let Ok(open) = client.open(folder, flags) {
            anyhow::bail!("a folder opened as a file with {flags:#o}: {open:?}");
        }
    }
    ensure!(fs::read_dir(rig.path("d"))?.count() == 0);
    ensure!(fs::read_dir(rig.path(""))?.count() == 2);
    rig.survived()
}

/// The flags with which the process has a file called `name` open for I/O. In a sandbox the path is another one.
fn opened(process: i32, name: &str) -> Result<u32> {
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        if fs::read_link(entry.path())
            .is_ok_and(|target| target.file_name().is_some_and(|last| last == name))
        {
            let number = entry.file_name();
            let info = format!("/proc/{process}/fdinfo/{}", number.to_string_lossy());
            let info = fs::read_to_string(info)?;
            let flags = info
                .lines()
                .find_map(|line| line.strip_prefix("flags:"))
                .context("descriptors have flags")?;
            let flags = u32::from_str_radix(flags.trim(), 8)?;
            if flags & libc::O_PATH.cast_unsigned() == 0 {
                return Ok(flags);
            }
        }
    }
    anyhow::bail!("{name} is not open")
}

#[test]
fn lists_that_only_the_host_would_heed_are_not_set() -> Result<()> {
    let mut rig = Rig::start(&["--xattr", "--security-label"], |share| {
        Ok(fs::write(share.join("f"), "x")?)
    })?;
    let file = rig.client.lookup(ROOT, "f")?.nodeid;
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        let errno = refused(rig.client.set_xattr(file, list, &[2, 0, 0, 0]))?;
        ensure!(errno == libc::EOPNOTSUPP);
        // Nor by way of the label that comes with a new file.
        let made = crate::rig::labelled(&mut rig, "labelled", list, &[2, 0, 0, 0])?;
        ensure!(made == libc::EOPNOTSUPP, "{list}: {made}");
        ensure!(!rig.path("labelled").exists());
    }
    for name in ["", "a\0b"] {
        let made = crate::rig::labelled(&mut rig, "labelled", name, b"x")?;
        ensure!(made != 0, "{name:?}");
        ensure!(!rig.path("labelled").exists());
    }
    rig.survived()
}
