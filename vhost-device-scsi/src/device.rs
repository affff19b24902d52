//! The device as `common` drives it: rings to the engine, the config space, and the verbs of the lifecycle.
//!
//! Knows neither commands nor files. Outside of the rings, events come from the control socket; while the device is suspended they
//! only wait.

use std::sync::{Arc, OnceLock};

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
    read_config_space,
};
use common::ring::Ring;
use common::state::DeviceKind;

use crate::administration::Administration;
use crate::config::{Config, LUN_MAX, OTHER_RINGS};
use crate::ctl::Administer;
use crate::engine::{EngineError, Workers};
use crate::load;
use crate::save;
use crate::state::ScsiState;
use crate::target::{Target, TargetError};
use crate::virtio::events::{EVENT_BYTES, EVENT_RING, FEATURE_CHANGE, FEATURE_HOTPLUG};
use crate::virtio::tasks::{self, CONTROL_RING};

/// QEMU offers 128 by default, and up to 1024.
const RING_SIZE_MAX: u16 = 1024;
/// Segments of a request: a ring's worth, less header and response.
const SEGMENTS_MAX: u32 = 126;
/// Sectors of a request, in units of 512 bytes: 32 MiB, as VPD page b0 says.
const SECTORS_MAX: u32 = 65535;
/// Commands for one unit at a time.
const COMMANDS_PER_UNIT: u32 = 128;
/// Greatest target number that is looked for.
const TARGET_MAX: u16 = 255;
/// Length of the config space in bytes (virtio 1.3, 5.6.4).
const CONFIG_SPACE_BYTES: usize = 36;
/// Offsets of the two fields that a driver may write.
const SENSE_SIZE_AT: u32 = 20;
const COMMAND_SIZE_AT: u32 = 24;
/// Greatest `sense_size` and `cdb_size`: sense data has at most 252 bytes (SPC-5, 4.5.1).
const SIZES_MAX: u32 = 256;

/// The device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScsiError {
    /// Its units.
    #[error("the logical units cannot be had")]
    Target(#[source] TargetError),
    /// Its engine.
    #[error("the engine cannot be had")]
    Engine(#[source] EngineError),
}

/// A target as a virtio device.
pub struct ScsiDevice {
    shared: Arc<Shared>,
}

/// What the device and its control socket both use.
pub(crate) struct Shared {
    pub(crate) target: Arc<Target>,
    pub(crate) workers: Workers,
    /// Our way to the guest, from the first resume on.
    pub(crate) guest: OnceLock<Guest>,
}

impl ScsiDevice {
    /// A device that no guest has used. Opens all files.
    pub fn new(config: Config) -> Result<Self, ScsiError> {
        let target = Arc::new(Target::new(config).map_err(ScsiError::Target)?);
        let workers = Workers::new(target.config(), &target).map_err(ScsiError::Engine)?;
        Ok(Self {
            shared: Arc::new(Shared {
                target,
                workers,
                guest: OnceLock::new(),
            }),
        })
    }

    /// The units.
    pub fn target(&self) -> &Arc<Target> {
        &self.shared.target
    }

    /// What the control socket is served with.
    pub fn administration(&self) -> Arc<dyn Administer> {
        Arc::new(Administration::new(Arc::clone(&self.shared)))
    }

    fn config_space(&self) -> [u8; CONFIG_SPACE_BYTES] {
        let config = self.shared.target.config();
        let sizes = self.shared.target.sizes();
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(0);
        let words = [
            u32::from(config.request_rings),
            SEGMENTS_MAX,
            SECTORS_MAX,
            COMMANDS_PER_UNIT,
            EVENT_BYTES,
            size(sizes.sense),
            size(sizes.command),
            u32::from(TARGET_MAX) << 16, // max_channel, max_target
            u32::from(LUN_MAX),
        ];
        let mut space = [0; CONFIG_SPACE_BYTES];
        for (target, byte) in space
            .iter_mut()
            .zip(words.into_iter().flat_map(u32::to_le_bytes))
        {
            *target = byte;
        }
        space
    }
}

impl Device for ScsiDevice {
    type State = ScsiState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "scsi",
            kind: DeviceKind::Scsi,
            rings: usize::from(OTHER_RINGS + self.shared.target.config().request_rings),
            ring_size_max: RING_SIZE_MAX,
            features: FEATURE_HOTPLUG | FEATURE_CHANGE,
            config_space: true,
            dirty_log: !self.shared.target.config().require_state,
            resubmits: true,
        }
    }

    fn state_support(&self) -> StateSupport {
        StateSupport::Savable
    }

    fn ack_features(&self, features: u64) {
        self.shared.target.set_features(features);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_config_space(&self.config_space(), offset, data);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        let refused = |reason| ConfigError {
            offset,
            len: data.len(),
            reason,
        };
        let value = data
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| refused("only sense_size and cdb_size can be written, whole"))?;
        if !(1..=SIZES_MAX).contains(&value) {
            return Err(refused("sizes are 1 to 256 bytes"));
        }
        match offset {
            SENSE_SIZE_AT => self.shared.target.set_sense_bytes(value),
            COMMAND_SIZE_AT => self.shared.target.set_command_bytes(value),
            _ => return Err(refused("only sense_size and cdb_size can be written")),
        }
        Ok(())
    }

    fn worker_of(&self, ring: usize) -> usize {
        self.shared.workers.thread_of(ring)
    }

    fn process(&self, ring: &mut Ring<'_>) {
        let Shared {
            target,
            workers,
            guest,
        } = &*self.shared;
        let Some(guest) = guest.get() else {
            return; // a ring is served after the first resume only
        };
        match ring.index() {
            CONTROL_RING => tasks::serve(ring, target, workers, guest),
            EVENT_RING => {
                let number = target.config().target;
                target.events.deliver(ring, number, target.features());
            }
            index => {
                if ring.is_open() {
                    target.meet(index, ring.base());
                }
                workers.serve(ring, target, guest);
            }
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        self.shared
            .target
            .suspend()
            .map_err(|error| SuspendError::Device(error.into()))
    }

    fn resume(&self, guest: &Guest) {
        let guest = self.shared.guest.get_or_init(|| guest.clone());
        self.shared.target.resume(guest);
    }

    fn save(&self) -> Result<ScsiState, SaveError> {
        save::save(&self.shared.target)
    }

    fn check(&self, state: &ScsiState) -> Result<(), LoadError> {
        load::check(&self.shared.target, state)
    }

    fn load(&self, state: ScsiState) -> Result<(), LoadError> {
        load::load(&self.shared.target, &state)
    }

    fn reset(&self) {
        self.shared.target.reset();
    }
}
