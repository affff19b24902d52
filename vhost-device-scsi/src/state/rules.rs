//! Which states make sense. Whoever made the stream may have wanted to harm us: everything is looked at before any of it is used.
//!
//! Knows numbers and their limits; what a name is, is looked at when it becomes one.

use crate::state::{EventV1, ReservationsV1, ScsiState, UnitV1};

/// Greatest logical unit number.
const LUN_MAX: u16 = 16383;
/// Most units: one for each number.
pub(super) const UNITS_MAX: usize = LUN_MAX as usize + 1;
/// Greatest length of a serial number.
const SERIAL_MAX: usize = 36;
/// Most unit attentions of a unit; there are fewer kinds.
const ATTENTIONS_MAX: usize = 64;
/// Most events that wait.
pub(super) const EVENTS_MAX: usize = 1024;
/// Most registrations of a unit.
const REGISTRATIONS_MAX: usize = 256;
/// Greatest `cdb_size` and `sense_size`.
const SIZES_MAX: u32 = 256;

/// A state that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgedState {
    /// Sizes of the config space.
    #[error("state stream: {what} is {value}, and must be 1 to {SIZES_MAX}")]
    Size {
        /// Which.
        what: &'static str,
        /// Its value in bytes.
        value: u32,
    },
    /// Numbers that do not rise, or are too large.
    #[error("state stream: logical unit {0} is out of order, or there is no such number")]
    Order(u16),
    /// Something about a unit.
    #[error("state stream: logical unit {lun}: {what}")]
    Unit {
        /// Logical unit number.
        lun: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// Too many events.
    #[error("state stream: {0} events, and {EVENTS_MAX} are the most")]
    Events(usize),
    /// An event of no kind, or with a reason that it cannot have.
    #[error("state stream: an event of kind {kind} for logical unit {lun} makes no sense")]
    Event {
        /// Its kind.
        kind: u8,
        /// Logical unit number.
        lun: u16,
    },
}

impl ScsiState {
    /// Whether the state makes sense.
    pub fn validate(&self) -> Result<(), ForgedState> {
        let sizes = [
            ("cdb_size", self.target.command_bytes),
            ("sense_size", self.target.sense_bytes),
        ];
        for (what, value) in sizes {
            if !(1..=SIZES_MAX).contains(&value) {
                return Err(ForgedState::Size { what, value });
            }
        }
        let mut last = None;
        for unit in &self.units {
            if unit.lun > LUN_MAX || last.is_some_and(|last| last >= unit.lun) {
                return Err(ForgedState::Order(unit.lun));
            }
            last = Some(unit.lun);
            unit.validate().map_err(|what| ForgedState::Unit {
                lun: unit.lun,
                what,
            })?;
        }
        if self.events.len() > EVENTS_MAX {
            return Err(ForgedState::Events(self.events.len()));
        }
        self.events.iter().try_for_each(EventV1::validate)
    }
}

impl EventV1 {
    fn validate(&self) -> Result<(), ForgedState> {
        let &Self { kind, lun, reason } = self;
        let sound = match kind {
            1 | 2 => reason == (0, 0),
            3 => reason.0 != 0,
            _ => false,
        };
        if sound && lun <= LUN_MAX {
            Ok(())
        } else {
            Err(ForgedState::Event { kind, lun })
        }
    }
}

impl UnitV1 {
    fn validate(&self) -> Result<(), &'static str> {
        let printable = self.serial.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if !printable || !(1..=SERIAL_MAX).contains(&self.serial.len()) {
            return Err("its serial number is none");
        }
        if self.block_size != 512 && self.block_size != 4096 {
            return Err("its block size is neither 512 nor 4096");
        }
        let bytes = self.blocks.checked_mul(u64::from(self.block_size));
        if self.blocks == 0 || bytes.is_none_or(|bytes| i64::try_from(bytes).is_err()) {
            return Err("it has no size, or one that no file has");
        }
        if self.attentions.len() > ATTENTIONS_MAX || has_twice(&self.attentions) {
            return Err("its unit attentions are too many, or not different");
        }
        if let Some(sense) = &self.deferred
            && !matches!(sense.key, 0x0 | 0x2..=0x7 | 0xb | 0xe)
        {
            return Err("its deferred error has a sense key that there is not");
        }
        if self.shared && self.reservations != ReservationsV1::default() {
            return Err("its reservations are shared, and here as well");
        }
        self.reservations.validate()
    }
}

impl ReservationsV1 {
    fn validate(&self) -> Result<(), &'static str> {
        let names: Vec<&[u8]> = self
            .registrations
            .iter()
            .map(|registration| registration.initiator.as_slice())
            .collect();
        if names.len() > REGISTRATIONS_MAX || has_twice(&names) {
            return Err("its registrations are too many, or not different");
        }
        if self
            .registrations
            .iter()
            .any(|registration| registration.key == 0)
        {
            return Err("a registration has the key 0");
        }
        if let Some(holder) = &self.holder {
            if !matches!(holder.kind, 1 | 3 | 5..=8) {
                return Err("its reservation has a type that there is not");
            }
            if !names.contains(&holder.initiator.as_slice()) {
                return Err("the holder of its reservation is not registered");
            }
        }
        if self.legacy.is_some() && !names.is_empty() {
            return Err("it has reservations of both kinds");
        }
        Ok(())
    }
}

fn has_twice<T: Ord + Clone>(items: &[T]) -> bool {
    let mut sorted = items.to_vec();
    sorted.sort();
    sorted
        .windows(2)
        .any(|pair| matches!(pair, [one, other] if one == other))
}
