//! Who is who, what attributes are called, and what ACLs do to what is made.

use super::*;
use crate::fuse::abi::init;
use crate::translation::{Translation, Translations};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const ACLS: u64 = init::POSIX_ACL | init::DONT_MASK | init::SETXATTR_EXT;

fn mapped(rules: &str) -> Share {
    Share::with(|config| {
        config.xattr = true;
        config.xattr_map = Some(rules.parse().unwrap());
    })
}

/// A share whose guest heeds ACLs.
fn with_acls() -> Share {
    let share = Share::with(|config| config.xattr = true);
    share.fs.session_started(SessionOptions {
        minor: 45,
        flags_offered: u64::MAX,
        flags: ACLS,
        max_readahead: 0,
        max_write: 4096,
        max_pages: 1,
        max_background: 1,
        congestion_threshold: 1,
        time_granularity_ns: 1,
    });
    share
}

/// As in `linux/posix_acl_xattr.h`: version 2, and for each entry tag, permissions and id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner and mask may do all, a named user may read and write, the rest nothing.
fn with_named_user() -> Vec<u8> {
    let none = u32::MAX;
    acl(&[
        (0x01, 7, none),
        (0x02, 6, 4_321),
        (0x04, 0, none),
        (0x10, 7, none),
        (0x20, 0, none),
    ])
}

fn on_host(share: &Share, path: &str, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(share.path(path), name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

fn mode(share: &Share, path: &str) -> u32 {
    fs::metadata(share.path(path)).unwrap().mode() & 0o7777
}

#[test]
fn mapped_attributes_have_other_names_on_the_host() {
    let share = mapped(":map:trusted.:user.vm.:");
    let (file, _) = share.create("f");
    let (fs, file) = (&share.fs, file.nodeid);
    fs.set_xattr(file, b"trusted.a", b"1", 0, false).unwrap();
    fs.set_xattr(file, b"user.b", b"2", 0, false).unwrap();
    assert_eq!(
        on_host(&share, "f", "user.vm.trusted.a"),
        Some(b"1".to_vec())
    );
    assert_eq!(on_host(&share, "f", "trusted.a"), None);
    let value = XattrReply::Value(b"1".to_vec());
    assert_eq!(fs.get_xattr(file, b"trusted.a", 10), Ok(value));
    assert_eq!(fs.get_xattr(file, b"trusted.a", 0), Ok(XattrReply::Size(1)));
    rustix::fs::setxattr(
        share.path("f"),
        "trusted.host",
        b"",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let seen = match fs.list_xattr(file, 100) {
        Ok(XattrReply::Value(names)) => names,
        other => panic!("{other:?}"),
    };
    let mut names: Vec<&[u8]> = seen.split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"trusted.a\0"[..], b"user.b\0"]);
    let length = u32::try_from(seen.len()).unwrap();
    assert_eq!(fs.list_xattr(file, 0), Ok(XattrReply::Size(length)));
    assert!(
        fs.list_xattr(file, length).is_ok(),
        "what is hidden takes no room"
    );
    assert_eq!(fs.list_xattr(file, length - 1), Err(Errno::RANGE));
    fs.remove_xattr(file, b"trusted.a").unwrap();
    assert_eq!(on_host(&share, "f", "user.vm.trusted.a"), None);
}

#[test]
fn what_a_rule_forbids_is_refused_by_its_own_number() {
    let share =
        mapped(":bad:all:user.no.:user.no.: :unsupported:all:user.not.:user.not.: :ok:all:::");
    let (file, _) = share.create("f");
    let (fs, file) = (&share.fs, file.nodeid);
    let path = share.path("f");
    for name in ["user.no.a", "user.not.a"] {
        rustix::fs::setxattr(&path, name, b"host", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let set = |name: &[u8]| fs.set_xattr(file, name, b"guest", 0, false);
    assert_eq!(set(b"user.no.a"), Err(Errno::PERM));
    assert_eq!(set(b"user.not.a"), Err(Errno::OPNOTSUPP));
    assert_eq!(fs.get_xattr(file, b"user.no.a", 9), Err(Errno::NODATA));
    assert_eq!(fs.get_xattr(file, b"user.not.a", 9), Err(Errno::OPNOTSUPP));
    assert_eq!(fs.remove_xattr(file, b"user.no.a"), Err(Errno::PERM));
    assert_eq!(fs.remove_xattr(file, b"user.not.a"), Err(Errno::OPNOTSUPP));
    assert_eq!(fs.list_xattr(file, 100), Ok(XattrReply::Value(Vec::new())));
    assert_eq!(on_host(&share, "f", "user.no.a"), Some(b"host".to_vec()));
}

#[test]
fn a_name_that_gets_too_long_is_refused() {
    let share = mapped(":map::user.vm.:");
    let name = format!("user.{}", "x".repeat(245));
    let (file, _) = share.create("f");
    let result = share
        .fs
        .set_xattr(file.nodeid, name.as_bytes(), b"", 0, false);
    assert_eq!(result, Err(Errno::RANGE));
}

#[test]
fn labels_are_mapped_too() {
    let share = mapped(":map:security.:user.vm.:");
    let extensions = Extensions {
        security_context: Some(SecurityContext {
            name: b"security.selinux",
            value: b"label",
        }),
    };
    let made = share
        .fs
        .create(&ROOT, ROOT_NODEID, b"f", 2, 0o644, 0, extensions);
    made.unwrap();
    let label = on_host(&share, "f", "user.vm.security.selinux");
    assert_eq!(label, Some(b"label".to_vec()));
    let symlink = share.fs.symlink(&ROOT, ROOT_NODEID, b"l", b"t", extensions);
    // Links have no attributes of users, so none of theirs can have this name.
    assert_eq!(symlink, Err(Errno::PERM));
    assert!(fs::symlink_metadata(share.path("l")).is_err());
}

#[test]
fn remapped_capabilities_do_not_survive_a_change_of_the_file() {
    let share = mapped(":map:security.:user.vm.:");
    let (entry, opened) = share.create("f");
    let (fs, file, handle) = (&share.fs, entry.nodeid, opened.handle);
    let is_there = || on_host(&share, "f", "user.vm.security.capability").is_some();
    let owner = SetAttributes {
        uid: Some(4_321),
        ..SetAttributes::default()
    };
    let size = SetAttributes {
        size: Some(3),
        ..SetAttributes::default()
    };
    let mode = SetAttributes {
        mode: Some(0o600),
        ..SetAttributes::default()
    };
    let truncate = (OFlags::WRONLY | OFlags::TRUNC).bits();
    let changes: [(&str, &dyn Fn(), bool); 6] = [
        (
            "chmod",
            &|| _ = fs.set_attributes(&ROOT, file, &mode).unwrap(),
            true,
        ),
        (
            "chown",
            &|| _ = fs.set_attributes(&ROOT, file, &owner).unwrap(),
            false,
        ),
        (
            "truncate",
            &|| _ = fs.set_attributes(&ROOT, file, &size).unwrap(),
            false,
        ),
        (
            "O_TRUNC",
            &|| _ = fs.open(&ROOT, file, truncate, false).unwrap(),
            false,
        ),
        (
            "fallocate",
            &|| fs.fallocate(handle, 0, 0, 10).unwrap(),
            false,
        ),
        (
            "copy_file_range",
            &|| _ = fs.copy_file_range(handle, 0, handle, 100, 2, 0).unwrap(),
            false,
        ),
    ];
    for (what, change, survives) in changes {
        fs.set_xattr(file, b"security.capability", b"caps", 0, false)
            .unwrap();
        assert!(is_there());
        change();
        assert_eq!(is_there(), survives, "{what}");
    }
}

#[test]
fn capabilities_whose_name_would_be_too_long_keep_nobody_from_writing() {
    let share = mapped(&format!(":map:security.:user.{}:", "x".repeat(240)));
    let (file, opened) = share.create("f");
    let set = share
        .fs
        .set_xattr(file.nodeid, b"security.capability", b"", 0, false);
    assert_eq!(set, Err(Errno::RANGE));
    share.fs.fallocate(opened.handle, 0, 0, 10).unwrap();
}

#[test]
fn acls_are_hidden_from_a_guest_that_does_not_heed_them() {
    let share = Share::with(|config| config.xattr = true);
    let (file, _) = share.create("f");
    let (fs, file) = (&share.fs, file.nodeid);
    let flags = rustix::fs::XattrFlags::empty();
    let name = "system.posix_acl_access";
    rustix::fs::setxattr(share.path("f"), name, &with_named_user(), flags).unwrap();
    assert_eq!(fs.get_xattr(file, ACCESS, 100), Err(Errno::OPNOTSUPP));
    assert_eq!(fs.list_xattr(file, 100), Ok(XattrReply::Value(Vec::new())));
    assert_eq!(fs.list_xattr(file, 0), Ok(XattrReply::Size(0)));
    // Nor is there a way around.
    let around = mapped(":prefix:all:posix:system.: :ok:all:::");
    let (file, _) = around.create("f");
    let set = around.fs.set_xattr(
        file.nodeid,
        b"posix_acl_access",
        &with_named_user(),
        0,
        false,
    );
    assert_eq!(set, Err(Errno::OPNOTSUPP));
}

#[test]
fn acls_are_set_read_and_listed() {
    let share = with_acls();
    let (file, _) = share.create("f");
    let (fs, file) = (&share.fs, file.nodeid);
    fs.set_xattr(file, ACCESS, &with_named_user(), 0, false)
        .unwrap();
    assert_eq!(mode(&share, "f"), 0o770, "the group's bits are the mask");
    let value = XattrReply::Value(with_named_user());
    assert_eq!(fs.get_xattr(file, ACCESS, 100), Ok(value));
    let names = XattrReply::Value([ACCESS, b"\0"].concat());
    assert_eq!(fs.list_xattr(file, 100), Ok(names));
    fs.remove_xattr(file, ACCESS).unwrap();
    assert_eq!(fs.get_xattr(file, ACCESS, 100), Err(Errno::NODATA));
}

#[test]
fn an_acl_takes_set_group_id_away_when_the_guest_says_so() {
    let share = with_acls();
    let (file, _) = share.create("f");
    let (fs, file) = (&share.fs, file.nodeid);
    for (kill, expected) in [(false, 0o2770), (true, 0o770)] {
        fs::set_permissions(share.path("f"), fs::Permissions::from_mode(0o2755)).unwrap();
        fs.set_xattr(file, ACCESS, &with_named_user(), 0, kill)
            .unwrap();
        assert_eq!(mode(&share, "f"), expected, "{kill}");
    }
    fs::set_permissions(share.path("f"), fs::Permissions::from_mode(0o2755)).unwrap();
    fs.set_xattr(file, b"user.a", b"", 0, true).unwrap();
    assert_eq!(mode(&share, "f"), 0o2755, "no ACL was set");
}

#[test]
fn the_mask_of_the_guest_counts_where_there_is_no_default_acl() {
    let share = with_acls();
    let fs = &share.fs;
    let none = Extensions::default();
    for directory in ["plain", "inherits"] {
        fs::create_dir(share.path(directory)).unwrap();
    }
    let plain = share.lookup("plain").nodeid;
    let inherits = share.lookup("inherits").nodeid;
    fs.set_xattr(inherits, DEFAULT, &with_named_user(), 0, false)
        .unwrap();
    for (directory, masked) in [(plain, true), (inherits, false)] {
        let made = |result: FsResult<Entry>| result.unwrap().attributes.mode & 0o7777;
        let created = fs.create(&ROOT, directory, b"f", 2, 0o666, 0o022, none);
        let file = made(created.map(|(entry, _)| entry));
        let node = made(fs.make_node(&ROOT, directory, b"n", 0o010_666, 0, 0o022, none));
        let nested = made(fs.make_directory(&ROOT, directory, b"d", 0o777, 0o022, none));
        let temporary = fs.temporary_file(&ROOT, directory, 2, 0o666, 0o022, none);
        let temporary = made(temporary.map(|(entry, _)| entry));
        let expected = if masked {
            [0o644, 0o644, 0o755, 0o644]
        } else {
            // The directory's ACL: all for the owner, the mask for the group, nothing for others.
            [0o660, 0o660, 0o770, 0o660]
        };
        assert_eq!(
            [file, node, nested, temporary],
            expected,
            "masked: {masked}"
        );
    }
    let inherited = on_host(&share, "inherits/f", "system.posix_acl_access").unwrap();
    assert!(
        inherited.len() > with_named_user().len() - 8,
        "the named user is in it"
    );
    // Without ACLs the guest has applied its mask itself, and it is applied again.
    let without = Share::new();
    let made = without
        .fs
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o777, 0o022, none);
    assert_eq!(made.unwrap().attributes.mode & 0o7777, 0o755);
}

#[test]
fn owners_are_translated_both_ways() {
    let of = |texts: &[&str]| {
        let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Translation::new("--translate-uid", &options).unwrap()
    };
    let share = Share::with(|config| {
        config.translations = Translations {
            users: of(&["map:1000:5000:10", "host:0:77:1", "forbid-guest:66:1"]),
            groups: of(&["map:1000:6000:10", "squash-guest:0:6001:1"]),
        };
    });
    fs::set_permissions(share.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let fs = &share.fs;
    let root = fs.get_attributes(ROOT_NODEID, None).unwrap();
    assert_eq!(root.uid, 77);
    let caller = |uid, gid| Caller {
        uid,
        gid,
        ..Caller::default()
    };
    let none = Extensions::default();
    let (file, _) = fs
        .create(&caller(1001, 1002), ROOT_NODEID, b"f", 2, 0o644, 0, none)
        .unwrap();
    assert_eq!((file.attributes.uid, file.attributes.gid), (1001, 1002));
    let owner = |name| {
        let metadata = fs::metadata(share.path(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("f"), (5001, 6002));
    let found = share.lookup("f").attributes;
    assert_eq!((found.uid, found.gid), (1001, 1002));
    let chown = |uid, gid| {
        let owner = SetAttributes {
            uid,
            gid,
            ..SetAttributes::default()
        };
        fs.set_attributes(&ROOT, file.nodeid, &owner)
    };
    let changed = chown(Some(1009), Some(0)).unwrap();
    assert_eq!((changed.uid, changed.gid), (1009, 1001));
    assert_eq!(owner("f"), (5009, 6001));
    assert_eq!(chown(Some(66), None), Err(Errno::PERM));
    assert_eq!(chown(Some(u32::MAX), None), Err(Errno::INVAL));
    assert_eq!(owner("f"), (5009, 6001));
    let forbidden = fs.make_directory(&caller(66, 0), ROOT_NODEID, b"d", 0o755, 0, none);
    assert_eq!(forbidden, Err(Errno::PERM));
    assert!(!share.path("d").exists());
    // ACCESS asks about the guest's ids.
    let private = SetAttributes {
        mode: Some(0o600),
        ..SetAttributes::default()
    };
    fs.set_attributes(&ROOT, file.nodeid, &private).unwrap();
    assert_eq!(fs.access(&caller(1009, 5), file.nodeid, 6), Ok(()));
    assert_eq!(
        fs.access(&caller(5009, 5), file.nodeid, 4),
        Err(Errno::ACCESS)
    );
}
