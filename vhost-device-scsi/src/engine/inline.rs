//! What is done at once, on the worker's thread, because that is quicker than to have it done.
//!
//! Knows files and guest memory; knows nothing of what is in flight.

use common::Placement;
use common::request::Request;

use super::job::Command;
use crate::scsi::Operation;

/// Does an operation if it can be done at once; false if it was not, and has to be done from its beginning.
///
/// A read that is `alone` (nothing else is there that could be submitted along with it) and whose data is in the page cache costs one
/// system call this way, as through an `io_uring`, but none of its bookkeeping. A write to the page cache would be handed to a
/// kernel thread by an `io_uring` on most file systems, which costs more than the copy.
pub(super) fn at_once(
    request: &Request,
    command: &Command,
    operation: &Operation,
    alone: bool,
) -> bool {
    let backing = command.unit.backing();
    if backing.is_direct() {
        return false;
    }
    match operation {
        Operation::Read(extent) if alone => {
            let Ok(len) = usize::try_from(extent.len) else {
                return false;
            };
            let mut writer = request.writer();
            writer.skip(command.frame.in_at).is_ok()
                && writer
                    .read_from_file_at_once(backing.fd(), extent.at, len)
                    .is_ok_and(|read| read == len)
        }
        Operation::Write {
            extent,
            durable: false,
        } => {
            let Ok(len) = usize::try_from(extent.len) else {
                return false;
            };
            let mut reader = request.reader();
            let whole = reader.skip(command.frame.out_at).is_ok()
                && reader
                    .write_to_file(backing.fd(), Placement::At(extent.at), len)
                    .is_ok_and(|written| written == len);
            backing.note_written();
            whole
        }
        Operation::Read(_)
        | Operation::Write { .. }
        | Operation::Flush
        | Operation::Verify(_)
        | Operation::Compare { .. }
        | Operation::WriteAndVerify { .. }
        | Operation::CompareAndWrite { .. }
        | Operation::OrWrite { .. }
        | Operation::WriteSame { .. }
        | Operation::Unmap(_)
        | Operation::Allocation(_) => false,
    }
}
