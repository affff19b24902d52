//! What was agreed on in INIT holds after a migration, where no INIT is sent.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tests::fuse_client::{ROOT, encode};
use vhost_device_fs::fuse::abi::{CreateIn, ExtensionHeader, Opcode, SecurityContextHeader};

use super::rig::{Device, Maker};
use super::{Peer, judge};

/// With POSIX ACLs SETXATTR has a longer form.
fn extended_setxattr(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    fs::write(share.path().join("file"), "")?;
    let options = ["--xattr", "--posix-acl=always"];
    let mut device = Device::boot(maker, share.path(), &options)?;
    let nodeid = device.client.lookup(ROOT, "file")?.nodeid;
    for value in ["first", "second"] {
        device.set_xattr(nodeid, "user.a", value.as_bytes())?;
        let read = device.client.get_xattr(nodeid, "user.a")?;
        ensure!(read == value.as_bytes(), "{read:?}");
        device.migrate()?;
    }
    Ok(())
}

#[test]
fn t1_attributes_are_set_in_the_form_that_was_agreed_on() -> Result<()> {
    judge(Peer::Fails("the daemon has ended"), extended_setxattr)
}

/// CREATE with a label, as a guest with `SELinux` sends it.
fn create_with_label(device: &mut Device, name: &str) -> Result<()> {
    let arguments = CreateIn {
        flags: (libc::O_RDWR | libc::O_CREAT).cast_unsigned(),
        mode: 0o644,
        ..CreateIn::default()
    };
    let body = [&encode(&arguments), name.as_bytes(), b"\0"].concat();
    let value = b"system_u:object_r:tmp_t:s0\0";
    let context = SecurityContextHeader {
        size: u32::try_from(value.len())?,
        padding: 0,
    };
    let mut contexts = [&encode(&context), &b"user.label\0"[..], value].concat();
    contexts.resize(contexts.len().next_multiple_of(8), 0);
    let header = ExtensionHeader {
        size: u32::try_from(contexts.len() + 8)?,
        kind: 1,
    };
    let extensions = [encode(&header), contexts].concat();
    let ticket = device
        .client
        .send_extended(Opcode::Create, ROOT, &body, &extensions)?;
    device.client.wait(ticket)?;
    let nodeid = device.client.lookup(ROOT, name)?.nodeid;
    let label = device.client.get_xattr(nodeid, "user.label");
    let label = label.with_context(|| format!("{name} has no label"))?;
    ensure!(label == value, "{label:?}");
    Ok(())
}

fn labelled_files(maker: Maker) -> Result<()> {
    let share = tempfile::tempdir()?;
    let options = ["--xattr", "--security-label=always"];
    let mut device = Device::boot(maker, share.path(), &options)?;
    create_with_label(&mut device, "before")?;
    device.migrate()?;
    create_with_label(&mut device, "after")
}

#[test]
fn t11_files_are_labelled_afterwards_as_before() -> Result<()> {
    judge(Peer::Fails("after has no label"), labelled_files)
}
