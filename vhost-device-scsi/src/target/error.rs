//! Why units cannot be had, changed or given up. Knows the errors beneath it only.

use crate::backing::BackingError;
use crate::reservations::StoreError;
use crate::scsi::reservation::InvalidInitiator;

/// Why a unit cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The number is taken.
    #[error("operator: there is a logical unit {lun} already")]
    Taken {
        /// Logical unit number.
        lun: u16,
    },
    /// There is none.
    #[error("operator: there is no logical unit {lun}")]
    Absent {
        /// Logical unit number.
        lun: u16,
    },
    /// Its file.
    #[error("logical unit {lun}: {}", path.display())]
    Backing {
        /// Logical unit number.
        lun: u16,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: BackingError,
    },
    /// Its store of reservations.
    #[error("logical unit {lun}: its reservations")]
    Store {
        /// Logical unit number.
        lun: u16,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The storage takes too long.
    #[error("host: after {limit_ms} ms the storage has not made durable what was written")]
    Slow {
        /// How long that was waited for, in milliseconds.
        limit_ms: u128,
    },
    /// Nobody to wait for the storage.
    #[error("host: no thread to wait for the storage")]
    Thread(#[source] std::io::Error),
    /// The initiator's name.
    #[error("operator: --initiator")]
    Initiator(#[source] InvalidInitiator),
    /// More blocks than the file has.
    #[error("operator: logical unit {lun} cannot have {wanted} blocks: its file has {found}")]
    TooFewBlocks {
        /// Logical unit number.
        lun: u16,
        /// Blocks asked for.
        wanted: u64,
        /// Blocks in the file.
        found: u64,
    },
}
