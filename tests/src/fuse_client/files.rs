//! Requests about what is open: files and folders.

use anyhow::Context;
use vhost_device_fs::fuse::abi::{
    CopyFileRangeIn, CopyFileRangeOut, DirEnt, DirEntPlus, EntryOut, FallocateIn, FlushIn, FsyncIn,
    LseekIn, LseekOut, Opcode, OpenIn, OpenOut, ReadIn, ReleaseIn, WriteIn, WriteOut,
};
use vhost_device_fs::fuse::wire::Wire;

use super::{Answer, Client, encode};

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// Where the entry after this one is.
    pub offset: u64,
    /// `DT_` constant.
    pub kind: u32,
    /// Name, in the host's bytes.
    pub name: Vec<u8>,
}

impl Client {
    /// OPEN with `O_` flags.
    pub fn open(&mut self, nodeid: u64, flags: u32) -> Answer<OpenOut> {
        self.ask(
            Opcode::Open,
            nodeid,
            &encode(&OpenIn {
                flags,
                open_flags: 0,
            }),
        )
    }

    /// READ.
    pub fn read(&mut self, nodeid: u64, handle: u64, offset: u64, size: u32) -> Answer<Vec<u8>> {
        let arguments = ReadIn {
            handle,
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(Opcode::Read, nodeid, &encode(&arguments))
    }

    /// WRITE; how many bytes were written.
    pub fn write(&mut self, nodeid: u64, handle: u64, offset: u64, data: &[u8]) -> Answer<u32> {
        let size = u32::try_from(data.len()).context("too much data")?;
        let arguments = WriteIn {
            handle,
            offset,
            size,
            ..WriteIn::default()
        };
        let body = [&encode(&arguments), data].concat();
        let WriteOut { size, .. } = self.ask(Opcode::Write, nodeid, &body)?;
        Ok(size)
    }

    /// RELEASE of a file.
    pub fn release(&mut self, nodeid: u64, handle: u64) -> Answer<()> {
        let arguments = ReleaseIn {
            handle,
            ..ReleaseIn::default()
        };
        self.tell(Opcode::Release, nodeid, &encode(&arguments))
    }

    /// FLUSH.
    pub fn flush(&mut self, nodeid: u64, handle: u64) -> Answer<()> {
        let arguments = FlushIn {
            handle,
            ..FlushIn::default()
        };
        self.tell(Opcode::Flush, nodeid, &encode(&arguments))
    }

    /// FSYNC.
    pub fn fsync(&mut self, nodeid: u64, handle: u64) -> Answer<()> {
        let arguments = FsyncIn {
            handle,
            fsync_flags: 0,
            padding: 0,
        };
        self.tell(Opcode::Fsync, nodeid, &encode(&arguments))
    }

    /// OPENDIR.
    pub fn open_dir(&mut self, nodeid: u64) -> Answer<OpenOut> {
        self.ask(
            Opcode::OpenDir,
            nodeid,
            &encode(&OpenIn {
                flags: 0,
                open_flags: 0,
            }),
        )
    }

    /// One READDIR of at most `size` bytes.
    pub fn read_dir(
        &mut self,
        nodeid: u64,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Answer<Vec<DirEntry>> {
        let arguments = ReadIn {
            handle,
            offset,
            size,
            ..ReadIn::default()
        };
        let reply = self.call(Opcode::ReadDir, nodeid, &encode(&arguments))?;
        let mut rest = reply.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let header = DirEnt::take(&mut rest).context("half an entry")?;
            entries.push(entry(header, &mut rest)?);
        }
        Ok(entries)
    }

    /// One READDIRPLUS of at most `size` bytes; every entry with a nodeid is a lookup.
    pub fn read_dir_plus(
        &mut self,
        nodeid: u64,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Answer<Vec<(EntryOut, DirEntry)>> {
        let arguments = ReadIn {
            handle,
            offset,
            size,
            ..ReadIn::default()
        };
        let reply = self.call(Opcode::ReadDirPlus, nodeid, &encode(&arguments))?;
        let mut rest = reply.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let plus = DirEntPlus::take(&mut rest).context("half an entry")?;
            entries.push((plus.entry, entry(plus.entry_name, &mut rest)?));
        }
        Ok(entries)
    }

    /// RELEASEDIR.
    pub fn release_dir(&mut self, nodeid: u64, handle: u64) -> Answer<()> {
        let arguments = ReleaseIn {
            handle,
            ..ReleaseIn::default()
        };
        self.tell(Opcode::ReleaseDir, nodeid, &encode(&arguments))
    }

    /// FALLOCATE.
    pub fn fallocate(&mut self, nodeid: u64, arguments: &FallocateIn) -> Answer<()> {
        self.tell(Opcode::Fallocate, nodeid, &encode(arguments))
    }

    /// LSEEK.
    pub fn lseek(&mut self, nodeid: u64, arguments: &LseekIn) -> Answer<u64> {
        let LseekOut { offset } = self.ask(Opcode::Lseek, nodeid, &encode(arguments))?;
        Ok(offset)
    }

    /// `COPY_FILE_RANGE` from `nodeid`; how many bytes were copied.
    pub fn copy_file_range(&mut self, nodeid: u64, arguments: &CopyFileRangeIn) -> Answer<u64> {
        let CopyFileRangeOut { bytes_copied } =
            self.ask(Opcode::CopyFileRange, nodeid, &encode(arguments))?;
        Ok(bytes_copied)
    }
}

/// The name behind `header`, and its padding.
fn entry(header: DirEnt, rest: &mut &[u8]) -> anyhow::Result<DirEntry> {
    let length = header.namelen as usize;
    let padded = length.next_multiple_of(8);
    let (name, after) = rest.split_at_checked(padded).context("a name cut short")?;
    *rest = after;
    let name = name.get(..length).unwrap_or_default().to_vec();
    Ok(DirEntry {
        ino: header.ino,
        offset: header.offset,
        kind: header.kind,
        name,
    })
}
