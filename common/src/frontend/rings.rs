//! Rings, and with them the lifecycle: start, stop, suspend, resume.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Frontend, FrontendError, unexpected};
use crate::lifecycle::Event;
use crate::protocol::messages::{Request, RingAddress, RingState, encode_u64, protocol_feature};

/// All there is to say about a ring before it starts.
#[derive(Clone, Copy, Debug)]
pub struct RingSetup<'a> {
    /// Number of descriptors.
    pub size: u16,
    /// The next available index to be looked at: 0 for a new ring, or what [`Frontend::stop_ring`]
    /// returned, on this back-end or on another.
    pub base: u32,
    /// Where its parts are.
    pub address: RingAddress,
    /// The eventfd by which the guest notifies.
    pub kick: BorrowedFd<'a>,
    /// The eventfd by which the guest is notified.
    pub call: BorrowedFd<'a>,
}

impl Frontend {
    /// Sets up, starts and enables rings, in QEMU's order. While suspended they stay still until
    /// [`resume`](Self::resume).
    pub fn start(&mut self, rings: &[RingSetup<'_>]) -> Result<(), FrontendError> {
        for ring in rings {
            let index = ring.address.index;
            self.set_ring_size(index, ring.size)?;
            self.set_ring_base(index, ring.base)?;
            self.set_ring_address(ring.address)?;
            self.set_ring_kick(index, ring.kick)?;
            self.set_ring_call(index, ring.call)?;
        }
        for ring in rings {
            self.set_ring_enabled(ring.address.index, true)?;
        }
        Ok(())
    }

    /// Stops all rings that this front-end started, and returns where each of them is to be continued:
    /// `value` is the base for [`RingSetup`]. The device is silent when this returns.
    pub fn stop(&mut self) -> Result<Vec<RingState>, FrontendError> {
        let started: Vec<_> = self.started.iter().copied().collect();
        for index in &started {
            self.set_ring_enabled(*index, false)?;
        }
        started.iter().map(|index| self.stop_ring(*index)).collect()
    }

    /// The device finishes what is in flight and becomes silent; its rings stay as they are.
    ///
    /// On [`FrontendError::Refused`] it could not become silent in time, and goes on running.
    pub fn suspend(&mut self) -> Result<(), FrontendError> {
        self.lifecycle_request(Request::SUSPEND)?;
        self.lifecycle = self.lifecycle.next(Event::Suspend);
        Ok(())
    }

    /// Ends [`suspend`](Self::suspend): rings that are started by now are served, including what was
    /// put on them in the meantime.
    pub fn resume(&mut self) -> Result<(), FrontendError> {
        self.lifecycle_request(Request::RESUME)?;
        self.lifecycle = self.lifecycle.next(Event::Resume {
            rings: !self.started.is_empty(),
        });
        Ok(())
    }

    /// Without an acknowledgement nobody would know whether the device is silent.
    fn lifecycle_request(&mut self, request: Request) -> Result<(), FrontendError> {
        self.need(request, protocol_feature::SUSPEND, "SUSPEND (provisional)")?;
        self.need(request, protocol_feature::REPLY_ACK, "REPLY_ACK")?;
        self.command(request, &[], &[])
    }

    /// The number of descriptors of a ring.
    pub fn set_ring_size(&mut self, index: u32, size: u16) -> Result<(), FrontendError> {
        let state = RingState {
            index,
            value: u32::from(size),
        };
        self.command(Request::SET_VRING_NUM, &state.encode(), &[])
    }

    /// Where a ring is to be continued.
    pub fn set_ring_base(&mut self, index: u32, base: u32) -> Result<(), FrontendError> {
        self.command(
            Request::SET_VRING_BASE,
            &RingState { index, value: base }.encode(),
            &[],
        )
    }

    /// Where a ring is. Needs [`set_memory`](Self::set_memory).
    pub fn set_ring_address(&mut self, address: RingAddress) -> Result<(), FrontendError> {
        self.command(Request::SET_VRING_ADDR, &address.encode(), &[])
    }

    /// Starts a ring; it is processed once it is enabled as well.
    pub fn set_ring_kick(&mut self, index: u32, kick: impl AsFd) -> Result<(), FrontendError> {
        let body = encode_u64(u64::from(index));
        self.command(Request::SET_VRING_KICK, &body, &[kick.as_fd()])?;
        self.started.insert(index);
        self.lifecycle = self.lifecycle.next(Event::RingStarted);
        Ok(())
    }

    /// By which eventfd the guest is notified.
    pub fn set_ring_call(&mut self, index: u32, call: impl AsFd) -> Result<(), FrontendError> {
        self.command(
            Request::SET_VRING_CALL,
            &encode_u64(u64::from(index)),
            &[call.as_fd()],
        )
    }

    /// Whether a started ring is processed. Disabling drains nothing: only
    /// [`stop_ring`](Self::stop_ring) and [`suspend`](Self::suspend) do.
    pub fn set_ring_enabled(&mut self, index: u32, enabled: bool) -> Result<(), FrontendError> {
        let state = RingState {
            index,
            value: u32::from(enabled),
        };
        self.command(Request::SET_VRING_ENABLE, &state.encode(), &[])
    }

    /// Stops a ring after its requests in flight; `value` is where it is to be continued.
    pub fn stop_ring(&mut self, index: u32) -> Result<RingState, FrontendError> {
        let request = Request::GET_VRING_BASE;
        let reply = self.query(request, &RingState { index, value: 0 }.encode(), &[])?;
        let state = RingState::decode(&reply.body)
            .filter(|state| state.index == index)
            .ok_or_else(|| unexpected(request, &reply))?;
        self.started.remove(&index);
        if self.started.is_empty() {
            self.lifecycle = self.lifecycle.next(Event::LastRingStopped);
        }
        Ok(state)
    }
}
