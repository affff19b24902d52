//! What the control socket does to a device that runs.
//!
//! Knows the target, and how to wait for a unit's last command; knows no socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::device::{DeviceError, Guest};

use crate::config::UnitConfig;
use crate::ctl::{Administer, Shown, ShownUnit};
use crate::device::Shared;
use crate::scsi::unit::Unit;
use crate::target::unit::LogicalUnit;
use crate::virtio::events::{Event, EventKind};
use crate::virtio::sweep::{Effect, Scope, Sweep};

/// How often it is looked whether rings are served again.
const GLANCE: Duration = Duration::from_millis(5);

/// See the [module](self).
pub(crate) struct Administration {
    device: Arc<Shared>,
    /// One change of the inventory at a time.
    changing: Mutex<()>,
}

impl Administration {
    pub(crate) fn new(device: Arc<Shared>) -> Self {
        Self {
            device,
            changing: Mutex::default(),
        }
    }

    /// A ring is started and not served for the moment: it is being drained, or was, or is disabled. While it is being drained, commands
    /// of the unit may still be in flight; when the device is silent there are none, and the sweep ends.
    fn sweep_later(&self, sweep: Arc<Sweep>) -> Result<(), DeviceError> {
        let device = Arc::clone(&self.device);
        let wait = move || {
            while !device.target.is_silent() {
                if let Some(guest) = device.guest.get()
                    && let Some(held) = device.workers.hold(guest)
                {
                    device.workers.sweep(&sweep, held, guest);
                    return;
                }
                std::thread::sleep(GLANCE);
            }
        };
        std::thread::Builder::new()
            .name("scsi-remove".into())
            .spawn(wait)?;
        Ok(())
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Administer for Administration {
    fn add(&self, unit: UnitConfig) -> Result<(), DeviceError> {
        let _one_at_a_time = self.change();
        // Otherwise it is made ours when the device resumes, here or at a destination.
        let working = self.device.guest.get().and_then(Guest::background);
        let started = working.is_some();
        Ok(self.device.target.add(&unit, started)?)
    }

    /// The guest hears of it when the unit's last command has ended (virtio 1.3, 5.6.6.1).
    fn remove(&self, lun: u16) -> Result<(), DeviceError> {
        let _one_at_a_time = self.change();
        let Shared {
            target,
            workers,
            guest,
        } = &*self.device;
        let unit = target.take_away(lun)?;
        let target = Arc::clone(target);
        let sweep = Sweep::new(Scope::Unit(lun), Effect::Await, move |_found| {
            if let Err(error) = unit.backing().sync() {
                log::error!("logical unit {lun}: {}", common::report::chain(&error));
            }
            unit.release();
            target.inventory_changed(Event {
                kind: EventKind::Removed,
                lun,
            });
        });
        if let Some(guest) = guest.get() {
            match workers.hold(guest) {
                Some(held) => workers.sweep(&sweep, held, guest),
                None => self.sweep_later(sweep)?,
            }
        }
        Ok(())
    }

    fn resize(&self, lun: u16, blocks: Option<u64>) -> Result<u64, DeviceError> {
        let _one_at_a_time = self.change();
        Ok(self.device.target.resize(lun, blocks)?)
    }

    fn show(&self) -> Shown {
        let target = &self.device.target;
        let pending = target.events.pending();
        Shown {
            target: target.config().target,
            initiator: target.initiator().to_string(),
            events_waiting: pending.events.len() as u64,
            events_missed: pending.missed,
            units: target
                .table()
                .values()
                .map(|unit| unit.with(|core| shown(unit, core)))
                .collect(),
        }
    }
}

fn shown(unit: &LogicalUnit, core: &Unit) -> ShownUnit {
    let Unit {
        identity, state, ..
    } = core;
    ShownUnit {
        lun: identity.lun,
        path: unit.config().path.to_string_lossy().into_owned(),
        serial: identity.serial.clone(),
        wwn: format!("{:016x}", identity.wwn),
        block_size: identity.block_size,
        blocks: state.blocks,
        readonly: identity.readonly || state.modes.write_protect,
        write_cache: state.modes.write_cache,
        stopped: state.stopped,
        attentions: state
            .attentions
            .iter()
            .map(|attention| format!("{:02x}/{:02x}", attention.asc, attention.ascq))
            .collect(),
        registrations: state.reservations.registrations.len() as u64,
        reserved: !state.reservations.is_free(),
    }
}
