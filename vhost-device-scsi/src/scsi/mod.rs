//! A logical unit as the SCSI standards describe it: a command in, a reply or an operation on the medium out.
//!
//! Pure: knows no file, no ring and no clock. `Unit::begin` takes a command descriptor block and says what
//! is to be done; whoever calls does the I/O, and brings the result to `Unit::finish`. All that a unit
//! remembers is in `UnitState`, plain data.
//!
//! Standards: SPC-5 (INCITS 502), SBC-4 (INCITS 506), SAM-5 (INCITS 515).

pub mod attention;
pub mod command;
pub mod fast;
pub mod identity;
pub mod opcode;
pub mod report;
pub mod reservation;
pub mod sense;
pub mod unit;

use sense::Sense;

/// Greatest length of a command descriptor block, in bytes: `cdb_size` of virtio 1.3, 5.6.4.
pub const CDB_BYTES_MAX: usize = 32;

/// Status of a command (SAM-5, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// There is sense data.
    CheckCondition = 0x02,
    /// PRE-FETCH: all of it fits into the cache.
    ConditionMet = 0x04,
    /// Try again later.
    Busy = 0x08,
    /// Another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// No room for one more command.
    TaskSetFull = 0x28,
    /// Aborted on behalf of another initiator (TAS).
    TaskAborted = 0x40,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status.
    pub status: Status,
    /// Sense data, in the format that the unit's `D_SENSE` bit asks for; with [`Status::CheckCondition`] only.
    pub sense: Option<Sense>,
    /// Whether the sense data is to be in descriptor format (`D_SENSE` of the control mode page).
    pub descriptor_sense: bool,
    /// Data for the initiator, already cut to the allocation length; whoever sends it cuts it to the room there is.
    pub data: Vec<u8>,
}

impl Reply {
    /// GOOD, with data cut to the initiator's allocation length in bytes.
    pub fn good(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self {
            status: Status::Good,
            sense: None,
            descriptor_sense: false,
            data,
        }
    }

    /// CHECK CONDITION.
    pub fn failed(sense: Sense, descriptor_sense: bool) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            descriptor_sense,
            data: Vec::new(),
        }
    }

    /// A status without sense data.
    pub fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            descriptor_sense: false,
            data: Vec::new(),
        }
    }
}

/// What is to be done about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is over.
    Reply(Reply),
    /// It has a parameter list: read exactly `len` bytes of the data-out buffer and call
    /// `Unit::begin_with`. At most [`PARAMETERS_MAX`]; a data-out buffer that is shorter ends the command in a
    /// transport error.
    Parameters {
        /// Length in bytes, not 0.
        len: usize,
    },
    /// The medium is to be used; then call `Unit::finish`.
    Operation(Operation),
}

/// Greatest length of a parameter list, in bytes.
pub const PARAMETERS_MAX: usize = 64 << 10;

/// A contiguous part of the medium, in bytes. Within the medium when it leaves `Unit::begin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in bytes.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What a command does to the medium. Data comes from the data-out buffer and goes to the data-in buffer, from their beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To the data-in buffer.
    Read(Extent),
    /// From the data-out buffer; `durable` if it must be on stable storage before the reply (FUA, or WCE = 0).
    Write {
        /// Where.
        extent: Extent,
        /// Whether the reply waits for stable storage.
        durable: bool,
    },
    /// Everything written so far is to be on stable storage (SYNCHRONIZE CACHE).
    Flush,
    /// The blocks are to be readable; no data is transferred (VERIFY, BYTCHK = 0).
    Verify(Extent),
    /// The blocks are to equal the data-out buffer, which holds all of them, or one block that is `repeated` (VERIFY, BYTCHK = 1 or 3).
    Compare {
        /// Where.
        extent: Extent,
        /// The length in bytes of the one block in the data-out buffer, for BYTCHK = 3.
        repeated: Option<u32>,
    },
    /// Written to stable storage, then checked: read back, and compared if `compare` (WRITE AND VERIFY).
    WriteAndVerify {
        /// Where.
        extent: Extent,
        /// BYTCHK = 1.
        compare: bool,
    },
    /// The data-out buffer has twice the extent's length: what must be there, and what replaces it. Not to be interleaved with another one
    /// on the same unit (COMPARE AND WRITE).
    CompareAndWrite {
        /// Where.
        extent: Extent,
        /// FUA, or WCE = 0.
        durable: bool,
    },
    /// The bits of the data-out buffer are added to those that are there (ORWRITE). Not interleaved with another one, either.
    OrWrite {
        /// Where.
        extent: Extent,
        /// FUA, or WCE = 0.
        durable: bool,
    },
    /// Filled with a block (WRITE SAME).
    WriteSame {
        /// Where.
        extent: Extent,
        /// The block, from the parameter list; `None` for zeros (NDOB, or a block of zeros).
        block: Option<Vec<u8>>,
        /// Deallocated where that leaves zeros.
        unmap: bool,
        /// WCE = 0.
        durable: bool,
    },
    /// Deallocated; reads as zeros afterwards (UNMAP; LBPRZ is 1).
    Unmap(Vec<Extent>),
    /// Which blocks of the extent are allocated, for GET LBA STATUS: [`Completion::Allocation`] is the answer.
    Allocation(Extent),
}

/// An operation was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// All of it.
    Done,
    /// For [`Operation::Allocation`]: contiguous extents from its beginning on, whether they are allocated; at least one, and at most as many as
    /// fit into one answer (no more than 1024).
    Allocation(Vec<(Extent, bool)>),
}

/// An operation was not done, or not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The host could not read at this byte offset of the medium.
    Read {
        /// Offset in bytes.
        at: u64,
    },
    /// The host could not write, or sync.
    Write {
        /// Offset in bytes.
        at: u64,
    },
    /// The host has no room for a block that was not allocated.
    NoSpace {
        /// Offset in bytes.
        at: u64,
    },
    /// The data is not what was expected.
    Miscompare {
        /// Offset in bytes of the first difference within the data-out buffer.
        offset: u64,
    },
    /// The host's file is another's by now (its lock is lost), or shorter than the medium was.
    NotReady,
    /// Aborted before it had an effect.
    Aborted,
}
