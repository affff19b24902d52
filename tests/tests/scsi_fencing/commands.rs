//! Which commands a reservation is in the way of: SPC-5, tables 66 and 67, and SBC-4, table 13, command by command.

use anyhow::{Result, ensure};
use tests::scsi_suite::initiator::{CHECK_CONDITION, Data, GOOD, RESERVATION_CONFLICT};

use crate::rig::{A, B, CONFLICT, Rig, at_rest_and_migrating};

/// What a command is to the holder of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Allowed to all.
    Allowed,
    /// In the way of exclusive access only.
    Reads,
    /// In the way of write exclusive, too.
    Writes,
}

use Stands::{Allowed, Reads, Writes};

/// Length of the data: from the device, or for it.
#[derive(Clone, Copy, Debug)]
enum Moves {
    None,
    In(usize),
    Out(usize),
}

use Moves::{In, None as Nothing, Out};

/// The commands that are done for the holder, each without harm.
const COMMANDS: &[(&str, Stands, Moves, &[u8])] = &[
    ("TEST UNIT READY", Allowed, Nothing, &[0; 6]),
    ("REQUEST SENSE", Allowed, In(18), &[3, 0, 0, 0, 18, 0]),
    ("INQUIRY", Allowed, In(36), &[0x12, 0, 0, 0, 36, 0]),
    (
        "START STOP UNIT, START",
        Allowed,
        Nothing,
        &[0x1b, 0, 0, 0, 1, 0],
    ),
    (
        "START STOP UNIT, stop",
        Writes,
        Nothing,
        &[0x1b, 0, 0, 0, 0, 0],
    ),
    (
        "START STOP UNIT, START again",
        Allowed,
        Nothing,
        &[0x1b, 0, 0, 0, 1, 0],
    ),
    (
        "PREVENT ALLOW, prevent",
        Writes,
        Nothing,
        &[0x1e, 0, 0, 0, 1, 0],
    ),
    (
        "PREVENT ALLOW, allow",
        Allowed,
        Nothing,
        &[0x1e, 0, 0, 0, 0, 0],
    ),
    (
        "READ CAPACITY(10)",
        Allowed,
        In(8),
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    (
        "READ CAPACITY(16)",
        Allowed,
        In(32),
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
    ),
    (
        "REPORT LUNS",
        Allowed,
        In(16),
        &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
    ),
    (
        "LOG SENSE",
        Allowed,
        In(6),
        &[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 6, 0],
    ),
    (
        "PERSISTENT RESERVE IN",
        Allowed,
        In(8),
        &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0],
    ),
    ("MODE SENSE(6)", Reads, In(4), &[0x1a, 0, 0x3f, 0, 4, 0]),
    (
        "MODE SENSE(10)",
        Reads,
        In(8),
        &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 8, 0],
    ),
    (
        "REPORT SUPPORTED OPERATION CODES",
        Reads,
        In(4),
        &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0],
    ),
    (
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        Reads,
        In(4),
        &[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0],
    ),
    ("READ(6)", Reads, In(512), &[0x08, 0, 0, 1, 1, 0]),
    (
        "READ(10)",
        Reads,
        In(512),
        &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "READ(12)",
        Reads,
        In(512),
        &[0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "READ(16)",
        Reads,
        In(512),
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "VERIFY(10)",
        Reads,
        Nothing,
        &[0x2f, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "PRE-FETCH(10)",
        Reads,
        Nothing,
        &[0x34, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "READ DEFECT DATA(10)",
        Reads,
        In(4),
        &[0x37, 0, 0, 0, 0, 0, 0, 0, 4, 0],
    ),
    (
        "GET LBA STATUS",
        Reads,
        In(24),
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0],
    ),
    ("WRITE(6)", Writes, Out(512), &[0x0a, 0, 0, 1, 1, 0]),
    (
        "WRITE(10)",
        Writes,
        Out(512),
        &[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "WRITE(12)",
        Writes,
        Out(512),
        &[0xaa, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "WRITE(16)",
        Writes,
        Out(512),
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "WRITE AND VERIFY(10)",
        Writes,
        Out(512),
        &[0x2e, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "WRITE SAME(10)",
        Writes,
        Out(512),
        &[0x41, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ),
    (
        "WRITE SAME(16)",
        Writes,
        Out(512),
        &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "COMPARE AND WRITE",
        Writes,
        Out(1024),
        &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    (
        "ORWRITE(16)",
        Writes,
        Out(512),
        &[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    ),
    ("UNMAP", Writes, Out(8), &[0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0]),
    (
        "SYNCHRONIZE CACHE(10)",
        Writes,
        Nothing,
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    (
        "SYNCHRONIZE CACHE(16)",
        Writes,
        Nothing,
        &[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    ("MODE SELECT(6)", Writes, Out(4), &[0x15, 0x10, 0, 0, 4, 0]),
    (
        "MODE SELECT(10)",
        Writes,
        Out(8),
        &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 8, 0],
    ),
];

/// The status of a command, which must be one that is expected of it.
fn status(rig: &mut Rig, number: usize, moves: Moves, cdb: &[u8]) -> Result<u8> {
    let zeros = vec![0; 2048];
    let outcome = match moves {
        Moves::None => rig.command(number, cdb, Data::None)?,
        In(length) => rig.command(number, cdb, Data::In(length))?,
        Out(length) => {
            let data = zeros.get(..length).unwrap_or_default();
            rig.command(number, cdb, Data::Out(data))?
        }
    };
    ensure!(outcome.response == 0, "{outcome:?}");
    ensure!(outcome.status != CHECK_CONDITION, "{:?}", outcome.sense());
    Ok(outcome.status)
}

/// All commands of `number`, of which those are refused that the reservation is in the way of.
fn ask_all(rig: &mut Rig, number: usize, refused: impl Fn(Stands) -> bool) -> Result<()> {
    for (name, stands, moves, cdb) in COMMANDS {
        let expected = if refused(*stands) {
            RESERVATION_CONFLICT
        } else {
            GOOD
        };
        let found = status(rig, number, *moves, cdb)
            .map_err(|error| error.context(format!("{name} of initiator {number}")))?;
        ensure!(
            found == expected,
            "{name} of initiator {number}: status {found:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

#[test]
fn every_command_of_others_is_refused_or_allowed_as_the_table_says() -> Result<()> {
    at_rest_and_migrating(|rig| {
        rig.register(A)?;
        for &kind in rig.kinds() {
            rig.act(A, "--reserve", kind, 0)?;
            let exclusive = matches!(kind, 3 | 6 | 8);
            let in_the_way = |stands| match stands {
                Allowed => false,
                Reads => exclusive,
                Writes => true,
            };
            ask_all(rig, A, |_| false)?;
            // Not registered.
            ask_all(rig, B, in_the_way)?;
            rig.act(B, "--reserve", kind, CONFLICT)?;
            // Registered, which is enough for the types of registrants.
            rig.register(B)?;
            ask_all(rig, B, |stands| kind < 5 && in_the_way(stands))?;
            rig.act(A, "--release", kind, 0)?;
            ask_all(rig, B, |_| false).or_else(|error| {
                // The types of registrants: B hears of the release first.
                ensure!(kind >= 5, error);
                rig.heard(B).map(drop)?;
                ask_all(rig, B, |_| false)
            })?;
            rig.out(B, &["--register", "--param-rk=0xb", "--param-sark=0"], 0)?;
        }
        // RESERVE(6) of SPC-2 while there is a registration: neither of them (CRH is 0).
        for number in [A, B] {
            let reserve = [0x16, 0, 0, 0, 0, 0];
            ensure!(status(rig, number, Nothing, &reserve)? == RESERVATION_CONFLICT);
        }
        Ok(())
    })
}

#[test]
fn a_reservation_of_spc_2_is_in_the_way_of_others_and_of_persistent_ones() -> Result<()> {
    at_rest_and_migrating(|rig| {
        ensure!(status(rig, A, Nothing, &[0x16, 0, 0, 0, 0, 0])? == GOOD);
        rig.step()?;
        ensure!(rig.writers()? == [A]);
        ensure!(
            status(rig, B, Nothing, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0])? == RESERVATION_CONFLICT
        );
        rig.out(B, &["--register", "--param-sark=0xb"], CONFLICT)?;
        // RELEASE of what one does not hold is no error, and releases nothing.
        ensure!(status(rig, B, Nothing, &[0x17, 0, 0, 0, 0, 0])? == GOOD);
        rig.step()?;
        ensure!(rig.writers()? == [A]);
        ensure!(status(rig, A, Nothing, &[0x17, 0, 0, 0, 0, 0])? == GOOD);
        rig.step()?;
        ensure!(rig.writers()? == [0, 1, 2]);
        rig.register(B)
    })
}
