//! What the fuzz targets of the file system device do with their bytes: [`requests`] of a guest's, and [`states`] to be loaded.
//!
//! The device is a real one, without rings, on a small file system of its own in memory. The targets
//! (`vhost-device-fs/fuzz`) call this with bytes that a fuzzer makes up, and `tests/fs_fuzz.rs` with those that were found worth
//! keeping. Whatever the bytes are, an error is a defect of the device.

pub mod arena;
pub mod requests;
pub mod states;

use anyhow::{Context as _, Result, ensure};
use common::state::{Limits, StateSchema as _, read_state, write_state};
use vhost_device_fs::config::{Config, Negotiation};
use vhost_device_fs::state::{FsState, Node, NodeTable, NodeV1};
use vhost_device_fs::translation::{Translation, Translations};

/// A device that agrees to all that a guest may want, within limits that can be reached.
fn permissive(share: &std::path::Path) -> Config {
    let mut config = Config::new(share);
    config.request_rings = 1;
    config.descriptors_max = 64;
    config.orphan_bytes_max = 64 << 10;
    config.xattr = true;
    config.security_label = Negotiation::Auto;
    config.posix_acl = Negotiation::Auto;
    config.writeback = true;
    config.killpriv_v2 = true;
    config.allow_direct_io = true;
    config.allow_mmap = true;
    config.preserve_noatime = true;
    config.remote_posix_locks = true;
    config.remote_flock = true;
    config
}

/// With names and ids that are others on the host: those of the golden state that has some.
fn configured(config: Config) -> Result<Config> {
    let map = ":prefix:all:trusted.:user.vm.::bad:client:user.vm.:::unsupported:server::trusted.::ok:all:::";
    let translation = |option, texts: [&str; 2]| -> Result<Translation> {
        let options: Vec<_> = texts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?;
        Ok(Translation::new(option, &options)?)
    };
    Ok(Config {
        xattr_map: Some(map.parse()?),
        translations: Translations {
            users: translation(
                "--translate-uid",
                ["guest:31:33:32", "squash-host:35:37:36"],
            )?,
            groups: translation("--translate-gid", ["forbid-guest:41:42", "host:45:47:46"])?,
        },
        ..config
    })
}

/// A state as it is read by the next one, which must be no other.
fn travelled(state: &FsState) -> Result<FsState> {
    state
        .validate()
        .context("a state of ours breaks the rules")?;
    let mut bytes = Vec::new();
    write_state(state, FsState::VERSION, &mut bytes).context("a state of ours is not written")?;
    let read: FsState = read_state(&mut bytes.as_slice(), &Limits::default())
        .context("a state of ours is not read")?;
    ensure!(read == *state, "written: {state:#?}\nread: {read:#?}");
    Ok(read)
}

/// The state with other numbers and times of birth of inodes.
fn renumbered(state: FsState, number: impl Fn(&Node<'_>) -> (u64, u64)) -> FsState {
    let mut nodes = NodeTable::default();
    for node in state.nodes.iter() {
        let (ino, birth_ns) = number(&node);
        nodes.push(NodeV1 {
            nodeid: node.nodeid,
            kind: node.kind,
            mount: node.mount,
            ino,
            birth_ns,
            ino_shown: node.ino_shown,
            lookups: node.lookups,
            locations: node.locations.iter(),
            lost: node.lost,
        });
    }
    FsState { nodes, ..state }
}
