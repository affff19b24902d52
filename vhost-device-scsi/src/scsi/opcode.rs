//! The one table of commands: what there is, how long it is, which bits count, how it stands to reservations, unit attentions and a
//! stopped unit, and who handles it.
//!
//! Knows no state. REPORT SUPPORTED OPERATION CODES is this table, and nothing is answered that is not in it.

use super::reservation::Class;
use super::unit::handlers as handle;
use super::unit::{Refusal, Unit};
use super::{Action, command::Command};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// Handles a command.
pub type Handler = fn(&mut Unit, Command<'_>) -> Result<Action, Refusal>;

/// A command.
pub struct Entry {
    /// Operation code.
    pub code: u8,
    /// Service action, and where its bits are: in byte 1, or for variable length commands elsewhere.
    pub action: Option<u16>,
    /// Length in bytes, and for each of them the bits that are looked at (SPC-5, 6.37.3, CDB USAGE DATA).
    pub usage: &'static [u8],
    /// Which way data goes.
    pub direction: Direction,
    /// How it stands to reservations.
    pub class: Class,
    /// What else there is to it: a combination of the constants below.
    pub traits: u8,
    /// Who does it.
    pub handler: Handler,
}

/// It is answered though a unit attention waits, which stays (SPC-5, 5.14: INQUIRY, REPORT LUNS, REQUEST SENSE).
pub const IGNORES_ATTENTIONS: u8 = 1;
/// It needs the medium: a unit that was stopped refuses it.
pub const NEEDS_MEDIUM: u8 = 2;
/// It writes to the medium: a read-only or protected unit refuses it.
pub const WRITES: u8 = 4;

/// Done twice it does harm, or its answer is not that of the first time: it is not done again if a crash has interrupted it, for it
/// may be done already.
pub const ONCE: u8 = 8;

/// REPORT LUNS, which the target answers.
pub const REPORT_LUNS: u8 = 0xa0;

const MEDIUM: u8 = NEEDS_MEDIUM;
const WRITE: u8 = NEEDS_MEDIUM | WRITES;
const WRITE_ONCE: u8 = WRITE | ONCE;

use Class::{Always, Read, Reserve, Write};
use Direction::{In, None as No, Out};

macro_rules! table {
    ($($code:literal $(/ $action:literal)? $direction:ident $class:ident $traits:expr, $handler:path, [$($usage:literal)*];)*) => {
        /// All commands, by operation code and service action.
        pub static TABLE: &[Entry] = &[$(Entry {
            code: $code,
            action: table!(@action $($action)?),
            usage: &[$($usage),*],
            direction: $direction,
            class: $class,
            traits: $traits,
            handler: $handler,
        }),*];
    };
    (@action) => { None };
    (@action $action:literal) => { Some($action) };
}

table! {
    0x00 No Always MEDIUM, handle::test_unit_ready, [0x00 0 0 0 0 0];
    0x03 In Always IGNORES_ATTENTIONS, handle::request_sense, [0x03 0x01 0 0 0xff 0];
    0x08 In Read MEDIUM, handle::read, [0x08 0x1f 0xff 0xff 0xff 0];
    0x0a Out Write WRITE, handle::write, [0x0a 0x1f 0xff 0xff 0xff 0];
    0x12 In Always IGNORES_ATTENTIONS, handle::inquiry, [0x12 0x01 0xff 0xff 0xff 0];
    0x15 Out Write ONCE, handle::mode_select, [0x15 0x11 0 0 0xff 0];
    0x16 No Reserve ONCE, handle::reserve, [0x16 0 0 0 0 0];
    0x17 No Always ONCE, handle::release, [0x17 0 0 0 0 0];
    0x1a In Read 0, handle::mode_sense, [0x1a 0x08 0xff 0xff 0xff 0];
    0x1b No Always 0, handle::start_stop, [0x1b 0x01 0 0x0f 0xf7 0];
    0x1e No Always 0, handle::prevent_allow, [0x1e 0 0 0 0x03 0];
    0x25 In Always MEDIUM, handle::read_capacity_10, [0x25 0 0 0 0 0 0 0 0 0];
    0x28 In Read MEDIUM, handle::read, [0x28 0xf8 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x2a Out Write WRITE, handle::write, [0x2a 0xf8 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x2e Out Write WRITE, handle::write_and_verify, [0x2e 0xf6 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x2f Out Read MEDIUM, handle::verify, [0x2f 0xf6 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x34 No Read MEDIUM, handle::pre_fetch, [0x34 0x02 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x35 No Write MEDIUM, handle::synchronize_cache, [0x35 0x02 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x37 In Read MEDIUM, handle::read_defect_data, [0x37 0 0x1f 0 0 0 0 0xff 0xff 0];
    0x41 Out Write WRITE, handle::write_same, [0x41 0xf8 0xff 0xff 0xff 0xff 0 0xff 0xff 0];
    0x42 Out Write WRITE, handle::unmap, [0x42 0x01 0 0 0 0 0 0xff 0xff 0];
    0x4d In Always 0, handle::log_sense, [0x4d 0x01 0xff 0xff 0 0 0 0xff 0xff 0];
    0x55 Out Write ONCE, handle::mode_select, [0x55 0x11 0 0 0 0 0 0xff 0xff 0];
    0x56 No Reserve ONCE, handle::reserve, [0x56 0 0 0 0 0 0 0 0 0];
    0x57 No Always ONCE, handle::release, [0x57 0 0 0 0 0 0 0 0 0];
    0x5a In Read 0, handle::mode_sense, [0x5a 0x18 0xff 0xff 0 0 0 0xff 0xff 0];
    0x5e / 0x00 In Always 0, handle::persistent_in, [0x5e 0x1f 0 0 0 0 0 0xff 0xff 0];
    0x5e / 0x01 In Always 0, handle::persistent_in, [0x5e 0x1f 0 0 0 0 0 0xff 0xff 0];
    0x5e / 0x02 In Always 0, handle::persistent_in, [0x5e 0x1f 0 0 0 0 0 0xff 0xff 0];
    0x5e / 0x03 In Always 0, handle::persistent_in, [0x5e 0x1f 0 0 0 0 0 0xff 0xff 0];
    0x5f / 0x00 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x01 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x02 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x03 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x04 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x05 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x5f / 0x06 Out Always ONCE, handle::persistent_out, [0x5f 0x1f 0xff 0 0 0xff 0xff 0xff 0xff 0];
    0x88 In Read MEDIUM, handle::read, [0x88 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x89 Out Write WRITE_ONCE, handle::compare_and_write, [0x89 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0 0 0xff 0 0];
    0x8a Out Write WRITE, handle::write, [0x8a 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x8b Out Write WRITE_ONCE, handle::or_write, [0x8b 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x8e Out Write WRITE, handle::write_and_verify, [0x8e 0xf6 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x8f Out Read MEDIUM, handle::verify, [0x8f 0xf6 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x90 No Read MEDIUM, handle::pre_fetch, [0x90 0x02 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x91 No Write MEDIUM, handle::synchronize_cache, [0x91 0x02 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x93 Out Write WRITE, handle::write_same, [0x93 0xf9 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0x9e / 0x10 In Always MEDIUM, handle::read_capacity_16, [0x9e 0x1f 0 0 0 0 0 0 0 0 0xff 0xff 0xff 0xff 0 0];
    0x9e / 0x12 In Read MEDIUM, handle::lba_status, [0x9e 0x1f 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xa0 In Always IGNORES_ATTENTIONS, handle::report_luns, [0xa0 0 0xff 0 0 0 0xff 0xff 0xff 0xff 0 0];
    0xa3 / 0x0c In Read 0, handle::supported_codes, [0xa3 0x1f 0x87 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xa3 / 0x0d In Read 0, handle::supported_tasks, [0xa3 0x1f 0x80 0 0 0 0xff 0xff 0xff 0xff 0 0];
    0xa8 In Read MEDIUM, handle::read, [0xa8 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xaa Out Write WRITE, handle::write, [0xaa 0xf8 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xae Out Write WRITE, handle::write_and_verify, [0xae 0xf6 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xaf Out Read MEDIUM, handle::verify, [0xaf 0xf6 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0xff 0 0];
    0xb7 In Read MEDIUM, handle::read_defect_data, [0xb7 0x1f 0 0 0 0 0xff 0xff 0xff 0xff 0 0];
}

/// What came of looking a command up.
pub enum Found {
    /// It is there.
    Entry(&'static Entry),
    /// No such operation code.
    NoCode,
    /// There is the code, and not the service action.
    NoAction,
}

/// Looks a command up.
pub fn find(command: Command<'_>) -> Found {
    let code = command.byte(0);
    let action = u16::from(command.byte(1) & 0x1f);
    let mut of_code = TABLE.iter().filter(|entry| entry.code == code).peekable();
    if of_code.peek().is_none() {
        return Found::NoCode;
    }
    of_code
        .find(|entry| entry.action.is_none_or(|of_entry| of_entry == action))
        .map_or(Found::NoAction, Found::Entry)
}

/// Whether a command that may be done already can be done again.
pub fn is_repeatable(cdb: &[u8]) -> bool {
    match find(Command(cdb)) {
        Found::Entry(entry) => entry.traits & ONCE == 0,
        Found::NoCode | Found::NoAction => true,
    }
}

/// Whether a command uses reservations themselves: RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT.
pub fn uses_reservations(cdb: &[u8]) -> bool {
    matches!(
        Command(cdb).byte(0),
        0x16 | 0x17 | 0x56 | 0x57 | 0x5e | 0x5f
    )
}

/// PERSISTENT RESERVE OUT with PREEMPT AND ABORT.
pub fn is_preempt_and_abort(cdb: &[u8]) -> bool {
    let command = Command(cdb);
    command.byte(0) == 0x5f && command.byte(1) & 0x1f == 5
}

/// Whether the data-out buffer has to have exactly the length that the command says: WRITE SAME, COMPARE AND WRITE. Of other commands
/// it may be longer.
pub fn is_exact(cdb: &[u8]) -> bool {
    matches!(Command(cdb).byte(0), 0x41 | 0x89 | 0x93)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_twice_without_harm_is_repeated_after_a_crash() {
        for code in [0x0a, 0x28, 0x2a, 0x35, 0x41, 0x42, 0x5e, 0x8a, 0x93, 0xff] {
            assert!(is_repeatable(&[code, 0]), "{code:#x}");
        }
        for code in [0x15, 0x16, 0x17, 0x55, 0x56, 0x57, 0x5f, 0x89, 0x8b] {
            assert!(!is_repeatable(&[code, 0]), "{code:#x}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_has_the_lengths_of_the_groups() {
        let keys: Vec<_> = TABLE
            .iter()
            .map(|entry| (entry.code, entry.action))
            .collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
        for entry in TABLE {
            let length = match entry.code >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                _ => 12,
            };
            assert_eq!(entry.usage.len(), length, "{:#x}", entry.code);
            assert_eq!(entry.usage[0], entry.code);
            assert_eq!(
                entry.action.is_some(),
                matches!(entry.code, 0x5e | 0x5f | 0x9e | 0xa3)
            );
            let reserves = uses_reservations(&[entry.code]) && entry.code != 0x5e;
            assert!(!reserves || entry.traits & ONCE != 0, "{:#x}", entry.code);
            if entry.traits & WRITES != 0 {
                assert_eq!(entry.class, Write, "{:#x}", entry.code);
            }
        }
    }
}
