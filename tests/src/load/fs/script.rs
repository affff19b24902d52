//! What an operation of a program is in requests: what Linux sends for it, one after the other.
//!
//! Knows FUSE; does not know rings.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use vhost_device_fs::fuse::abi::{
    AttrOut, CreateIn, DirEntPlus, EntryOut, FlushIn, ForgetIn, FsyncIn, GetAttrIn, Opcode, OpenIn,
    OpenOut, ReadIn, ReleaseIn, WriteIn, WriteOut, fopen,
};
use vhost_device_fs::fuse::wire::Wire;

use super::share::{DATA_BYTES, Known, known_name};
use super::slot::{Ask, Data, Slot};
use crate::guest::Memory;
use crate::load::{Order, Places};

/// What the C library asks for at a time when it lists a folder.
const LISTING_BYTES: u32 = 32 << 10;
const SMALL: u32 = 4096;
const LARGE: u32 = 1 << 20;
const CREATED_BYTES: usize = EntryOut::SIZE + OpenOut::SIZE;

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `stat` of a name that is known and whose time has run out: LOOKUP.
    Lookup,
    /// `stat` of an inode whose attributes' time has run out: GETATTR.
    GetAttr,
    /// `open` and `close`: OPEN, FLUSH unless the device can do without, RELEASE.
    OpenClose,
    /// `creat` and `close` of a new file: CREATE, FLUSH unless the device can do without, RELEASE.
    Create,
    /// `unlink` of a file that was made: UNLINK, FORGET.
    Unlink,
    /// `ls -l` of a folder whose files are known: OPENDIR, READDIRPLUS until its end, RELEASEDIR.
    List,
    /// 4 KiB, anywhere.
    RandomRead,
    /// 4 KiB, anywhere.
    RandomWrite,
    /// 1 MiB, one after the other.
    SequentialRead,
    /// 1 MiB, one after the other.
    SequentialWrite,
    /// `pwrite` of 4 KiB anywhere, and `fsync`.
    WriteSync,
}

impl Operation {
    /// Bytes of data that a request of its may carry.
    pub(super) fn data_bytes(self) -> u32 {
        match self {
            Self::Lookup | Self::GetAttr | Self::OpenClose | Self::Create | Self::Unlink => 0,
            Self::List => LISTING_BYTES,
            Self::RandomRead | Self::RandomWrite | Self::WriteSync => SMALL,
            Self::SequentialRead | Self::SequentialWrite => LARGE,
        }
    }
}

/// A file that was made by the load.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    name: u64,
    nodeid: u64,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    step: u8,
    handle: u64,
    /// Where a listing goes on.
    offset: u64,
    made: Made,
    nodeid: u64,
}

/// What all operations of one guest share.
#[derive(Debug)]
pub(super) struct Script {
    known: Known,
    made: VecDeque<Made>,
    next_name: u64,
    places: Places,
    listing: Vec<u8>,
}

impl Script {
    pub(super) fn new(known: Known) -> Self {
        Self {
            known,
            made: VecDeque::new(),
            next_name: 0,
            places: Places::new(),
            listing: Vec::new(),
        }
    }

    /// Files that were made and not removed.
    pub(super) fn made(&self) -> u64 {
        self.made.len() as u64
    }

    /// The next request of an operation, whose arguments are appended to `arguments`; `None` if it is over, or cannot begin.
    pub(super) fn next(
        &mut self,
        operation: Operation,
        progress: &mut Progress,
        (slot, memory, answered): (Slot, &Memory, u32),
        arguments: &mut Vec<u8>,
    ) -> Result<Option<Ask>> {
        let step = progress.step;
        progress.step += 1;
        Ok(match (operation, step) {
            (Operation::Lookup, 0) => Some(self.look_up(arguments)),
            (Operation::GetAttr, 0) => {
                let nodeid = self.any_file()?;
                GetAttrIn::default().append(arguments);
                Some(ask(Opcode::GetAttr, nodeid, AttrOut::SIZE))
            }
            (Operation::OpenClose, 0) => {
                progress.nodeid = self.any_file()?;
                OpenIn::default().append(arguments);
                Some(ask(Opcode::Open, progress.nodeid, OpenOut::SIZE))
            }
            (Operation::Create, 0) => Some(self.create(progress, arguments)),
            (Operation::OpenClose | Operation::Create, 1) => {
                let open_flags = self.opened(operation, progress, slot, memory)?;
                Some(if open_flags & fopen::NOFLUSH == 0 {
                    flush(progress, arguments)
                } else {
                    progress.step += 1;
                    close(Opcode::Release, progress, arguments)
                })
            }
            (Operation::OpenClose | Operation::Create, 2) => {
                Some(close(Opcode::Release, progress, arguments))
            }
            (Operation::Unlink, 0) => self.made.pop_front().map(|made| {
                progress.made = made;
                arguments.extend_from_slice(&new_name(made.name));
                ask(Opcode::Unlink, self.known.new, 0)
            }),
            (Operation::Unlink, 1) => {
                ForgetIn { nlookup: 1 }.append(arguments);
                Some(Ask {
                    reply_bytes: None,
                    ..ask(Opcode::Forget, progress.made.nodeid, 0)
                })
            }
            (Operation::List, step) => {
                let last = (step, answered);
                self.list(progress, (slot, memory), last, arguments)?
            }
            (Operation::RandomRead, 0) => Some(self.read(Order::Random, SMALL, arguments)),
            (Operation::SequentialRead, 0) => Some(self.read(Order::Sequential, LARGE, arguments)),
            (Operation::RandomWrite | Operation::WriteSync, 0) => {
                Some(self.write(Order::Random, SMALL, arguments))
            }
            (Operation::SequentialWrite, 0) => {
                Some(self.write(Order::Sequential, LARGE, arguments))
            }
            (Operation::WriteSync, 1) => {
                let handle = self.known.data_handle;
                FsyncIn {
                    handle,
                    ..FsyncIn::default()
                }
                .append(arguments);
                Some(ask(Opcode::Fsync, self.known.data, 0))
            }
            _ => None,
        })
    }

    fn any_file(&mut self) -> Result<u64> {
        let number = self.any_number();
        self.known.files.get(number).copied().context("no files")
    }

    fn any_number(&mut self) -> usize {
        let count = self.known.files.len() as u64;
        usize::try_from(self.places.next(Order::Random, count)).unwrap_or(0)
    }

    fn look_up(&mut self, arguments: &mut Vec<u8>) -> Ask {
        let number = self.any_number();
        arguments.extend_from_slice(known_name(number).as_bytes());
        arguments.push(0);
        ask(Opcode::Lookup, self.known.folder, EntryOut::SIZE)
    }

    fn create(&mut self, progress: &mut Progress, arguments: &mut Vec<u8>) -> Ask {
        progress.made.name = self.next_name;
        self.next_name += 1;
        let create = CreateIn {
            flags: (libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).cast_unsigned(),
            mode: libc::S_IFREG | 0o644,
            ..CreateIn::default()
        };
        create.append(arguments);
        arguments.extend_from_slice(&new_name(progress.made.name));
        ask(Opcode::Create, self.known.new, CREATED_BYTES)
    }

    /// Returns the flags that the file was opened with.
    fn opened(
        &mut self,
        operation: Operation,
        progress: &mut Progress,
        slot: Slot,
        memory: &Memory,
    ) -> Result<u32> {
        let open = if operation == Operation::Create {
            let (entry, open) = slot.answer::<(EntryOut, OpenOut)>(memory)?;
            progress.nodeid = entry.nodeid;
            progress.made.nodeid = entry.nodeid;
            self.made.push_back(progress.made);
            open
        } else {
            slot.answer::<OpenOut>(memory)?
        };
        progress.handle = open.handle;
        Ok(open.open_flags)
    }

    fn list(
        &mut self,
        progress: &mut Progress,
        (slot, memory): (Slot, &Memory),
        (step, answered): (u8, u32),
        arguments: &mut Vec<u8>,
    ) -> Result<Option<Ask>> {
        const OPENED: u8 = 1;
        const READ: u8 = 2;
        match step {
            0 => {
                progress.nodeid = self.known.listed;
                OpenIn::default().append(arguments);
                return Ok(Some(ask(Opcode::OpenDir, progress.nodeid, OpenOut::SIZE)));
            }
            OPENED => {
                progress.handle = slot.answer::<OpenOut>(memory)?.handle;
                progress.offset = 0;
            }
            READ if answered > 0 => {
                slot.data(memory, LISTING_BYTES, answered, &mut self.listing)?;
                progress.offset = last_offset(&self.listing)?;
            }
            READ => return Ok(Some(close(Opcode::ReleaseDir, progress, arguments))),
            _ => return Ok(None),
        }
        progress.step = READ;
        let read = ReadIn {
            handle: progress.handle,
            offset: progress.offset,
            size: LISTING_BYTES,
            ..ReadIn::default()
        };
        read.append(arguments);
        Ok(Some(Ask {
            data: Data::In(LISTING_BYTES),
            ..ask(Opcode::ReadDirPlus, progress.nodeid, 0)
        }))
    }

    fn place(&mut self, order: Order, bytes: u32) -> u64 {
        self.places.next(order, DATA_BYTES / u64::from(bytes)) * u64::from(bytes)
    }

    fn read(&mut self, order: Order, size: u32, arguments: &mut Vec<u8>) -> Ask {
        let read = ReadIn {
            handle: self.known.data_handle,
            offset: self.place(order, size),
            size,
            ..ReadIn::default()
        };
        read.append(arguments);
        Ask {
            data: Data::In(size),
            ..ask(Opcode::Read, self.known.data, 0)
        }
    }

    fn write(&mut self, order: Order, size: u32, arguments: &mut Vec<u8>) -> Ask {
        let write = WriteIn {
            handle: self.known.data_handle,
            offset: self.place(order, size),
            size,
            ..WriteIn::default()
        };
        write.append(arguments);
        Ask {
            data: Data::Out(size),
            ..ask(Opcode::Write, self.known.data, WriteOut::SIZE)
        }
    }
}

fn ask(opcode: Opcode, nodeid: u64, reply_bytes: usize) -> Ask {
    Ask {
        opcode,
        nodeid,
        reply_bytes: Some(reply_bytes),
        data: Data::None,
    }
}

fn close(opcode: Opcode, progress: &Progress, arguments: &mut Vec<u8>) -> Ask {
    let handle = progress.handle;
    ReleaseIn {
        handle,
        ..ReleaseIn::default()
    }
    .append(arguments);
    ask(opcode, progress.nodeid, 0)
}

fn flush(progress: &Progress, arguments: &mut Vec<u8>) -> Ask {
    let handle = progress.handle;
    FlushIn {
        handle,
        ..FlushIn::default()
    }
    .append(arguments);
    ask(Opcode::Flush, progress.nodeid, 0)
}

fn new_name(number: u64) -> Vec<u8> {
    format!("new-{number}\0").into_bytes()
}

/// Where reading a folder goes on after these entries.
fn last_offset(mut entries: &[u8]) -> Result<u64> {
    let mut offset = 0;
    while !entries.is_empty() {
        let entry = DirEntPlus::take(&mut entries).context("half an entry")?;
        let name = (entry.entry_name.namelen as usize).next_multiple_of(8);
        entries = entries.get(name..).context("a name cut short")?;
        offset = entry.entry_name.offset;
    }
    Ok(offset)
}
