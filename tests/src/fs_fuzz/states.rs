//! Bytes as a state that somebody sends: read, checked, loaded onto a share, used, and saved again.
//!
//! The framing is made right, so that what is behind it is reached. Inode numbers of 1 to 255 without a time of birth stand for the
//! inodes of the share, the root first and then by name: no fuzzer could know when they were made.

use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, ensure};
use common::device::Device as _;
use common::request::Request;
use common::state::{Limits, read_state, repaired};
use vhost_device_fs::config::MigrationOnError;
use vhost_device_fs::device::FsDevice;
use vhost_device_fs::fuse::abi::{
    GetAttrIn, GetXattrIn, InHeader, LseekIn, Opcode, OutHeader, ReadIn,
};
use vhost_device_fs::fuse::wire::Wire as _;
use vhost_device_fs::state::FsState;

use super::arena::Arena;
use super::{configured, permissive, renumbered, travelled};
use crate::fuse_client::{encode, outcome};

/// Inodes and handles of a state that are looked at through requests.
const LOOKED_AT: usize = 16;

/// Has a device load what `input` comes to. The share must be as it was made, and stays so.
pub fn run(arena: &Arena, input: &[u8]) -> Result<()> {
    let limits = Limits {
        total_bytes_max: 16 << 20,
        ..Limits::default()
    };
    // As it is, mostly to be refused for its framing.
    let _refused = read_state::<FsState>(&mut &*input, &limits);
    let Ok(stream) = repaired(input) else {
        return Ok(());
    };
    let Ok(state) = read_state::<FsState>(&mut stream.as_slice(), &limits) else {
        return Ok(());
    };
    for on_error in [MigrationOnError::Abort, MigrationOnError::GuestError] {
        load(arena, with_inodes_of(arena, state.clone())?, on_error)?;
    }
    Ok(())
}

/// The state with the numbers of the share's inodes where it only stands for them.
fn with_inodes_of(arena: &Arena, state: FsState) -> Result<FsState> {
    let mut inodes = Vec::new();
    for path in arena.look()?.keys() {
        let metadata = std::fs::symlink_metadata(path)?;
        let birth = metadata.created()?.duration_since(UNIX_EPOCH)?;
        inodes.push((metadata.ino(), u64::try_from(birth.as_nanos())?));
    }
    Ok(renumbered(state, |node| {
        let number = usize::try_from(node.ino).ok();
        let inode = number
            .and_then(|number| inodes.get(number.checked_sub(1)?))
            .filter(|_| node.birth_ns == 0);
        inode.copied().unwrap_or((node.ino, node.birth_ns))
    }))
}

fn load(arena: &Arena, state: FsState, on_error: MigrationOnError) -> Result<()> {
    let mut config = permissive(&arena.share());
    config.migration_on_error = on_error;
    config.readonly = state.share.readonly;
    if !state.configuration.is_empty() {
        config = configured(config)?;
    }
    let before = arena.look()?;
    let device = FsDevice::new(config.clone())?;
    let fresh = device.save()?;
    let wanted = state.clone();
    let loaded = device.check(&state).and_then(|()| device.load(state));
    if loaded.is_err() {
        ensure!(device.save()? == fresh, "a refused state left something");
    } else {
        travelled(&wanted).context("what was loaded")?;
        use_it(&device, &wanted)?;
        match device.save() {
            Ok(state) => {
                let state = travelled(&state).context("loaded and saved")?;
                // The next one is offered no less than this one was.
                FsDevice::new(config)?
                    .check(&state)
                    .context("the next one")?;
            }
            Err(error) => ensure!(
                on_error == MigrationOnError::Abort,
                "loaded and not saved: {}",
                common::report::chain(&error)
            ),
        }
    }
    drop(device);
    let after = arena.look()?;
    ensure!(
        before == after,
        "the share was {before:#?}\nand is {after:#?}"
    );
    arena.check_outside()
}

/// Asks for what the guest knows, without changing any of it.
fn use_it(device: &FsDevice, state: &FsState) -> Result<()> {
    for node in state.nodes.iter().take(LOOKED_AT) {
        let attributes = encode(&GetAttrIn::default());
        let size = GetXattrIn {
            size: 4096,
            padding: 0,
        };
        for (opcode, body) in [
            (Opcode::GetAttr, attributes),
            (Opcode::Lookup, b"a\0".to_vec()),
            (Opcode::ReadLink, Vec::new()),
            (Opcode::ListXattr, encode(&size)),
            (
                Opcode::GetXattr,
                [encode(&size), b"user.a\0".to_vec()].concat(),
            ),
        ] {
            ask(device, opcode, node.nodeid, &body)?;
        }
    }
    for handle in state.handles.iter().take(LOOKED_AT) {
        let read = |offset| {
            encode(&ReadIn {
                handle: handle.handle,
                offset,
                size: 1024,
                ..ReadIn::default()
            })
        };
        let seek = encode(&LseekIn {
            handle: handle.handle,
            offset: 0,
            whence: 3,
            padding: 0,
        });
        for (opcode, body) in [
            (Opcode::Read, read(0)),
            (Opcode::ReadDir, read(handle.position)),
            (Opcode::ReadDirPlus, read(0)),
            (Opcode::Lseek, seek),
        ] {
            ask(device, opcode, handle.nodeid, &body)?;
        }
    }
    Ok(())
}

fn ask(device: &FsDevice, opcode: Opcode, nodeid: u64, body: &[u8]) -> Result<()> {
    let header = encode(&InHeader {
        len: u32::try_from(InHeader::SIZE + body.len())?,
        opcode: opcode.number(),
        unique: 1,
        nodeid,
        ..InHeader::default()
    });
    let request = Request::in_memory(&[&header, body], &[OutHeader::SIZE, 4096]);
    let written = device.serve_alone(&request).context("it waits")?;
    let written = usize::try_from(written)?;
    ensure!(written <= OutHeader::SIZE + 4096, "{written} bytes");
    outcome(&request.written(written), 1).with_context(|| format!("{opcode:?} of {nodeid}"))?;
    Ok(())
}
