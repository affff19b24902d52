//! What an operation has in its hands: who asks about what, the arguments, the file system, and the reply.

use common::request::{Reader, Writer};
use rustix::io::Errno;

use super::abi::{Attr, AttrOut, EntryOut, OpenOut, Statx, StatxOut, SxTime, fopen, statx};
use super::input::Input;
use super::session::SessionOptions;
use super::wire::Wire;
use crate::config::Config;
use crate::operations::{Attributes, Caller, Entry, Extensions, FsResult, OpenReply};
use crate::passthrough::FileSystem;

/// One request while it is being served.
pub(super) struct Call<'a> {
    pub(super) config: &'a Config,
    pub(super) file_system: &'a FileSystem,
    /// `None` only for INIT.
    pub(super) session: Option<SessionOptions>,
    /// What the request is about.
    pub(super) nodeid: u64,
    pub(super) caller: Caller,
    /// The arguments.
    pub(super) input: Input<'a>,
    /// The reply behind its header.
    pub(super) reply: &'a mut Vec<u8>,
    /// The rest of the request, which was not copied, and its length in bytes.
    pub(super) rest: Reader<'a>,
    pub(super) rest_len: usize,
    /// Whether it may wait for somebody else, and whether it does: then there is no reply yet.
    pub(super) may_wait: bool,
    pub(super) waits: bool,
    /// Room in guest memory behind the reply's header; `None` if the guest expects no reply.
    pub(super) data: Option<Writer<'a>>,
}

impl<'a> Call<'a> {
    /// Appends a structure to the reply.
    pub(super) fn put(&mut self, structure: &impl Wire) {
        structure.append(self.reply);
    }

    /// Room for the reply behind its header, in bytes.
    pub(super) fn room(&self) -> usize {
        self.data.as_ref().map_or(0, Writer::remaining)
    }

    /// Bytes of data that it has to move, at most: from the guest, or to it.
    pub(super) fn data_len(&self) -> usize {
        self.rest_len.max(self.room())
    }

    /// The extensions at the end of the arguments of a request that creates something; completes the caller.
    pub(super) fn extensions(&mut self) -> FsResult<Extensions<'a>> {
        let session = self.session.ok_or(Errno::IO)?;
        let creation = self.input.creation(&session)?;
        self.caller.supplementary_group = creation.supplementary_group;
        Ok(creation.extensions)
    }

    /// Appends an entry to the reply.
    pub(super) fn put_entry(&mut self, entry: &Entry) {
        entry_out(self.config, entry).append(self.reply);
    }

    /// Appends attributes to the reply.
    pub(super) fn put_attributes(&mut self, attributes: &Attributes) {
        let valid = self.config.cache.timeout();
        self.put(&AttrOut {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            padding: 0,
            attr: attr(attributes, 0),
        });
    }

    /// Appends attributes to the reply, the time of birth among them.
    pub(super) fn put_extended_attributes(&mut self, attributes: &Attributes) {
        let valid = self.config.cache.timeout();
        self.put(&StatxOut {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            stat: extended(attributes),
            ..StatxOut::default()
        });
    }

    /// Appends an entry to the reply that says: there is nothing of this name, and for how long that may be believed.
    pub(super) fn put_no_entry(&mut self, valid: std::time::Duration) {
        self.put(&EntryOut {
            entry_valid: valid.as_secs(),
            entry_valid_nsec: valid.subsec_nanos(),
            ..EntryOut::default()
        });
    }

    /// Appends an open file to the reply.
    pub(super) fn put_open(&mut self, open: OpenReply) {
        let OpenReply {
            handle,
            keep_cache,
            cache_dir,
            direct_io,
            no_flush,
        } = open;
        let flag = |set: bool, flag| if set { flag } else { 0 };
        self.put(&OpenOut {
            handle,
            open_flags: flag(keep_cache, fopen::KEEP_CACHE)
                | flag(cache_dir, fopen::CACHE_DIR)
                | flag(direct_io, fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES)
                | flag(no_flush, fopen::NOFLUSH),
            backing_id: 0,
        });
    }
}

/// An entry as it goes over the wire, with the time for which the guest may trust it.
pub(super) fn entry_out(config: &Config, entry: &Entry) -> EntryOut {
    let valid = config.cache.timeout();
    EntryOut {
        nodeid: entry.nodeid,
        generation: entry.generation,
        entry_valid: valid.as_secs(),
        attr_valid: valid.as_secs(),
        entry_valid_nsec: valid.subsec_nanos(),
        attr_valid_nsec: valid.subsec_nanos(),
        attr: attr(&entry.attributes, entry.attribute_flags),
    }
}

fn attr(attributes: &Attributes, flags: u32) -> Attr {
    let Attributes {
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        birth: _,
        device: _,
    } = *attributes;
    Attr {
        ino,
        size,
        blocks,
        atime: atime.0.cast_unsigned(),
        mtime: mtime.0.cast_unsigned(),
        ctime: ctime.0.cast_unsigned(),
        atime_nsec: atime.1,
        mtime_nsec: mtime.1,
        ctime_nsec: ctime.1,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        flags,
    }
}

/// The device is the guest's own, so it is not told the host's.
fn extended(attributes: &Attributes) -> Statx {
    let time = |(seconds, nanoseconds)| SxTime {
        seconds,
        nanoseconds,
        reserved: 0,
    };
    let birth = attributes.birth;
    Statx {
        mask: statx::BASIC_STATS | birth.map_or(0, |_| statx::BTIME),
        blksize: attributes.blksize,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        // 16 bits are all that a mode has.
        mode: (attributes.mode & 0xffff) as u16,
        ino: attributes.ino,
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time(attributes.atime),
        btime: time(birth.unwrap_or_default()),
        ctime: time(attributes.ctime),
        mtime: time(attributes.mtime),
        // The kernel's 32-bit form: 12 bits of major between 12 and 8 bits of minor.
        rdev_major: (attributes.rdev >> 8) & 0xfff,
        rdev_minor: (attributes.rdev & 0xff) | ((attributes.rdev >> 12) & 0xf_ff00),
        ..Statx::default()
    }
}
