//! What differs on purpose, and the clause that says why ours is right, or that both are.
//!
//! Classes are tried in order, so those that say less come last.

use tests::scsi_suite::initiator::{GOOD, RESERVATION_CONFLICT, Sense};

use crate::commands::{BLOCKS, Moves, length, number, range};
use crate::pair::{Case, End};

/// A class of differences.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    /// Why ours is right.
    pub(crate) why: &'static str,
    pub(crate) covers: fn(&Case) -> bool,
}

const INVALID_COMMAND: Option<Sense> = Some(Sense(5, 0x20, 0x00));
const OUT_OF_RANGE: Option<Sense> = Some(Sense(5, 0x21, 0x00));
const INVALID_FIELD: Option<Sense> = Some(Sense(5, 0x24, 0x00));
const INVALID_PARAMETER: Option<Sense> = Some(Sense(5, 0x26, 0x00));
const PARAMETER_LENGTH: Option<Sense> = Some(Sense(5, 0x1a, 0x00));
const STOPPED: Option<Sense> = Some(Sense(2, 0x04, 0x02));

/// All of them; the first that covers a case is its class.
pub(crate) const KNOWN: &[Difference] = &[
    Difference {
        name: "identity",
        why: "another device: INQUIRY and REPORT LUNS tell which one it is (SPC-5, 6.6, 6.34)",
        covers: |case| both_good(case) && matches!(case.code(), 0x12 | 0xa0),
    },
    Difference {
        name: "pages of INQUIRY",
        why: "each target has other optional vital product data pages (SPC-5, 7.7.1), and tgtd none for some bits of byte 1",
        covers: |case| {
            let refused = |end: &End| end.sense == INVALID_FIELD;
            case.code() == 0x12 && (refused(&case.ours) || refused(&case.theirs))
        },
    },
    Difference {
        name: "modes",
        why: "each target has other mode values, and other pages (SPC-5, 6.13)",
        covers: |case| {
            let expected = |end: &End| end.status == GOOD || refuses_page(end);
            let both = expected(&case.ours) && expected(&case.theirs);
            matches!(case.code(), 0x1a | 0x5a) && both
        },
    },
    Difference {
        name: "claimed commands",
        why: "each target has other optional commands (SPC-5, 6.37)",
        covers: |case| {
            let expected = |end: &End| end.status == GOOD || end.sense == INVALID_FIELD;
            case.code() == 0xa3 && expected(&case.ours) && expected(&case.theirs)
        },
    },
    Difference {
        name: "commands that tgtd does not have",
        why: "COMPARE AND WRITE, RESERVE(10), PREEMPT AND ABORT and others are optional (SBC-4, table 33)",
        covers: |case| {
            let aborts = case.code() == 0x5f && case.byte(1) & 0x1f == 5;
            case.theirs.sense == INVALID_COMMAND || aborts && case.theirs.sense == INVALID_FIELD
        },
    },
    Difference {
        name: "control byte",
        why: "vendor specific and obsolete bits of it are not looked at, only NACA is (SAM-5, 5.2); tgtd wants zeros",
        covers: |case| control(case) & !0x04 != 0 && case.theirs.sense == INVALID_FIELD,
    },
    Difference {
        name: "commands that ours does not have",
        why: "FORMAT UNIT and SEND DIAGNOSTIC would do nothing to a file; tgtd does just that",
        covers: |case| case.ours.sense == INVALID_COMMAND,
    },
    Difference {
        name: "stopped",
        why: "a unit that was stopped is not ready (SBC-4, 5.31); tgtd's always is, unless it is removable",
        covers: |case| {
            let told = case.ours.data.get(2) == Some(&2);
            case.ours.sense == STOPPED || case.code() == 0x03 && told
        },
    },
    Difference {
        name: "DESC of REQUEST SENSE",
        why: "sense data in descriptor format is given to those who ask for it (SPC-5, 6.39)",
        covers: |case| case.code() == 0x03 && case.byte(1) & 1 != 0,
    },
    Difference {
        name: "obsolete fields of READ CAPACITY",
        why: "block address and PMI are obsolete (SBC-4, 5.20 and 5.21), and the allocation length may be greater than the buffer",
        covers: |case| matches!(case.code(), 0x25 | 0x9e) && tgtd_is_strict(case),
    },
    Difference {
        name: "PERSISTENT RESERVE IN",
        why: "READ FULL STATUS is one, and every allocation length is right (SPC-5, 4.2.5.6 and 6.15.5)",
        covers: |case| case.code() == 0x5e && tgtd_is_strict(case),
    },
    Difference {
        name: "lists of MODE SELECT",
        why: "no list is no error, and one that is cut off has a wrong length (SPC-5, 6.11); D_SENSE and WCE can be changed",
        covers: |case| {
            let theirs = [INVALID_FIELD, INVALID_PARAMETER].contains(&case.theirs.sense);
            let ours = case.ours.status == GOOD || case.ours.sense == PARAMETER_LENGTH;
            matches!(case.code(), 0x15 | 0x55) && ours && theirs
        },
    },
    Difference {
        name: "lists of PERSISTENT RESERVE OUT",
        why: "a list of another length than 24 has a wrong length (SPC-5, 6.16.3)",
        covers: |case| case.code() == 0x5f && case.ours.sense == PARAMETER_LENGTH,
    },
    Difference {
        name: "the key comes first",
        why: "who is not registered with the key gets a conflict, whatever else is wrong (SPC-5, 5.14.4); then either of two errors",
        covers: |case| {
            let conflict = case.ours.status == RESERVATION_CONFLICT;
            let other = case.ours.sense == INVALID_PARAMETER && case.theirs.sense == INVALID_FIELD;
            case.code() == 0x5f && (conflict || other)
        },
    },
    Difference {
        name: "RESERVE beside registrations",
        why: "CRH is 0, so RESERVE(6) conflicts with registrations, one's own as well (SPC-5, 5.14.3)",
        covers: |case| case.code() == 0x16 && case.ours.status == RESERVATION_CONFLICT,
    },
    Difference {
        name: "reserved values",
        why: "power conditions that are not there (SBC-4, 5.31), PREVENT above 1 (SPC-5, 6.17), SELECT REPORT (SPC-5, table 297)",
        covers: |case| {
            let ours = case.ours.sense == INVALID_FIELD && case.theirs.status == GOOD;
            matches!(case.code(), 0x1b | 0x1e | 0xa0) && ours
        },
    },
    Difference {
        name: "reserved BYTCHK",
        why: "10b, and 11b of WRITE AND VERIFY, are reserved (SBC-4, 5.36 and 5.43)",
        covers: |case| {
            let verifies = matches!(case.code(), 0x2e | 0x2f | 0x8e | 0x8f | 0xae | 0xaf);
            verifies && case.byte(1) & 4 != 0 && case.ours.sense == INVALID_FIELD
        },
    },
    Difference {
        name: "nothing at the end of the medium",
        why: "no blocks, right behind the last one, do not exceed the capacity (SBC-4, 4.27)",
        covers: |case| {
            let nothing = range(&case.cdb) == (BLOCKS as u64, 0);
            nothing && case.ours.status == GOOD && case.theirs.sense == OUT_OF_RANGE
        },
    },
    Difference {
        name: "range of VERIFY and SYNCHRONIZE CACHE",
        why: "blocks beyond the end are refused here as well (SBC-4, 5.25 and 5.36)",
        covers: |case| {
            let (block, count) = range(&case.cdb);
            let beyond = block
                .checked_add(count)
                .is_none_or(|end| end > BLOCKS as u64);
            let checked = matches!(case.code(), 0x2f | 0x8f | 0xaf | 0x35 | 0x91);
            checked && beyond && case.ours.sense == OUT_OF_RANGE
        },
    },
    Difference {
        name: "obsolete bits of SYNCHRONIZE CACHE",
        why: "SYNC_NV is obsolete, and reserved bits need not be looked at (SPC-5, 4.2.5; SBC-4, 5.25)",
        covers: |case| matches!(case.code(), 0x35 | 0x91) && tgtd_is_strict(case),
    },
    Difference {
        name: "WRITE SAME of no blocks",
        why: "WSNZ is 1: up to the end of the medium is refused (SBC-4, 5.49)",
        covers: |case| {
            let (_, count) = range(&case.cdb);
            is_same(case) && count == 0 && case.ours.sense == INVALID_FIELD
        },
    },
    Difference {
        name: "obsolete bits of WRITE SAME",
        why: "LBDATA, PBDATA and RELADR are obsolete (SBC-4, 5.49)",
        covers: |case| is_same(case) && case.byte(1) & 0x07 != 0,
    },
    Difference {
        name: "UNMAP of WRITE SAME",
        why: "blocks are deallocated only if they read as what was to be written (SBC-4, 5.49.1)",
        covers: |case| {
            let zeros =
                matches!(&case.moves, Moves::Out(block) if block.iter().all(|byte| *byte == 0));
            is_same(case) && case.byte(1) & 0x08 != 0 && !zeros && both_good(case)
        },
    },
    Difference {
        name: "UNMAP beyond the end",
        why: "refused as out of range, and then nothing is unmapped (SBC-4, 5.35)",
        covers: |case| case.code() == 0x42 && case.ours.sense == OUT_OF_RANGE,
    },
    Difference {
        name: "too many descriptors of UNMAP",
        why: "more than MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT are refused (SBC-4, 5.35)",
        covers: |case| case.code() == 0x42 && case.ours.sense == INVALID_PARAMETER,
    },
    Difference {
        name: "lengths of UNMAP",
        why: "a list without its header has a wrong length, and a descriptor that is cut off is ignored (SBC-4, 5.35)",
        covers: |case| {
            let claimed =
                matches!(&case.moves, Moves::Out(list) if !number(list, 2, 2).is_multiple_of(16));
            case.code() == 0x42 && (case.ours.sense == PARAMETER_LENGTH || claimed)
        },
    },
    Difference {
        name: "GET LBA STATUS",
        why: "blocks beyond the end are refused; which blocks are allocated is the host's business (SBC-4, 5.6)",
        covers: |case| {
            let refused = case.ours.sense == OUT_OF_RANGE && case.theirs.status == GOOD;
            case.code() == 0x9e && (refused || both_good(case))
        },
    },
    Difference {
        name: "allocation length of REPORT LUNS",
        why: "it may be greater than the buffer (SPC-5, 4.2.5.6)",
        covers: |case| case.code() == 0xa0 && tgtd_is_strict(case),
    },
];

/// INVALID FIELD IN CDB, or SAVING PARAMETERS NOT SUPPORTED.
fn refuses_page(end: &End) -> bool {
    end.sense == INVALID_FIELD || end.sense == Some(Sense(5, 0x39, 0x00))
}

fn both_good(case: &Case) -> bool {
    case.ours.status == GOOD && case.theirs.status == GOOD
}

fn control(case: &Case) -> u8 {
    case.byte(length(case.code()) - 1)
}

/// WRITE SAME(10) and (16).
fn is_same(case: &Case) -> bool {
    matches!(case.code(), 0x41 | 0x93)
}

/// tgtd refuses a field, and ours has no quarrel with it.
fn tgtd_is_strict(case: &Case) -> bool {
    case.theirs.sense == INVALID_FIELD && case.ours.sense != INVALID_FIELD
}
