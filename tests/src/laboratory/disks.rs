//! A share on the file systems of servers.
//!
//! Knows how they are made; what a guest may expect of them is told in [`places`](crate::places).

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};

use super::{disk, ext4, step, succeed};
use crate::bridge::Bridge;
use crate::guest::Manner;
use crate::places::{Kind, daemon, move_between};
use crate::qemu::provision::Tree;

const EXT4: &str = "/run/ext4";
const XFS: &str = "/run/xfs";
const BTRFS: &str = "/run/btrfs";

pub(super) fn run(tools: &Tree) -> Result<()> {
    step("making file systems", || {
        ext4(tools, EXT4)?;
        disk(tools, "sbin/mkfs.xfs", &["-q"], XFS)?;
        disk(tools, "sbin/mkfs.btrfs", &["-q"], BTRFS)
    })?;
    for (from, to) in [
        (EXT4, None),
        (XFS, None),
        (BTRFS, None),
        (EXT4, Some(XFS)),
        (XFS, Some(BTRFS)),
        (BTRFS, Some(EXT4)),
    ] {
        step(&format!("from {from} to {to:?}"), || {
            move_between(Kind::At(from), to.map(Kind::At))
        })?;
    }
    step("subvolumes", || subvolumes(tools))
}

/// Files of two subvolumes of Btrfs have the same inode numbers, and stay two.
fn subvolumes(tools: &Tree) -> Result<()> {
    let share = tempfile::tempdir_in(BTRFS)?;
    let mountpoint = tempfile::tempdir()?;
    let names = ["one", "two"];
    for name in names {
        let folder = share.path().join(name);
        let mut create = tools.program("bin/btrfs")?.command();
        succeed(create.args(["subvolume", "create"]).arg(&folder))?;
        fs::write(folder.join("file"), name)?;
    }
    let [one, two] = names.map(|name| fs::metadata(share.path().join(name).join("file")));
    ensure!(one?.ino() == two?.ino(), "their numbers differ");

    let source = daemon(share.path())?;
    let mut bridge = Bridge::mount(source.connect()?, mountpoint.path())?;
    let path = |name: &str| mountpoint.path().join(name).join("file");
    let files = names.map(|name| File::open(path(name)));
    let destination = daemon(share.path())?;
    bridge.migrate_to(destination.connect()?, Manner::QEMU)?;
    for (name, file) in names.iter().zip(files) {
        let mut content = String::new();
        file?.read_to_string(&mut content)?;
        ensure!(content == *name, "{name}: {content:?}");
        ensure!(fs::read_to_string(path(name))? == *name);
    }
    bridge.unmount()?;
    Ok(())
}
