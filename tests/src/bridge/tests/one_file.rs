//! The least that a FUSE server is: a folder with one file, kept in memory, whose bytes move with it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
};
use common::request::Request;
use common::ring::Ring;
use common::state::{
    DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema, StateWriter, Tag,
};
use vhost_device_fs::fuse::abi::{
    Attr, AttrOut, DirEnt, EntryOut, InHeader, InitOut, Opcode, OpenOut, OutHeader, ReadIn,
    SetAttrIn, StatFsOut, WriteIn, WriteOut, fopen, init,
};
use vhost_device_fs::fuse::wire::Wire;

pub(super) const NAME: &str = "file";
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// The live device.
#[derive(Debug, Default)]
pub(super) struct OneFile {
    bytes: Mutex<Vec<u8>>,
    /// Every request takes so long.
    delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OneFileState {
    bytes: Vec<u8>,
}

const BYTES: Tag = Tag::new(*b"BYTE");

impl StateSchema for OneFileState {
    const KIND: DeviceKind = DeviceKind::Fs;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        out.raw(BYTES, 1, Importance::Critical, &self.bytes)
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut found = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (BYTES, 1) if found.is_none() => found = Some(section.bytes().to_vec()),
                _ => input.unknown(&section)?,
            }
        }
        let bytes = found.ok_or(StateError::MissingSection { tag: BYTES })?;
        Ok(Self { bytes })
    }
}

fn bytes(value: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.append(&mut bytes);
    bytes
}

impl OneFile {
    /// Every request takes `delay`.
    pub(super) fn slow(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, nodeid: u64) -> Attr {
        let (mode, size) = match nodeid {
            ROOT => (0o040_755, 0),
            _ => (0o100_644, self.bytes().len() as u64),
        };
        Attr {
            ino: nodeid,
            mode,
            size,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        }
    }

    fn attr_out(&self, nodeid: u64) -> Vec<u8> {
        bytes(&AttrOut {
            attr: self.attr(nodeid),
            ..AttrOut::default()
        })
    }

    /// The reply's payload, or an error number; `None` for no reply.
    fn answer(&self, header: &InHeader, mut rest: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        thread::sleep(self.delay);
        let data = &mut rest;
        Some(Ok(match Opcode::from_number(header.opcode) {
            Some(Opcode::Forget | Opcode::BatchForget) => return None,
            Some(Opcode::Init) => bytes(&InitOut {
                major: 7,
                minor: 45,
                flags: u32::try_from(init::BIG_WRITES | init::MAX_PAGES).unwrap(),
                max_background: 12,
                max_write: 1 << 20,
                max_pages: 256,
                ..InitOut::default()
            }),
            Some(Opcode::Lookup) if *data == b"file\0" => bytes(&EntryOut {
                nodeid: FILE,
                attr: self.attr(FILE),
                ..EntryOut::default()
            }),
            Some(Opcode::Lookup) => return Some(Err(libc::ENOENT)),
            Some(Opcode::GetAttr) => self.attr_out(header.nodeid),
            Some(Opcode::SetAttr) => {
                let wanted = SetAttrIn::take(data).unwrap();
                if wanted.valid & vhost_device_fs::fuse::abi::setattr::SIZE != 0 {
                    self.bytes()
                        .resize(usize::try_from(wanted.size).unwrap(), 0);
                }
                self.attr_out(header.nodeid)
            }
            Some(Opcode::Open | Opcode::OpenDir) => bytes(&OpenOut {
                handle: 7,
                open_flags: fopen::DIRECT_IO,
                backing_id: 0,
            }),
            Some(Opcode::Read) => {
                let wanted = ReadIn::take(data).unwrap();
                let all = self.bytes();
                let start = usize::try_from(wanted.offset).unwrap().min(all.len());
                let end = (start + wanted.size as usize).min(all.len());
                all[start..end].to_vec()
            }
            Some(Opcode::Write) => {
                let wanted = WriteIn::take(data).unwrap();
                let start = usize::try_from(wanted.offset).unwrap();
                let mut all = self.bytes();
                let end = start + data.len();
                if all.len() < end {
                    all.resize(end, 0);
                }
                all[start..end].copy_from_slice(data);
                bytes(&WriteOut {
                    size: wanted.size,
                    padding: 0,
                })
            }
            Some(Opcode::ReadDir) => {
                let wanted = ReadIn::take(data).unwrap();
                let mut entries = Vec::new();
                if wanted.offset == 0 {
                    let name = NAME.as_bytes();
                    DirEnt {
                        ino: FILE,
                        offset: 1,
                        namelen: 4,
                        kind: 8,
                    }
                    .append(&mut entries);
                    entries.extend(name);
                    entries.resize(entries.len().next_multiple_of(8), 0);
                }
                entries
            }
            Some(Opcode::StatFs) => bytes(&StatFsOut::default()),
            Some(Opcode::Release | Opcode::ReleaseDir | Opcode::Flush | Opcode::Fsync) => {
                Vec::new()
            }
            _ => return Some(Err(libc::ENOSYS)),
        }))
    }

    fn serve(&self, request: &Request) -> u32 {
        let mut reader = request.reader();
        let mut all = vec![0; reader.remaining()];
        reader.read_exact(&mut all).unwrap();
        let mut rest = all.as_slice();
        let header = InHeader::take(&mut rest).unwrap();
        assert_eq!(header.len as usize, all.len());
        let Some(answer) = self.answer(&header, rest) else {
            return 0;
        };
        let (error, payload) = match answer {
            Ok(payload) => (0, payload),
            Err(number) => (-number, Vec::new()),
        };
        let len = u32::try_from(OutHeader::SIZE + payload.len()).unwrap();
        let mut writer = request.writer();
        writer
            .write_all(&bytes(&OutHeader {
                len,
                error,
                unique: header.unique,
            }))
            .unwrap();
        writer.write_all(&payload).unwrap();
        len
    }
}

impl Device for OneFile {
    type State = OneFileState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "one-file",
            kind: DeviceKind::Fs,
            rings: 3,
            ring_size_max: 1024,
            features: 0,
            config_space: false,
            dirty_log: true,
            resubmits: false,
        }
    }

    fn state_support(&self) -> StateSupport {
        StateSupport::Savable
    }

    fn ack_features(&self, _features: u64) {
        // Offers none of its own.
    }

    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "the config space is empty",
        })
    }

    fn process(&self, ring: &mut Ring<'_>) {
        while let Some(request) = ring.pop() {
            let written = self.serve(&request);
            ring.complete(request, written);
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        Ok(()) // nothing goes on outside of the rings
    }

    fn resume(&self, _guest: &Guest) {
        // Nothing goes on outside of the rings.
    }

    fn save(&self) -> Result<OneFileState, SaveError> {
        Ok(OneFileState {
            bytes: self.bytes().clone(),
        })
    }

    fn check(&self, _state: &OneFileState) -> Result<(), LoadError> {
        Ok(()) // every file is possible
    }

    fn load(&self, state: OneFileState) -> Result<(), LoadError> {
        let OneFileState { bytes } = state;
        *self.bytes() = bytes;
        Ok(())
    }

    fn reset(&self) {
        self.bytes().clear();
    }
}
