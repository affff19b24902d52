//! From the stock daemon's calls to a [`Device`]: the one place where the two meet.
//!
//! Knows the stock trait and its traps (an error from `handle_event` ends the worker for ever; no exit event means a
//! daemon that cannot be dropped). Policy is elsewhere: `control.rs` says when the device works, `transfer.rs` how
//! its state moves.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
};
use vhost_user_backend::VhostUserBackend;
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::control::Control;
use super::dirty_log::{DirtyLog, LogSwitch};
use super::exit_events::ExitEvents;
use super::transfer::{Preparation, TransferError, Transfers};
use super::vring::Vring;
use crate::device::{Device, DeviceInfo, StateSupport};
use crate::gate::Lane;
use crate::memory::GuestMemory;
use crate::protocol::messages::{Direction, feature};
use crate::ring::Ring;

/// A device as the stock daemon wants it.
pub(crate) struct Adapter<D: Device> {
    control: Arc<Control<D>>,
    transfers: Transfers<D>,
    log: Mutex<LogSwitch>,
    preparation: Preparation<D>,
    exit_events: ExitEvents,
}

impl<D: Device> Adapter<D> {
    pub(crate) fn new(control: Arc<Control<D>>, transfers: Transfers<D>) -> Self {
        let preparation = Preparation::new(Arc::clone(&control.device));
        Self {
            control,
            transfers,
            log: Mutex::default(),
            preparation,
            exit_events: ExitEvents::default(),
        }
    }

    /// The connection is gone: nobody waits for a transfer or a preparation any more.
    pub(crate) fn disconnect(&self) {
        self.transfers.cancel();
        self.preparation.finish();
    }

    /// The device's state, for the next daemon.
    pub(super) fn save_whole(&self) -> Result<File, TransferError> {
        self.preparation.finish();
        self.transfers.save_whole()
    }

    /// The state that another daemon has left.
    pub(super) fn load_whole(&self, file: &mut File) -> Result<(), TransferError> {
        self.transfers.load_whole(file)
    }

    /// The epoll token of the event by which a worker is told to look at its rings again. The stock event loop keeps
    /// 0 up to the number of rings for itself.
    pub(crate) fn waker_token(&self) -> u64 {
        self.info().rings as u64 + 1
    }

    fn info(&self) -> DeviceInfo {
        self.control.device.info()
    }

    fn savable(&self) -> bool {
        self.control.device.state_support() == StateSupport::Savable
    }

    /// Serves a ring until it is empty, or closed.
    fn serve(&self, vring: &Vring) {
        let lane = Lane::Ring(vring.index());
        let gate = self.control.gate();
        // Running: what is new is begun. Being drained: what is in flight is finished. Otherwise the event came too late.
        if !vring.is_running() && gate.in_flight(lane) == 0 {
            return;
        }
        let Some(token) = gate.join(lane) else {
            return;
        };
        let mut ring = Ring::new(vring, self.control.memory(), gate, &token);
        loop {
            ring.disable_notification();
            let device = &*self.control.device;
            let served = catch_unwind(AssertUnwindSafe(|| device.process(&mut ring)));
            if served.is_err() {
                log::error!(
                    "ring {}: the device panicked on a request, which is lost; please report this",
                    vring.index()
                );
            }
            ring.flush();
            if !ring.enable_notification(served.is_err()) || !ring.is_open() {
                break;
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, LogSwitch> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device> VhostUserBackend for Adapter<D> {
    type Bitmap = DirtyLog;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.info().rings
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.info().ring_size_max)
    }

    /// `LOG_ALL` only for a device that can be saved: without it QEMU refuses to migrate in so many words
    /// (hw/virtio/vhost.c, `vhost_dev_init`), which is better than migrating without the state.
    fn features(&self) -> u64 {
        let transport = feature::VERSION_1
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::PROTOCOL_FEATURES;
        let logs = self.savable() && self.info().dirty_log;
        let migration = if logs { feature::LOG_ALL } else { 0 };
        self.info().features | transport | migration
    }

    fn acked_features(&self, features: u64) {
        let logging = features & feature::LOG_ALL != 0;
        self.log().set(logging);
        if logging {
            self.preparation.start();
        }
        self.control.device.ack_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        if self.info().config_space {
            features |= VhostUserProtocolFeatures::CONFIG;
        }
        if self.info().resubmits {
            features |= VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        }
        if self.savable() {
            features |=
                VhostUserProtocolFeatures::LOG_SHMFD | VhostUserProtocolFeatures::DEVICE_STATE;
        }
        features
    }

    fn reset_device(&self) {
        self.control.reset();
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The stock handler has set it on the rings themselves, which is where it is needed.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut data = vec![0; size as usize];
        self.control.device.read_config(offset, &mut data);
        data
    }

    fn set_config(&self, offset: u32, data: &[u8]) -> io::Result<()> {
        self.control
            .device
            .write_config(offset, data)
            .map_err(|error| {
                log::warn!("{error}");
                io::Error::new(io::ErrorKind::InvalidInput, error)
            })
    }

    fn update_memory(&self, table: GuestMemoryAtomic<GuestMemory>) -> io::Result<()> {
        use vm_memory::GuestAddressSpace;
        self.log().update(&table.memory().into_inner())
    }

    /// A bit per ring for each worker. One that served no ring would wait for ever for nothing: there is none.
    fn queues_per_thread(&self) -> Vec<u64> {
        let mut workers = Vec::new();
        for ring in 0..self.info().rings {
            let worker = self.control.device.worker_of(ring);
            if workers.len() <= worker {
                workers.resize(worker + 1, 0_u64);
            }
            if let Some(rings) = workers.get_mut(worker) {
                *rings |= 1 << ring;
            }
        }
        workers
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        match new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC) {
            Ok((consumer, notifier)) => {
                self.exit_events.remember(&consumer);
                Some((consumer, notifier))
            }
            Err(error) => {
                log::error!("host: no event descriptor for a worker: {error}");
                None
            }
        }
    }

    fn stop_vring(&self, ring: u32) -> io::Result<()> {
        self.control.ring_stopped(ring as usize);
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        match vrings.get(usize::from(event)) {
            Some(vring) => self.serve(vring),
            None => vrings.iter().for_each(|vring| self.serve(vring)),
        }
        Ok(())
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        match phase {
            VhostTransferStatePhase::STOPPED => {}
        }
        let direction = match direction {
            VhostTransferStateDirection::SAVE => Direction::Save,
            VhostTransferStateDirection::LOAD => Direction::Load,
        };
        let started = self.control.is_started();
        if direction == Direction::Save && !started {
            self.preparation.finish();
        }
        self.transfers
            .begin(direction, file, started)
            .map_err(|error| {
                log::error!("{direction} refused: {}", crate::report::chain(&error));
                io::Error::other(error)
            })
    }

    fn check_device_state(&self) -> io::Result<()> {
        self.transfers
            .check(self.control.is_started())
            .map_err(|error| {
                log::error!("{}", crate::report::chain(&error));
                io::Error::other(error)
            })
    }
}
