//! Does the screen of a real Linux guest survive that its machine is stopped, continued and reset? Stock QEMU, the kernel's own
//! driver, a text console and a program that paints; with our daemon, and the same with QEMU's own back-end, which does not.

use anyhow::{Context, Result};
use tests::qemu::Rig;
use tests::qemu::gpu_machine::{GpuMachine, MODULES};

/// Stopped and continued while nothing is drawn: the picture stays, and the next one is seen.
fn stop_and_cont(machine: &mut GpuMachine) -> Result<()> {
    let text = machine.write("a text console")?;
    machine.stop_and_cont(&text)?;
    let painted = machine.paint(1)?;
    machine.stop_and_cont(&painted)?;
    machine.paint(2)?;
    Ok(())
}

/// Stopped and continued 20 times while the guest paints: its last picture is seen.
fn stop_and_cont_while_painting(machine: &mut GpuMachine) -> Result<()> {
    machine.start_painting()?;
    for cycle in 0..20 {
        machine.vm.stop()?;
        let screen = machine.screen()?;
        machine.expect_still(&screen).context("stopped")?;
        machine.vm.cont()?;
        machine
            .wait_for("another picture", |now| *now != screen)
            .with_context(|| format!("cycle {cycle}"))?;
    }
    machine.stop_painting()?;
    Ok(())
}

#[test]
fn the_screen_survives() -> Result<()> {
    let rig = Rig::prepare_with(&MODULES)?;
    let mut machine = GpuMachine::start(&rig)?;
    machine.paint(0)?;
    stop_and_cont(&mut machine)?;
    stop_and_cont_while_painting(&mut machine)?;
    machine.reboot()?;
    machine.paint(3).context("after a reboot")?;
    stop_and_cont(&mut machine).context("after a reboot")?;
    // Stock QEMU would lose the screen.
    let reasons = machine.blocked_reasons()?;
    assert!(reasons.contains("VHOST_F_LOG_ALL"), "{reasons:?}");
    machine.quit()
}

/// The same script. If this ever passes, there is nothing to show any more, and the README has to be changed.
#[test]
fn the_screen_of_the_peer_does_not_survive() -> Result<()> {
    let rig = Rig::prepare_with(&MODULES)?;
    let mut machine = GpuMachine::start_with_peer(&rig)?;
    machine.paint(0).context("what works")?;
    // It would be migrated, and nothing of it would arrive.
    assert_eq!(machine.blocked_reasons()?, "");
    let error = stop_and_cont(&mut machine).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("the back-end has ended"), "{error}");
    Ok(())
}
