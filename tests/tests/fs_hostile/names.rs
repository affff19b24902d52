//! Names that are none, links that lead out of the share, and a host that moves things while the guest looks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::fuse_client::{ROOT, encode};
use vhost_device_fs::fuse::abi::{
    CreateIn, LinkIn, MkDirIn, MkNodIn, Opcode, Rename2In, RenameIn, SetAttrIn, setattr,
};

use crate::rig::{DEFAULT, Question, Rig, SECRET, empty, name, refused};

const READ_WRITE: u32 = libc::O_RDWR.cast_unsigned();

/// Every request that has `bad` for a name somewhere; `file` is the nodeid of a file called `file`.
fn with_name(bad: &[u8], file: u64) -> Vec<Question> {
    let bad = name(bad);
    let create = encode(&CreateIn {
        flags: READ_WRITE,
        mode: libc::S_IFREG | 0o666,
        ..CreateIn::default()
    });
    let make_node = encode(&MkNodIn {
        mode: libc::S_IFREG | 0o666,
        ..MkNodIn::default()
    });
    let make_directory = encode(&MkDirIn {
        mode: 0o777,
        umask: 0,
    });
    let link = encode(&LinkIn { old_nodeid: file });
    let rename = encode(&RenameIn { new_parent: ROOT });
    let exchange = encode(&Rename2In {
        new_parent: ROOT,
        flags: libc::RENAME_EXCHANGE,
        padding: 0,
    });
    let good = name("file");
    let new = name("new");
    let bodies = [
        (Opcode::Lookup, vec![&bad]),
        (Opcode::Unlink, vec![&bad]),
        (Opcode::RmDir, vec![&bad]),
        (Opcode::Create, vec![&create, &bad]),
        (Opcode::MkNod, vec![&make_node, &bad]),
        (Opcode::MkDir, vec![&make_directory, &bad]),
        (Opcode::Symlink, vec![&bad, &good]),
        (Opcode::Link, vec![&link, &bad]),
        (Opcode::Rename, vec![&rename, &bad, &new]),
        (Opcode::Rename, vec![&rename, &good, &bad]),
        (Opcode::Rename2, vec![&exchange, &good, &bad]),
        (Opcode::Rename2, vec![&exchange, &bad, &good]),
    ];
    bodies
        .into_iter()
        .map(|(opcode, parts)| {
            let body = parts.into_iter().flatten().copied().collect();
            (opcode, ROOT, body)
        })
        .collect()
}

#[test]
fn names_that_are_paths_reach_nothing() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| Ok(fs::write(share.join("file"), "x")?))?;
    let file = rig.client.lookup(ROOT, "file")?.nodeid;
    let absolute = rig.outside("secret");
    let absolute_new = rig.outside("planted");
    let long = "x".repeat(256);
    let longer = "x/".repeat(40_000);
    let bad = [
        "",
        ".",
        "..",
        "/",
        "//",
        "/etc/passwd",
        "../outside/secret",
        "../outside/planted",
        "file/..",
        "./file",
        "file/",
        "a/b",
        absolute.to_str().unwrap(),
        absolute_new.to_str().unwrap(),
        &long,
        &longer,
    ];
    for bad in bad {
        for (opcode, nodeid, body) in with_name(bad.as_bytes(), file) {
            let errno = refused(rig.client.call(opcode, nodeid, &body))?;
            assert!(
                [libc::EINVAL, libc::ENAMETOOLONG].contains(&errno),
                "{opcode:?} {bad:.20}: {errno}"
            );
        }
    }
    // A NUL ends a name: what is behind it is another argument or nothing, never a part of the name.
    for (opcode, nodeid, body) in with_name(b"\0../outside/secret", file) {
        assert_eq!(
            refused(rig.client.call(opcode, nodeid, &body))?,
            libc::EINVAL
        );
    }
    assert_eq!(fs::read_dir(rig.path(""))?.count(), 1);
    assert_eq!(fs::read_to_string(rig.path("file"))?, "x");
    rig.survived()
}

#[test]
fn names_without_an_end_are_refused() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| Ok(fs::write(share.join("file"), "x")?))?;
    let file = rig.client.lookup(ROOT, "file")?.nodeid;
    for (opcode, nodeid, mut body) in with_name(b"other", file) {
        body.pop();
        assert_eq!(
            refused(rig.client.call(opcode, nodeid, &body))?,
            libc::EINVAL,
            "{opcode:?}"
        );
    }
    assert_eq!(fs::read_dir(rig.path(""))?.count(), 1);
    rig.survived()
}

/// All that a guest can do through a link `link` in the root to the folder or file outside; none may succeed there.
fn through_link(rig: &mut Rig, link: &str) -> Result<()> {
    let node = rig.client.lookup(ROOT, link)?;
    ensure!(node.attr.mode & libc::S_IFMT == libc::S_IFLNK, "{node:?}");
    let client = &mut rig.client;
    let mut errors = vec![
        refused(client.lookup(node.nodeid, "secret"))?,
        refused(client.lookup(node.nodeid, "f"))?,
        refused(client.open(node.nodeid, 0))?,
        refused(client.open(node.nodeid, READ_WRITE | libc::O_TRUNC.cast_unsigned()))?,
        refused(client.open_dir(node.nodeid))?,
        refused(client.create(node.nodeid, "planted", READ_WRITE, 0o666))?,
        refused(client.mk_dir(node.nodeid, "planted", 0o777))?,
        refused(client.unlink(node.nodeid, "secret"))?,
        refused(client.rename((node.nodeid, "secret"), (ROOT, "stolen"), 0))?,
        refused(client.symlink(node.nodeid, "planted", "x"))?,
        // The link's own name is taken: it is not followed, and nothing is made at its end.
        refused(client.create(ROOT, link, READ_WRITE, 0o666))?,
        refused(client.create(
            ROOT,
            link,
            READ_WRITE | libc::O_TRUNC.cast_unsigned(),
            0o666,
        ))?,
        refused(client.mk_dir(ROOT, link, 0o777))?,
    ];
    let size = SetAttrIn {
        valid: setattr::SIZE,
        ..SetAttrIn::default()
    };
    errors.push(refused(client.set_attr(node.nodeid, &size))?);
    // A link has no permissions, and no user attributes, of its own.
    let mode = SetAttrIn {
        valid: setattr::MODE,
        mode: 0o777,
        ..SetAttrIn::default()
    };
    errors.push(refused(client.set_attr(node.nodeid, &mode))?);
    errors.push(refused(client.set_xattr(
        node.nodeid,
        "user.planted",
        b"x",
    ))?);
    errors.push(refused(client.get_xattr(node.nodeid, "user.marked"))?);
    errors.push(refused(client.remove_xattr(node.nodeid, "user.marked"))?);
    ensure!(!errors.contains(&0), "{errors:?}");
    // These change the link.
    let owner = SetAttrIn {
        valid: setattr::UID | setattr::GID | setattr::MTIME,
        uid: 4321,
        gid: 4321,
        mtime: 1,
        ..SetAttrIn::default()
    };
    let changed = client.set_attr(node.nodeid, &owner)?;
    ensure!((changed.uid, changed.mtime) == (4321, 1), "{changed:?}");
    let hard = client.link(node.nodeid, ROOT, format!("{link}-too"))?;
    ensure!(hard.nodeid == node.nodeid, "{hard:?}");
    Ok(())
}

#[test]
fn links_that_lead_out_are_not_followed() -> Result<()> {
    let mut rig = Rig::start(&["--xattr"], empty)?;
    for file in ["secret", "d/f", "d"] {
        let path = rig.outside(file);
        rustix::fs::setxattr(&path, "user.marked", b"x", rustix::fs::XattrFlags::empty())?;
    }
    for (number, target) in ["secret", "d", ""].into_iter().enumerate() {
        let absolute = rig.outside(target);
        let relative = PathBuf::from("../outside").join(target);
        for (kind, target) in [("absolute", absolute), ("relative", relative)] {
            let by_guest = format!("guest-{kind}-{number}");
            let target = target.to_str().unwrap();
            rig.client.symlink(ROOT, &by_guest, target)?;
            through_link(&mut rig, &by_guest)?;
            let by_host = format!("host-{kind}-{number}");
            symlink(target, rig.path(&by_host))?;
            through_link(&mut rig, &by_host)?;
        }
    }
    // Nor those of /proc, which lead where no path does.
    for (number, target) in ["/proc/self/root", "/proc/self/fd/0"].iter().enumerate() {
        let link = format!("magic-{number}");
        rig.client.symlink(ROOT, &link, target)?;
        through_link(&mut rig, &link)?;
    }
    for file in ["secret", "d/f", "d"] {
        let path = rig.outside(file);
        rustix::fs::removexattr(&path, "user.marked")?;
    }
    rig.survived()
}

/// How long something that is there most of the time may not be found.
const PATIENCE: Duration = Duration::from_mins(1);

/// A thread of the host's that changes the share until this is dropped.
struct Host {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Host {
    fn changing(mut step: impl FnMut() -> Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                step()?;
            }
            Ok(())
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn join(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().expect("the host's thread"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() -> Result<()> {
    // With few descriptors, walks begin at the root again and again.
    let mut rig = Rig::start(&["--rlimit-nofile", "576", "--cache", "never"], |share| {
        fs::create_dir_all(share.join("d/e"))?;
        fs::write(share.join("d/f"), "public")?;
        fs::write(share.join("d/e/f"), "public")?;
        for number in 0..100 {
            fs::create_dir(share.join(format!("other-{number}")))?;
        }
        Ok(())
    })?;
    let (share, outside) = (rig.path(""), rig.outside(""));
    let host = Host::changing(move || {
        let at = |name: &str| share.join(name);
        fs::rename(at("d"), at("away"))?;
        symlink(&outside, at("d"))?;
        fs::remove_file(at("d"))?;
        // And one of the same name and shape, which is not the one that the guest knows.
        symlink(outside.join("d"), at("d"))?;
        fs::remove_file(at("d"))?;
        fs::rename(at("away"), at("d"))?;
        // Otherwise the guest would hardly ever find it in its place on a busy machine.
        std::thread::sleep(Duration::from_micros(50));
        Ok(())
    });
    let others = (0..100)
        .map(|number| Ok(rig.client.lookup(ROOT, format!("other-{number}"))?.nodeid))
        .collect::<Result<Vec<_>>>()?;
    let client = &mut rig.client;
    let mut served = 0;
    let began = Instant::now();
    for round in 0.. {
        if round >= 600 && (served > 0 || began.elapsed() > PATIENCE) {
            break;
        }
        let Ok(folder) = client.lookup(ROOT, "d") else {
            continue;
        };
        // Pushes the folder's descriptor out.
        for other in others.iter().skip(round % 60).take(40) {
            client.stat_fs(*other)?;
        }
        for name in ["f", "secret", "d"] {
            let Ok(found) = client.lookup(folder.nodeid, name) else {
                continue;
            };
            ensure!(name == "f", "{name} was found");
            served += 1;
            if let Ok(open) = client.open(found.nodeid, READ_WRITE) {
                let text = client.read(found.nodeid, open.handle, 0, 100)?;
                ensure!(text == b"public", "{text:?}");
                client.write(found.nodeid, open.handle, 0, b"public")?;
                client.release(found.nodeid, open.handle)?;
            }
            client.forget(found.nodeid, 1)?;
        }
        // What the guest makes and removes is in the share, whichever way it went.
        if client.mk_dir(folder.nodeid, "planted", 0o755).is_ok() {
            let _moved_on = client.rm_dir(folder.nodeid, "planted");
        }
        if let Ok((made, open)) = client.create(folder.nodeid, "new", READ_WRITE, 0o600) {
            client.release(made.nodeid, open.handle)?;
            let _moved_on = client.unlink(folder.nodeid, "new");
        }
        let _moved_on = client.unlink(folder.nodeid, "secret");
        client.forget(folder.nodeid, 1)?;
    }
    host.join()?;
    ensure!(served > 0, "nothing was ever found");
    ensure!(fs::read_to_string(rig.outside("secret"))? == SECRET);
    rig.survived()
}
