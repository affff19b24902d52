//! The devices of this crate pass the suite that every device must pass, and broken ones do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
};
use common::ring::Ring;
use common::state::write_state;
use tests::conformance::{self, Load, Subject};
use tests::in_process::Machine;
use tests::null_device::{NullDevice, NullState};
use tests::probe_device::{Order, ProbeDevice};
use vm_memory::{Bytes as _, GuestAddress};

fn eight_bytes(answer: &[u8]) -> bool {
    answer.len() == 8
}

/// Adds `number + 1`; the sum tells whether all before it were counted.
fn sum_up(guest: &mut Machine, number: u64) -> Result<()> {
    let reply = guest.call(0, &(number + 1).to_le_bytes(), 8)?;
    let sum = u64::from_le_bytes(reply.as_slice().try_into()?);
    ensure!(sum == (number + 1) * (number + 2) / 2, "the sum is {sum}");
    Ok(())
}

fn add_nothing() -> Vec<Load> {
    [0, 1]
        .map(|ring| Load {
            ring,
            requests: vec![vec![0; 8]],
            reply_len: 8,
            is_answer: eight_bytes,
        })
        .into()
}

struct Null;

impl Subject for Null {
    type Device = NullDevice;

    fn create(&self) -> Result<NullDevice> {
        Ok(NullDevice::default())
    }

    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        sum_up(guest, number)
    }

    fn loads(&self) -> Vec<Load> {
        add_nothing()
    }
}

#[test]
fn the_null_device_conforms() -> Result<()> {
    conformance::run(&Null)
}

struct Probe;

impl Subject for Probe {
    type Device = ProbeDevice;

    fn create(&self) -> Result<ProbeDevice> {
        Ok(ProbeDevice::new())
    }

    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        let order = Order {
            operation: match number % 4 {
                0 => Order::NOW,
                1 => Order::ELSEWHERE,
                2 => Order::SERVED_LATER,
                _ => Order::SLOWLY,
            },
            argument: 1,
        };
        let reply = guest.call(usize::try_from(number % 3)?, &order.bytes(), 8)?;
        ensure!(reply == number.to_le_bytes(), "it counts {reply:?}");
        Ok(())
    }

    fn loads(&self) -> Vec<Load> {
        let order = |operation, argument| {
            Order {
                operation,
                argument,
            }
            .bytes()
            .to_vec()
        };
        [0, 1, 2]
            .map(|ring| Load {
                ring,
                requests: vec![
                    order(Order::NOW, 0),
                    order(Order::NOW, 0),
                    order(Order::ELSEWHERE, 1),
                    order(Order::SERVED_LATER, 1),
                    order(Order::SLOWLY, 1),
                ],
                reply_len: 8,
                is_answer: eight_bytes,
            })
            .into()
    }
}

#[test]
fn the_probe_device_conforms() -> Result<()> {
    conformance::run(&Probe)
}

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    WritesWhileSuspended,
    LosesState,
    SavingConsumes,
    ChangesBeforeRefusing,
    SurvivesReset,
}

/// A sum that the broken device's `load` refuses.
const UNWANTED: u64 = 0xbad;

struct Broken {
    device: NullDevice,
    fault: Fault,
    guest_gone: Arc<AtomicBool>,
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.guest_gone.store(true, Ordering::Relaxed);
    }
}

impl Device for Broken {
    type State = NullState;

    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn state_support(&self) -> StateSupport {
        self.device.state_support()
    }

    fn ack_features(&self, features: u64) {
        self.device.ack_features(features);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        self.device.write_config(offset, data)
    }

    fn process(&self, ring: &mut Ring<'_>) {
        self.device.process(ring);
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        self.device.suspend()
    }

    fn resume(&self, guest: &Guest) {
        if self.fault == Fault::WritesWhileSuspended {
            let (guest, gone) = (guest.clone(), Arc::clone(&self.guest_gone));
            thread::spawn(move || {
                for tick in 0_u32.. {
                    let _no_memory = guest.memory().write_obj(tick, GuestAddress(0x100));
                    thread::sleep(Duration::from_millis(1));
                    if gone.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        self.device.resume(guest);
    }

    fn save(&self) -> Result<NullState, SaveError> {
        let state = self.device.save()?;
        if self.fault == Fault::SavingConsumes {
            self.device.reset();
        }
        let kept = if self.fault == Fault::LosesState {
            3
        } else {
            u64::MAX
        };
        let sum = state.sum & kept;
        Ok(NullState { sum })
    }

    fn check(&self, state: &NullState) -> Result<(), LoadError> {
        self.device.check(state)
    }

    fn load(&self, state: NullState) -> Result<(), LoadError> {
        let refused = state.sum == UNWANTED;
        if !refused || self.fault == Fault::ChangesBeforeRefusing {
            self.device.load(state)?;
        }
        if refused {
            return Err(LoadError::Host("the test wants it so".into()));
        }
        Ok(())
    }

    fn reset(&self) {
        if self.fault != Fault::SurvivesReset {
            self.device.reset();
        }
    }
}

struct Control(Fault);

impl Subject for Control {
    type Device = Broken;

    fn create(&self) -> Result<Broken> {
        Ok(Broken {
            device: NullDevice::default(),
            fault: self.0,
            guest_gone: Arc::default(),
        })
    }

    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        sum_up(guest, number)
    }

    fn loads(&self) -> Vec<Load> {
        add_nothing()
    }

    fn refused_states(&self, _good: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut state = Vec::new();
        write_state(&NullState { sum: UNWANTED }, 1, &mut state)?;
        Ok(vec![state])
    }
}

#[test]
fn broken_devices_do_not_conform() {
    for (fault, check) in [
        (Fault::WritesWhileSuspended, "silence"),
        (Fault::LosesState, "save, load, save"),
        (Fault::SavingConsumes, "save, load, save"),
        (Fault::ChangesBeforeRefusing, "loads that are refused"),
        (Fault::SurvivesReset, "reset"),
    ] {
        let error = conformance::run(&Control(fault)).expect_err(check);
        assert!(error.to_string().starts_with(check), "{fault:?}: {error:#}");
    }
}
