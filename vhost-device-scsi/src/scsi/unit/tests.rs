//! Commands against the rules that all of them share.

use proptest::prelude::*;

use super::*;
use crate::config::UnitConfig;
use crate::scsi::fast;
use crate::scsi::opcode::TABLE;
use crate::scsi::reservation::Initiator;
use crate::scsi::{Completion, Extent, Failure, Operation};

const BLOCKS: u64 = 1000;

fn unit() -> Unit {
    let initiator = Initiator::parse("iqn.2026-01.test:vm").unwrap();
    let identity = Identity::new(&UnitConfig::new("/image", 0), 0, initiator, false);
    let mut unit = Unit::new(identity, BLOCKS, true);
    assert_eq!(
        sense(unit.begin(&[0; 6])),
        Attention::POWER_ON.sense(),
        "a new unit says that it is new"
    );
    unit
}

fn reply(action: Action) -> Reply {
    match action {
        Action::Reply(reply) => reply,
        Action::Parameters { .. } | Action::Operation(_) => panic!("{action:?}"),
    }
}

fn sense(action: Action) -> Sense {
    reply(action).sense.unwrap()
}

fn good(action: Action) -> Vec<u8> {
    let reply = reply(action);
    assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    reply.data
}

fn operation(action: Action) -> Operation {
    match action {
        Action::Operation(operation) => operation,
        Action::Reply(_) | Action::Parameters { .. } => panic!("{action:?}"),
    }
}

#[test]
fn what_is_not_in_the_table_is_refused_and_what_is_is_not() {
    for code in 0..=255_u8 {
        let mut cdb = [0; 16];
        cdb[0] = code;
        let known = TABLE.iter().any(|entry| entry.code == code);
        let refused = match unit().begin(&cdb) {
            Action::Reply(reply) => reply.sense == Some(Sense::INVALID_COMMAND),
            Action::Parameters { .. } | Action::Operation(_) => false,
        };
        assert_eq!(refused, !known, "{code:#x}");
    }
}

#[test]
fn attentions_come_first_and_once_but_not_to_inquiry() {
    let mut unit = unit();
    unit.attend(Attention::LUNS_CHANGED);
    unit.resized(2000);
    assert!(unit.fast().is_none());
    good(unit.begin(&[0x12, 0, 0, 0, 36, 0]));
    assert_eq!(sense(unit.begin(&[0; 6])), Attention::LUNS_CHANGED.sense());
    let data = good(unit.begin(&[0x03, 0, 0, 0, 18, 0]));
    assert_eq!((data[2], data[12], data[13]), (6, 0x2a, 0x09));
    good(unit.begin(&[0; 6]));
    assert_eq!(
        good(unit.begin(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))[2..4],
        [7, 0xcf]
    );
    assert!(unit.fast().is_some());
}

#[test]
fn a_size_that_came_back_is_no_news() {
    let mut unit = unit();
    unit.resized(2000);
    unit.resized(BLOCKS);
    good(unit.begin(&[0; 6]));
}

#[test]
fn ranges_end_with_the_medium() {
    let mut unit = unit();
    let read = |lba: u32, blocks: u16| {
        let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    let last = Extent {
        at: 999 * 512,
        len: 512,
    };
    assert_eq!(operation(unit.begin(&read(999, 1))), Operation::Read(last));
    assert_eq!(sense(unit.begin(&read(999, 2))).asc, 0x21);
    assert_eq!(sense(unit.begin(&read(1000, 1))).asc, 0x21);
    assert_eq!(sense(unit.begin(&read(1001, 0))).asc, 0x21);
    good(unit.begin(&read(1000, 0)));
    let mut protect = read(0, 1);
    protect[1] = 0x20;
    assert_eq!(sense(unit.begin(&protect)).asc, 0x24);
    let mut naca = read(0, 1);
    naca[9] = 4;
    assert_eq!(
        sense(unit.begin(&naca)),
        Sense::INVALID_FIELD.at_command(9, Some(2))
    );
}

#[test]
fn no_command_reads_a_large_medium_at_once() {
    let mut unit = unit();
    unit.resized(1 << 40);
    assert_eq!(
        sense(unit.begin(&[0; 6])),
        Attention::CAPACITY_CHANGED.sense()
    );
    let most = u32::try_from(fast::TRANSFER_BYTES_MAX / 512).unwrap();
    for code in [0x88, 0x8f] {
        let command = |blocks: u32| {
            let mut cdb = [0; 16];
            cdb[0] = code;
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
            cdb
        };
        operation(unit.begin(&command(most)));
        assert_eq!(sense(unit.begin(&command(most + 1))).asc, 0x24);
    }
}

#[test]
fn a_stopped_unit_and_a_protected_one() {
    let mut unit = unit();
    assert_eq!(
        operation(unit.begin(&[0x1b, 0, 0, 0, 0, 0])),
        Operation::Flush
    );
    assert_eq!(sense(unit.begin(&[0; 6])), Sense::NOT_READY);
    good(unit.begin(&[0x12, 0, 0, 0, 36, 0]));
    good(unit.begin(&[0x1b, 0, 0, 0, 1, 0]));
    good(unit.begin(&[0; 6]));
    // SWP, through MODE SELECT.
    let mut page = unit.state.modes.page(0x0a).unwrap();
    page[4] = 0x08;
    let list = [vec![0, 0, 0, 0], page].concat();
    good(unit.begin_with(&[0x15, 0x10, 0, 0, 16, 0], &list));
    assert_eq!(
        sense(unit.begin(&[0x0a, 0, 0, 0, 1, 0])),
        Sense::WRITE_PROTECTED
    );
    unit.reset(Attention::UNIT_RESET);
    assert_eq!(sense(unit.begin(&[0; 6])), Attention::UNIT_RESET.sense());
    operation(unit.begin(&[0x0a, 0, 0, 0, 1, 0]));
}

#[test]
fn mode_select_changes_what_may_be_changed_and_all_or_nothing() {
    let mut unit = unit();
    let select = |unit: &mut Unit, pages: &[u8]| {
        let list = [&[0, 0, 0, 0], pages].concat();
        reply(unit.begin_with(&[0x15, 0x10, 0, 0, 0, 0], &list))
    };
    let mut caching = unit.state.modes.page(0x08).unwrap();
    caching[2] = 0;
    let mut wrong = unit.state.modes.page(0x0a).unwrap();
    wrong[3] = 0;
    let refused = select(&mut unit, &[caching.clone(), wrong].concat());
    assert_eq!(
        refused.sense,
        Some(Sense::INVALID_PARAMETER.at_parameter(4 + 20 + 3, None))
    );
    assert!(unit.state.modes.write_cache);
    assert_eq!(select(&mut unit, &caching).status, Status::Good);
    assert!(!unit.state.modes.write_cache);
    let write = operation(unit.begin(&[0x0a, 0, 0, 0, 1, 0]));
    assert!(matches!(write, Operation::Write { durable: true, .. }));
    assert_eq!(
        select(&mut unit, &caching[..19]).sense,
        Some(Sense::PARAMETER_LENGTH)
    );
}

#[test]
fn failures_say_where() {
    let mut unit = unit();
    let read = operation(unit.begin(&[0x08, 0, 0, 4, 2, 0]));
    let failed = unit.finish(
        &[0x08, 0, 0, 4, 2, 0],
        &read,
        Err(Failure::Read { at: 5 * 512 }),
    );
    assert_eq!(failed.sense.unwrap().information, Some(5));
    let cdb = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0];
    let status = operation(unit.begin(&cdb));
    let extents = vec![
        (Extent { at: 0, len: 1024 }, true),
        (
            Extent {
                at: 1024,
                len: 4096,
            },
            false,
        ),
    ];
    let done = Ok(Completion::Allocation(extents));
    let reply = unit.finish(&cdb, &status, done.clone());
    assert_eq!(reply.data[..4], [0, 0, 0, 36]);
    // With room for no descriptor it is as long as it would have been.
    let short = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    assert_eq!(operation(unit.begin(&short)), status);
    assert_eq!(unit.finish(&short, &status, done).data, [0, 0, 0, 36]);
    assert_eq!((reply.data[19], reply.data[20]), (2, 0));
    assert_eq!((reply.data[35], reply.data[36]), (8, 1));
}

#[test]
fn all_claimed_commands_are_reported_and_each_reports_itself() {
    let mut unit = unit();
    let all = good(unit.begin(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0]));
    assert_eq!((all.len() - 4) / 8, TABLE.len());
    for entry in TABLE {
        let option = if entry.action.is_some() { 2 } else { 1 };
        let action = entry.action.unwrap_or(0).to_be_bytes();
        let cdb = [
            0xa3, 0x0c, option, entry.code, action[0], action[1], 0, 0, 1, 0, 0, 0,
        ];
        let one = good(unit.begin(&cdb));
        assert_eq!(one[1], 3, "{:#x}", entry.code);
        assert_eq!(
            (one[3], one[4]),
            (u8::try_from(entry.usage.len()).unwrap(), entry.code)
        );
    }
}

proptest! {
    /// No command, with no parameter list, panics, or leaves the medium.
    #[test]
    fn nothing_leaves_the_medium(
        entry in 0..TABLE.len(), mut cdb in any::<[u8; 16]>(), wild in any::<bool>(),
        parameters in proptest::collection::vec(any::<u8>(), 0..600), shift in 0_u32..64,
    ) {
        if !wild {
            cdb[0] = TABLE[entry].code;
            cdb[1] = cdb[1] & 0xe0 | TABLE[entry].action.map_or(cdb[1] & 0x1f, |action| action.to_le_bytes()[0]);
            // Small numbers are more interesting than large ones.
            let lba = (u64::from_be_bytes(cdb[2..10].try_into().unwrap()) >> shift).to_be_bytes();
            cdb[2..10].copy_from_slice(&lba);
        }
        let mut unit = unit();
        let mut action = unit.begin(&cdb);
        if let Action::Parameters { len } = action {
            prop_assert!((1..=crate::scsi::PARAMETERS_MAX).contains(&len));
            action = unit.begin_with(&cdb, &parameters[..len.min(parameters.len())]);
            let asks_again = matches!(action, Action::Parameters { .. });
            prop_assert!(!asks_again);
        }
        let within = |extent: &Extent| extent.len > 0 && extent.at + extent.len <= BLOCKS * 512;
        if let Action::Operation(operation) = action {
            let inside = match &operation {
                Operation::Flush => true,
                Operation::Unmap(extents) => extents.iter().all(within),
                Operation::Read(extent) | Operation::Verify(extent) | Operation::Allocation(extent)
                | Operation::Write { extent, .. } | Operation::Compare { extent, .. }
                | Operation::WriteAndVerify { extent, .. } | Operation::CompareAndWrite { extent, .. }
                | Operation::OrWrite { extent, .. } | Operation::WriteSame { extent, .. } => within(extent),
            };
            prop_assert!(inside, "{:?}", operation);
        }
    }

    /// The short way does what the long way does.
    #[test]
    fn the_fast_path_is_a_short_cut_and_nothing_else(
        code in prop::sample::select(vec![0x08_u8, 0x0a, 0x28, 0x2a, 0x88, 0x8a, 0xa8, 0xaa]),
        mut cdb in any::<[u8; 16]>(), shift in 40_u32..64,
    ) {
        cdb[0] = code;
        cdb[1] &= 0x18;
        let lba = (u64::from_be_bytes(cdb[2..10].try_into().unwrap()) >> shift).to_be_bytes();
        cdb[2..10].copy_from_slice(&lba);
        let mut unit = unit();
        let geometry = unit.fast().unwrap();
        if let Some(fast) = fast::operation(&cdb, geometry) {
            prop_assert_eq!(unit.begin(&cdb), Action::Operation(fast));
        }
    }
}
