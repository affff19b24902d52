//! The device as `common` drives it: rings to the FUSE server, the config space, and the verbs of the lifecycle.
//!
//! Knows neither FUSE opcodes nor files. All that is remembered is in the [`FileSystem`], but for requests that wait
//! for locks; beside those nothing goes on outside of the rings that a guest could see.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use common::device::{
    ConfigError, Device, DeviceInfo, Guest, LoadError, SaveError, StateSupport, SuspendError,
    read_config_space,
};
use common::request::Request;
use common::ring::{DetachedRequest, Ring};
use common::state::DeviceKind;

use crate::config::{Config, TAG_BYTES_MAX};
use crate::fuse::{Buffers, Effort, Served, Server};
use crate::load;
use crate::pace::Pace;
use crate::passthrough::{ConfigurationError, FileSystem};
use crate::polling::{Look, Patience, Pollers};
use crate::save;
use crate::side_threads::{CarryOut, SideThreads};
use crate::state::FsState;
use crate::waiting::Waiting;

/// Ring 0 carries FORGET and INTERRUPT, which must not wait behind other requests (virtio 1.3, 5.11.2).
const HIGH_PRIORITY_RINGS: u16 = 1;
/// Enough for several requests of 1 MiB, whose every page is a descriptor of its own.
const RING_SIZE_MAX: u16 = 32768;
/// `struct virtio_fs_config`: the tag, padded with zeros, and the number of request rings (virtio 1.3, 5.11.4).
const CONFIG_SPACE_BYTES: usize = TAG_BYTES_MAX + size_of::<u32>();

/// A shared directory as a virtio device.
#[derive(Debug)]
pub struct FsDevice {
    shared: Arc<Shared>,
    config_space: [u8; CONFIG_SPACE_BYTES],
    /// One for each ring, so that rings do not wait for each other and requests allocate nothing.
    lanes: Vec<Mutex<Lane>>,
    pollers: Pollers,
    copiers: SideThreads<DetachedRequest>,
    waiters: SideThreads<DetachedRequest>,
    waiting: Arc<Waiting>,
}

/// What a ring keeps from request to request.
#[derive(Debug)]
struct Lane {
    buffers: Buffers,
    /// The nodeid of the file that much was written to last.
    written: Option<u64>,
    patience: Patience,
}

/// What requests are served from, also by the thread of those that wait.
#[derive(Debug)]
struct Shared {
    config: Config,
    file_system: FileSystem,
    /// Of what waits for storage.
    pace: Pace,
}

impl Shared {
    fn server(&self, may_wait: bool) -> Server<'_> {
        Server {
            config: &self.config,
            file_system: &self.file_system,
            may_wait,
        }
    }

    /// Serves `request`, unless `leave` wants it to be left, and remembers how long storage took for it.
    fn serve(
        &self,
        may_wait: bool,
        request: &Request,
        buffers: &mut Buffers,
        leave: &mut dyn FnMut(Effort, u64) -> bool,
    ) -> Served {
        let mut asked = None;
        let served = self
            .server(may_wait)
            .serve(request, buffers, &mut |effort, nodeid| {
                if effort == Effort::Waits {
                    asked = Some(Instant::now());
                }
                leave(effort, nodeid)
            });
        if let Some(asked) = asked
            && served != Served::Left
        {
            self.pace.answered_within(asked.elapsed());
        }
        served
    }

    /// For one that waits for no lock.
    fn carry_out(&self, request: DetachedRequest, buffers: &mut Buffers) {
        let served = self.serve(false, request.request(), buffers, &mut |_, _| false);
        if let Served::Answered(written) = served {
            request.complete(written);
        }
    }
}

impl FsDevice {
    /// A device that no guest has used yet. Opens the shared directory.
    pub fn new(config: Config) -> Result<Self, ConfigurationError> {
        let file_system = FileSystem::new(&config)?;
        let lane = |ring: u16| {
            // Nobody waits for what comes on the others.
            let busy_poll = if ring < HIGH_PRIORITY_RINGS {
                Duration::ZERO
            } else {
                config.busy_poll
            };
            Mutex::new(Lane {
                buffers: Buffers::default(),
                written: None,
                patience: Patience::new(ring.into(), busy_poll),
            })
        };
        let rings = HIGH_PRIORITY_RINGS + config.request_rings;
        let lanes: Vec<_> = (0..rings).map(lane).collect();
        Ok(Self {
            config_space: config_space(&config),
            waiting: Arc::new(Waiting::new(lanes.len())),
            lanes,
            pollers: Pollers::new(),
            copiers: SideThreads::that_copy(),
            waiters: SideThreads::that_wait(),
            shared: Arc::new(Shared {
                config,
                file_system,
                pace: Pace::default(),
            }),
        })
    }

    fn file_system(&self) -> &FileSystem {
        &self.shared.file_system
    }

    fn serve(&self, ring: &mut Ring<'_>, request: Request, lane: &mut Lane) {
        let may_wait = self.waiting.has_room(ring.index());
        let mut threads = &self.copiers;
        let number = lane.patience.ring();
        let can_help = |ring: &Ring<'_>| {
            ring.has_more() && self.pollers.is_processor_left(number, Instant::now())
        };
        let mut leave = |effort, nodeid| match effort {
            // Only if others wait: to one program alone another thread is of no use.
            Effort::Copies => can_help(ring),
            // Nor is it if all write to one file: a second thread would only keep a processor waiting.
            Effort::Writes => {
                let before = lane.written.replace(nodeid);
                before.is_some_and(|before| before != nodeid) && can_help(ring)
            }
            // Others may come meanwhile.
            Effort::Waits => {
                ring.flush();
                threads = &self.waiters;
                self.shared.pace.is_slow()
            }
        };
        let served = self
            .shared
            .serve(may_wait, &request, &mut lane.buffers, &mut leave);
        match served {
            Served::Answered(written) => ring.complete(request, written),
            Served::Waits => self.wait(ring, request, &mut lane.buffers),
            Served::Left => self.hand_over(threads, ring.detach(request), &mut lane.buffers),
        }
    }

    /// Has a larger request carried out by somebody else, if anybody has time for it.
    fn hand_over(
        &self,
        threads: &SideThreads<DetachedRequest>,
        request: DetachedRequest,
        buffers: &mut Buffers,
    ) {
        let carry_out = || -> Box<CarryOut<DetachedRequest>> {
            let shared = Arc::clone(&self.shared);
            Box::new(move |request, buffers| shared.carry_out(request, buffers))
        };
        if let Err(request) = threads.take(request, carry_out) {
            self.shared.carry_out(request, buffers);
        }
    }

    /// A thread serves it again and again from here on. If none can be had the guest is told.
    fn wait(&self, ring: &Ring<'_>, request: Request, buffers: &mut Buffers) {
        let shared = Arc::clone(&self.shared);
        let serve = Box::new(move |request: &DetachedRequest, buffers: &mut Buffers| {
            let server = shared.server(true);
            server.serve(request.request(), buffers, &mut |_, _| false)
        });
        let request = ring.detach(request);
        let started = |thread: &Thread| self.file_system().set_lock_waiter(thread.clone());
        if let Err(request) = self.waiting.wait(ring.index(), request, serve, started) {
            self.shared.carry_out(request, buffers);
        }
    }
}

/// Without rings and without a guest: for the fuzz targets.
#[cfg(feature = "test-kit")]
impl FsDevice {
    /// Serves one request on the first request ring. Bytes of its reply; `None` if it waits for a lock.
    pub fn serve_alone(&self, request: &Request) -> Option<u32> {
        let lane = self.lanes.get(usize::from(HIGH_PRIORITY_RINGS))?;
        let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        let server = self.shared.server(true);
        match server.serve(request, &mut lane.buffers, &mut |_, _| false) {
            Served::Answered(written) => Some(written),
            Served::Waits | Served::Left => None,
        }
    }

    /// What [`Device::resume`] does to the host.
    pub fn resume_alone(&self) {
        self.file_system().take_locks_again();
    }
}

/// Looks at a ring that was empty.
fn look(ring: &mut Ring<'_>) -> Look<Request> {
    match ring.pop() {
        Some(request) => Look::Found(request),
        None if ring.is_open() => Look::Nothing,
        None => Look::Closed,
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
            rings: self.lanes.len(),
            ring_size_max: RING_SIZE_MAX,
            features: 0,
            config_space: self.shared.config.tag.is_some(),
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
        let Some(lane) = self.lanes.get(ring.index()) else {
            return;
        };
        let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = &mut *lane;
        if ring.is_open() {
            for head in self.waiting.take_left(ring.index()) {
                if let Some(request) = ring.take_up(head) {
                    self.serve(ring, request, lane);
                }
            }
        }
        // A ring that is looked at because it was started is not in use.
        let mut is_used = false;
        lane.patience.woken(&self.pollers);
        loop {
            while let Some(request) = ring.pop() {
                is_used = true;
                self.serve(ring, request, lane);
            }
            ring.flush();
            if let Some(request) = self.copiers.take_back() {
                self.shared.carry_out(request, &mut lane.buffers);
            } else if is_used
                && let Some(request) = lane.patience.wait(&self.pollers, || look(ring))
            {
                self.serve(ring, request, lane);
            } else {
                break;
            }
        }
    }

    fn suspend(&self) -> Result<(), SuspendError> {
        Ok(()) // what waits was left with the guest when the rings were drained
    }

    fn resume(&self, guest: &Guest) {
        self.waiting.resume(guest);
        self.file_system().take_locks_again();
    }

    fn prepare_save(&self) {
        save::prepare_save(self.file_system());
    }

    fn save(&self) -> Result<Self::State, SaveError> {
        let mut state = save::save(self.file_system())?;
        save::add_waiting(&mut state, self.waiting.left());
        // From here on it is somebody else's turn, if this device is not resumed.
        self.file_system().let_locks_go();
        Ok(state)
    }

    fn check(&self, state: &Self::State) -> Result<(), LoadError> {
        load::check(&self.shared.config, state)
    }

    fn load(&self, state: Self::State) -> Result<(), LoadError> {
        load::load(self.file_system(), &state)?;
        self.waiting.set_left(load::left_of(&state));
        Ok(())
    }

    fn front_end_left(&self) {
        self.file_system().let_locks_go();
    }

    fn reset(&self) {
        self.waiting.set_left([]);
        self.file_system().reset();
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
