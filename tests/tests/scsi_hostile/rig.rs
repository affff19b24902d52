//! Two disks of a guest, a file that is none of its business, a daemon, and the rings. Knows no attack.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tests::daemon_runner::{DEADLINE, Daemon};
use tests::guest::chain::{Buffer, Table};
use tests::guest::machine::Machine;
use tests::guest::memory::Memory;

/// The rings.
pub(crate) const CONTROL: usize = 0;
pub(crate) const EVENTS: usize = 1;
pub(crate) const REQUESTS: usize = 2;

/// Bytes of a command's header and of its response (virtio 1.3, 5.6.6.1), with the sizes that devices start with.
pub(crate) const HEADER: usize = 51;
pub(crate) const RESPONSE: usize = 108;
/// `VIRTIO_SCSI_F_HOTPLUG` and `VIRTIO_SCSI_F_CHANGE`.
const FEATURES: u64 = 1 << 1 | 1 << 2;
/// Bytes of a disk.
pub(crate) const DISK: u64 = 4 << 20;
/// Unit numbers of the disks.
pub(crate) const LUNS: [u16; 2] = [0, 5];
/// The daemon may grow by so much, in KiB: `io_uring`, threads and their allocators' arenas.
const GROWTH_KIB: u64 = 96 << 10;
/// And the guest may add so much to its log, in bytes.
const LOG_BYTES: usize = 16 << 10;
const SECRET: [u8; 4096] = [0x5a; 4096];

/// See the [module](self).
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) machine: Machine,
    pub(crate) memory: Arc<Memory>,
    pub(crate) folder: TempDir,
    resident_before: u64,
}

impl Rig {
    /// A daemon with `options`, and a guest that has heard that the power is on.
    pub(crate) fn start(options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("secret"), SECRET)?;
        let mut arguments = vec!["--num-queues".to_owned(), "1".to_owned()];
        for lun in LUNS {
            let image = folder.path().join(format!("disk{lun}"));
            File::create_new(&image)?.set_len(DISK)?;
            arguments.push("--lun".to_owned());
            arguments.push(format!("path={},lun={lun}", image.display()));
        }
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let daemon = Daemon::start("vhost-device-scsi", &arguments)?;
        let memory = Memory::new(&[64 << 20, 1 << 20])?;
        let machine = Machine::boot(daemon.connect()?, &memory, 128, FEATURES)?;
        let mut rig = Self {
            resident_before: daemon.resident_kib()?,
            daemon,
            machine,
            memory,
            folder,
        };
        for lun in LUNS {
            let ready = header(address(lun), &[0; 6]);
            rig.exchange(REQUESTS, &[&ready], &[RESPONSE])?;
        }
        Ok(rig)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Readable buffers with these bytes, and writable ones of these sizes.
    pub(crate) fn buffers(&self, readable: &[&[u8]], writable: &[usize]) -> Result<Vec<Buffer>> {
        let mut buffers = Vec::new();
        for bytes in readable {
            let address = self.memory.allocate(bytes.len().max(1) as u64)?;
            self.memory.write(address, bytes)?;
            buffers.push(Buffer {
                address,
                length: u32::try_from(bytes.len())?,
                writable: false,
            });
        }
        for size in writable {
            let address = self.memory.allocate((*size).max(1) as u64)?;
            self.memory.write(address, &vec![0; *size])?;
            buffers.push(Buffer {
                address,
                length: u32::try_from(*size)?,
                writable: true,
            });
        }
        Ok(buffers)
    }

    pub(crate) fn release(&self, buffers: &[Buffer]) {
        for buffer in buffers {
            self.memory
                .release(buffer.address, u64::from(buffer.length).max(1));
        }
    }

    /// One request with these buffers, given back; how many bytes the device says it wrote, and what is in the writable buffers.
    pub(crate) fn exchange(
        &mut self,
        ring: usize,
        readable: &[&[u8]],
        writable: &[usize],
    ) -> Result<(u32, Vec<u8>)> {
        let buffers = self.buffers(readable, writable)?;
        let written = self.send(ring, &buffers, Table::Indirect)?;
        let mut reply = Vec::new();
        for buffer in buffers.iter().filter(|buffer| buffer.writable) {
            let bytes = self
                .memory
                .read_vec(buffer.address, buffer.length as usize)?;
            reply.extend(bytes);
        }
        ensure!(
            written as usize <= reply.len(),
            "{written} bytes written, and room for {}",
            reply.len()
        );
        self.release(&buffers);
        Ok((written, reply))
    }

    /// A chain of these buffers, given back.
    pub(crate) fn send(&mut self, ring: usize, buffers: &[Buffer], table: Table) -> Result<u32> {
        let ring = self.machine.ring(ring)?;
        let head = ring.add(buffers, table)?;
        ring.publish()?;
        let used = ring.wait(DEADLINE)?;
        match used.as_slice() {
            [used] if used.head == head => Ok(used.written),
            _ => bail!("one request, and used are {used:?}"),
        }
    }

    /// A command with data for the device or from it: `response`, status, and the data.
    pub(crate) fn command(
        &mut self,
        lun: u16,
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> Result<(u8, u8, Vec<u8>)> {
        let header = header(address(lun), cdb);
        let readable: &[&[u8]] = if out.is_empty() {
            &[&header]
        } else {
            &[&header, out]
        };
        let writable: &[usize] = if room == 0 {
            &[RESPONSE]
        } else {
            &[RESPONSE, room]
        };
        let (_, reply) = self.exchange(REQUESTS, readable, writable)?;
        let (response, data) = reply.split_at(RESPONSE);
        let [.., _] = response else {
            bail!("no response");
        };
        let byte = |at: usize| response.get(at).copied().unwrap_or(0xff);
        Ok((byte(11), byte(10), data.to_vec()))
    }

    /// A block is written, and read again, on both disks.
    pub(crate) fn works(&mut self) -> Result<()> {
        for lun in LUNS {
            // Whatever the guest has left behind: modes, reservations, unit attentions.
            let reset = task(5, address(lun), 0);
            let (_, response) = self.exchange(CONTROL, &[&reset], &[1])?;
            ensure!(response == [0], "LOGICAL UNIT RESET: {response:?}");
            for _ in 0..70 {
                if self.command(lun, &[0; 6], &[], 0)?.1 == 0 {
                    break;
                }
            }
            let block = [u8::try_from(lun)? + 1; 512];
            let written = self.command(lun, &[0x2a, 0, 0, 0, 0, 9, 0, 0, 1, 0], &block, 0)?;
            ensure!((written.0, written.1) == (0, 0), "WRITE: {written:?}");
            let read = self.command(lun, &[0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0], &[], 512)?;
            ensure!(
                (read.0, read.1) == (0, 0) && read.2 == block,
                "READ: {read:?}"
            );
        }
        Ok(())
    }

    /// See the description of the whole test.
    pub(crate) fn survived(mut self) -> Result<()> {
        self.works().context("requests after the attack")?;
        if let Some(status) = self.daemon.status()? {
            bail!("the daemon ended: {status}");
        }
        let log = self.daemon.log()?;
        ensure!(!log.contains("panicked"), "{log}");
        let caused: Vec<_> = log.lines().filter(|line| is_of_the_guest(line)).collect();
        let bytes: usize = caused.iter().map(|line| line.len()).sum();
        ensure!(
            bytes < LOG_BYTES,
            "a log of {bytes} bytes:\n{:#?}",
            caused.get(..20)
        );
        let grown = self
            .daemon
            .resident_kib()?
            .saturating_sub(self.resident_before);
        ensure!(grown < GROWTH_KIB, "{grown} KiB more are resident");
        ensure!(fs::read(self.path("secret"))? == SECRET, "another's file");
        for lun in LUNS {
            let length = fs::metadata(self.path(&format!("disk{lun}")))?.len();
            ensure!(length == DISK, "a disk of {length} bytes");
        }
        // And it can go on elsewhere.
        let state = self.machine.snapshot()?;
        ensure!(!state.is_empty());
        self.works()
    }
}

/// What the operator does is told, and each state that is refused: neither is the guest's doing.
fn is_of_the_guest(line: &str) -> bool {
    !line.starts_with("[INFO") && !line.contains("common::protocol::adapter]")
}

/// A unit of target 0 in flat addressing.
pub(crate) fn address(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [1, 0, high | 0x40, low, 0, 0, 0, 0]
}

/// The bytes before the data of a command.
pub(crate) fn header(lun: [u8; 8], cdb: &[u8]) -> Vec<u8> {
    let mut header = lun.to_vec();
    header.extend([7; 8]); // the tag
    header.extend([0; 3]);
    header.extend(cdb);
    header.resize(HEADER, 0);
    header
}

/// A task management function (virtio 1.3, 5.6.6.2).
pub(crate) fn task(function: u32, lun: [u8; 8], id: u64) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(function.to_le_bytes());
    request.extend(lun);
    request.extend(id.to_le_bytes());
    request
}
