//! Who is who, and which names attributes have, before and after.

use super::*;
use crate::config::Negotiation;
use crate::fuse::abi::init;
use crate::operations::{SecurityContext, XattrReply};
use crate::translation::{Translation, Translations};

const ACLS: u64 = init::POSIX_ACL | init::DONT_MASK | init::SETXATTR_EXT;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Owner and mask may do all, user 4321 may read and write, the rest nothing (`linux/posix_acl_xattr.h`).
fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in [
        (0x01_u16, 7_u16, none),
        (0x02, 6, 4_321),
        (0x04, 0, none),
        (0x10, 7, none),
        (0x20, 0, none),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set_on_host(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn translation(texts: &[&str]) -> Translation {
    let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
    Translation::new("", &options).unwrap()
}

#[test]
fn on_the_same_file_system_users_are_who_they_were() {
    let with = |maps: &[&str]| {
        let users = maps.iter().map(|text| text.parse().unwrap()).collect();
        move |config: &mut Config| config.id_maps.users = Clone::clone(&users)
    };
    let share = tempfile::tempdir().unwrap();
    let source = start(share.path(), with(&[":0:1000:5:", ":5:2000:5:"]));
    let state = state_of(&source);
    let same = start(share.path(), with(&[":5:2000:5:", ":0:1000:5:"]));
    load(&same, &state).unwrap();
    for (maps, text) in [
        (&[":0:1000:5:", ":5:2001:5:"][..], "entry 2 is another one"),
        (&[], "entry 1 is only at the source"),
    ] {
        let other = start(share.path(), with(maps));
        let refused = load(&other, &state).unwrap_err();
        let reason = refused.source().unwrap().to_string();
        let named = format!("--uid-map of the source is not this back-end's: {text}");
        assert_eq!(reason, named);
        // Whoever made a copy may have given its files other owners.
        let copy = tempfile::tempdir().unwrap();
        let other = start(copy.path(), with(maps));
        load(&other, &state).unwrap();
    }
}

#[test]
fn a_back_end_with_other_names_or_ids_refuses_by_the_option() {
    type Change = fn(&mut Config);
    let share = tempfile::tempdir().unwrap();
    let plain: Change = |config| config.xattr = true;
    let mapped: Change = |config| {
        config.xattr = true;
        config.xattr_map = Some(":map::user.vm.:".parse().unwrap());
    };
    let users: Change = |config| {
        config.xattr = true;
        config.translations.users = translation(&["map:0:5:1"]);
    };
    let groups: Change = |config| {
        config.xattr = true;
        config.translations.groups = translation(&["squash-host:0:5:9"]);
    };
    let refusals = [
        (plain, mapped, "--xattrmap", "entry 1 is only here"),
        (mapped, plain, "--xattrmap", "entry 1 is only at the source"),
        (plain, users, "--translate-uid", "entry 1 is only here"),
        (
            users,
            groups,
            "--translate-uid",
            "entry 1 is only at the source",
        ),
        (
            groups,
            plain,
            "--translate-gid",
            "entry 1 is only at the source",
        ),
    ];
    for (source, destination, option, entry) in refusals {
        let state = state_of(&start(share.path(), source));
        let refused = load(&start(share.path(), destination), &state).unwrap_err();
        let LoadError::Mismatch(reason) = &refused else {
            panic!("{refused:?}");
        };
        let reason = reason.to_string();
        assert!(
            reason.starts_with(option) && reason.ends_with(entry),
            "{reason}"
        );
        load(&start(share.path(), source), &state).unwrap();
    }
    let spelled_out: Change = |config| {
        config.xattr = true;
        config.xattr_map = Some("/prefix/all//user.vm./ /bad/all///".parse().unwrap());
    };
    let state = state_of(&start(share.path(), mapped));
    load(&start(share.path(), spelled_out), &state).unwrap();
}

#[test]
fn a_session_with_acls_needs_a_back_end_with_acls() {
    let share = tempfile::tempdir().unwrap();
    let with_acls = |config: &mut Config| {
        config.xattr = true;
        config.posix_acl = Negotiation::Auto;
    };
    let source = start(share.path(), with_acls);
    source.session_started(session_with(ACLS));
    let state = state_of(&source);
    let refused = load(&start(share.path(), |config| config.xattr = true), &state).unwrap_err();
    let LoadError::Mismatch(reason) = &refused else {
        panic!("{refused:?}");
    };
    let reason = reason.source().unwrap().to_string();
    assert!(reason.contains("--posix-acl"), "{reason}");
    let destination = start(share.path(), with_acls);
    load(&destination, &state).unwrap();
    // T1: virtiofsd forgets how SETXATTR looks in such a session, and what masks mean.
    assert_eq!(destination.session(), Some(session_with(ACLS)));
    let none = Extensions::default();
    let directory = destination
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o777, 0o027, none)
        .unwrap();
    assert_eq!(directory.attributes.mode & 0o7777, 0o750);
    destination
        .set_xattr(directory.nodeid, DEFAULT.as_bytes(), &acl(), 0, false)
        .unwrap();
    let nested = destination
        .make_directory(&ROOT, directory.nodeid, b"e", 0o777, 0o027, none)
        .unwrap();
    assert_eq!(nested.attributes.mode & 0o7777, 0o770);
}

#[test]
fn t11_labels_are_given_before_and_after() {
    let share = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.xattr = true;
        config.security_label = Negotiation::Always;
    };
    let labelled = Extensions {
        security_context: Some(SecurityContext {
            name: b"user.secctx",
            value: b"label",
        }),
    };
    let source = start(share.path(), change);
    source.session_started(session_with(init::SECURITY_CTX));
    let create = |fs: &FileSystem, name: &[u8]| {
        let created = fs.create(&ROOT, ROOT_NODEID, name, 2, 0o644, 0, labelled);
        created.unwrap().0.nodeid
    };
    let label = XattrReply::Value(b"label".to_vec());
    let before = create(&source, b"before");
    let destination = migrate(&source, share.path(), change);
    let after = create(&destination, b"after");
    for file in [before, after] {
        let found = destination.get_xattr(file, b"user.secctx", 10);
        assert_eq!(found, Ok(label.clone()));
    }
    assert!(destination.session().unwrap().has(init::SECURITY_CTX));
}

#[test]
fn orphans_keep_owner_and_attributes_under_other_names_and_ids() {
    let share = tempfile::tempdir().unwrap();
    fs::set_permissions(share.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let change = |config: &mut Config| {
        config.xattr = true;
        config.xattr_map = Some(":map:trusted.:user.vm.:".parse().unwrap());
        config.translations = Translations {
            users: translation(&["map:1000:5000:10"]),
            groups: translation(&["map:1000:6000:10"]),
        };
    };
    let source = start(share.path(), change);
    let caller = Caller {
        uid: 1001,
        gid: 1002,
        ..ROOT
    };
    let none = Extensions::default();
    let created = source.create(&caller, ROOT_NODEID, b"f", 2, 0o644, 0, none);
    let file = created.unwrap().0.nodeid;
    source
        .set_xattr(file, b"trusted.a", b"value", 0, false)
        .unwrap();
    source.unlink(ROOT_NODEID, b"f").unwrap();
    let destination = migrate(&source, share.path(), change);
    let found = destination.get_attributes(file, None).unwrap();
    assert_eq!((found.uid, found.gid, found.nlink), (1001, 1002, 0));
    let value = XattrReply::Value(b"value".to_vec());
    assert_eq!(destination.get_xattr(file, b"trusted.a", 10), Ok(value));
}

#[test]
fn of_orphans_only_those_attributes_travel_that_the_guest_sees() {
    let share = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.xattr = true;
        config.xattr_map = Some(":map::user.vm.:".parse().unwrap());
    };
    let source = start(share.path(), change);
    let (file, _) = create(&source, "f", OFlags::RDWR);
    let path = share.path().join("f");
    source.set_xattr(file, b"user.a", b"1", 0, false).unwrap();
    set_on_host(&path, "trusted.host", b"2");
    source.unlink(ROOT_NODEID, b"f").unwrap();
    let mut state = state_of(&source);
    let names: Vec<&[u8]> = state.orphans[0]
        .xattrs
        .iter()
        .map(|xattr| xattr.name.as_slice())
        .collect();
    assert_eq!(names, [b"user.vm.user.a"]);
    load(&start(share.path(), change), &state).unwrap();
    state.orphans[0].xattrs[0].name = b"security.capability".to_vec();
    let refused = load(&start(share.path(), change), &state).unwrap_err();
    let LoadError::Mismatch(reason) = &refused else {
        panic!("{refused:?}");
    };
    let reason = reason.to_string();
    assert!(reason.contains("\"security.capability\""), "{reason}");
}

#[test]
fn orphans_inherit_nothing_from_the_place_where_they_are_made_anew() {
    let share = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.xattr = true;
        config.posix_acl = Negotiation::Auto;
    };
    let source = start(share.path(), change);
    source.session_started(session_with(ACLS));
    let plain = create(&source, "plain", OFlags::RDWR).0;
    let own = create(&source, "own", OFlags::RDWR).0;
    source
        .set_xattr(own, ACCESS.as_bytes(), &acl(), 0, false)
        .unwrap();
    let directory = source
        .make_directory(&ROOT, ROOT_NODEID, b"d", 0o700, 0, Extensions::default())
        .unwrap();
    let opened = source.open_directory(directory.nodeid, 0).unwrap();
    source.unlink(ROOT_NODEID, b"plain").unwrap();
    source.unlink(ROOT_NODEID, b"own").unwrap();
    source.remove_directory(ROOT_NODEID, b"d").unwrap();
    let state = state_of(&source);
    set_on_host(share.path(), DEFAULT, &acl());
    let destination = start(share.path(), change);
    load(&destination, &state).unwrap();
    let acl_of = |nodeid, name: &str| destination.get_xattr(nodeid, name.as_bytes(), 100);
    assert_eq!(acl_of(plain, ACCESS), Err(Errno::NODATA));
    assert_eq!(acl_of(own, ACCESS), Ok(XattrReply::Value(acl())));
    assert_eq!(acl_of(directory.nodeid, ACCESS), Err(Errno::NODATA));
    assert_eq!(acl_of(directory.nodeid, DEFAULT), Err(Errno::NODATA));
    let mode = |nodeid| destination.get_attributes(nodeid, None).unwrap().mode & 0o7777;
    assert_eq!((mode(plain), mode(directory.nodeid)), (0o640, 0o700));
    destination.release_directory(opened.handle).unwrap();
}
