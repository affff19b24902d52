//! Are users, groups, attributes, ACLs and labels of a share what they are on the file system beneath it, or what the operator
//! wants them to be, before and after a migration?
//!
//! Through the host kernel's own FUSE client, hence as root. virtiofsd 1.14 ends after the migration of a session with ACLs,
//! and labels nothing any more after one with labels.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::fs::XattrFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;
use tests::bridge::{Bridge, IdMapped};
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Client, ROOT, encode};
use tests::guest::Manner;
use vhost_device_fs::fuse::abi::{CreateIn, ExtensionHeader, Opcode, SecurityContextHeader, init};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// A share for everybody, and the kernel's FUSE client on top of a daemon with these options.
struct Mounted {
    bridge: Bridge,
    daemon: Daemon,
    options: Vec<String>,
    share: TempDir,
    _mountpoint: TempDir,
}

impl Mounted {
    fn new(options: &[&str]) -> Result<Self> {
        let share = for_everybody()?;
        let mountpoint = tempfile::tempdir()?;
        let daemon = daemon(share.path(), options)?;
        Ok(Self {
            bridge: Bridge::mount(daemon.connect()?, mountpoint.path())?,
            daemon,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            share,
            _mountpoint: mountpoint,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.bridge.mountpoint().join(name)
    }

    fn on_host(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    fn migrate(&mut self) -> Result<()> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let next = daemon(self.share.path(), &options)?;
        self.bridge
            .migrate_to(next.connect()?, Manner::QEMU)
            .with_context(|| format!("destination: {}", next.log().unwrap_or_default()))?;
        self.daemon = next;
        Ok(())
    }

    /// A daemon with these options refuses the state, names `option`, and the source goes on.
    fn is_refused(&mut self, options: &[&str], option: &str) -> Result<()> {
        let other = daemon(self.share.path(), options)?;
        let migrated = self.bridge.migrate_to(other.connect()?, Manner::QEMU);
        ensure!(migrated.is_err(), "{options:?}: it was accepted");
        let log = other.log()?;
        ensure!(log.contains(option), "{option} is not named: {log}");
        fs::metadata(self.bridge.mountpoint()).context("the source does not go on")?;
        Ok(())
    }
}

fn daemon(share: &Path, options: &[&str]) -> Result<Daemon> {
    let share = format!("--shared-dir={}", share.display());
    let options = [share.as_str()].into_iter().chain(options.iter().copied());
    Daemon::start("vhost-device-fs", options)
}

fn for_everybody() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

/// Does `work` as somebody else, who is also in `groups`.
fn as_user<T: Send>(
    (uid, gid, groups): (u32, u32, &[u32]),
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let somebody = || {
        let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        work()
    };
    thread::scope(|scope| scope.spawn(somebody).join().expect("it does not panic"))
}

fn shell(folder: &Path, script: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-e", "-c", script])
        .current_dir(folder)
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(
        path,
        name,
        value,
        XattrFlags::empty(),
    )?)
}

fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    names.truncate(length);
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<String> = names
        .map(|name| String::from_utf8_lossy(name).into())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// An ACL in which user 4321 may do what `user` says and everybody what `other` says (`linux/posix_acl_xattr.h`).
fn acl(user: u16, other: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in [
        (0x01_u16, 7_u16, nobody),
        (0x02, user, 4_321),
        (0x04, 0, nobody),
        (0x10, 7, nobody),
        (0x20, other, nobody),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What can be seen of everything below `folder`, a line each.
fn seen(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let acls = [ACCESS, DEFAULT].map(|name| get(&path, name).ok());
            let name = path.strip_prefix(folder)?.display();
            let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
            lines.push(format!("{name} {mode:o} {uid}:{gid} {acls:?}"));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Makes and changes files with ACLs, and tells what came of it. `between` runs every now and then.
fn story(folder: &Path, mut between: impl FnMut() -> Result<()>) -> Result<String> {
    let at = |name: &str| folder.join(name);
    let mut told = String::new();
    for directory in ["plain", "inherits"] {
        fs::create_dir(at(directory))?;
        fs::set_permissions(at(directory), fs::Permissions::from_mode(0o777))?;
    }
    set(&at("inherits"), DEFAULT, &acl(6, 4))?;
    for umask in ["022", "077", "000"] {
        for directory in ["plain", "inherits"] {
            let make = format!(
                "umask {umask}; cd {directory}; : > f{umask}; mkdir d{umask}; mkfifo p{umask}; ln -s t l{umask}"
            );
            shell(folder, &make)?;
        }
        between()?;
    }
    set(&at("plain/f077"), ACCESS, &acl(4, 0))?;
    between()?;
    for user in [4_321, 4_322] {
        let may_read = as_user((user, user, &[]), || fs::read(at("plain/f077"))).is_ok();
        let write = || fs::File::options().write(true).open(at("plain/f077"));
        let may_write = as_user((user, user, &[]), write).is_ok();
        writeln!(told, "{user}: {may_read} {may_write}")?;
    }
    // The owner is not in the file's group, so an ACL takes set-group-id away; as root it stays.
    for (name, owner) in [("taken", 4_321), ("stays", 0)] {
        fs::write(at(name), "")?;
        chown(at(name), Some(owner), Some(7_777))?;
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o2755))?;
        as_user((owner, owner, &[]), || set(&at(name), ACCESS, &acl(6, 0))).ok();
        between()?;
    }
    set(&at("stays"), ACCESS, &acl(6, 0))?;
    fs::set_permissions(at("plain/f077"), fs::Permissions::from_mode(0o640))?;
    rustix::fs::removexattr(at("inherits/d077"), DEFAULT)?;
    between()?;
    told.push_str(&seen(folder)?);
    Ok(told)
}

#[test]
fn acls_are_those_of_the_file_system_beneath() -> Result<()> {
    let bare = for_everybody()?;
    let expected = story(bare.path(), || Ok(()))?;
    ensure!(
        expected.contains("4321: true false"),
        "no ACLs here: {expected}"
    );
    let mut mounted = Mounted::new(&["--posix-acl"])?;
    let folder = mounted.bridge.mountpoint().to_owned();
    let told = story(&folder, || mounted.migrate())?;
    assert_eq!(told, expected);
    assert_eq!(seen(mounted.share.path())?, seen(bare.path())?);
    mounted.is_refused(&["--xattr"], "--posix-acl")?;
    mounted.bridge.unmount()?;
    Ok(())
}

#[test]
fn owners_are_whom_the_operator_says() -> Result<()> {
    let options = [
        "--translate-uid=map:1000:5000:10",
        "--translate-uid=forbid-guest:66:1",
        "--translate-gid=map:1000:6000:10",
    ];
    let mut mounted = Mounted::new(&options)?;
    let owner = |path: &Path| -> Result<(u32, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.uid(), metadata.gid()))
    };
    let team = mounted.on_host("team");
    fs::create_dir(&team)?;
    chown(&team, None, Some(6_007))?;
    fs::set_permissions(&team, fs::Permissions::from_mode(0o2770))?;
    let mut open = Vec::new();
    for round in 0..3 {
        let name = format!("file-{round}");
        let (inside, outside) = (mounted.at(&name), mounted.on_host(&name));
        let member = (1_001, 1_002, &[1_007][..]);
        open.push(as_user(member, || fs::File::create_new(&inside))?);
        assert_eq!(
            (owner(&inside)?, owner(&outside)?),
            ((1_001, 1_002), (5_001, 6_002))
        );
        // Through what was opened before the migrations, and by name.
        for file in &open {
            fchown(file, Some(1_003), None)?;
        }
        chown(&inside, None, Some(1_009))?;
        assert_eq!(
            (owner(&inside)?, owner(&outside)?),
            ((1_003, 1_009), (5_003, 6_009))
        );
        let forbidden = chown(&inside, Some(66), None).map_err(|error| error.raw_os_error());
        assert_eq!(forbidden, Err(Some(libc::EPERM)));
        let by_forbidden = as_user((66, 1_002, &[]), || fs::create_dir(mounted.at("never")));
        assert_eq!(by_forbidden.unwrap_err().raw_os_error(), Some(libc::EPERM));
        // A member by a supplementary group only: that one keeps set-group-id.
        let nested = format!("team/{round}");
        as_user(member, || fs::create_dir(mounted.at(&nested)))?;
        let made = fs::metadata(mounted.at(&nested))?;
        assert_eq!((made.gid(), made.mode() & 0o2000), (1_007, 0o2000));
        assert_eq!(owner(&mounted.on_host(&nested))?, (5_001, 6_007));
        mounted.migrate()?;
        assert_eq!(owner(&inside)?, (1_003, 1_009));
    }
    mounted.is_refused(&[], "--translate-uid")?;
    mounted.is_refused(&options[..2], "--translate-gid")?;
    drop(open);
    mounted.bridge.unmount()?;
    Ok(())
}

#[test]
fn attributes_are_called_what_the_operator_says() -> Result<()> {
    let options = ["--xattrmap=:map:trusted.:user.vm.:"];
    let mut mounted = Mounted::new(&options)?;
    let (inside, outside) = (mounted.at("file"), mounted.on_host("file"));
    fs::write(&inside, "")?;
    set(&outside, "trusted.host", b"nobody else's")?;
    let kept = fs::File::open(&inside)?;
    for round in ["trusted.0", "trusted.1", "trusted.2"] {
        set(&inside, round, round.as_bytes())?;
        assert_eq!(
            get(&outside, &format!("user.vm.{round}"))?,
            round.as_bytes()
        );
        mounted.migrate()?;
        assert_eq!(get(&inside, round)?, round.as_bytes());
    }
    assert_eq!(list(&inside)?, ["trusted.0", "trusted.1", "trusted.2"]);
    let direct = set(&inside, "user.vm.trusted.0", b"").unwrap_err();
    assert_eq!(direct.raw_os_error(), Some(libc::EPERM));
    // Without a name it is the state that carries them.
    fs::remove_file(&inside)?;
    mounted.migrate()?;
    let mut value = [0; 16];
    let length = rustix::fs::fgetxattr(&kept, "trusted.1", &mut value)?;
    assert_eq!(value.get(..length), Some(&b"trusted.1"[..]));
    mounted.is_refused(&["--xattr"], "--xattrmap")?;
    mounted.is_refused(&["--xattrmap=:map:trusted.:user.other.:"], "--xattrmap")?;
    drop(kept);
    mounted.bridge.unmount()?;
    Ok(())
}

#[test]
fn owners_are_others_in_an_idmapped_mount_of_the_guest() -> Result<()> {
    let mut mounted = Mounted::new(&[])?;
    let elsewhere = tempfile::tempdir()?;
    // The kernel lets nobody write into a directory of somebody who is not in the map.
    chown(mounted.bridge.mountpoint(), Some(1_000), Some(1_000))?;
    let map = (1_000, 2_000, 10);
    let idmapped = IdMapped::mount(mounted.bridge.mountpoint(), elsewhere.path(), map)?;
    let owner = |path: &Path| -> Result<(u32, u32)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.uid(), metadata.gid()))
    };
    for round in 0..2 {
        let name = format!("file-{round}");
        let mapped = elsewhere.path().join(&name);
        as_user((2_001, 2_002, &[]), || fs::write(&mapped, "text"))?;
        assert_eq!(owner(&mapped)?, (2_001, 2_002));
        chown(&mapped, Some(2_005), None)?;
        assert_eq!(owner(&mapped)?, (2_005, 2_002));
        assert_eq!(owner(&mounted.at(&name))?, (1_005, 1_002));
        assert_eq!(owner(&mounted.on_host(&name))?, (1_005, 1_002));
        assert_eq!(fs::read_to_string(&mapped)?, "text");
        mounted.migrate()?;
    }
    drop(idmapped);
    mounted.bridge.unmount()?;
    Ok(())
}

/// CREATE of `name` by a guest with a security module, whose label is `value`.
fn create_labelled(client: &mut Client, name: &str, value: &[u8]) -> Result<()> {
    let arguments = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: 0o644,
        umask: 0,
        open_flags: 0,
    };
    let context = SecurityContextHeader {
        size: u32::try_from(value.len())?,
        padding: 0,
    };
    let mut payload = [&encode(&context), &b"user.secctx\0"[..], value].concat();
    let extension = ExtensionHeader {
        size: u32::try_from(8 + payload.len())?,
        kind: 1,
    };
    payload.resize(payload.len().next_multiple_of(8), 0);
    let name = format!("{name}\0");
    let body = [
        &encode(&arguments),
        name.as_bytes(),
        &encode(&extension),
        &payload,
    ]
    .concat();
    client.call(Opcode::Create, ROOT, &body)?;
    Ok(())
}

#[test]
fn what_is_made_after_a_migration_is_labelled_as_before() -> Result<()> {
    let share = for_everybody()?;
    let options = ["--security-label"];
    let source = daemon(share.path(), &options)?;
    let mut client = Client::boot(source.connect()?)?;
    let refused = client.init(0).expect_err("this guest cannot label");
    assert_eq!(refused.errno(), Some(libc::EPROTO));
    let agreed = client.init(init::SECURITY_CTX)?;
    assert_eq!(
        u64::from(agreed.flags2) << 32 & init::SECURITY_CTX,
        init::SECURITY_CTX
    );
    create_labelled(&mut client, "before", b"one")?;
    let destination = daemon(share.path(), &options)?;
    client
        .machine()
        .migrate_to(destination.connect()?, Manner::QEMU)?;
    create_labelled(&mut client, "after", b"two")?;
    let label = |name: &str| get(&share.path().join(name), "user.secctx");
    assert_eq!(
        (label("before")?, label("after")?),
        (b"one".to_vec(), b"two".to_vec())
    );
    let without = daemon(share.path(), &["--xattr"])?;
    let refused = client
        .machine()
        .migrate_to(without.connect()?, Manner::QEMU);
    assert!(refused.is_err());
    let log = without.log()?;
    assert!(log.contains("--security-label"), "{log}");
    Ok(())
}
