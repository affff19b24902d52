//! A FUSE client without a kernel: typed requests over the rings of a virtio-fs daemon.
//!
//! For tests that must choose nodeids, handles, callers and bytes themselves; where a program of the host
//! can ask the question, the [bridge](crate::bridge) is the better client. Layouts are the server's own,
//! [`vhost_device_fs::fuse::abi`]. Knows no files: what a reply means is the test's to judge.

mod entries;
mod files;
mod reply_sizes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::frontend::Frontend;
use vhost_device_fs::fuse::abi::{InHeader, Opcode, OutHeader};
use vhost_device_fs::fuse::wire::Wire;

use crate::guest::memory::PAGE;
use crate::guest::{Buffer, Machine, Memory, Table, Used};

pub use entries::init_arguments;
pub use files::DirEntry;
pub use reply_sizes::reply_capacity;

/// The root of the share.
pub const ROOT: u64 = 1;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(1);

/// Ring 0 is for FORGET (virtio 1.3, 5.11.2).
const HIGH_PRIORITY: usize = 0;

/// A request was not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with this error number.
    #[error("{opcode:?} failed with error number {errno}")]
    Refused {
        /// What was asked.
        opcode: Opcode,
        /// A positive error number, such as `libc::ENOENT`.
        errno: i32,
    },
    /// Something is wrong with the device, or with the reply.
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

impl ClientError {
    /// The error number that the server answered with.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Broken(_) => None,
        }
    }
}

/// What a request came to.
pub type Answer<T> = Result<T, ClientError>;

/// On whose behalf requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Caller {
    /// The superuser.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// A request that was sent.
#[derive(Debug)]
#[must_use = "its memory is given back when it is waited for"]
pub struct Ticket {
    ring: usize,
    head: u16,
    unique: u64,
    opcode: Option<Opcode>,
    request: (u64, u64),
    reply: (u64, u64),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Client {
    machine: Machine,
    unique: u64,
    caller: Caller,
    /// Answers that came while another one was waited for.
    used: HashMap<(usize, u16), Used>,
}

impl Client {
    /// A guest that has just booted, on the daemon behind `frontend`; [`init`](Self::init) comes next.
    pub fn boot(frontend: Frontend) -> anyhow::Result<Self> {
        let memory = Memory::new(&[16 << 20, 16 << 20])?;
        Self::boot_in(frontend, &memory, 256)
    }

    /// [`boot`](Self::boot) in this memory, with rings of `ring_size` descriptors.
    pub fn boot_in(
        frontend: Frontend,
        memory: &Arc<Memory>,
        ring_size: u16,
    ) -> anyhow::Result<Self> {
        let machine = Machine::boot(frontend, memory, ring_size, 0)?;
        Ok(Self {
            machine,
            unique: 0,
            caller: Caller::ROOT,
            used: HashMap::new(),
        })
    }

    /// One that has agreed on a session, for which it offers these flags of INIT.
    pub fn begin(frontend: Frontend, flags: u64) -> anyhow::Result<Self> {
        let mut client = Self::boot(frontend)?;
        client.init(flags)?;
        Ok(client)
    }

    /// The machine below, to stop, snapshot or migrate it.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// On whose behalf further requests are made.
    pub fn set_caller(&mut self, caller: Caller) {
        self.caller = caller;
    }

    /// Sends a request and waits for its answer; returns what follows the reply's header.
    pub fn call(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Answer<Vec<u8>> {
        let ticket = self.send(opcode, nodeid, body)?;
        self.wait(ticket)
    }

    /// Sends a request.
    pub fn send(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> anyhow::Result<Ticket> {
        self.send_extended(opcode, nodeid, body, &[])
    }

    /// Sends a request with extensions, which are a multiple of 8 bytes.
    pub fn send_extended(
        &mut self,
        opcode: Opcode,
        nodeid: u64,
        body: &[u8],
        extensions: &[u8],
    ) -> anyhow::Result<Ticket> {
        let body = &[body, extensions].concat();
        let header = InHeader {
            len: u32::try_from(InHeader::SIZE + body.len())?,
            total_extlen: u16::try_from(extensions.len() / 8)?,
            opcode: opcode.number(),
            unique: self.next_unique(),
            nodeid,
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: std::process::id(),
            ..InHeader::default()
        };
        let capacity = reply_capacity(&header, body);
        let ring = if capacity.is_some() {
            HIGH_PRIORITY + 1
        } else {
            HIGH_PRIORITY
        };
        let request = [encode(&header), body.clone()].concat();
        let ticket = self.send_raw(ring, &request, capacity.unwrap_or(0))?;
        Ok(Ticket {
            opcode: Some(opcode),
            unique: header.unique,
            ..ticket
        })
    }

    /// Sends any bytes, right or wrong, with room for `capacity` bytes of reply.
    pub fn send_raw(
        &mut self,
        ring: usize,
        request: &[u8],
        capacity: usize,
    ) -> anyhow::Result<Ticket> {
        let memory = self.machine.memory().clone();
        let place = |size: u64| anyhow::Ok((memory.allocate(size)?, size));
        let request_at = place(request.len() as u64)?;
        let reply_at = place(capacity as u64)?;
        memory.write(request_at.0, request)?;
        let mut buffers = Vec::new();
        for ((start, size), writable) in [(request_at, false), (reply_at, true)] {
            // A header of its own, then pages, as a guest's kernel has them.
            let header = if writable {
                OutHeader::SIZE
            } else {
                InHeader::SIZE
            } as u64;
            let mut at = 0;
            while at < size {
                let length = if at == 0 { header } else { PAGE }.min(size - at);
                buffers.push(Buffer {
                    address: start + at,
                    length: u32::try_from(length)?,
                    writable,
                });
                at += length;
            }
        }
        let ring_driver = self.machine.ring(ring)?;
        let head = ring_driver.add(&buffers, Table::Indirect)?;
        ring_driver.publish()?;
        Ok(Ticket {
            ring,
            head,
            unique: 0,
            opcode: None,
            request: request_at,
            reply: reply_at,
        })
    }

    /// Whether the answer is there.
    pub fn is_answered(&mut self, ticket: &Ticket) -> anyhow::Result<bool> {
        for used in self.machine.ring(ticket.ring)?.collect()? {
            self.used.insert((ticket.ring, used.head), used);
        }
        Ok(self.used.contains_key(&(ticket.ring, ticket.head)))
    }

    /// Waits for the answer; returns what follows the reply's header.
    pub fn wait(&mut self, ticket: Ticket) -> Answer<Vec<u8>> {
        let (opcode, unique) = (ticket.opcode, ticket.unique);
        let reply = self.wait_raw(ticket)?;
        let mut rest = reply.as_slice();
        let header = OutHeader::take(&mut rest).with_context(|| {
            format!(
                "{opcode:?} was answered with {} bytes, which is no header",
                reply.len()
            )
        })?;
        let sound = header.len as usize == reply.len() && header.unique == unique;
        match (sound, opcode, header.error) {
            (true, _, 0) => Ok(rest.to_vec()),
            (true, Some(opcode), -4095..0) if rest.is_empty() => Err(ClientError::Refused {
                opcode,
                errno: -header.error,
            }),
            _ => Err(anyhow::anyhow!(
                "request {unique}, {opcode:?}, was answered with {header:?} in {} bytes",
                reply.len()
            )
            .into()),
        }
    }

    /// Waits for the answer; returns all bytes that the device says it wrote.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the memory that the ticket stands for is given back"
    )]
    pub fn wait_raw(&mut self, ticket: Ticket) -> anyhow::Result<Vec<u8>> {
        let Ticket {
            ring,
            head,
            request,
            reply,
            ..
        } = ticket;
        let used = loop {
            if let Some(used) = self.used.remove(&(ring, head)) {
                break used;
            }
            for used in self.machine.ring(ring)?.wait(DEADLINE)? {
                self.used.insert((ring, used.head), used);
            }
        };
        let (reply_at, room) = reply;
        anyhow::ensure!(
            u64::from(used.written) <= room,
            "the device says it wrote {} bytes into room for {room}",
            used.written
        );
        let memory = self.machine.memory();
        let bytes = memory.read_vec(reply_at, usize::try_from(used.written)?)?;
        for (address, size) in [request, reply] {
            memory.release(address, size);
        }
        Ok(bytes)
    }

    /// A request whose answer is one structure.
    fn ask<T: Wire>(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Answer<T> {
        Ok(whole(&self.call(opcode, nodeid, body)?).with_context(|| format!("{opcode:?}"))?)
    }

    /// A request whose answer carries nothing, or that has none.
    fn tell(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Answer<()> {
        let ticket = self.send(opcode, nodeid, body)?;
        let answered = if matches!(opcode, Opcode::Forget | Opcode::BatchForget) {
            self.wait_raw(ticket)?
        } else {
            self.wait(ticket)?
        };
        if answered.is_empty() {
            return Ok(());
        }
        Err(anyhow::anyhow!(
            "{opcode:?} was answered with {} bytes too many",
            answered.len()
        )
        .into())
    }

    fn next_unique(&mut self) -> u64 {
        self.unique += 2; // odd ones are the kernel's INTERRUPTs
        self.unique
    }
}

/// The error number in a reply to request `unique` (0: success), which must be sound.
pub fn outcome(reply: &[u8], unique: u64) -> anyhow::Result<i32> {
    let header = OutHeader::take(&mut &*reply)
        .with_context(|| format!("a reply of {} bytes", reply.len()))?;
    anyhow::ensure!(
        header.len as usize == reply.len() && header.unique == unique,
        "{header:?} in {} bytes, and {unique} was asked",
        reply.len()
    );
    anyhow::ensure!(
        header.error == 0 || (-4095..0).contains(&header.error) && reply.len() == OutHeader::SIZE,
        "{header:?}"
    );
    Ok(-header.error)
}

/// The bytes of a request of nobody's, for those who put it on a ring themselves.
pub fn request(opcode: Opcode, nodeid: u64, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(InHeader::SIZE + body.len()).unwrap_or(u32::MAX),
        opcode: opcode.number(),
        unique,
        nodeid,
        ..InHeader::default()
    };
    [&encode(&header), body].concat()
}

/// The bytes of a structure.
pub fn encode(value: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    value.append(&mut bytes);
    bytes
}

/// A structure that is all there is.
fn whole<T: Wire>(mut bytes: &[u8]) -> anyhow::Result<T> {
    let size = bytes.len();
    T::take(&mut bytes)
        .filter(|_| bytes.is_empty())
        .with_context(|| format!("a reply of {size} bytes instead of {}", T::SIZE))
}

fn c_string(name: impl AsRef<[u8]>) -> Vec<u8> {
    [name.as_ref(), b"\0"].concat()
}
