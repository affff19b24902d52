//! The least that a stateful device is: one number that the guest can add to, and that moves with it.
//!
//! For device authors to start from. A request is eight bytes to read, a number, and eight bytes to write, the sum of all
//! numbers so far; both little-endian.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
};
use common::request::{CursorError, Request};
use common::ring::Ring;
use common::state::{
    DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema, StateWriter, Tag,
};
use serde::{Deserialize, Serialize};

/// The live device.
#[derive(Debug, Default)]
pub struct NullDevice {
    sum: Mutex<u64>,
}

/// Its state: plain data, apart from the live type on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NullState {
    /// The sum of all numbers so far.
    pub sum: u64,
}

/// What travels; never changed once released.
#[derive(Serialize, Deserialize)]
struct SumV1 {
    sum: u64,
}

const SUM: Tag = Tag::new(*b"SUM_");

impl StateSchema for NullState {
    const KIND: DeviceKind = DeviceKind::Null;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self { sum } = self;
        out.section(SUM, 1, Importance::Critical, &SumV1 { sum: *sum })
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut found = None;
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (SUM, 1) if found.is_none() => found = Some(section.decode::<SumV1>()?),
                _ => input.unknown(&section)?,
            }
        }
        let SumV1 { sum } = found.ok_or(StateError::MissingSection { tag: SUM })?;
        Ok(Self { sum })
    }
}

impl NullDevice {
    fn serve(&self, request: &Request) -> Result<u32, CursorError> {
        let mut number = [0; 8];
        request.reader().read_exact(&mut number)?;
        let mut sum = self.sum();
        *sum = sum.wrapping_add(u64::from_le_bytes(number));
        let mut writer = request.writer();
        writer.write_all(&sum.to_le_bytes())?;
        Ok(8)
    }

    fn sum(&self) -> MutexGuard<'_, u64> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for NullDevice {
    type State = NullState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "null",
            kind: DeviceKind::Null,
            rings: 2,
            ring_size_max: 256,
            features: 0,
            config_space: false,
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

    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.fill(0); // an empty config space reads as zero
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "the config space is empty",
        })
    }

    fn process(&self, ring: &mut Ring<'_>) {
        while let Some(request) = ring.pop() {
            let written = self.serve(&request).unwrap_or_else(|error| {
                log::warn!("ring {}: {error}", ring.index());
                0
            });
            ring.complete(request, written);
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        Ok(()) // nothing goes on outside of the rings
    }

    fn resume(&self, _guest: &Guest) {
        // Nothing goes on outside of the rings.
    }

    fn save(&self) -> Result<NullState, SaveError> {
        Ok(NullState { sum: *self.sum() })
    }

    fn check(&self, _state: &NullState) -> Result<(), LoadError> {
        Ok(()) // every number is a possible sum
    }

    fn load(&self, state: NullState) -> Result<(), LoadError> {
        let NullState { sum } = state;
        *self.sum() = sum;
        Ok(())
    }

    fn reset(&self) {
        *self.sum() = 0;
    }
}
