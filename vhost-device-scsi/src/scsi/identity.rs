//! What a logical unit is, and stays as long as it lives; equal on both ends of a migration.
//!
//! Knows the operator's configuration; knows no state.

use crate::config::UnitConfig;
use crate::scsi::reservation::Initiator;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, at most 8 characters.
    pub vendor: String,
    /// Product identification, at most 16 characters.
    pub product: String,
    /// Unit serial number.
    pub serial: String,
    /// World wide name, NAA.
    pub wwn: u64,
    /// Logical unit number.
    pub lun: u16,
    /// Target number.
    pub target: u8,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Writes are refused.
    pub readonly: bool,
    /// Revolutions per minute; 1 for none.
    pub rotation_rate: u16,
    /// Blocks can be deallocated.
    pub thin: bool,
    /// Who sends the commands.
    pub initiator: Initiator,
    /// There is a place that keeps reservations over a power loss (APTPL).
    pub persistence: bool,
}

impl Identity {
    /// From the configuration.
    pub fn new(config: &UnitConfig, target: u8, initiator: Initiator, persistence: bool) -> Self {
        Self {
            vendor: config.vendor.clone(),
            product: config.product.clone(),
            serial: config.serial.clone(),
            wwn: config
                .wwn
                .unwrap_or_else(|| locally_assigned(&config.serial)),
            lun: config.lun,
            target,
            block_size: config.block_size,
            readonly: config.readonly,
            rotation_rate: config.rotation_rate,
            thin: config.thin,
            initiator,
            persistence,
        }
    }

    /// Binary logarithm of the block size.
    pub fn block_shift(&self) -> u8 {
        u8::try_from(self.block_size.trailing_zeros()).unwrap_or(9)
    }
}

/// A locally assigned NAA (SPC-5, 7.7.6.6.4) from the serial number, by FNV-1a: the same on every host.
fn locally_assigned(serial: &str) -> u64 {
    let hash = serial
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    3 << 60 | hash >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_locally_assigned_and_differ() {
        let [one, other] = ["a", "b"].map(locally_assigned);
        assert_ne!(one, other);
        assert_eq!((one >> 60, other >> 60), (3, 3));
    }
}
