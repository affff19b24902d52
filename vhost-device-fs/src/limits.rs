//! How many descriptors the process may have. Knows nothing of what they are used for.

use std::io;

use common::daemon::descriptors;

/// What is asked for when the operator does not say, as virtiofsd does.
const DESCRIPTORS_WANTED: u64 = 1_000_000;
/// Descriptors for everything but the guest's files: sockets, rings, memory, logs, migrations.
const RESERVE: u64 = 512;
/// With fewer than this many for the guest's files, starting makes no sense.
const DESCRIPTORS_MIN: u64 = 64;

/// The limit of open files does not do.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The host refuses the limit that the operator wants.
    #[error("host: limit of {wanted} open files (--rlimit-nofile) refused")]
    Refused {
        /// The limit.
        wanted: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too few are left for the guest.
    #[error("host: limit of {0} open files is too low; {min} are needed at least", min = RESERVE + DESCRIPTORS_MIN)]
    TooLow(u64),
}

/// Raises the process's limit of open files to `wanted` (0: not at all; `None`: as far as it goes, up to a million).
/// Returns how many of them are for the guest's files.
pub fn raise_descriptor_limit(wanted: Option<u64>) -> Result<u32, LimitError> {
    match wanted {
        Some(0) => {}
        Some(wanted) => descriptors::set_limit(wanted)
            .map_err(|source| LimitError::Refused { wanted, source })?,
        None => descriptors::raise_limit(DESCRIPTORS_WANTED),
    }
    for_guest(descriptors::limit())
}

fn for_guest(limit: Option<u64>) -> Result<u32, LimitError> {
    let limit = limit.unwrap_or(u64::MAX);
    let left = limit.saturating_sub(RESERVE).min(DESCRIPTORS_WANTED);
    if left < DESCRIPTORS_MIN {
        return Err(LimitError::TooLow(limit));
    }
    u32::try_from(left).map_err(|_| LimitError::TooLow(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_for_ourselves() {
        assert_eq!(for_guest(Some(1024)).unwrap(), 512);
        assert_eq!(for_guest(None).unwrap(), 1_000_000);
        assert_eq!(for_guest(Some(RESERVE + DESCRIPTORS_MIN)).unwrap(), 64);
        for limit in [0, RESERVE, RESERVE + DESCRIPTORS_MIN - 1] {
            assert!(matches!(for_guest(Some(limit)), Err(LimitError::TooLow(_))));
        }
    }

    #[test]
    fn what_the_operator_asks_for_is_done_or_refused() {
        let before = descriptors::limit();
        assert_eq!(raise_descriptor_limit(Some(0)).ok(), for_guest(before).ok());
        assert_eq!(descriptors::limit(), before);
        let refused = raise_descriptor_limit(Some(1 << 40));
        assert!(matches!(refused, Err(LimitError::Refused { wanted, .. }) if wanted == 1 << 40));
    }
}
