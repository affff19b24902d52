//! What is put into a table comes out of it, and what was never put there does not.

use common::state::{
    DeviceKind, Importance, Limits, SchemaSupport, StateReader, StateSchema, StateWriter, Tag,
    read_state, write_state,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const NODES: Tag = Tag::new(*b"INOD");
const COUNT_MAX: usize = 3;

fn node(nodeid: u64) -> NodeV1 {
    NodeV1 {
        nodeid,
        kind: 0o100_000,
        mount: 0,
        ino: 500 + nodeid,
        birth_ns: 1_700_000_000_000_000_000 + nodeid,
        ino_shown: 500 + nodeid,
        lookups: 1,
        locations: vec![LocationV1 {
            parent: 1,
            name: format!("file{nodeid}").into(),
        }],
        lost: false,
    }
}

/// Only inodes, and not many of them.
#[derive(Debug)]
struct OnlyNodes(NodeTable);

impl StateSchema for OnlyNodes {
    const KIND: DeviceKind = DeviceKind::Fs;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let mut payloads = self.0.payloads();
        payloads.try_for_each(|payload| out.piece(NODES, 2, Importance::Critical, payload))
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut nodes = NodeTable::default();
        while let Some(section) = input.next_section()? {
            nodes.read(section, COUNT_MAX)?;
        }
        Ok(Self(nodes))
    }
}

/// What becomes of payloads on their way.
fn travelled(pieces: Vec<Vec<u8>>) -> Result<NodeTable, String> {
    let table = NodeTable {
        pieces,
        ..NodeTable::default()
    };
    let mut bytes = Vec::new();
    write_state(&OnlyNodes(table), 1, &mut bytes).unwrap();
    let read = read_state::<OnlyNodes>(&mut bytes.as_slice(), &Limits::default());
    read.map(|read| read.0)
        .map_err(|error| common::report::chain(&error))
}

fn payload(nodes: impl IntoIterator<Item = NodeV1>) -> Vec<u8> {
    let mut table = NodeTable::from_iter(nodes);
    assert!(table.pieces.len() < 2);
    table.pieces.pop().unwrap_or_default()
}

#[test]
fn inodes_that_are_like_those_before_take_few_bytes() {
    let first = payload([node(2)]);
    let both = payload([node(2), node(3)]);
    let name = "file3".len();
    assert_eq!(both.len() - first.len(), 10 + name);
}

#[test]
fn what_is_cut_or_goes_on_is_refused() {
    let whole = payload([node(2), node(3)]);
    let ends = [0, payload([node(2)]).len(), whole.len()];
    for length in 0..=whole.len() {
        let cut = whole[..length].to_vec();
        match travelled(vec![cut]) {
            Ok(table) => {
                assert_eq!(Some(length), ends.get(table.len()).copied());
            }
            Err(error) => {
                assert!(!ends.contains(&length), "{length}");
                assert!(error.contains("it ends within an inode"), "{error}");
            }
        }
    }
}

#[test]
fn forged_numbers_are_refused() {
    // Nodeid, kind, mount, ino, time of birth, number shown, lookups, names.
    let sound = [2, 16, 0, 2, 2, 0, 1, 0];
    assert_eq!(travelled(vec![sound.to_vec()]).unwrap().len(), 1);
    let refused = |at: usize, bytes: &[u8], why: &str| {
        let forged = [&sound[..at], bytes, &sound[at + 1..]].concat();
        let error = travelled(vec![forged]).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let number = "a number in it is too large, or takes more bytes than it needs";
    let beyond_32_bits = [0x80, 0x80, 0x80, 0x80, 0x40];
    for at in 0..sound.len() {
        refused(at, &[0x80, 0], number);
    }
    refused(1, &beyond_32_bits, number);
    refused(2, &beyond_32_bits, number);
    let cut = "it ends within an inode";
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    refused(7, &[1, 0, 5, b'a'], cut);
    refused(7, &[&[1, 0], &most[..]].concat(), cut);
    refused(7, &most, cut);
}

#[test]
fn more_inodes_than_there_can_be_are_refused() {
    let three = || (2..5).map(node);
    assert_eq!(travelled(vec![payload(three())]), Ok(three().collect()));
    let one_each = || three().map(|node| payload([node])).collect::<Vec<_>>();
    assert_eq!(travelled(one_each()), Ok(three().collect()));
    for pieces in [
        vec![payload((2..6).map(node))],
        [one_each(), one_each()].concat(),
    ] {
        let error = travelled(pieces).unwrap_err();
        assert!(
            error.contains("with it there are more than 3 inodes"),
            "{error}"
        );
    }
}

#[test]
fn a_large_table_is_in_pieces_that_can_be_read_alone() {
    let nodes: Vec<NodeV1> = (2..10_000).map(node).collect();
    let table = NodeTable::from_iter(nodes.clone());
    assert!(table.pieces.len() > 2);
    assert_eq!(table.len(), nodes.len());
    assert_eq!(table.to_vec(), nodes);
    let alone: Vec<NodeV1> = table
        .payloads()
        .flat_map(|payload| {
            assert!(payload.len() <= PIECE_ROOM);
            let table = NodeTable {
                pieces: vec![payload.to_vec()],
                ..NodeTable::default()
            };
            table.to_vec()
        })
        .collect();
    assert_eq!(alone, nodes);
}

#[test]
fn where_pieces_end_means_nothing() {
    let pieces = [payload([node(2)]), payload([]), payload([node(3)])];
    let table = travelled(pieces.into()).unwrap();
    assert_eq!(table, NodeTable::from_iter([node(2), node(3)]));
    // What is added after it was read goes on from there.
    let mut table = travelled(vec![payload([node(2)])]).unwrap();
    table.push(node(3));
    assert_eq!(table, NodeTable::from_iter([node(2), node(3)]));
    assert_ne!(table, NodeTable::from_iter([node(2)]));
}

#[test]
fn inodes_are_found_in_every_order_and_twice_is_told() {
    let nodeids: [&[u64]; 4] = [&[], &[1], &[1, 3, 5, 7, 9], &[1, 9, 3, 7, 5]];
    for nodeids in nodeids {
        let nodes: NodeTable = nodeids.iter().copied().map(node).collect();
        let mut finder = NodeFinder::with_capacity(nodes.len());
        assert!(nodes.iter().all(|node| finder.add(&node)));
        for nodeid in (0..12).flat_map(|nodeid| [nodeid, nodeid]) {
            let expected = nodeids.iter().position(|known| *known == nodeid);
            assert_eq!(finder.find(nodeid).map(|found| found.index), expected);
        }
        assert!(!nodes.iter().any(|node| finder.add(&node)));
    }
}

fn any_node() -> impl Strategy<Value = NodeV1> {
    // Small numbers and large ones.
    let number = || (0..64_u32, any::<u64>()).prop_map(|(shift, number)| number >> shift);
    let location = (number(), vec(any::<u8>(), 0..200));
    let location = location.prop_map(|(parent, name)| LocationV1 { parent, name });
    let numbers = [(); 5].map(|()| number());
    (numbers, any::<(u32, u32, bool)>(), vec(location, 0..10)).prop_map(
        |([nodeid, ino, birth_ns, ino_shown, lookups], (kind, mount, lost), locations)| NodeV1 {
            nodeid,
            kind,
            mount,
            ino,
            birth_ns,
            ino_shown,
            lookups,
            locations,
            lost,
        },
    )
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out(nodes in vec(any_node(), 0..20)) {
        let table = NodeTable::from_iter(nodes.clone());
        prop_assert_eq!(table.to_vec(), nodes.clone());
        for (node, expected) in table.iter().zip(&nodes) {
            let locations = node.locations;
            prop_assert_eq!(locations.len(), expected.locations.len());
            prop_assert_eq!(locations.is_empty(), expected.locations.is_empty());
            prop_assert_eq!(locations.iter().len(), expected.locations.len());
            let last = expected.locations.last().map(|location| (location.parent, location.name.as_slice()));
            prop_assert_eq!(locations.last().map(|location| (location.parent, location.name)), last);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
        if let Ok(table) = travelled(vec![bytes.clone()]) {
            // One encoding only.
            let again = NodeTable::from_iter(table.to_vec());
            prop_assert_eq!(again.payloads().collect::<Vec<_>>(), [&bytes[..]]);
        }
    }
}
