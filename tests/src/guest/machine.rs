//! A VMM without a processor: a front-end, guest memory, and the drivers of all rings of one device.
//!
//! Knows how a device is started, stopped, saved and moved to another back-end; knows nothing of what
//! its requests mean.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::frontend::{Channel, Frontend, InflightRegion};
use common::protocol::messages::{feature, protocol_feature};

use super::{Memory, Ring};

/// The transport's features that these drivers can do.
pub const FEATURES: u64 =
    feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC | feature::PROTOCOL_FEATURES;

/// The protocol features that this front-end can do.
pub const PROTOCOL_FEATURES: u64 = protocol_feature::MQ
    | protocol_feature::LOG_SHMFD
    | protocol_feature::REPLY_ACK
    | protocol_feature::CONFIG
    | protocol_feature::INFLIGHT_SHMFD
    | protocol_feature::RESET_DEVICE
    | protocol_feature::CONFIGURE_MEM_SLOTS
    | protocol_feature::DEVICE_STATE
    | protocol_feature::SUSPEND;

/// Turns a device that is never suspended into a failure.
const SUSPENSION_MAX: Duration = Duration::from_mins(1);
/// Between two attempts.
const SUSPENSION_INTERVAL: Duration = Duration::from_millis(10);

/// When a destination is given the state, as seen in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOrder {
    /// Before features are accepted: QEMU.
    BeforeFeatures,
    /// Before there is a memory table: Cloud Hypervisor, crosvm.
    BeforeMemory,
    /// Before rings are set up.
    BeforeRings,
}

/// How a device is migrated.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// When the destination is given the state.
    pub order: LoadOrder,
    /// What carries the state.
    pub channel: Channel,
    /// Whether the source is suspended before it is saved, and its rings stopped only afterwards.
    pub suspend: bool,
}

impl Manner {
    /// QEMU's.
    pub const QEMU: Self = Self {
        order: LoadOrder::BeforeFeatures,
        channel: Channel::Pipe,
        suspend: false,
    };
}

/// What a migration was like.
#[derive(Clone, Copy, Debug)]
pub struct Migrated {
    /// Size of the state in bytes.
    pub state_size: usize,
    /// From the first request to stop to the last acknowledgement of a start.
    pub downtime: Duration,
    /// Of that, in SAVE and its CHECK.
    pub saving: Duration,
    /// Of that, from the first word to the destination until it is started: mostly LOAD and its CHECK.
    pub loading: Duration,
}

/// What a VMM does for a device besides its rings, each time that it starts and stops.
pub trait Companion: fmt::Debug + Send {
    /// The rings are about to be set up.
    fn before_start(&mut self, frontend: &mut Frontend) -> Result<()>;
    /// The rings are about to be stopped.
    fn before_stop(&mut self);
}

/// See the [module](self).
#[derive(Debug)]
pub struct Machine {
    frontend: Frontend,
    companion: Option<Box<dyn Companion>>,
    features: u64,
    memory: Arc<Memory>,
    rings: Vec<Ring>,
    /// Where the back-end writes down what is in flight.
    region: Option<InflightRegion>,
}

impl Machine {
    /// Boots: negotiates everything that both sides can do, and starts all rings of the device, each with
    /// `ring_size` descriptors. `device_features` are wanted besides [`FEATURES`].
    pub fn boot(
        frontend: Frontend,
        memory: &Arc<Memory>,
        ring_size: u16,
        device_features: u64,
    ) -> Result<Self> {
        Self::boot_with(None, frontend, memory, ring_size, device_features)
    }

    /// [`boot`](Self::boot) of a device that needs more than rings.
    pub fn boot_with(
        companion: Option<Box<dyn Companion>>,
        mut frontend: Frontend,
        memory: &Arc<Memory>,
        ring_size: u16,
        device_features: u64,
    ) -> Result<Self> {
        let offer = frontend.negotiate(PROTOCOL_FEATURES)?;
        let features = offer.features & (FEATURES | device_features);
        ensure!(
            features & feature::VERSION_1 != 0,
            "the device is of before virtio 1.0"
        );
        let event_idx = features & feature::EVENT_IDX != 0;
        let count = u32::try_from(frontend.ring_count()?)?;
        let rings = (0..count).map(|index| Ring::new(memory, index, ring_size, event_idx));
        let rings = rings.collect::<Result<_>>()?;
        let mut machine = Self {
            frontend,
            companion,
            features,
            memory: Arc::clone(memory),
            rings,
            region: None,
        };
        machine.frontend.set_features(features)?;
        machine.frontend.set_memory(&machine.memory.regions())?;
        machine.start(&vec![0; machine.rings.len()])?;
        Ok(machine)
    }

    /// The connection to the back-end.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Features as accepted.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The driver of a ring.
    pub fn ring(&mut self, index: usize) -> Result<&mut Ring> {
        self.rings
            .get_mut(index)
            .with_context(|| format!("the device has no ring {index}"))
    }

    /// The drivers of all rings.
    pub fn rings(&mut self) -> &mut [Ring] {
        &mut self.rings
    }

    /// The front-end's socket, and for each ring the eventfd by which the device notifies: what to poll.
    pub fn events(
        &self,
    ) -> (
        &std::os::unix::net::UnixStream,
        impl Iterator<Item = &std::os::fd::OwnedFd>,
    ) {
        (self.frontend.socket(), self.rings.iter().map(Ring::call))
    }

    /// From now on the back-end writes down what is in flight, so that [`reconnect`](Self::reconnect) loses nothing.
    pub fn track(&mut self, ring_size: u16) -> Result<()> {
        let bases = self.stop()?;
        let rings = u16::try_from(self.rings.len())?;
        self.region = Some(self.frontend.new_inflight(rings, ring_size)?);
        self.start(&bases)
    }

    /// Goes on with another back-end after the one before has crashed. Where that had stopped nobody has said: the used indices
    /// are where to go on (QEMU's `vhost_virtqueue_stop`), and the region says what else there is to do.
    pub fn reconnect(&mut self, frontend: Frontend) -> Result<()> {
        self.frontend = frontend;
        self.frontend.negotiate(PROTOCOL_FEATURES)?;
        self.frontend.set_features(self.features)?;
        self.frontend.set_memory(&self.memory.regions())?;
        let bases = self.rings.iter().map(|ring| Ok(ring.used_index()?.into()));
        let bases = bases.collect::<Result<Vec<_>>>()?;
        self.start(&bases)
    }

    /// Starts all rings at their bases.
    pub fn start(&mut self, bases: &[u32]) -> Result<()> {
        if let Some(region) = &self.region {
            self.frontend.set_inflight(region)?;
        }
        let companion = self.companion.as_deref_mut();
        start(&mut self.frontend, companion, &self.rings, bases)
    }

    /// The guest reboots, after its rings were stopped: its driver sets them up anew.
    pub fn reboot(&mut self) -> Result<()> {
        let event_idx = self.features & feature::EVENT_IDX != 0;
        for ring in &mut self.rings {
            let size = ring.setup(0).size;
            *ring = Ring::new(&self.memory, ring.index(), size, event_idx)?;
        }
        self.start(&vec![0; self.rings.len()])
    }

    /// Asks for a suspension until it is granted: what has hung until now may take longer than its deadline on a busy machine.
    pub fn suspend_at_last(&mut self) -> Result<()> {
        let end = Instant::now() + SUSPENSION_MAX;
        while let Err(error) = self.frontend.suspend() {
            ensure!(Instant::now() < end, "it is never suspended: {error}");
            thread::sleep(SUSPENSION_INTERVAL);
        }
        Ok(())
    }

    /// Stops all rings; returns their bases. The device is silent afterwards.
    pub fn stop(&mut self) -> Result<Vec<u32>> {
        if let Some(companion) = &mut self.companion {
            companion.before_stop();
        }
        let stopped = self.frontend.stop()?;
        ensure!(
            stopped
                .iter()
                .map(|ring| ring.index)
                .eq(self.rings.iter().map(Ring::index)),
            "not all rings were started: {stopped:?}"
        );
        Ok(stopped.into_iter().map(|ring| ring.value).collect())
    }

    /// The device's state. The device goes on afterwards.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        let bases = self.stop()?;
        let mut state = Vec::new();
        let saved = self.frontend.save(&mut state);
        self.start(&bases)?;
        saved?;
        Ok(state)
    }

    /// Moves the device to another back-end, with which nothing was said yet. If that fails the device
    /// goes on where it was, and the error says what the destination did not like.
    pub fn migrate_to(&mut self, destination: Frontend, manner: Manner) -> Result<Migrated> {
        self.migrate_with(destination, manner, |_| Ok(()))
    }

    /// The same, and something happens to the state, or to the world, between SAVE and LOAD.
    pub fn migrate_with(
        &mut self,
        destination: Frontend,
        manner: Manner,
        between: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Migrated> {
        let begin = Instant::now();
        let mut state = Vec::new();
        let mut saving = Duration::ZERO;
        let mut save = |frontend: &mut Frontend| {
            let begin = Instant::now();
            let saved = frontend.save_over(manner.channel, &mut state);
            saving = begin.elapsed();
            saved
        };
        let (bases, saved) = if manner.suspend {
            self.frontend.suspend()?;
            let saved = save(&mut self.frontend);
            (self.stop()?, saved)
        } else {
            (self.stop()?, save(&mut self.frontend))
        };
        let handing_over = Instant::now();
        let moved = saved.context("saving").and_then(|_size| {
            // On an error this is dropped, which stops it: it must be silent before the source is not.
            let mut destination = destination;
            between(&mut state)?;
            self.hand_over(&mut destination, manner, &state, &bases)?;
            Ok(destination)
        });
        match moved {
            Ok(destination) => {
                self.frontend = destination;
                self.region = None; // it is of the source
            }
            Err(error) => {
                self.start(&bases)?;
                if manner.suspend {
                    self.frontend.resume()?;
                }
                return Err(error);
            }
        }
        Ok(Migrated {
            state_size: state.len(),
            downtime: begin.elapsed(),
            saving,
            loading: handing_over.elapsed(),
        })
    }

    fn hand_over(
        &mut self,
        destination: &mut Frontend,
        manner: Manner,
        state: &[u8],
        bases: &[u32],
    ) -> Result<()> {
        let offer = destination.negotiate(PROTOCOL_FEATURES)?;
        ensure!(
            offer.features & self.features == self.features,
            "the destination offers {:#x} and the guest has accepted {:#x}",
            offer.features,
            self.features
        );
        let load = |destination: &mut Frontend, order| {
            if order == manner.order {
                destination
                    .load_over(manner.channel, &mut &state[..])
                    .context("loading")?;
            }
            anyhow::Ok(())
        };
        load(destination, LoadOrder::BeforeFeatures)?;
        destination.set_features(self.features)?;
        load(destination, LoadOrder::BeforeMemory)?;
        destination.set_memory(&self.memory.regions())?;
        load(destination, LoadOrder::BeforeRings)?;
        let companion = self.companion.as_deref_mut();
        start(destination, companion, &self.rings, bases)
    }
}

fn start(
    frontend: &mut Frontend,
    companion: Option<&mut (dyn Companion + 'static)>,
    rings: &[Ring],
    bases: &[u32],
) -> Result<()> {
    if let Some(companion) = companion {
        companion.before_start(frontend)?;
    }
    ensure!(
        rings.len() == bases.len(),
        "{} rings, {} bases",
        rings.len(),
        bases.len()
    );
    let setups: Vec<_> = rings
        .iter()
        .zip(bases)
        .map(|(ring, &base)| ring.setup(base))
        .collect();
    Ok(frontend.start(&setups)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use common::daemon::Server;
    use common::device::Device;
    use common::lifecycle::Lifecycle;
    use common::protocol::Options;
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::guest::memory::PAGE;
    use crate::guest::{Buffer, Table};
    use crate::null_device::NullDevice;
    use crate::probe_device::ProbeDevice;

    const DEADLINE: Duration = Duration::from_mins(1);

    fn serve(device: impl Device) -> Frontend {
        let (near, far) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            // A front-end that leaves in the middle is no failure of the test.
            let _ended = Server::new(device, Options::default())
                .serve(&far, std::os::fd::AsFd::as_fd(&stop));
        });
        Frontend::from_stream(near).unwrap()
    }

    fn machine() -> Machine {
        let memory = Memory::new(&[64 * PAGE, 16 * PAGE]).unwrap();
        Machine::boot(serve(NullDevice::default()), &memory, 16, 0).unwrap()
    }

    /// Puts `number` on ring 0; the device adds it up and answers the sum at the second address.
    fn submit(machine: &mut Machine, number: u64) -> u64 {
        let [number_at, sum_at] = [8, 8].map(|size| machine.memory().allocate(size).unwrap());
        machine
            .memory()
            .write(number_at, &number.to_le_bytes())
            .unwrap();
        let buffers = [(number_at, false), (sum_at, true)].map(|(address, writable)| Buffer {
            address,
            length: 8,
            writable,
        });
        let ring = machine.ring(0).unwrap();
        ring.add(&buffers, Table::Indirect).unwrap();
        ring.publish().unwrap();
        sum_at
    }

    fn add(machine: &mut Machine, number: u64) -> u64 {
        let sum_at = submit(machine, number);
        let used = machine.ring(0).unwrap().wait(DEADLINE).unwrap();
        assert_eq!((used.len(), used[0].written), (1, 8));
        machine.memory().load(sum_at).unwrap()
    }

    #[test]
    fn a_device_goes_on_in_another_back_end_in_every_manner() {
        let mut machine = machine();
        let mut sum = add(&mut machine, 1);
        assert_eq!(sum, 1);
        for order in [
            LoadOrder::BeforeFeatures,
            LoadOrder::BeforeMemory,
            LoadOrder::BeforeRings,
        ] {
            for channel in [Channel::Pipe, Channel::SocketPair, Channel::File] {
                for suspend in [false, true] {
                    let manner = Manner {
                        order,
                        channel,
                        suspend,
                    };
                    machine
                        .migrate_to(serve(NullDevice::default()), manner)
                        .unwrap();
                    sum += 10;
                    assert_eq!(add(&mut machine, 10), sum, "{manner:?}");
                }
            }
        }
    }

    #[test]
    fn a_snapshot_and_a_refused_migration_leave_the_device_where_it_was() {
        let mut machine = machine();
        assert_eq!(add(&mut machine, 7), 7);
        let first = machine.snapshot().unwrap();
        assert_eq!(machine.snapshot().unwrap(), first);
        assert_eq!(add(&mut machine, 7), 14);
        for suspend in [false, true] {
            let device = ProbeDevice::new();
            device
                .probe()
                .refuse_load
                .store(true, std::sync::atomic::Ordering::SeqCst);
            let manner = Manner {
                suspend,
                ..Manner::QEMU
            };
            assert!(machine.migrate_to(serve(device), manner).is_err());
            assert_eq!(machine.frontend().state(), Lifecycle::Started);
        }
        assert_eq!(add(&mut machine, 7), 21);
        machine
            .migrate_to(serve(NullDevice::default()), Manner::QEMU)
            .unwrap();
        assert_eq!(add(&mut machine, 7), 28);
    }

    #[test]
    fn what_was_put_on_a_stopped_ring_is_served_by_the_next_back_end() {
        let mut machine = machine();
        let bases = machine.stop().unwrap();
        let sum_at = submit(&mut machine, 5);
        assert_eq!(machine.ring(0).unwrap().collect().unwrap(), []);
        machine.start(&bases).unwrap();
        assert_eq!(machine.ring(0).unwrap().wait(DEADLINE).unwrap().len(), 1);
        assert_eq!(machine.memory().load::<u64>(sum_at).unwrap(), 5);
    }
}
