//! A command from the request ring to what is to be done about it, and from its end back to the ring.
//!
//! Knows addresses, buffers and units; knows neither workers nor how I/O is done.

use std::sync::Arc;

use common::request::{CursorError, Request};

use super::sweep::{Notice, Sweep};
use super::wire::{Address, Answer, Frame, Incoming, Response};
use crate::engine::job::{Command, Outcome, Work};
use crate::scsi::attention::Attention;
use crate::scsi::{Action, Completion, Failure, Operation, Reply, Status, fast, opcode, report};
use crate::target::unit::LogicalUnit;
use crate::target::{Table, Target};

/// What is to be done about a request.
pub(crate) enum Step {
    /// Nothing more: it is answered, with this many bytes written.
    Answered(u32),
    /// Work.
    Command(Command),
}

/// Looks at a command.
pub(crate) fn begin(
    target: &Target,
    table: &Table,
    request: &Request,
    incoming: &Incoming,
) -> Step {
    let frame = &incoming.frame;
    if frame.out_len > 0 && frame.in_len > 0 {
        // INOUT is not offered (5.6.6.1).
        return Step::Answered(Answer::only(Response::Failure).write(request, frame));
    }
    let lun = match Address::decode(incoming.lun, target.config().target) {
        Address::BadTarget => {
            return Step::Answered(Answer::only(Response::BadTarget).write(request, frame));
        }
        Address::ReportLuns => {
            let reply = report::well_known(&incoming.cdb, &numbers(table));
            return Step::Answered(answer(&reply, request, frame));
        }
        Address::Unit(lun) => lun,
    };
    let Some(unit) = table.get(&lun) else {
        let reply = report::absent(&incoming.cdb, &numbers(table));
        return Step::Answered(answer(&reply, request, frame));
    };
    // Before all that could end it as if it had not been begun.
    if request.is_resubmitted() && !opcode::is_repeatable(&incoming.cdb) {
        log::warn!(
            "logical unit {lun}: command {:#04x} was in flight at a crash and may be done; aborted",
            incoming.cdb.first().unwrap_or(&0)
        );
        let reply = unit.with(|unit| unit.interrupted());
        return Step::Answered(answer(&reply, request, frame));
    }
    // Before the unit is asked whether others have changed its reservations.
    let in_flight = unit.enter();
    let step = begin_at(table, unit, lun, request, incoming);
    match step {
        Step::Command(mut command) => {
            command.in_flight = in_flight;
            Step::Command(command)
        }
        Step::Answered(written) => Step::Answered(written),
    }
}

/// Looks at a command of a unit that is there.
fn begin_at(
    table: &Table,
    unit: &Arc<LogicalUnit>,
    lun: u16,
    request: &Request,
    incoming: &Incoming,
) -> Step {
    let frame = &incoming.frame;
    let quick = unit
        .geometry()
        .and_then(|geometry| fast::operation(&incoming.cdb, geometry));
    if let Some(operation) = quick {
        return with_buffers(unit, lun, request, incoming, operation);
    }
    if incoming.cdb.first() == Some(&opcode::REPORT_LUNS) {
        return Step::Answered(report_luns(table, request, incoming));
    }
    let waits = unit
        .store()
        .is_some_and(|store| store.changed() || opcode::uses_reservations(&incoming.cdb));
    if waits {
        let command = Command::new(Arc::clone(unit), lun, incoming, Work::Shared);
        return Step::Command(command);
    }
    match whole(unit, request, incoming) {
        Ok((Action::Operation(operation), _)) if !is_right(&operation, incoming) => {
            let reply = unit.with(|unit| unit.wrong_length());
            Step::Answered(answer(&reply, request, frame))
        }
        Ok((Action::Operation(operation), _)) => {
            with_buffers(unit, lun, request, incoming, operation)
        }
        Ok((Action::Reply(reply), taken)) => {
            Step::Answered(answer_moved(&reply, request, frame, taken))
        }
        Ok((Action::Parameters { .. }, _)) | Err(_) => {
            Step::Answered(Answer::only(Response::Overrun).write(request, frame))
        }
    }
}

/// Begins a command, with its parameter list if it has one; also returns that list's length in bytes. An error is a data-out
/// buffer that is too short.
fn whole(
    unit: &LogicalUnit,
    request: &Request,
    incoming: &Incoming,
) -> Result<(Action, usize), CursorError> {
    let Incoming { cdb, frame, .. } = incoming;
    match unit.begin(cdb) {
        Action::Parameters { len } => Ok(match parameters(unit, request, frame, cdb, len)? {
            Ok(list) => (unit.begin_with(cdb, &list), len),
            Err(refused) => (refused, 0),
        }),
        action @ (Action::Reply(_) | Action::Operation(_)) => Ok((action, 0)),
    }
}

/// [`whole`], for a unit that shares its reservations: may wait.
pub(crate) fn whole_shared(
    command: &Command,
    request: &Request,
) -> Result<(Action, usize), CursorError> {
    let Command {
        unit, cdb, frame, ..
    } = command;
    match unit.begin_shared(cdb) {
        Action::Parameters { len } => Ok(match parameters(unit, request, frame, cdb, len)? {
            Ok(list) => (unit.begin_with_shared(cdb, &list), len),
            Err(refused) => (refused, 0),
        }),
        action @ (Action::Reply(_) | Action::Operation(_)) => Ok((action, 0)),
    }
}

/// The parameter list; or how the command ends if the data-out buffer is longer than it may be.
fn parameters(
    unit: &LogicalUnit,
    request: &Request,
    frame: &Frame,
    cdb: &[u8],
    len: usize,
) -> Result<Result<Vec<u8>, Action>, CursorError> {
    if opcode::is_exact(cdb) && frame.out_len != len {
        return Ok(Err(Action::Reply(unit.with(|unit| unit.wrong_length()))));
    }
    let mut list = vec![0; len];
    let mut reader = request.reader();
    reader.skip(frame.out_at)?;
    reader.read_exact(&mut list)?;
    Ok(Ok(list))
}

/// Refuses an operation that moves more than the request has buffers for.
fn with_buffers(
    unit: &Arc<LogicalUnit>,
    lun: u16,
    request: &Request,
    incoming: &Incoming,
    operation: Operation,
) -> Step {
    let frame = &incoming.frame;
    if fits(&operation, frame) {
        let work = Work::Operation(operation);
        Step::Command(Command::new(Arc::clone(unit), lun, incoming, work))
    } else {
        Step::Answered(Answer::only(Response::Overrun).write(request, frame))
    }
}

/// Whether the request has buffers for all that an operation moves.
pub(crate) fn fits(operation: &Operation, frame: &Frame) -> bool {
    let (out, into) = data(operation);
    out <= frame.out_len as u64 && into <= frame.in_len as u64
}

/// Whether the data-out buffer has the length that it must have.
fn is_right(operation: &Operation, incoming: &Incoming) -> bool {
    let (out, _) = data(operation);
    !opcode::is_exact(&incoming.cdb) || out == 0 || out == incoming.frame.out_len as u64
}

/// Bytes that an operation takes from the data-out buffer, and puts into the data-in buffer.
fn data(operation: &Operation) -> (u64, u64) {
    match operation {
        Operation::Read(extent) => (0, extent.len),
        Operation::Write { extent, .. }
        | Operation::WriteAndVerify { extent, .. }
        | Operation::OrWrite { extent, .. } => (extent.len, 0),
        Operation::Compare { extent, repeated } => (repeated.map_or(extent.len, u64::from), 0),
        Operation::CompareAndWrite { extent, .. } => (extent.len.saturating_mul(2), 0),
        // Their parameter lists were taken already.
        Operation::Flush
        | Operation::Verify(_)
        | Operation::WriteSame { .. }
        | Operation::Unmap(_)
        | Operation::Allocation(_) => (0, 0),
    }
}

fn numbers(table: &Table) -> Vec<u16> {
    table.keys().copied().collect()
}

/// REPORT LUNS: the initiator knows by now (SPC-5, 6.34).
fn report_luns(table: &Table, request: &Request, incoming: &Incoming) -> u32 {
    let reply = report::report_luns(&incoming.cdb, &numbers(table));
    if reply.status == Status::Good {
        for unit in table.values() {
            unit.with(|unit| unit.state.attentions.withdraw(Attention::LUNS_CHANGED));
        }
    }
    answer(&reply, request, &incoming.frame)
}

/// Ends a command: the bytes written to its buffers.
pub(crate) fn end(command: &Command, request: &Request, outcome: Outcome) -> u32 {
    let frame = &command.frame;
    match (outcome, &command.work) {
        (Outcome::Operation(Ok(Completion::Done)), Work::Operation(operation))
            if is_plain(operation) =>
        {
            good(request, frame, operation)
        }
        (Outcome::Operation(result), Work::Operation(operation)) => {
            let moved = moved(operation, result.as_ref());
            let reply = command.unit.finish(&command.cdb, operation, result);
            answer_moved(&reply, request, frame, moved)
        }
        (Outcome::Reply(reply, moved), _) => answer_moved(&reply, request, frame, moved),
        (Outcome::Response(response), _) => Answer::only(response).write(request, frame),
        (Outcome::Operation(_), Work::Shared) => {
            Answer::only(Response::Failure).write(request, frame)
        }
    }
}

/// Reads and writes that succeeded need nothing of the unit.
fn is_plain(operation: &Operation) -> bool {
    matches!(operation, Operation::Read(_) | Operation::Write { .. })
}

/// GOOD for an operation that is done.
pub(crate) fn good(request: &Request, frame: &Frame, operation: &Operation) -> u32 {
    let (out, into) = data(operation);
    Answer {
        response: Response::Ok,
        status: Status::Good as u8,
        sense: &[],
        transferred: usize::try_from(out.max(into)).unwrap_or(usize::MAX),
    }
    .write(request, frame)
}

/// Bytes of data that an operation has moved. One that failed counts as having moved nothing.
pub(crate) fn moved(operation: &Operation, result: Result<&Completion, &Failure>) -> usize {
    let (out, into) = data(operation);
    match result {
        Ok(_) => usize::try_from(out.max(into)).unwrap_or(usize::MAX),
        Err(_) => 0,
    }
}

/// Writes a reply that has its data with it.
fn answer(reply: &Reply, request: &Request, frame: &Frame) -> u32 {
    answer_moved(reply, request, frame, 0)
}

fn answer_moved(reply: &Reply, request: &Request, frame: &Frame, moved: usize) -> u32 {
    let data = reply.data.get(..frame.in_len).unwrap_or(&reply.data);
    let mut writer = request.writer();
    let placed = writer
        .skip(frame.in_at)
        .and_then(|()| writer.write_all(data));
    if let Err(error) = placed {
        log::error!("data of a reply lost: {error}");
    }
    let sense = reply
        .sense
        .map(|sense| sense.encode(reply.descriptor_sense))
        .unwrap_or_default();
    Answer {
        response: Response::Ok,
        status: reply.status as u8,
        sense: &sense,
        transferred: if data.is_empty() { moved } else { data.len() },
    }
    .write(request, frame)
}

/// Which sweeps concern a command that was on the ring before them.
pub(crate) fn concerned(
    target: &Target,
    incoming: &Incoming,
    notices: &[Notice],
) -> Vec<Arc<Sweep>> {
    let Address::Unit(lun) = Address::decode(incoming.lun, target.config().target) else {
        return Vec::new();
    };
    notices
        .iter()
        .map(|notice| &notice.sweep)
        .filter(|sweep| sweep.scope.contains(lun, incoming.id) && sweep.find())
        .map(Arc::clone)
        .collect()
}
