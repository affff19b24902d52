//! Do programs on a virtio-fs share notice that their machine is stopped, saved, moved, or that a
//! move fails? A real Linux guest under QEMU, with our daemon, and a workload that notices all.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tests::qemu::fs_machine::{FsMachine, check_share};
use tests::qemu::{Rig, Start, channel};

/// A rig, an empty share, and a machine that works on it.
fn working_machine() -> Result<(Rig, PathBuf, FsMachine)> {
    let rig = Rig::prepare()?;
    let share = rig.path("shared");
    std::fs::create_dir(&share)?;
    let mut machine = FsMachine::start(&rig, "first", Start::Boot, &share)?;
    machine.start_workload()?;
    Ok((rig, share, machine))
}

/// Verifies in the guest, ends everything, and verifies on the host.
fn finish(share: &Path, mut machine: FsMachine) -> Result<()> {
    let before = machine.verify()?;
    let after = machine.stop_workload()?;
    assert!(after > before, "the workload goes on: {before} to {after}");
    machine.quit()?;
    assert_eq!(check_share(share)?, after);
    Ok(())
}

#[test]
fn a_stopped_guest_goes_on() -> Result<()> {
    let (_rig, share, mut machine) = working_machine()?;
    for _ in 0..5 {
        machine.vm.stop()?;
        machine.vm.cont()?;
        machine.verify()?;
    }
    finish(&share, machine)
}

/// The other tests are worth something only if this one passes.
#[test]
fn damage_on_the_share_is_noticed_in_the_guest() -> Result<()> {
    let (_rig, share, mut machine) = working_machine()?;
    let file = share.join("work/steady/7");
    let content = std::fs::read(&file)?;
    let mut damaged = content.clone();
    channel::damage(&mut damaged);
    std::fs::write(&file, damaged)?;
    assert!(machine.verify().is_err());
    std::fs::write(&file, content)?;
    finish(&share, machine)
}
