//! A device for unit tests: state of any size, and failures on demand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
};
use crate::ring::Ring;
use crate::state::{
    DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema, StateWriter, Tag,
};

#[derive(Default)]
pub(crate) struct TestDevice {
    pub(crate) state: Mutex<Vec<u8>>,
    /// Everything is refused.
    pub(crate) refuse: AtomicBool,
    /// A suspension is.
    pub(crate) refuse_suspend: AtomicBool,
    /// To be saved is.
    pub(crate) refuse_save: AtomicBool,
    /// How often something was.
    pub(crate) refused: AtomicU64,
    pub(crate) panic: AtomicBool,
    pub(crate) loads: AtomicU64,
}

impl TestDevice {
    pub(crate) fn with_state(bytes: &[u8]) -> Self {
        Self {
            state: Mutex::new(bytes.to_vec()),
            ..Self::default()
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Vec<u8>> {
        self.state.lock().unwrap()
    }

    fn misbehave(&self, refuse: &AtomicBool) -> Result<(), &'static str> {
        assert!(!self.panic.load(Ordering::SeqCst), "the test wants it so");
        if self.refuse.load(Ordering::SeqCst) || refuse.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err("the test wants it so");
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TestState(pub(crate) Vec<u8>);

const BYTES: Tag = Tag::new(*b"BYTE");

impl StateSchema for TestState {
    const KIND: DeviceKind = DeviceKind::Null;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        out.raw(BYTES, 1, Importance::Critical, &self.0)
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut found = None;
        while let Some(section) = input.next_section()? {
            found = Some(section.bytes().to_vec());
        }
        let tag = BYTES;
        found.map(Self).ok_or(StateError::MissingSection { tag })
    }
}

impl Device for TestDevice {
    type State = TestState;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "test",
            kind: DeviceKind::Null,
            rings: 1,
            ring_size_max: 8,
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
        // Offers none.
    }

    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError {
            offset,
            len: data.len(),
            reason: "there is none",
        })
    }

    fn process(&self, ring: &mut Ring<'_>) {
        while let Some(request) = ring.pop() {
            ring.complete(request, 0);
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        self.misbehave(&self.refuse_suspend)
            .map_err(|why| SuspendError::Device(why.into()))
    }

    fn resume(&self, _guest: &Guest) {
        // Nothing goes on outside of the ring.
    }

    fn prepare_save(&self) {
        assert!(!self.panic.load(Ordering::SeqCst), "the test wants it so");
    }

    fn save(&self) -> Result<TestState, SaveError> {
        self.misbehave(&self.refuse_save)
            .map_err(|why| SaveError::Host(why.into()))?;
        Ok(TestState(self.state().clone()))
    }

    fn check(&self, _state: &TestState) -> Result<(), LoadError> {
        self.misbehave(&self.refuse)
            .map_err(|why| LoadError::Host(why.into()))
    }

    fn load(&self, state: TestState) -> Result<(), LoadError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        *self.state() = state.0;
        Ok(())
    }

    fn reset(&self) {
        self.state().clear();
    }
}
