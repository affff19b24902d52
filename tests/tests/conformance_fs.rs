//! The file system device passes the suite that every device must pass.
//!
//! What is particular to it (files without names, renames, copies of the share) is asked by its own tests and through the
//! bridge.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::conformance::{self, Load, Subject};
use tests::fuse_client::{encode, init_arguments, request};
use tests::in_process::{Host, Machine};
use vhost_device_fs::config::Config;
use vhost_device_fs::device::FsDevice;
use vhost_device_fs::fuse::abi::{
    AttrOut, CreateIn, EntryOut, GetAttrIn, InitOut, Opcode, OpenOut, OutHeader, ReadIn, WriteIn,
};
use vhost_device_fs::fuse::wire::Wire;

/// The root's nodeid.
const ROOT: u64 = 1;

/// Ring 0 is for FORGET.
const RING: usize = 1;

struct Fs {
    share: TempDir,
    /// Of the file that is written to: its node, its handle, and how many there were before it.
    open: Mutex<(u64, u64, u32)>,
}

impl Fs {
    fn new() -> Result<Self> {
        Ok(Self {
            share: tempfile::tempdir()?,
            open: Mutex::default(),
        })
    }

    fn config(&self) -> Config {
        Config {
            request_rings: 2,
            ..Config::new(self.share.path())
        }
    }

    fn open(&self) -> MutexGuard<'_, (u64, u64, u32)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a file, which stays open.
    fn create_file(&self, guest: &mut Machine) -> Result<()> {
        let mut open = self.open();
        open.2 += 1;
        let arguments = CreateIn {
            flags: libc::O_RDWR.cast_unsigned(),
            mode: 0o100_600,
            umask: 0,
            open_flags: 0,
        };
        let name = format!("file {}\0", open.2);
        let body = [encode(&arguments), name.into_bytes()].concat();
        let answer = ask(
            guest,
            Opcode::Create,
            ROOT,
            &body,
            EntryOut::SIZE + OpenOut::SIZE,
        )?;
        let mut rest = answer.as_slice();
        let entry = EntryOut::take(&mut rest).context("no entry")?;
        let file = OpenOut::take(&mut rest).context("no handle")?;
        (open.0, open.1) = (entry.nodeid, file.handle);
        Ok(())
    }
}

/// A request and its answer, which must not be an error and have this size.
fn ask(
    guest: &mut Machine,
    opcode: Opcode,
    nodeid: u64,
    body: &[u8],
    size: usize,
) -> Result<Vec<u8>> {
    let request = request(opcode, nodeid, 2, body);
    let answer = guest.call(RING, &request, OutHeader::SIZE + size)?;
    let mut rest = answer.as_slice();
    let header = OutHeader::take(&mut rest).context("no header")?;
    ensure!(header.error == 0, "{opcode:?} failed: {}", header.error);
    ensure!(rest.len() == size, "{opcode:?}: {} bytes", rest.len());
    Ok(rest.to_vec())
}

impl Subject for Fs {
    type Device = FsDevice;

    fn create(&self) -> Result<FsDevice> {
        Ok(FsDevice::new(self.config())?)
    }

    fn prepare(&self, guest: &mut Machine) -> Result<()> {
        ask(guest, Opcode::Init, 0, &init_arguments(0), InitOut::SIZE)?;
        Ok(())
    }

    /// Appends a number to an open file, reads all numbers so far, and looks the file up once more: what is in a file is not
    /// the device's state, but that the guest owes another FORGET is.
    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        if number == 0 {
            self.create_file(guest)?;
        }
        let (nodeid, handle, count) = *self.open();
        let write = WriteIn {
            handle,
            offset: 8 * number,
            size: 8,
            ..WriteIn::default()
        };
        let body = [encode(&write), number.to_le_bytes().to_vec()].concat();
        ask(guest, Opcode::Write, nodeid, &body, 8)?;
        let size = 8 * (usize::try_from(number)? + 1);
        let read = ReadIn {
            handle,
            size: u32::try_from(size)?,
            ..ReadIn::default()
        };
        let content = ask(guest, Opcode::Read, nodeid, &encode(&read), size)?;
        let expected: Vec<u8> = (0..=number).flat_map(u64::to_le_bytes).collect();
        ensure!(content == expected, "the file has {content:?}");
        let name = format!("file {count}\0").into_bytes();
        let answer = ask(guest, Opcode::Lookup, ROOT, &name, EntryOut::SIZE)?;
        let entry = EntryOut::take(&mut answer.as_slice()).context("no entry")?;
        ensure!(entry.nodeid == nodeid, "another node: {}", entry.nodeid);
        Ok(())
    }

    fn loads(&self) -> Vec<Load> {
        let attributes = request(Opcode::GetAttr, ROOT, 2, &encode(&GetAttrIn::default()));
        [1, 2]
            .map(|ring| Load {
                ring,
                requests: vec![attributes.clone()],
                reply_len: OutHeader::SIZE + AttrOut::SIZE,
                is_answer: |answer| {
                    let header = OutHeader::take(&mut &*answer);
                    answer.len() == OutHeader::SIZE + AttrOut::SIZE
                        && header.is_some_and(|header| header.error == 0)
                },
            })
            .into()
    }

    /// A session with extended attributes, which these devices do not have.
    fn refused_states(&self, _good: &[u8]) -> Result<Vec<Vec<u8>>> {
        let config = Config {
            xattr: true,
            ..self.config()
        };
        let host = Host::new(FsDevice::new(config)?);
        let mut machine = host.machine_with(self.shape())?;
        machine.start()?;
        self.prepare(&mut machine)?;
        machine.stop()?;
        let state = machine.save()?;
        machine.leave()??;
        Ok(vec![state])
    }
}

#[test]
fn the_file_system_device_conforms() -> Result<()> {
    conformance::run(&Fs::new()?)
}
