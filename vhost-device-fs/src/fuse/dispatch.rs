//! The table of operations: for each opcode what it copies, what it answers, and who does it.
//!
//! An opcode without an operation is answered with `ENOSYS`, which tells the guest to do without: it polls no file, and so on.

use super::abi::{
    AttrOut, BatchForgetIn, CopyFileRangeOut, EntryOut, InitOut, LkOut, LseekOut, Opcode, OpenOut,
    StatFsOut, StatxOut, WriteIn, WriteOut,
};
use super::call::Call;
use super::wire::Wire;
use super::{attributes, data, directories, locks, names, xattrs};
use crate::operations::FsResult;

/// What a larger operation takes, as far as others on its ring are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A processor, for longer than it takes to wake a thread.
    Copies,
    /// Likewise, and to write to a file: the host does one at a time.
    Writes,
    /// A thread, while the host's storage is at work.
    Waits,
}

/// Data that takes far longer to copy than it takes to wake a thread, in bytes.
const LONG_BYTES: usize = 128 << 10;
/// Names that take far longer to look up, in bytes: each is a system call.
const LONG_LISTING_BYTES: usize = 4 << 10;

/// How one opcode is served.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub(super) body: Body,
    pub(super) reply: Reply,
    /// What it takes if it has so many bytes of data to move, and more.
    pub(super) effort: Option<(Effort, usize)>,
    pub(super) run: fn(&mut Call<'_>) -> FsResult<()>,
}

/// How much of the body is copied before the operation runs.
#[derive(Clone, Copy)]
pub(super) enum Body {
    Whole,
    /// So many bytes at its front; the operation takes the rest from guest memory.
    Front(usize),
}

/// What the guest is answered.
#[derive(Clone, Copy)]
pub(super) enum Reply {
    /// Nothing: it does not wait.
    None,
    /// [`Call::reply`]. An operation with effects must know that its reply fits before it begins, hence the least
    /// size in bytes.
    Bytes { at_least: usize },
    /// What the operation wrote to [`Call::data`].
    InPlace,
}

/// The operation for an opcode, if there is one.
pub(super) fn operation(opcode: Opcode) -> Option<Operation> {
    use Opcode as Op;
    Some(match opcode {
        Op::Init => answers::<InitOut>(attributes::init),
        Op::Destroy => done(attributes::destroy),
        Op::Lookup => answers::<EntryOut>(names::lookup),
        Op::Forget => silent(Body::Whole, names::forget),
        Op::BatchForget => silent(Body::Front(BatchForgetIn::SIZE), names::batch_forget),
        Op::Symlink => creates(answers::<EntryOut>(names::symlink)),
        Op::MkNod => creates(answers::<EntryOut>(names::make_node)),
        Op::MkDir => creates(answers::<EntryOut>(names::make_directory)),
        Op::Link => answers::<EntryOut>(names::link),
        Op::Unlink => done(names::unlink),
        Op::RmDir => done(names::remove_directory),
        Op::Rename => done(names::rename),
        Op::Rename2 => done(names::rename_with_flags),
        Op::ReadLink => done(names::read_link),
        Op::Create => creates(answers::<(EntryOut, OpenOut)>(data::create)),
        Op::TmpFile => creates(answers::<(EntryOut, OpenOut)>(data::temporary_file)),
        Op::Open => answers::<OpenOut>(data::open),
        Op::Read => copies(LONG_BYTES, in_place(data::read)),
        Op::Write => Operation {
            body: Body::Front(WriteIn::SIZE),
            effort: Some((Effort::Writes, LONG_BYTES)),
            ..answers::<WriteOut>(data::write)
        },
        Op::Flush => done(data::flush),
        Op::Release => done(data::release),
        Op::Fsync => waits(done(data::fsync)),
        Op::Fallocate => waits(done(data::fallocate)),
        Op::Lseek => answers::<LseekOut>(data::seek),
        Op::CopyFileRange => waits(answers::<WriteOut>(data::copy_file_range)),
        Op::CopyFileRange64 => waits(answers::<CopyFileRangeOut>(data::copy_file_range_64)),
        Op::GetAttr => answers::<AttrOut>(attributes::get),
        Op::SetAttr => answers::<AttrOut>(attributes::set),
        Op::Statx => answers::<StatxOut>(attributes::statx),
        Op::Access => done(attributes::access),
        Op::StatFs => answers::<StatFsOut>(attributes::statfs),
        Op::SyncFs => waits(done(attributes::sync_filesystem)),
        Op::OpenDir => answers::<OpenOut>(directories::open),
        Op::ReadDir => done(directories::read),
        Op::ReadDirPlus => copies(LONG_LISTING_BYTES, done(directories::read_with_entries)),
        Op::ReleaseDir => done(directories::release),
        Op::FsyncDir => waits(done(directories::fsync)),
        Op::SetXattr => done(xattrs::set),
        Op::GetXattr => done(xattrs::get),
        Op::ListXattr => done(xattrs::list),
        Op::RemoveXattr => done(xattrs::remove),
        Op::GetLk => answers::<LkOut>(locks::get),
        Op::SetLk => done(locks::set),
        Op::SetLkW => done(locks::set_waiting),
        Op::Interrupt
        | Op::Bmap
        | Op::Ioctl
        | Op::Poll
        | Op::NotifyReply
        | Op::SetupMapping
        | Op::RemoveMapping => return None,
    })
}

/// It answers a structure.
const fn answers<T: Wire>(run: fn(&mut Call<'_>) -> FsResult<()>) -> Operation {
    Operation {
        body: Body::Whole,
        reply: Reply::Bytes { at_least: T::SIZE },
        effort: None,
        run,
    }
}

/// It answers that it is done, or bytes without effects on anything but the reply.
const fn done(run: fn(&mut Call<'_>) -> FsResult<()>) -> Operation {
    Operation {
        body: Body::Whole,
        reply: Reply::Bytes { at_least: 0 },
        effort: None,
        run,
    }
}

/// It answers bytes that are not in our memory.
const fn in_place(run: fn(&mut Call<'_>) -> FsResult<()>) -> Operation {
    Operation {
        body: Body::Whole,
        reply: Reply::InPlace,
        effort: None,
        run,
    }
}

/// It answers nothing.
const fn silent(body: Body, run: fn(&mut Call<'_>) -> FsResult<()>) -> Operation {
    Operation {
        body,
        reply: Reply::None,
        effort: None,
        run,
    }
}

/// It waits for storage.
const fn waits(operation: Operation) -> Operation {
    Operation {
        effort: Some((Effort::Waits, 0)),
        ..operation
    }
}

/// It makes an inode: many system calls.
const fn creates(operation: Operation) -> Operation {
    copies(0, operation)
}

/// It takes a processor for long if it has `at_least` so many bytes to move.
const fn copies(at_least: usize, operation: Operation) -> Operation {
    Operation {
        effort: Some((Effort::Copies, at_least)),
        ..operation
    }
}
