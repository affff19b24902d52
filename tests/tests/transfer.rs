//! States through a real front-end and back-end: orders, channels, failures, and what is left after them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use common::frontend::{Channel, Frontend, FrontendError};
use common::protocol::messages::{DeviceState, Direction, Request, protocol_feature};
use common::protocol::{Options, SaveChannel, TransferOptions};
use rustix::io::Errno;
use rustix::pipe::pipe;
use tests::in_process::{DEADLINE, Host, Machine, WANTED};
use tests::null_device::NullDevice;
use tests::probe_device::ProbeDevice;

fn add(machine: &mut Machine, number: u64) -> Result<u64> {
    let reply = machine.call(0, &number.to_le_bytes(), 8)?;
    Ok(u64::from_le_bytes(reply.as_slice().try_into()?))
}

/// A device that has counted to 7, stopped; and its state.
fn source() -> Result<(Host<NullDevice>, Machine, Vec<u8>)> {
    let host = Host::new(NullDevice::default());
    let mut machine = host.machine()?;
    machine.start()?;
    add(&mut machine, 7)?;
    machine.stop()?;
    let state = machine.save()?;
    Ok((host, machine, state))
}

fn is_refused<T>(result: &Result<T, FrontendError>) -> bool {
    matches!(result, Err(FrontendError::Refused { .. }))
}

#[test]
fn all_three_orders_of_load_work() -> Result<()> {
    for order in ["QEMU", "Cloud Hypervisor", "ours"] {
        let (_host, machine, state) = source()?;
        let destination = Host::new(NullDevice::default());
        let mut machine = machine.move_to(&destination, order == "ours")?;
        let features = machine.features();
        if order == "Cloud Hypervisor" {
            machine.frontend().set_features(features)?;
        }
        machine.frontend().load(&mut state.as_slice())?;
        if order != "ours" {
            machine.make_ready()?;
        }
        machine.start()?;
        assert_eq!(add(&mut machine, 1)?, 8, "{order}");
        machine.leave()??;
    }
    Ok(())
}

#[test]
fn every_channel_carries_a_state_with_and_without_a_memfd_of_the_back_end() -> Result<()> {
    for save_channel in [SaveChannel::Offered, SaveChannel::Memfd] {
        let transfer = TransferOptions {
            save_channel,
            ..TransferOptions::default()
        };
        let options = Options {
            transfer,
            ..Options::default()
        };
        let host = Host::with_options(NullDevice::default(), options);
        let mut machine = host.machine()?;
        machine.start()?;
        let mut sum = 0;
        for channel in [Channel::Pipe, Channel::SocketPair, Channel::File] {
            sum += 5;
            assert_eq!(add(&mut machine, 5)?, sum);
            machine.frontend().suspend()?;
            let mut state = Vec::new();
            machine.frontend().save_over(channel, &mut state)?;
            machine.frontend().resume()?;
            add(&mut machine, 100)?;
            machine.frontend().suspend()?;
            machine
                .frontend()
                .load_over(channel, &mut state.as_slice())?;
            machine.frontend().resume()?;
            assert_eq!(add(&mut machine, 0)?, sum, "{channel:?} {save_channel:?}");
        }
        machine.leave()??;
    }
    Ok(())
}

#[test]
fn a_running_device_is_neither_saved_nor_loaded_and_goes_on() -> Result<()> {
    let (_host, mut machine, _) = source()?;
    machine.start()?;
    for direction in [Direction::Save, Direction::Load] {
        let file = tempfile::tempfile()?;
        let began = machine.frontend().transfer_request(direction, file.as_fd());
        assert!(is_refused(&began), "{direction}");
        assert!(is_refused(&machine.frontend().check()), "{direction}");
    }
    assert_eq!(add(&mut machine, 1)?, 8);
    Ok(())
}

#[test]
fn a_device_goes_on_after_saving_and_is_saved_again() -> Result<()> {
    let (_host, mut machine, state) = source()?;
    machine.start()?;
    assert_eq!(add(&mut machine, 1)?, 8);
    machine.stop()?;
    assert_ne!(machine.save()?, state);
    machine.frontend().load(&mut state.as_slice())?;
    assert_eq!(machine.save()?, state);
    Ok(())
}

#[test]
fn refusals_of_the_device_leave_it_alive() -> Result<()> {
    let device = ProbeDevice::new();
    let host = Host::new(device.clone());
    let mut machine = host.machine()?;
    let state = machine.save()?;
    device.probe().refuse_save.store(true, Ordering::SeqCst);
    device.probe().refuse_load.store(true, Ordering::SeqCst);
    assert!(machine.save().is_err());
    assert!(machine.frontend().load(&mut state.as_slice()).is_err());
    device.probe().refuse_save.store(false, Ordering::SeqCst);
    assert_eq!(machine.save()?, state);
    machine.start()?;
    machine.call(0, &[0; 8], 8)?;
    Ok(())
}

#[test]
fn a_device_that_cannot_be_saved_offers_neither_states_nor_logs() -> Result<()> {
    let device = ProbeDevice::new();
    device.probe().cannot_be_saved.store(true, Ordering::SeqCst);
    let host = Host::new(device);
    let mut connection = host.connect()?;
    let offer = connection.frontend.negotiate(WANTED)?;
    let migration = protocol_feature::DEVICE_STATE | protocol_feature::LOG_SHMFD;
    assert_eq!(offer.protocol_features & migration, 0);
    assert_eq!(
        offer.features & common::protocol::messages::feature::LOG_ALL,
        0
    );
    connection.leave()??;
    Ok(())
}

/// Begins a transfer over a pipe that the test keeps in its hand.
fn begin(frontend: &mut Frontend, direction: Direction) -> Result<OwnedFd> {
    let (reader, writer) = pipe()?;
    let (ours, theirs) = match direction {
        Direction::Save => (reader, writer),
        Direction::Load => (writer, reader),
    };
    frontend.begin_transfer(direction, theirs.as_fd())?;
    Ok(ours)
}

#[test]
fn a_front_end_that_leaves_in_the_middle_leaves_nothing_behind() -> Result<()> {
    let (host, mut machine, state) = source()?;
    // The end of the pipe stays open: only the connection tells.
    let mut kept = Vec::new();
    for direction in [Direction::Load, Direction::Save] {
        kept.push(begin(machine.frontend(), direction)?);
        if direction == Direction::Load {
            rustix::io::write(&kept[0], &state[..state.len() / 2])?;
        }
        machine = machine.move_to(&host, true)?;
        if direction == Direction::Load {
            let written = rustix::io::write(&kept[0], b"more");
            assert_eq!(written, Err(Errno::PIPE), "somebody still reads");
        }
        assert_eq!(machine.save()?, state);
    }
    machine.start()?;
    assert_eq!(add(&mut machine, 1)?, 8);
    machine.leave()??;
    Ok(())
}

#[test]
fn a_transfer_in_the_way_is_refused_and_one_that_ended_is_not_in_the_way() -> Result<()> {
    let (_host, mut machine, state) = source()?;
    let first = begin(machine.frontend(), Direction::Load)?;
    assert!(begin(machine.frontend(), Direction::Save).is_err());
    rustix::io::write(&first, b"nonsense")?;
    drop(first);
    assert!(machine.frontend().check().is_err());
    // QEMU does not check what has failed.
    for _ in 0..20 {
        drop(begin(machine.frontend(), Direction::Save)?);
        // Nor does it know when the back-end notices.
        let end = Instant::now() + DEADLINE;
        let saved = loop {
            match machine.save() {
                Err(_) if Instant::now() < end => {}
                saved => break saved,
            }
        };
        assert_eq!(saved?, state);
    }
    Ok(())
}

#[test]
fn the_only_phase_is_stopped() -> Result<()> {
    let (host, mut machine, _) = source()?;
    for (direction, phase) in [(0, 1), (2, 0), (u32::MAX, u32::MAX)] {
        let file = tempfile::tempfile()?;
        let body = DeviceState { direction, phase }.encode();
        let request = Request::SET_DEVICE_STATE_FD;
        let reply = machine.frontend().query(request, &body, &[file.as_fd()]);
        let refused = reply.map_or(true, |reply| {
            reply.value().is_some_and(|code| code & 0xff != 0)
        });
        assert!(refused, "direction {direction}, phase {phase}");
        let _how = machine.leave()?;
        machine = host.machine()?;
    }
    Ok(())
}
