//! The device as `common` drives it: rings to the FUSE server, the config space, and the verbs of the lifecycle.
//!
//! Knows neither FUSE opcodes nor files. All that is remembered is in the [`FileSystem`]; nothing goes on outside of the
//! rings that a guest could see.

use std::sync::{Mutex, PoisonError};

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
    read_config_space,
};
use common::ring::Ring;
use common::state::DeviceKind;

use crate::config::{Config, TAG_BYTES_MAX};
use crate::fuse::{Buffers, Server};
use crate::load;
use crate::passthrough::{ConfigurationError, FileSystem};
use crate::save;
use crate::state::FsState;

/// Ring 0 carries FORGET and INTERRUPT, which must not wait behind other requests (virtio 1.3, 5.11.2).
const HIGH_PRIORITY_RINGS: u16 = 1;
/// Enough for several requests of 1 MiB, whose every page is a descriptor of its own.
const RING_SIZE_MAX: u16 = 32768;
/// `struct virtio_fs_config`: the tag, padded with zeros, and the number of request rings (virtio 1.3, 5.11.4).
const CONFIG_SPACE_BYTES: usize = TAG_BYTES_MAX + size_of::<u32>();

/// A shared directory as a virtio device.
#[derive(Debug)]
pub struct FsDevice {
    config: Config,
    config_space: [u8; CONFIG_SPACE_BYTES],
    file_system: FileSystem,
    /// One for each ring, so that rings do not wait for each other and requests allocate nothing.
    buffers: Vec<Mutex<Buffers>>,
}

impl FsDevice {
    /// A device that no guest has used yet. Opens the shared directory.
    pub fn new(config: Config) -> Result<Self, ConfigurationError> {
        let file_system = FileSystem::new(&config)?;
        let rings = usize::from(HIGH_PRIORITY_RINGS + config.request_rings);
        Ok(Self {
            config_space: config_space(&config),
            file_system,
            buffers: (0..rings).map(|_| Mutex::default()).collect(),
            config,
        })
    }
}

fn config_space(config: &Config) -> [u8; CONFIG_SPACE_BYTES] {
    let mut space = [0; CONFIG_SPACE_BYTES];
    let (tag, rings) = space.split_at_mut(TAG_BYTES_MAX);
    if let Some(name) = &config.tag {
        for (byte, of_name) in tag.iter_mut().zip(name.bytes()) {
            *byte = of_name;
        }
    }
    rings.copy_from_slice(&u32::from(config.request_rings).to_le_bytes());
    space
}

impl Device for FsDevice {
    type State = FsState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "fs",
            kind: DeviceKind::Fs,
            rings: self.buffers.len(),
            ring_size_max: RING_SIZE_MAX,
            features: 0,
            config_space: self.config.tag.is_some(),
            dirty_log: true,
            resubmits: false,
        }
    }

    fn state_support(&self) -> StateSupport {
        StateSupport::Savable
    }

    fn ack_features(&self, _features: u64) {
        // Offers none of its own.
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_config_space(&self.config_space, offset, data);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "the config space of a file system is read-only",
        })
    }

    fn process(&self, ring: &mut Ring<'_>) {
        let Some(buffers) = self.buffers.get(ring.index()) else {
            return;
        };
        let mut buffers = buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let server = Server {
            config: &self.config,
            file_system: &self.file_system,
        };
        while let Some(request) = ring.pop() {
            let written = server.serve(&request, &mut buffers, &mut || ring.flush());
            ring.complete(request, written);
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        Ok(()) // nothing goes on outside of the rings
    }

    fn resume(&self, _guest: &Guest) {
        // Nothing goes on outside of the rings.
    }

    fn prepare_save(&self) {
        save::prepare_save(&self.file_system);
    }

    fn save(&self) -> Result<Self::State, SaveError> {
        save::save(&self.file_system)
    }

    fn check(&self, state: &Self::State) -> Result<(), LoadError> {
        load::check(&self.config, state)
    }

    fn load(&self, state: Self::State) -> Result<(), LoadError> {
        load::load(&self.file_system, &state)
    }

    fn reset(&self) {
        self.file_system.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(tag: Option<&str>) -> FsDevice {
        let mut config = Config::new("/");
        config.tag = tag.map(str::to_owned);
        config.request_rings = 3;
        FsDevice::new(config).unwrap()
    }

    #[test]
    fn the_config_space_is_tag_and_number_of_request_rings() {
        let device = device(Some("myfs"));
        let mut space = [0xff; 44];
        device.read_config(0, &mut space);
        let expected = [&b"myfs"[..], &[0; 32], &[3, 0, 0, 0], &[0; 4]].concat();
        assert_eq!(space[..], expected);
        let mut part = [0xff; 4];
        device.read_config(36, &mut part);
        assert_eq!(part, [3, 0, 0, 0]);
        for offset in [40, u32::MAX] {
            let mut beyond = [0xff; 4];
            device.read_config(offset, &mut beyond);
            assert_eq!(beyond, [0; 4]);
        }
        assert!(device.write_config(0, &[1]).is_err());
    }

    #[test]
    fn the_longest_tag_fills_its_place() {
        let tag = "x".repeat(TAG_BYTES_MAX);
        let mut space = [0; 37];
        device(Some(&tag)).read_config(0, &mut space);
        assert_eq!(space[..], [tag.as_bytes(), &[3]].concat());
    }

    #[test]
    fn the_config_space_is_only_offered_with_a_tag() {
        assert!(device(Some("x")).info().config_space);
        assert!(!device(None).info().config_space);
        assert_eq!(device(None).info().rings, 4);
    }
}
