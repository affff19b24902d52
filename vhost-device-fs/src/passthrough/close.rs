//! Closing a descriptor and hearing what the host has to say about it: on a network file system, that data which was
//! taken before could not be stored.

#![expect(
    unsafe_code,
    reason = "the safe ways to close a descriptor keep the answer to themselves"
)]

use std::os::fd::{IntoRawFd, OwnedFd};

use crate::operations::FsResult;

/// Closes `descriptor`.
pub(super) fn close(descriptor: OwnedFd) -> FsResult<()> {
    // SAFETY: the descriptor was ours alone, and into_raw_fd has given it up.
    unsafe { rustix::io::try_close(descriptor.into_raw_fd()) }
}
