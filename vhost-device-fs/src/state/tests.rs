//! Each rule, broken once; and the states of released versions.

use std::path::Path;

use common::state::golden::check;
use common::state::{Limits, read_state, write_state};

use super::nodes::LOCATIONS_MAX;
use super::*;

fn time(seconds: i64) -> TimeV1 {
    TimeV1 {
        seconds,
        nanoseconds: 999_999_999,
    }
}

fn node(nodeid: u64, kind: u32, locations: &[(u64, &[u8])]) -> NodeV1 {
    NodeV1 {
        nodeid,
        kind,
        mount: 0,
        ino: nodeid + 1_000,
        birth_ns: nodeid + 2_000,
        ino_shown: nodeid + 3_000,
        lookups: nodeid + 4_000,
        locations: locations
            .iter()
            .map(|(parent, name)| LocationV1 {
                parent: *parent,
                name: name.to_vec(),
            })
            .collect(),
        lost: false,
    }
}

fn handle(handle: u64, nodeid: u64, flags: u32) -> HandleV1 {
    HandleV1 {
        handle,
        nodeid,
        flags,
        position: 0,
        rest: None,
        only_rest: false,
        lost: false,
    }
}

fn handles() -> Vec<HandleV1> {
    vec![
        handle(3, 5, 0b0010_0111),
        HandleV1 {
            position: 1 << 62,
            rest: Some(vec![
                NameV1 {
                    ino: 21,
                    next_offset: 22,
                    kind: 4,
                    name: b"..".to_vec(),
                },
                NameV1 {
                    ino: 23,
                    next_offset: 24,
                    kind: 8,
                    name: b"file".to_vec(),
                },
            ]),
            only_rest: true,
            ..handle(4, 7, 1)
        },
        HandleV1 {
            lost: true,
            ..handle(6, 9, 2)
        },
    ]
}

/// Everything there can be, once.
fn typical() -> FsState {
    let orphan = OrphanV1 {
        nodeid: 9,
        mode: 0o100_604,
        uid: 11,
        gid: 12,
        rdev: 0,
        size: 1 << 33,
        atime: time(-13),
        mtime: time(14),
        xattrs: vec![XattrV1 {
            name: b"user.a".to_vec(),
            value: b"value".to_vec(),
        }],
        extents: vec![
            ExtentV1 {
                offset: 1,
                length: 3,
            },
            ExtentV1 {
                offset: 1 << 32,
                length: 2,
            },
        ],
    };
    let link = OrphanV1 {
        nodeid: 10,
        mode: 0o120_777,
        size: 6,
        xattrs: Vec::new(),
        extents: vec![ExtentV1 {
            offset: 0,
            length: 6,
        }],
        ..orphan.clone()
    };
    let mut lost = node(12, 0o140_000, &[]);
    lost.lost = true;
    let mut on_submount = node(11, 0o040_000, &[(7, b"mnt")]);
    on_submount.mount = 1;
    FsState {
        share: ShareV1 {
            next_nodeid: 77,
            next_handle: 88,
            xattr: true,
            readonly: false,
        },
        session: Some(SessionV1 {
            minor: 38,
            flags_offered: 0x1_2345_6789,
            flags: 0x1_0345_0088,
            max_readahead: 131_072,
            max_write: 1 << 20,
            max_pages: 256,
            max_background: 65_535,
            congestion_threshold: 49_149,
            time_granularity_ns: 1,
        }),
        configuration: ConfigurationV1::default(),
        id_maps: IdMapsV1::default(),
        mounts: vec![
            MountV1 {
                file_system: 0xef53,
            },
            MountV1 {
                file_system: 0x0102_1994,
            },
        ],
        nodes: NodeTable::from_iter([
            node(1, 0o040_000, &[]),
            node(7, 0o040_000, &[(1, b"dir")]),
            node(5, 0o100_000, &[(1, b"a"), (7, b"caf\xe9 (deleted)")]),
            node(9, 0o100_000, &[]),
            node(10, 0o120_000, &[]),
            on_submount,
            lost,
        ]),
        handles: handles(),
        orphans: vec![orphan, link],
        orphan_data: b"datXYtarget".to_vec(),
        locks: Vec::new(),
        waiters: Vec::new(),
    }
}

/// With names and ids that are others on the host.
fn configured() -> FsState {
    let rule = |action, client, server, key: &[u8], prepend: &[u8]| XattrRuleV1 {
        action,
        client,
        server,
        key: key.to_vec(),
        prepend: prepend.to_vec(),
    };
    let range = |first, count, target| IdRangeV1 {
        first,
        count,
        target,
    };
    FsState {
        configuration: ConfigurationV1 {
            xattr_rules: vec![
                rule(XattrActionV1::Prefix, true, true, b"trusted.", b"user.vm."),
                rule(XattrActionV1::Bad, true, false, b"user.vm.", b""),
                rule(XattrActionV1::Unsupported, false, true, b"", b"trusted."),
                rule(XattrActionV1::Ok, true, true, b"", b""),
            ],
            users_to_host: vec![range(31, 32, IdTargetV1::From(33))],
            users_to_guest: vec![range(35, 36, IdTargetV1::Squash(37))],
            groups_to_host: vec![range(41, 42, IdTargetV1::Forbidden)],
            groups_to_guest: vec![range(45, 46, IdTargetV1::From(47))],
        },
        ..typical()
    }
}

/// With the ids of a user namespace.
fn mapped() -> FsState {
    let map = |inside, outside, count| IdMapV1 {
        inside,
        outside,
        count,
    };
    FsState {
        id_maps: IdMapsV1 {
            users: vec![map(0, 51, 52), map(53, 54, 55)],
            groups: vec![map(61, 62, 63)],
        },
        ..typical()
    }
}

/// A guest that was never started.
fn fresh() -> FsState {
    FsState {
        share: ShareV1 {
            next_nodeid: 2,
            next_handle: 1,
            xattr: false,
            readonly: true,
        },
        session: None,
        configuration: ConfigurationV1::default(),
        id_maps: IdMapsV1::default(),
        mounts: vec![MountV1 {
            file_system: 0x5846_5342,
        }],
        nodes: NodeTable::from_iter([node(1, 0o040_000, &[])]),
        handles: Vec::new(),
        orphans: Vec::new(),
        orphan_data: Vec::new(),
        locks: Vec::new(),
        waiters: Vec::new(),
    }
}

/// A guest with locks that others see, and with requests that wait for some.
fn locked() -> FsState {
    let mut state = typical();
    let session = state.session.as_mut().unwrap();
    session.flags |= 0x402;
    session.flags_offered |= 0x402;
    let lock = LockV1 {
        owner: 0x1122_3344_5566_7788,
        handle: 3,
        pid: 31,
        whole_file: false,
        exclusive: true,
        start: 32,
        end: 33,
    };
    state.locks = vec![
        lock.clone(),
        LockV1 {
            exclusive: false,
            start: 34,
            end: i64::MAX as u64,
            ..lock.clone()
        },
        LockV1 {
            owner: 35,
            handle: 6,
            pid: 36,
            ..lock.clone()
        },
        LockV1 {
            owner: 37,
            pid: 0,
            whole_file: true,
            start: 0,
            end: i64::MAX as u64,
            ..lock
        },
    ];
    state.waiters = vec![
        WaiterV1 { ring: 1, head: 38 },
        WaiterV1 { ring: 2, head: 38 },
    ];
    state
}

#[test]
fn golden_states() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let samples = [
        ("fresh", fresh()),
        ("typical", typical()),
        ("configured", configured()),
        ("locked", locked()),
        ("mapped", mapped()),
    ];
    check(&folder, &samples);
    for (_, sample) in samples {
        assert_eq!(sample.validate(), Ok(()));
    }
}

/// What a program that was built before version 2 makes of a stream.
#[derive(Debug)]
struct Version1;

impl StateSchema for Version1 {
    const KIND: DeviceKind = DeviceKind::Fs;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, _out: &mut StateWriter<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let known = [SHARE, SESSION, MOUNTS, NODES, HANDLES, ORPHANS, ORPHAN_DATA];
        while let Some(section) = input.next_section()? {
            if !known.contains(&section.tag) {
                input.unknown(&section)?;
            }
        }
        Ok(Self)
    }
}

#[test]
fn older_readers_read_what_they_understand_and_refuse_the_rest_by_name() {
    let read = |state: &FsState, version| {
        let mut bytes = Vec::new();
        write_state(state, version, &mut bytes).unwrap();
        read_state::<Version1>(&mut bytes.as_slice(), &Limits::default())
    };
    assert!(read(&typical(), 2).is_ok());
    let refusal = read(&configured(), 2).unwrap_err();
    let named = matches!(refusal, StateError::UnknownSection { tag, .. } if tag == CONFIGURATION);
    assert!(named, "{refusal}");
    let refusal = read(&typical(), 3).unwrap_err();
    let named = matches!(refusal, StateError::ReaderTooOld { needed: 3, .. });
    assert!(named, "{refusal}");
}

#[test]
fn version_1_cannot_hold_a_configuration_ids_or_locks() {
    assert!(write_state(&typical(), 1, &mut Vec::new()).is_ok());
    let refused = |state: &FsState, what: &str| {
        let refusal = write_state(state, 1, &mut Vec::new()).unwrap_err();
        let expected = format!("version 1 of the fs state cannot hold {what}, version 2 can");
        assert_eq!(refusal.to_string(), expected);
    };
    let options = "--xattrmap, --translate-uid or --translate-gid";
    refused(&configured(), options);
    refused(&mapped(), "--uid-map or --gid-map");
    let locks = "locks that others see, or requests that wait for one";
    refused(&locked(), locks);
    let mut waiting = locked();
    waiting.locks.clear();
    refused(&waiting, locks);
}

#[test]
fn the_first_difference_of_two_configurations_is_found() {
    let source = configured().configuration;
    assert_eq!(source.difference(&source), None);
    let differs = |change: fn(&mut ConfigurationV1)| {
        let mut here = source.clone();
        change(&mut here);
        let difference = source.difference(&here).unwrap();
        let Difference {
            option,
            entry,
            at_source,
            here,
        } = difference;
        (option, entry, at_source, here)
    };
    let changed = differs(|here| here.xattr_rules[1].client = false);
    assert_eq!(changed, ("--xattrmap", 2, true, true));
    let fewer = differs(|here| here.xattr_rules.clear());
    assert_eq!(fewer, ("--xattrmap", 1, true, false));
    let more = differs(|here| here.users_to_host.push(here.users_to_guest[0]));
    assert_eq!(more, ("--translate-uid", 2, false, true));
    let other = differs(|here| here.users_to_guest[0].target = IdTargetV1::From(38));
    assert_eq!(other, ("--translate-uid", 2, true, true));
    let group = differs(|here| here.groups_to_host[0].count += 1);
    assert_eq!(group, ("--translate-gid", 1, true, true));
    let group = differs(|here| here.groups_to_guest.clear());
    assert_eq!(group, ("--translate-gid", 2, true, false));
}

#[test]
fn forged_locks() {
    let refused = |change: &dyn Fn(&mut FsState), expected| {
        let mut state = locked();
        change(&mut state);
        assert_eq!(state.validate(), Err(expected));
    };
    let handle = ForgedState::LockHandle;
    refused(&|state| state.locks[0].handle = 4, handle(4)); // a directory
    refused(&|state| state.locks[0].handle = 5, handle(5)); // not open
    // The guest keeps them to itself, and would never give them back.
    let agreed = |state: &mut FsState, flags| state.session.as_mut().unwrap().flags ^= flags;
    refused(&|state| agreed(state, 0x2), handle(3));
    refused(&|state| agreed(state, 0x400), handle(3));
    refused(&|state| state.session = None, handle(3));
    let range = |start, end| ForgedState::LockRange {
        handle: 3,
        start,
        end,
    };
    let last = i64::MAX as u64;
    refused(&|state| state.locks[0].start = 34, range(34, 33));
    refused(&|state| state.locks[0].end = 34, range(34, last));
    refused(&|state| state.locks[1].end = last + 1, range(34, last + 1));
    refused(&|state| state.locks[3].start = 1, range(1, last));
    let again = |state: &mut FsState, index: usize| {
        let lock = state.locks[index].clone();
        state.locks.push(lock);
    };
    refused(&|state| again(state, 3), range(0, last));
    refused(&|state| again(state, 0), range(32, 33));
    let too_many = |state: &mut FsState| {
        let lock = state.locks[0].clone();
        state.locks.resize(65_537, lock);
    };
    refused(&too_many, ForgedState::Locks(65_537));
    let too_many = |state: &mut FsState| {
        let waiter = state.waiters[0];
        state.waiters.resize(65_537, waiter);
    };
    refused(&too_many, ForgedState::Locks(65_537));
    let waiter = |ring, head| ForgedState::Waiter { ring, head };
    refused(&|state| state.waiters[1].ring = 1, waiter(1, 38));
    refused(&|state| state.waiters[1].ring = 64, waiter(64, 38));
    refused(&|state| state.waiters[1].head = 32_768, waiter(2, 32_768));
}

/// A state whose inodes can be changed.
struct Draft {
    state: FsState,
    nodes: Vec<NodeV1>,
}

impl Draft {
    fn new() -> Self {
        let state = typical();
        let nodes = state.nodes.to_vec();
        Self { state, nodes }
    }

    fn finish(self) -> FsState {
        let nodes = self.nodes.into_iter().collect();
        FsState {
            nodes,
            ..self.state
        }
    }
}

impl std::ops::Deref for Draft {
    type Target = FsState;

    fn deref(&self) -> &FsState {
        &self.state
    }
}

impl std::ops::DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut FsState {
        &mut self.state
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Draft), expected: ForgedState) {
    let mut draft = Draft::new();
    change(&mut draft);
    assert_eq!(draft.finish().validate(), Err(expected));
}

#[test]
fn forged_mounts_and_roots() {
    refused(|state| state.mounts.clear(), ForgedState::Mounts(0));
    let too_many = |state: &mut Draft| {
        let mount = state.mounts[0].clone();
        state.mounts.resize(65_537, mount);
    };
    refused(too_many, ForgedState::Mounts(65_537));
    refused(|state| state.nodes.clear(), ForgedState::Root);
    refused(|state| state.nodes[0].kind = 0o100_000, ForgedState::Root);
    refused(|state| state.nodes[0].lost = true, ForgedState::Root);
    refused(|state| state.nodes[0].mount = 1, ForgedState::Root);
    refused(|state| state.nodes.swap(0, 1), ForgedState::Root);
    let in_itself = LocationV1 {
        parent: 1,
        name: b"x".to_vec(),
    };
    let names = ForgedState::Locations {
        nodeid: 1,
        names: 1,
    };
    refused(|state| state.nodes[0].locations.push(in_itself), names);
}

#[test]
fn forged_counters() {
    let next = 1 << 63;
    let given = |nodeid, handle| ForgedState::Given { nodeid, handle };
    refused(|state| state.share.next_nodeid = next, given(next, 88));
    refused(|state| state.share.next_handle = next, given(77, next));
    refused(
        |state| state.share.next_handle = u64::MAX,
        given(77, u64::MAX),
    );
    let mut state = typical();
    state.share.next_nodeid = next - 1;
    state.share.next_handle = next - 1;
    assert_eq!(state.validate(), Ok(()));
}

#[test]
fn forged_nodes() {
    refused(|state| state.nodes[2].nodeid = 7, ForgedState::NodeTwice(7));
    let not_given = |nodeid| ForgedState::NodeidNotGiven { nodeid, next: 77 };
    refused(|state| state.nodes[2].nodeid = 77, not_given(77));
    refused(|state| state.nodes[2].nodeid = 0, not_given(0));
    let kind = ForgedState::Kind {
        nodeid: 5,
        kind: 0o170_000,
    };
    refused(|state| state.nodes[2].kind = 0o170_000, kind);
    let mount = ForgedState::Mount {
        nodeid: 5,
        mount: 2,
        mounts: 2,
    };
    refused(|state| state.nodes[2].mount = 2, mount);
    let mut lost_somewhere = Draft::new();
    lost_somewhere.nodes[6].mount = u32::MAX;
    let validated = lost_somewhere.finish().validate();
    assert_eq!(validated, Ok(()), "it is nowhere anyway");
    let lookups = (1 << 48) + 1;
    refused(
        |state| state.nodes[2].lookups = lookups,
        ForgedState::Lookups { nodeid: 5, lookups },
    );
    refused(|state| state.nodes[5].lookups = 0, ForgedState::Unused(11));
}

#[test]
fn forged_names() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
        refused(
            |state| state.nodes[2].locations[1].name = name.to_vec(),
            ForgedState::Name(5),
        );
    }
    let none = ForgedState::Locations {
        nodeid: 5,
        names: 0,
    };
    refused(|state| state.nodes[2].locations.clear(), none);
    let many = ForgedState::Locations {
        nodeid: 5,
        names: 9,
    };
    refused(
        |state| state.nodes[2].locations = vec![state.nodes[2].locations[0].clone(); 9],
        many,
    );
    let two = ForgedState::Locations {
        nodeid: 7,
        names: 2,
    };
    refused(
        |state| state.nodes[1].locations = vec![state.nodes[1].locations[0].clone(); 2],
        two,
    );
    let of_orphan = ForgedState::Locations {
        nodeid: 9,
        names: 1,
    };
    refused(
        |state| state.nodes[3].locations = state.nodes[1].locations.clone(),
        of_orphan,
    );
}

#[test]
fn forged_parents() {
    let parent = |nodeid, parent| ForgedState::Parent { nodeid, parent };
    refused(|state| state.nodes[1].locations[0].parent = 7, parent(7, 7));
    refused(
        |state| state.nodes[1].locations[0].parent = 11,
        parent(7, 11),
    );
    refused(
        |state| state.nodes[5].locations[0].parent = 5,
        parent(11, 5),
    );
    refused(
        |state| state.nodes[5].locations[0].parent = 66,
        parent(11, 66),
    );
}

#[test]
fn forged_handles() {
    refused(
        |state| state.handles[1].handle = 3,
        ForgedState::HandleTwice(3),
    );
    let not_given = |handle| ForgedState::HandleNotGiven { handle, next: 88 };
    refused(|state| state.handles[0].handle = 88, not_given(88));
    refused(|state| state.handles[0].handle = 0, not_given(0));
    let target = |nodeid| ForgedState::HandleTarget { handle: 3, nodeid };
    refused(|state| state.handles[0].nodeid = 66, target(66));
    refused(|state| state.handles[0].nodeid = 10, target(10));
    for flags in [0, 4, 1 | 1 << 8, u32::MAX] {
        refused(
            |state| state.handles[0].flags = flags,
            ForgedState::HandleFlags { handle: 3, flags },
        );
    }
    let position = ForgedState::HandlePosition;
    refused(|state| state.handles[0].position = 1, position(3));
    refused(
        |state| state.handles[0].rest = Some(Vec::new()),
        position(3),
    );
    refused(|state| state.handles[0].only_rest = true, position(3));
    let rest = |state: &mut FsState, name: &[u8]| {
        state.handles[1].rest.as_mut().unwrap()[1].name = name.to_vec();
    };
    refused(|state| rest(state, b"a/b"), position(4));
    refused(|state| rest(state, b""), position(4));
}

/// Found by fuzzing: a directory that was read on by offsets of the state was at one that no state could have.
#[test]
fn a_directory_may_be_at_any_offset_that_a_name_has() {
    let mut state = typical();
    let handle = &mut state.handles[1];
    let next = &mut handle.rest.as_mut().unwrap()[1].next_offset;
    *next = u64::MAX;
    handle.position = *next;
    assert_eq!(state.validate(), Ok(()));
}

#[test]
fn forged_orphans() {
    refused(
        |state| state.orphans[1].nodeid = 1,
        ForgedState::Locations {
            nodeid: 10,
            names: 0,
        },
    );
    refused(
        |state| state.orphans[0].mode = 0o040_755,
        ForgedState::Orphan(9),
    );
    let twice = |state: &mut Draft| state.state.orphans.push(typical().orphans.remove(0));
    refused(twice, ForgedState::Orphan(9));
    refused(|state| state.nodes[3].lost = true, ForgedState::Orphan(9));
    let attributes = ForgedState::OrphanAttributes(9);
    refused(|state| state.orphans[0].size = 1 << 63, attributes);
    refused(|state| state.orphans[0].uid = u32::MAX, attributes);
    refused(|state| state.orphans[0].gid = u32::MAX, attributes);
    refused(|state| state.orphans[0].mode |= 1 << 16, attributes);
    refused(
        |state| state.orphans[0].mtime.nanoseconds = 1_000_000_000,
        attributes,
    );
    refused(|state| state.orphans[0].xattrs[0].name.clear(), attributes);
    refused(|state| state.share.xattr = false, attributes);
    refused(
        |state| state.orphans[0].xattrs[0].value = vec![0; 65_537],
        attributes,
    );
    refused(
        |state| state.orphans[1].size = 4_097,
        ForgedState::OrphanAttributes(10),
    );
    let extents = ForgedState::OrphanExtents(9);
    refused(|state| state.orphans[0].extents[0].length = 0, extents);
    refused(|state| state.orphans[0].extents[1].offset = 3, extents);
    refused(
        |state| state.orphans[0].extents[1].offset = u64::MAX,
        extents,
    );
    refused(|state| state.orphans[0].size = 1 << 32, extents);
    refused(
        |state| state.orphans[1].size = 5,
        ForgedState::OrphanExtents(10),
    );
    let short = ForgedState::OrphanData {
        expected: 11,
        found: 10,
    };
    refused(|state| state.orphan_data.truncate(10), short);
}

#[test]
fn each_version_holds_all_inodes() {
    let mut draft = Draft::new();
    draft.nodes[2].locations = (0..LOCATIONS_MAX)
        .map(|length| LocationV1 {
            parent: 1,
            name: vec![b'x'; length * 31 + 1],
        })
        .collect();
    let state = draft.finish();
    for version in FsState::VERSION_OLDEST..=FsState::VERSION {
        let mut bytes = Vec::new();
        write_state(&state, version, &mut bytes).unwrap();
        let read: FsState = read_state(&mut bytes.as_slice(), &Limits::default()).unwrap();
        assert_eq!(read, state);
    }
}

#[test]
fn more_names_than_an_inode_can_have_are_not_even_decoded() {
    let mut draft = Draft::new();
    draft.nodes[2].locations = vec![draft.nodes[2].locations[0].clone(); LOCATIONS_MAX + 1];
    let state = draft.finish();
    for version in FsState::VERSION_OLDEST..=FsState::VERSION {
        let mut bytes = Vec::new();
        write_state(&state, version, &mut bytes).unwrap();
        let refused = read_state::<FsState>(&mut bytes.as_slice(), &Limits::default()).unwrap_err();
        assert!(
            matches!(refused, StateError::Payload { tag: NODES, .. }),
            "{refused:?}"
        );
    }
}
