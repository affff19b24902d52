//! The GPU driver of somebody else, the crate `virtio-drivers`, in our guest memory and on a daemon's rings.
//!
//! It was written from the same specification by others: what it and our own driver agree on is not our own mistake. Its driver
//! waits in a loop for what it asks, so the transport waits first, and not for ever.
#![expect(
    unsafe_code,
    reason = "virtio_drivers::Hal is an unsafe trait: it hands out pointers to guest memory"
)]

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use common::frontend::{Frontend, RingSetup};
use common::protocol::messages::{RingAddress, feature};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use virtio_drivers::device::gpu::VirtIOGpu;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::display::{DEADLINE, Display};
use super::wire::FEATURE_EDID;
use crate::guest::Memory;
use crate::guest::machine::PROTOCOL_FEATURES;
use crate::guest::memory::PAGE;

thread_local! {
    /// The guest's memory: the driver's ways to it have no object.
    static MEMORY: RefCell<Option<Arc<Memory>>> = const { RefCell::new(None) };
}

/// The driver.
pub type ForeignDriver = VirtIOGpu<GuestRam, Wires>;

/// The memory of this thread's guest, as the driver wants it.
#[derive(Debug)]
pub struct GuestRam;

fn with_memory<R>(act: impl FnOnce(&Memory) -> Option<R>) -> Option<R> {
    MEMORY.with_borrow(|memory| memory.as_deref().and_then(act))
}

// SAFETY: memory comes from an allocator that gives nothing out twice, in whole pages of guest memory, which is mapped as long as
// the thread has it, and which nothing in this program has references into. The device writes to it only where a request says so.
unsafe impl Hal for GuestRam {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let allocated = with_memory(|memory| {
            let size = pages.checked_mul(usize::try_from(PAGE).ok()?)?;
            let address = memory.allocate_pages_in(0, size as u64).ok()?;
            memory.write(address, &vec![0; size]).ok()?;
            Some((address, memory.pointer(address, size)?))
        });
        // Zero is an error to the driver.
        allocated.unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, pages: usize) -> i32 {
        let released = with_memory(|memory| {
            memory.release(paddr, pages as u64 * PAGE);
            Some(())
        });
        if released.is_some() { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        // There is no PCI here.
        NonNull::dangling()
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        // SAFETY: the caller promises a buffer that is valid and that nobody else touches during this call.
        let bytes = unsafe { buffer.as_ref() };
        let shared = with_memory(|memory| {
            let address = memory.allocate(bytes.len() as u64).ok()?;
            if direction != BufferDirection::DeviceToDriver {
                memory.write(address, bytes).ok()?;
            }
            Some(address)
        });
        // No memory is at zero for a request: the device refuses it.
        shared.unwrap_or(0)
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        // SAFETY: the caller promises a buffer that is valid and that nobody else touches during this call.
        let bytes = unsafe { buffer.as_mut() };
        with_memory(|memory| {
            if direction != BufferDirection::DriverToDevice {
                memory.read(paddr, bytes).ok()?;
            }
            memory.release(paddr, bytes.len() as u64);
            Some(())
        });
    }
}

/// A ring as the driver has set it up.
#[derive(Debug)]
struct Queue {
    size: u16,
    address: RingAddress,
    kick: OwnedFd,
    call: OwnedFd,
}

#[derive(Debug)]
struct Vmm {
    frontend: Frontend,
    display: Display,
    offered: u64,
    accepted: u64,
    status: DeviceStatus,
    queues: Vec<Queue>,
}

/// The VMM behind the driver. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Wires(Arc<Mutex<Vmm>>);

impl Wires {
    /// A guest of this thread, in `memory`, whose driver finds a device behind `frontend`.
    pub fn new(mut frontend: Frontend, display: &Display, memory: &Arc<Memory>) -> Result<Self> {
        MEMORY.set(Some(Arc::clone(memory)));
        let offer = frontend.negotiate(PROTOCOL_FEATURES)?;
        Ok(Self(Arc::new(Mutex::new(Vmm {
            frontend,
            display: display.clone(),
            offered: offer.features,
            accepted: 0,
            status: DeviceStatus::empty(),
            queues: Vec::new(),
        }))))
    }

    /// The driver, which has set the device up.
    pub fn driver(&self) -> Result<ForeignDriver> {
        Ok(VirtIOGpu::new(self.clone())?)
    }

    /// `stop` and `cont`.
    pub fn stop_and_start(&self) -> Result<()> {
        let mut vmm = self.vmm();
        let bases = vmm.stop()?;
        vmm.start(&bases)
    }

    /// Another daemon takes over.
    pub fn migrate_to(&self, mut destination: Frontend) -> Result<()> {
        let mut vmm = self.vmm();
        let bases = vmm.stop()?;
        let mut state = Vec::new();
        vmm.frontend.save(&mut state)?;
        destination.negotiate(PROTOCOL_FEATURES)?;
        destination.load(&mut state.as_slice())?;
        vmm.frontend = destination;
        vmm.set_up()?;
        vmm.start(&bases)
    }

    fn vmm(&self) -> MutexGuard<'_, Vmm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vmm {
    fn set_up(&mut self) -> Result<()> {
        let features = self.accepted | feature::PROTOCOL_FEATURES;
        self.frontend.set_features(features)?;
        let memory = MEMORY.with_borrow(Clone::clone);
        let memory = memory.context("a thread without a guest")?;
        Ok(self.frontend.set_memory(&memory.regions())?)
    }

    fn start(&mut self, bases: &[u32]) -> Result<()> {
        let socket = self.display.connect()?;
        self.frontend.set_display_socket(socket)?;
        let setups: Vec<_> = self
            .queues
            .iter()
            .zip(bases)
            .map(|(queue, base)| RingSetup {
                size: queue.size,
                base: *base,
                address: queue.address,
                kick: queue.kick.as_fd(),
                call: queue.call.as_fd(),
            })
            .collect();
        Ok(self.frontend.start(&setups)?)
    }

    fn stop(&mut self) -> Result<Vec<u32>> {
        self.display.close();
        let stopped = self.frontend.stop()?;
        Ok(stopped.into_iter().map(|ring| ring.value).collect())
    }

    /// Kicks, and waits for the answer.
    fn notify(&self, queue: u16) -> Result<()> {
        let queue = self.queues.get(usize::from(queue)).context("no ring")?;
        rustix::io::write(&queue.kick, &1_u64.to_le_bytes())?;
        let timeout = Timespec::try_from(DEADLINE)?;
        let mut call = [PollFd::new(&queue.call, PollFlags::IN)];
        ensure!(poll(&mut call, Some(&timeout))? > 0, "no answer");
        rustix::io::read(&queue.call, &mut [0; 8])?;
        Ok(())
    }

    fn add_queue(&mut self, index: u32, size: u32, parts: [PhysAddr; 3]) -> Result<()> {
        let [descriptors, available, used] = parts.map(Memory::user_address);
        ensure!(
            index as usize == self.queues.len(),
            "ring {index} comes now"
        );
        let event = || eventfd(0, EventfdFlags::CLOEXEC);
        self.queues.push(Queue {
            size: u16::try_from(size)?,
            address: RingAddress {
                index,
                flags: 0,
                descriptors,
                used,
                available,
                log: 0,
            },
            kick: event()?,
            call: event()?,
        });
        Ok(())
    }
}

/// The driver's calls cannot fail, and it would wait for ever for what did not happen.
fn must(what: &str, result: &Result<()>) {
    assert!(result.is_ok(), "{what}: {result:?}");
}

impl Transport for Wires {
    fn device_type(&self) -> DeviceType {
        DeviceType::GPU
    }

    fn read_device_features(&mut self) -> u64 {
        let transport = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
        self.vmm().offered & (transport | FEATURE_EDID)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.vmm().accepted = driver_features;
    }

    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        64
    }

    fn notify(&mut self, queue: u16) {
        must("a request", &self.vmm().notify(queue));
    }

    fn get_status(&self) -> DeviceStatus {
        self.vmm().status
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut vmm = self.vmm();
        vmm.status = status;
        if status.contains(DeviceStatus::DRIVER_OK) {
            let bases = vec![0; vmm.queues.len()];
            let started = vmm.set_up().and_then(|()| vmm.start(&bases));
            must("starting the rings", &started);
        }
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let parts = [descriptors, driver_area, device_area];
        let added = self.vmm().add_queue(queue.into(), size, parts);
        must("setting a ring up", &added);
    }

    /// The driver goes away, and its rings with it.
    fn queue_unset(&mut self, _queue: u16) {
        let mut vmm = self.vmm();
        if !vmm.queues.is_empty() {
            // A daemon that has gone has stopped them as well.
            let _ = vmm.stop();
            vmm.queues.clear();
        }
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        usize::from(queue) < self.vmm().queues.len()
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let offset = u32::try_from(offset).map_err(|_| Error::ConfigSpaceTooSmall)?;
        let bytes = self.vmm().frontend.config(offset, size_of::<T>());
        let bytes = bytes.map_err(|_| Error::ConfigSpaceMissing)?;
        T::read_from_bytes(&bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        let offset = u32::try_from(offset).map_err(|_| Error::ConfigSpaceTooSmall)?;
        let written = self.vmm().frontend.set_config(offset, value.as_bytes());
        written.map_err(|_| Error::IoError)
    }
}
