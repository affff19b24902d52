//! Does a job with system calls that may wait, and finishes what an `io_uring` has left undone.
//!
//! Runs on threads of the pool. Knows jobs; does not know who waits for them.

use super::blocking::{self, Data};
use super::job::{Job, Outcome, Work};
use crate::scsi::{Action, Completion, Failure, Operation};
use crate::virtio::commands;
use crate::virtio::wire::Response;

/// Does a job.
pub(super) fn perform(job: &Job) -> Outcome {
    match &job.command.work {
        Work::Operation(operation) => Outcome::Operation(run(job, operation)),
        Work::Shared => shared(job),
    }
}

fn run(job: &Job, operation: &Operation) -> Result<Completion, Failure> {
    let frame = &job.command.frame;
    let data = Data {
        request: job.request(),
        data_out_at: frame.out_at,
        data_in_at: frame.in_at,
    };
    blocking::run(operation, job.command.unit.backing(), &data)
}

/// A whole command of a unit that shares its reservations with others: under the lock of their store.
fn shared(job: &Job) -> Outcome {
    let command = &job.command;
    let begun = commands::whole_shared(command, job.request());
    match begun {
        Ok((Action::Reply(reply), moved)) => Outcome::Reply(reply, moved),
        Ok((Action::Operation(operation), _)) if commands::fits(&operation, &command.frame) => {
            let result = run(job, &operation);
            let moved = commands::moved(&operation, result.as_ref());
            Outcome::Reply(command.unit.finish(&command.cdb, &operation, result), moved)
        }
        Ok(_) | Err(_) => Outcome::Response(Response::Overrun),
    }
}

/// Whether an `io_uring` has done a job whole; `result` is bytes, or a negative error number. Data that it has read is in the dirty
/// log then.
pub(super) fn is_whole(job: &Job, result: i32) -> bool {
    let Work::Operation(operation) = &job.command.work else {
        return false;
    };
    let done = u64::try_from(result).ok();
    match operation {
        Operation::Read(extent) => {
            let mut writer = job.request().writer();
            let whole = done == Some(extent.len) && writer.skip(job.command.frame.in_at).is_ok();
            if whole {
                writer.note_written(usize::try_from(extent.len).unwrap_or(usize::MAX));
            }
            whole
        }
        Operation::Write { extent, durable } => {
            let backing = job.command.unit.backing();
            backing.note_written();
            if *durable && result == -libc::EIO {
                backing.note_lost(libc::EIO);
            }
            done == Some(extent.len)
        }
        Operation::Flush => {
            if result < 0 {
                // The kernel says it once; whoever asks again would hear that all is well.
                job.command.unit.backing().note_lost(-result);
            }
            done == Some(0)
        }
        Operation::Verify(_)
        | Operation::Compare { .. }
        | Operation::WriteAndVerify { .. }
        | Operation::CompareAndWrite { .. }
        | Operation::OrWrite { .. }
        | Operation::WriteSame { .. }
        | Operation::Unmap(_)
        | Operation::Allocation(_) => done == Some(0),
    }
}
