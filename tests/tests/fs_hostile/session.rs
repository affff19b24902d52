//! Sessions that begin twice, too early, too old, too new, or end in the middle.

use std::fs;

use anyhow::{Result, ensure};
use tests::fuse_client::{Client, ROOT, encode};
use vhost_device_fs::fuse::abi::{InitIn, InitInExtension, InitOut, Opcode};
use vhost_device_fs::fuse::wire::Wire;

use crate::rig::{DEFAULT, Rig, empty, refused};

fn init(client: &mut Client, major: u32, minor: u32) -> Result<InitOut, i32> {
    let asked = InitIn {
        major,
        minor,
        max_readahead: u32::MAX,
        flags: u32::MAX,
    };
    let extension = InitInExtension {
        flags2: u32::MAX,
        unused: [u32::MAX; 11],
    };
    let body = [encode(&asked), encode(&extension)].concat();
    match client.call(Opcode::Init, ROOT, &body) {
        Ok(reply) => Ok(InitOut::take(&mut reply.as_slice()).unwrap_or_default()),
        Err(error) => Err(error.errno().unwrap_or(0)),
    }
}

#[test]
fn nothing_is_served_outside_of_a_session() -> Result<()> {
    let mut rig = Rig::boot(DEFAULT, |share| Ok(fs::write(share.join("f"), "x")?))?;
    let nothing_is_served = |rig: &mut Rig| -> Result<()> {
        for opcode in Opcode::ALL {
            let silent = matches!(opcode, Opcode::Forget | Opcode::BatchForget);
            if silent || *opcode == Opcode::Init {
                continue;
            }
            let errno = refused(rig.client.call(*opcode, ROOT, b"f\0"))?;
            ensure!(
                [libc::EIO, libc::ENOSYS].contains(&errno),
                "{opcode:?}: {errno}"
            );
        }
        rig.client.forget(ROOT, 1)?;
        ensure!(refused(rig.client.lookup(ROOT, "f"))? == libc::EIO);
        ensure!(refused(rig.client.mk_dir(ROOT, "d", 0o755))? == libc::EIO);
        ensure!(!rig.path("d").exists());
        Ok(())
    };
    nothing_is_served(&mut rig)?;
    for (major, minor) in [(0, 0), (6, 99), (7, 0), (7, 26)] {
        ensure!(init(&mut rig.client, major, minor) == Err(libc::EPROTO));
        nothing_is_served(&mut rig)?;
    }
    // A guest of a newer major version is told ours, and is to ask again.
    for major in [8, u32::MAX] {
        let answer = init(&mut rig.client, major, 0);
        ensure!(answer.is_ok_and(|answer| answer.major == 7 && answer.flags == 0));
        nothing_is_served(&mut rig)?;
    }
    for minor in [27, 45, 46, u32::MAX] {
        let answer = init(&mut rig.client, 7, minor);
        ensure!(answer.is_ok_and(|answer| answer.major == 7 && answer.flags != 0));
        ensure!(rig.client.lookup(ROOT, "f").is_ok());
        rig.client.call(Opcode::Destroy, ROOT, &[])?;
        nothing_is_served(&mut rig)?;
    }
    ensure!(init(&mut rig.client, 7, 45).is_ok());
    rig.survived()
}

#[test]
fn a_new_session_knows_nothing_of_the_last_one() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, |share| Ok(fs::write(share.join("f"), "x")?))?;
    let before = descriptors(&rig)?;
    for round in 0..50 {
        let file = rig.client.lookup(ROOT, "f")?.nodeid;
        let open = rig.client.open(file, 0)?.handle;
        for refusal in [(7, 26), (6, 0)] {
            ensure!(init(&mut rig.client, refusal.0, refusal.1).is_err());
            // The session goes on.
            ensure!(rig.client.read(file, open, 0, 10)? == b"x");
        }
        if round % 2 == 0 {
            rig.client.call(Opcode::Destroy, ROOT, &[])?;
        }
        ensure!(init(&mut rig.client, 7, 45).is_ok());
        ensure!(refused(rig.client.get_attr(file, None))? == libc::ESTALE);
        ensure!(refused(rig.client.read(file, open, 0, 10))? == libc::EBADF);
    }
    let after = descriptors(&rig)?;
    ensure!(after <= before, "{before} descriptors, then {after}");
    rig.survived()
}

/// Descriptors that the daemon has.
fn descriptors(rig: &Rig) -> Result<usize> {
    let path = format!("/proc/{}/fd", rig.daemon.id().as_raw_nonzero());
    Ok(fs::read_dir(path)?.count())
}

#[test]
fn a_guest_cannot_fill_the_log() -> Result<()> {
    let mut rig = Rig::start(DEFAULT, empty)?;
    let before = rig.daemon.log()?.len();
    for round in 0..1_000 {
        ensure!(init(&mut rig.client, 7, 26).is_err());
        ensure!(init(&mut rig.client, 7, 45).is_ok());
        // Too short for a header.
        ensure!(rig.exchange(&[0; 39], &[], &[16])?.is_empty());
        ensure!(
            refused(rig.client.lookup(ROOT, "../x"))? == libc::EINVAL,
            "{round}"
        );
    }
    let grown = rig.daemon.log()?.len() - before;
    ensure!(
        grown < 16 << 10,
        "{grown} bytes of log for 4000 bad requests"
    );
    rig.survived()
}
