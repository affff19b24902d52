//! What the stock handler takes on trust, and should not: files that are shorter than the front-end says.
//!
//! The memory table and the dirty log are mapped as large as the message claims. Touching a page beyond the end of the file
//! is a SIGBUS, which ends the process (CVE-2020-10722 is of this family), so such a message ends the connection instead.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;

use super::codec::Message;
use super::messages::{DirtyLog, MemoryRegion, Request};

/// A message that must not reach the stock handler.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The file ends before what is to be mapped of it.
    #[error("front-end: {request} wants {wanted} bytes mapped of a file of {found}")]
    ShortFile {
        /// The message.
        request: Request,
        /// End of the mapping in bytes.
        wanted: u128,
        /// Length of the file in bytes.
        found: u64,
    },
    /// The file cannot be asked for its length.
    #[error("front-end: the descriptor of {request} cannot be examined")]
    Unknown {
        /// The message.
        request: Request,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Refuses messages whose files are too short. Messages of the wrong form are left to the stock handler.
pub(super) fn check(message: &Message) -> Result<(), TrustError> {
    let request = message.request;
    let ends: Vec<u128> = match request {
        Request::SET_MEM_TABLE => MemoryRegion::decode_table(&message.body)
            .unwrap_or_default()
            .iter()
            .map(|region| end(region.file_offset, region.size))
            .collect(),
        Request::ADD_MEM_REG => MemoryRegion::decode_single(&message.body)
            .iter()
            .map(|region| end(region.file_offset, region.size))
            .collect(),
        Request::SET_LOG_BASE => DirtyLog::decode(&message.body)
            .iter()
            .map(|log| end(log.file_offset, log.size))
            .collect(),
        _ => return Ok(()),
    };
    for (wanted, file) in ends.into_iter().zip(&message.files) {
        let found = length(file).map_err(|source| TrustError::Unknown { request, source })?;
        if let Some(found) = found
            && wanted > u128::from(found)
        {
            return Err(TrustError::ShortFile {
                request,
                wanted,
                found,
            });
        }
    }
    Ok(())
}

fn end(offset: u64, size: u64) -> u128 {
    u128::from(offset) + u128::from(size)
}

/// Length in bytes of a regular file or memfd; `None` for what has no length, such as a device.
fn length(file: &OwnedFd) -> std::io::Result<Option<u64>> {
    let status = rustix::fs::fstat(file.as_fd())?;
    let regular = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| u64::try_from(status.st_size).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
