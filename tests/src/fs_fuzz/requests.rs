//! Bytes as what a guest does: a configuration, and requests one after the other, with migrations in between.
//!
//! ```text
//! 0  configuration: a bit for each of a few options
//! then, again and again
//! 0  opcode of FUSE, or one of ours      3  user and group
//! 1  nodeid; 255 is 2^64 - 1             4  extensions, in units of 8 bytes
//! 2  how buffers are cut                 5  length of the body (u16), and the body
//! ```
//!
//! Nodeids and handles count from 1 in each session, so there is nothing that a fuzzer would have to be told.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use common::device::Device as _;
use common::report::chain;
use common::request::Request;
use vhost_device_fs::config::{Cache, Config, MigrationOnError, Negotiation};
use vhost_device_fs::device::FsDevice;
use vhost_device_fs::fuse::abi::{InHeader, InitIn, InitInExtension, Opcode, OutHeader};
use vhost_device_fs::fuse::wire::Wire as _;
use vhost_device_fs::state::FsState;

use super::arena::Arena;
use super::{configured, permissive, renumbered, travelled};
use crate::fuse_client::{encode, outcome};

/// The state goes to another device, which goes on.
pub const MIGRATE: u8 = 0xf0;
/// The guest reboots.
pub const RESET: u8 = 0xf1;
/// Somebody on the host changes the share.
pub const MEDDLE: u8 = 0xf2;

/// Requests in one input; the rest of it is not looked at.
const MESSAGES_MAX: usize = 100;
/// Before a message's body.
const FRONT_BYTES: usize = 7;

/// One step of an input.
struct Message<'a> {
    opcode: u8,
    nodeid: u8,
    cut: u8,
    user: u8,
    extensions: u8,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let front: &[u8; FRONT_BYTES];
        (front, *bytes) = bytes.split_first_chunk()?;
        let [opcode, nodeid, cut, user, extensions, low, high] = *front;
        let length = usize::from(u16::from_le_bytes([low, high])).min(bytes.len());
        let body;
        (body, *bytes) = bytes.split_at(length);
        Some(Self {
            opcode,
            nodeid,
            cut,
            user,
            extensions,
            body,
        })
    }
}

/// Does what `input` says. The share is made anew for it.
pub fn run(arena: &Arena, input: &[u8]) -> Result<()> {
    arena.fill()?;
    let Some((bits, mut rest)) = input.split_first() else {
        return Ok(());
    };
    let mut guest = Guest::new(arena, *bits)?;
    let messages = std::iter::from_fn(|| Message::take(&mut rest));
    for (number, message) in messages.take(MESSAGES_MAX).enumerate() {
        let opcode = message.opcode;
        guest
            .step(&message)
            .with_context(|| format!("step {number}, opcode {opcode}"))?;
    }
    guest.migrate().context("migration at the end")?;
    drop(guest);
    arena.check_outside()
}

/// A guest and its device.
struct Guest<'a> {
    arena: &'a Arena,
    config: Config,
    device: FsDevice,
    unique: u64,
    /// Somebody changed the share, so that not all that the guest knows need be found again.
    meddled: bool,
}

impl<'a> Guest<'a> {
    fn new(arena: &'a Arena, bits: u8) -> Result<Self> {
        let config = configuration(arena, bits)?;
        let mut guest = Self {
            device: FsDevice::new(config.clone())?,
            arena,
            config,
            unique: 0,
            meddled: false,
        };
        guest.begin_session()?;
        Ok(guest)
    }

    fn begin_session(&mut self) -> Result<()> {
        let asked = InitIn {
            major: 7,
            minor: 45,
            max_readahead: 4096,
            flags: u32::MAX,
        };
        let extension = InitInExtension {
            flags2: u32::MAX,
            ..InitInExtension::default()
        };
        let body = [encode(&asked), encode(&extension)].concat();
        let opcode = Opcode::Init.number().to_le_bytes()[0];
        self.serve(&Message {
            opcode,
            nodeid: 0,
            cut: 0,
            user: 0,
            extensions: 0,
            body: &body,
        })
    }

    fn step(&mut self, message: &Message<'_>) -> Result<()> {
        match message.opcode {
            MIGRATE => self.migrate(),
            RESET => {
                self.device.reset();
                self.begin_session()
            }
            MEDDLE => {
                self.meddled = true;
                meddle(
                    self.arena,
                    message.body.first().copied().unwrap_or_default(),
                );
                Ok(())
            }
            _ => self.serve(message),
        }
    }

    fn serve(&mut self, message: &Message<'_>) -> Result<()> {
        self.unique += 2;
        let user = match message.user {
            u8::MAX => u32::MAX,
            small @ 0..8 => u32::from(small),
            large => 1_000 + u32::from(large),
        };
        let nodeid = match message.nodeid {
            u8::MAX => u64::MAX,
            small => u64::from(small),
        };
        let header = encode(&InHeader {
            len: u32::try_from(InHeader::SIZE + message.body.len())?,
            opcode: u32::from(message.opcode),
            unique: self.unique,
            nodeid,
            uid: user,
            gid: user,
            pid: 1,
            total_extlen: u16::from(message.extensions),
            padding: 0,
        });
        let whole = [header.as_slice(), message.body].concat();
        let readable = cut(&whole, message.cut >> 4);
        let writable = room(message.cut & 15);
        let request = Request::in_memory(&readable, writable);
        let Some(written) = self.device.serve_alone(&request) else {
            return Ok(()); // it waits, and is forgotten
        };
        let written = usize::try_from(written)?;
        let room: usize = writable.iter().sum();
        ensure!(written <= room, "{written} bytes in room for {room}");
        let opcode = Opcode::from_number(message.opcode.into());
        if written == 0 {
            let silent = matches!(opcode, Some(Opcode::Forget | Opcode::BatchForget));
            ensure!(silent || room < OutHeader::SIZE, "there is no reply");
            return Ok(());
        }
        outcome(&request.written(written), self.unique).map(drop)
    }

    /// The state goes to a second device on the same share, which goes on; or the first one does, if there is a reason.
    fn migrate(&mut self) -> Result<()> {
        let saved = match self.device.save() {
            Ok(saved) => saved,
            Err(error) => {
                // Not all that a guest has can be found again, or taken along.
                let may_fail = self.config.migration_on_error == MigrationOnError::Abort;
                ensure!(may_fail, "save: {}", chain(&error));
                return Ok(());
            }
        };
        ensure!(
            saved == self.device.save()?,
            "saved twice, it is another one"
        );
        let state = travelled(&saved)?;
        let destination = FsDevice::new(self.config.clone())?;
        if let Err(error) = destination.check(&state) {
            anyhow::bail!("check: {}\n{state:#?}", chain(&error));
        }
        if let Err(error) = destination.load(state) {
            let may_fail = self.meddled || self.arena.is_scarce()?;
            ensure!(may_fail, "load: {}\n{saved:#?}", chain(&error));
            let untouched = destination.save()?;
            let fresh = FsDevice::new(self.config.clone())?.save()?;
            ensure!(untouched == fresh, "a failed load left {untouched:#?}");
        } else {
            if !self.meddled {
                let (before, after) = (carried(saved), carried(destination.save()?));
                ensure!(before == after, "{}", differences(&before, &after));
            }
            self.device = destination;
        }
        self.device.resume_alone();
        Ok(())
    }
}

/// What must be the same behind a migration: all but which inodes of the host those are that were made anew or that are lost, and
/// what is open of the latter, and locked.
fn carried(mut state: FsState) -> FsState {
    let orphans: HashSet<u64> = state.orphans.iter().map(|orphan| orphan.nodeid).collect();
    let lost = state.nodes.iter().filter(|node| node.lost);
    let lost: HashSet<u64> = lost.map(|node| node.nodeid).collect();
    for handle in &mut state.handles {
        handle.lost |= lost.contains(&handle.nodeid);
        if handle.lost {
            state.locks.retain(|lock| lock.handle != handle.handle);
        }
        // There is nothing more to come from a directory that was made anew.
        handle.only_rest &= !orphans.contains(&handle.nodeid);
    }
    renumbered(state, |node| {
        if node.lost || orphans.contains(&node.nodeid) {
            (0, 0)
        } else {
            (node.ino, node.birth_ns)
        }
    })
}

/// The lines of the texts of two states that are not the same.
fn differences(before: &FsState, after: &FsState) -> String {
    let [before, after] = [before, after].map(|state| format!("{state:#?}"));
    let lines = before.lines().zip(after.lines());
    let others = lines.filter(|(before, after)| before != after);
    let others: Vec<_> = others
        .map(|(before, after)| format!("{} -> {}", before.trim(), after.trim()))
        .collect();
    format!("{}\n{before}", others.join("\n"))
}

fn configuration(arena: &Arena, bits: u8) -> Result<Config> {
    let is_set = |bit: u8| bits & 1 << bit != 0;
    let mut config = permissive(&arena.share());
    if is_set(0) {
        config.xattr = false;
        config.security_label = Negotiation::Never;
        config.posix_acl = Negotiation::Never;
    } else if is_set(1) {
        config = configured(config)?;
    }
    config.writeback = is_set(2);
    config.remote_posix_locks = !is_set(3);
    config.remote_flock = !is_set(3);
    config.readonly = is_set(4);
    if is_set(5) {
        config.migration_on_error = MigrationOnError::GuestError;
    }
    config.killpriv_v2 = !is_set(6);
    if is_set(7) {
        config.cache = Cache::Always;
        config.readdirplus = false;
        config.allow_direct_io = false;
    }
    Ok(config)
}

/// Changes the share behind the guest's back, in one of a few ways. Whether there is still something to change is all the same.
fn meddle(arena: &Arena, how: u8) {
    let path = |name| arena.path(name);
    let _there_is_nothing = match how % 8 {
        0 => fs::remove_file(path("a")),
        1 => fs::rename(path("a"), path("b")),
        2 => fs::rename(path("d"), path("moved")),
        3 => fs::rename(path("d/e"), path("e")),
        4 => fs::remove_file(path("a")).and_then(|()| fs::create_dir(path("a"))),
        5 => fs::remove_file(path("d/f")).and_then(|()| fs::write(path("d/f"), "another f")),
        6 => fs::rename(path("e"), path("d/e")),
        _ => fs::remove_dir_all(path("d")),
    };
}

/// The request in buffers: whole, its header apart, cut into three, or byte by byte.
fn cut(whole: &[u8], how: u8) -> Vec<&[u8]> {
    let (header, body) = whole.split_at(InHeader::SIZE.min(whole.len()));
    match how % 4 {
        0 => vec![whole],
        1 => vec![header, body],
        2 => whole.chunks(whole.len() / 3 + 1).collect(),
        _ => header.chunks(1).chain(body.chunks(7)).collect(),
    }
}

/// The buffers of the reply: mostly enough.
fn room(how: u8) -> &'static [usize] {
    const HEADER: usize = OutHeader::SIZE;
    match how {
        0..6 => &[HEADER, 4096],
        6 => &[HEADER, 1 << 16],
        7 => &[4096],
        8 => &[1, 15, 1, 100, 3, 4096],
        9 => &[HEADER, 200],
        10 => &[HEADER, 100],
        11 => &[HEADER, 24],
        12 => &[HEADER],
        13 => &[HEADER - 1],
        14 => &[3],
        _ => &[],
    }
}
