//! The region in which a back-end writes down the requests in flight: got once, kept, and handed to the next one after a crash.
//!
//! Knows nothing of what stands in it: that is for back-ends.

use std::os::fd::{AsFd, OwnedFd};

use super::{Frontend, FrontendError, unexpected};
use crate::protocol::messages::{Inflight, Request, protocol_feature};

/// A region for requests in flight.
#[derive(Debug)]
pub struct InflightRegion {
    /// Its size and place in the file, and for which rings it is.
    pub layout: Inflight,
    /// The file.
    pub file: OwnedFd,
}

impl Frontend {
    /// A new region for `rings` rings of at most `ring_size` descriptors, to be handed over by
    /// [`set_inflight`](Self::set_inflight): when the device is first started, and after each reset of it.
    pub fn new_inflight(
        &mut self,
        rings: u16,
        ring_size: u16,
    ) -> Result<InflightRegion, FrontendError> {
        let request = Request::GET_INFLIGHT_FD;
        self.need(request, protocol_feature::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        let wanted = Inflight {
            rings,
            ring_size,
            ..Inflight::default()
        };
        let mut reply = self.query(request, &wanted.encode(), &[])?;
        let layout = Inflight::decode(&reply.body);
        // No bytes: a refusal to QEMU's front-end, too.
        if layout.is_some_and(|layout| layout.size == 0) {
            return Err(FrontendError::Refused { request, code: 0 });
        }
        match (layout, reply.files.len()) {
            (Some(layout), 1) => Ok(InflightRegion {
                layout,
                file: reply.files.swap_remove(0),
            }),
            _ => Err(unexpected(request, &reply)),
        }
    }

    /// Hands a region over, new or used; before rings are started. What is in flight according to it is popped again.
    pub fn set_inflight(&mut self, region: &InflightRegion) -> Result<(), FrontendError> {
        let request = Request::SET_INFLIGHT_FD;
        self.need(request, protocol_feature::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        self.command(request, &region.layout.encode(), &[region.file.as_fd()])
    }
}
