//! A device served inside the test, over a socket pair, and the guest and VMM that use it.
//!
//! What a daemon is in production is a thread here, so a test keeps a hand on the device. Knows no device in particular.

mod pending;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::daemon::{DaemonError, Server};
use common::device::Device;
use common::frontend::{Frontend, RingSetup};
use common::protocol::Options;
use common::protocol::messages::{RingAddress, feature, protocol_feature};

pub use pending::{Pending, add, finish};

use crate::guest::memory::PAGE;
use crate::guest::{Memory, Ring};

/// Turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Everything that our front-end can make use of.
pub const WANTED: u64 = protocol_feature::MQ
    | protocol_feature::LOG_SHMFD
    | protocol_feature::REPLY_ACK
    | protocol_feature::CONFIG
    | protocol_feature::INFLIGHT_SHMFD
    | protocol_feature::RESET_DEVICE
    | protocol_feature::CONFIGURE_MEM_SLOTS
    | protocol_feature::DEVICE_STATE
    | protocol_feature::SUSPEND;

/// A device that is served to one front-end after another.
pub struct Host<D: Device>(Arc<Server<D>>);

/// A front-end, and the thread that serves it.
pub struct Connection {
    /// Nothing was said yet.
    pub frontend: Frontend,
    serving: Serving,
}

/// Ends when the front-end leaves.
struct Serving {
    thread: JoinHandle<Result<(), DaemonError>>,
    /// Closing it would stop the service.
    _stopper: UnixStream,
}

impl<D: Device> Host<D> {
    /// A device with the limits of a daemon.
    pub fn new(device: D) -> Self {
        Self::with_options(device, Options::default())
    }

    /// A device with limits of its own.
    pub fn with_options(device: D, options: Options) -> Self {
        Self(Arc::new(Server::new(device, options)))
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.0.device()
    }

    /// Another front-end; the one before must have left.
    pub fn connect(&self) -> Result<Connection> {
        let (near, far) = UnixStream::pair()?;
        let (stop, stopper) = UnixStream::pair()?;
        let server = Arc::clone(&self.0);
        let thread = thread::Builder::new()
            .name("serving".into())
            .spawn(move || server.serve(&far, stop.as_fd()))?;
        Ok(Connection {
            frontend: Frontend::from_stream(near)?,
            serving: Serving {
                thread,
                _stopper: stopper,
            },
        })
    }

    /// A guest with all of the device's rings, which are not started yet.
    pub fn machine(&self) -> Result<Machine> {
        self.machine_with(Shape::default())
    }

    /// [`machine`](Self::machine) of another shape.
    pub fn machine_with(&self, shape: Shape) -> Result<Machine> {
        let memory = Memory::new(&[4096 * PAGE, 64 * PAGE])?;
        let count = u32::try_from(self.device().info().rings)?;
        let rings: Vec<_> = (0..count)
            .map(|index| Ring::new(&memory, index, shape.ring_size, shape.event_idx))
            .collect::<Result<_>>()?;
        let wires = rings.iter().map(Wire::of).collect::<Result<_>>()?;
        let mut machine = Machine {
            connection: self.connect()?,
            memory,
            bases: vec![0; rings.len()],
            rings,
            wires,
            shape,
        };
        machine.negotiate()?;
        Ok(machine)
    }
}

impl Connection {
    /// The front-end leaves; what serving it came to.
    pub fn leave(self) -> Result<Result<(), DaemonError>> {
        drop(self.frontend);
        self.serving.join()
    }
}

impl Serving {
    fn join(self) -> Result<Result<(), DaemonError>> {
        let Ok(result) = self.thread.join() else {
            bail!("serving the front-end panicked");
        };
        Ok(result)
    }
}

/// What a guest chooses.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Descriptors in each ring.
    pub ring_size: u16,
    /// Whether `EVENT_IDX` is accepted.
    pub event_idx: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            ring_size: 64,
            event_idx: true,
        }
    }
}

impl Shape {
    /// The virtio features that go with it.
    pub fn features(self) -> u64 {
        let event_idx = if self.event_idx {
            feature::EVENT_IDX
        } else {
            0
        };
        feature::VERSION_1 | feature::INDIRECT_DESC | feature::PROTOCOL_FEATURES | event_idx
    }
}

/// What the VMM knows of a ring, whoever drives it.
struct Wire {
    size: u16,
    address: RingAddress,
    kick: OwnedFd,
    call: OwnedFd,
}

impl Wire {
    fn of(ring: &Ring) -> Result<Self> {
        let setup = ring.setup(0);
        Ok(Self {
            size: setup.size,
            address: setup.address,
            kick: setup.kick.try_clone_to_owned()?,
            call: setup.call.try_clone_to_owned()?,
        })
    }

    fn setup(&self, base: u32) -> RingSetup<'_> {
        RingSetup {
            size: self.size,
            base,
            address: self.address,
            kick: self.kick.as_fd(),
            call: self.call.as_fd(),
        }
    }
}

/// A guest and its VMM.
pub struct Machine {
    connection: Connection,
    /// Guest memory.
    pub memory: Arc<Memory>,
    /// The drivers; a test may move them to other threads.
    pub rings: Vec<Ring>,
    wires: Vec<Wire>,
    /// Where each ring is to be continued.
    pub bases: Vec<u32>,
    shape: Shape,
}

impl Machine {
    fn negotiate(&mut self) -> Result<()> {
        let features = self.shape.features();
        let frontend = &mut self.connection.frontend;
        frontend.negotiate(WANTED)?;
        frontend.set_features(features)?;
        frontend.set_memory(&self.memory.regions())?;
        Ok(())
    }

    /// The VMM's side.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.connection.frontend
    }

    /// The features that were accepted.
    pub fn features(&self) -> u64 {
        self.shape.features()
    }

    /// Starts all rings where they stopped.
    pub fn start(&mut self) -> Result<()> {
        let setups: Vec<_> = self
            .wires
            .iter()
            .zip(&self.bases)
            .map(|(wire, base)| wire.setup(*base))
            .collect();
        self.connection.frontend.start(&setups)?;
        Ok(())
    }

    /// Starts one ring where it stopped.
    pub fn start_ring(&mut self, ring: usize) -> Result<()> {
        let wire = self.wires.get(ring).context("no such ring")?;
        let base = self.bases.get(ring).context("no such ring")?;
        let setup = wire.setup(*base);
        self.connection.frontend.start(&[setup])?;
        Ok(())
    }

    /// Stops all rings.
    pub fn stop(&mut self) -> Result<()> {
        for state in self.connection.frontend.stop()? {
            let base = self.bases.get_mut(usize::try_from(state.index)?);
            *base.context("a ring that was not started")? = state.value;
        }
        Ok(())
    }

    /// Stops one ring.
    pub fn stop_ring(&mut self, ring: usize) -> Result<()> {
        let state = self.connection.frontend.stop_ring(u32::try_from(ring)?)?;
        *self.bases.get_mut(ring).context("no such ring")? = state.value;
        Ok(())
    }

    /// The state, after it was suspended or stopped.
    pub fn save(&mut self) -> Result<Vec<u8>> {
        let mut state = Vec::new();
        self.connection.frontend.save(&mut state)?;
        Ok(state)
    }

    /// The driver of a ring.
    pub fn ring(&mut self, ring: usize) -> Result<&mut Ring> {
        self.rings.get_mut(ring).context("no such ring")
    }

    /// Puts a request on a ring, with room for a reply of `reply_len` bytes, and does not kick.
    pub fn add(&mut self, ring: usize, request: &[u8], reply_len: usize) -> Result<Pending> {
        let memory = Arc::clone(&self.memory);
        add(&memory, self.ring(ring)?, request, reply_len)
    }

    /// [`add`](Self::add), and kicks.
    pub fn submit(&mut self, ring: usize, request: &[u8], reply_len: usize) -> Result<Pending> {
        let pending = self.add(ring, request, reply_len)?;
        self.ring(ring)?.publish()?;
        Ok(pending)
    }

    /// Waits for a request, the only one on its ring; what the device wrote.
    pub fn finish(&mut self, ring: usize, pending: Pending) -> Result<Vec<u8>> {
        let memory = Arc::clone(&self.memory);
        finish(&memory, self.ring(ring)?, pending)
    }

    /// One request, to its end.
    pub fn call(&mut self, ring: usize, request: &[u8], reply_len: usize) -> Result<Vec<u8>> {
        let pending = self.submit(ring, request, reply_len)?;
        self.finish(ring, pending)
    }

    /// The same guest, with another device behind it: rings are stopped, nothing is negotiated yet. `false` as `ready`
    /// leaves features and memory for later, as QEMU does when it loads a state.
    pub fn move_to<D: Device>(self, host: &Host<D>, ready: bool) -> Result<Self> {
        let Self {
            connection,
            memory,
            rings,
            wires,
            bases,
            shape,
        } = self;
        connection.leave()??;
        let mut machine = Self {
            connection: host.connect()?,
            memory,
            rings,
            wires,
            bases,
            shape,
        };
        if ready {
            machine.negotiate()?;
        } else {
            machine.connection.frontend.negotiate(WANTED)?;
        }
        Ok(machine)
    }

    /// The same guest, with another device behind it, as after a crash: nobody has said where rings stopped, so they are continued
    /// at their used indices. The connection to the first is returned, and should not be used; its kicks and calls lead nowhere, so
    /// that it looks at nothing any more.
    pub fn take_over<D: Device>(self, host: &Host<D>) -> Result<(Self, Connection)> {
        let Self {
            connection,
            memory,
            mut rings,
            shape,
            ..
        } = self;
        let mut bases = Vec::new();
        for ring in &mut rings {
            ring.collect()?;
            bases.push(u32::from(ring.next_used()));
            *ring = Ring::at(&memory, ring.position())?;
        }
        let wires = rings.iter().map(Wire::of).collect::<Result<_>>()?;
        let mut machine = Self {
            connection: host.connect()?,
            memory,
            rings,
            wires,
            bases,
            shape,
        };
        machine.negotiate()?;
        Ok((machine, connection))
    }

    /// What [`move_to`](Self::move_to) left out.
    pub fn make_ready(&mut self) -> Result<()> {
        let features = self.features();
        self.connection.frontend.set_features(features)?;
        let regions = self.memory.regions();
        self.connection.frontend.set_memory(&regions)?;
        Ok(())
    }

    /// The VMM goes away; what serving it came to.
    pub fn leave(self) -> Result<Result<(), DaemonError>> {
        self.connection.leave()
    }
}
