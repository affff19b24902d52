//! What migrates: plain data, and how it is laid out in sections. Knows no file, no unit and no guest.
//!
//! | section | what it is |
//! |---|---|
//! | `TARG` | one [`TargetV1`] |
//! | `UNIT` | table of [`UnitV1`], by rising number |
//! | `EVNT` | table of [`EventV1`], oldest first |
//!
//! All are critical, and all must be there. A released struct never changes: a new version of a section takes its place. What the
//! sections say is believed only after [`ScsiState::validate`].

use common::state::{
    DeviceKind, Importance, SchemaSupport, StateError, StateReader, StateSchema, StateWriter, Tag,
};
use serde::{Deserialize, Serialize};

mod rules;

pub use crate::state::rules::ForgedState;
use crate::state::rules::{EVENTS_MAX, UNITS_MAX};

const TARGET: Tag = Tag::new(*b"TARG");
const UNITS: Tag = Tag::new(*b"UNIT");
const EVENTS: Tag = Tag::new(*b"EVNT");

/// The state of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiState {
    /// What all units share.
    pub target: TargetV1,
    /// The logical units.
    pub units: Vec<UnitV1>,
    /// Events that the guest has not got yet.
    pub events: Vec<EventV1>,
}

/// What all units share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetV1 {
    /// Target number.
    pub target: u8,
    /// `TransportID` of the initiator.
    pub initiator: Vec<u8>,
    /// `cdb_size` of the config space, in bytes.
    pub command_bytes: u32,
    /// `sense_size` of the config space, in bytes.
    pub sense_bytes: u32,
    /// An event was lost, and the guest does not know it yet.
    pub events_missed: bool,
}

/// A logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct UnitV1 {
    /// Logical unit number.
    pub lun: u16,
    /// Unit serial number.
    pub serial: String,
    /// World wide name.
    pub wwn: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Writes are refused, by the operator's wish.
    pub readonly: bool,
    /// Blocks can be deallocated.
    pub thin: bool,
    /// Logical blocks.
    pub blocks: u64,
    /// Logical blocks that the guest was told.
    pub blocks_reported: u64,
    /// Unit attentions, oldest first: additional sense code and qualifier.
    pub attentions: Vec<(u8, u8)>,
    /// A failure of a command that was answered with GOOD.
    pub deferred: Option<SenseV1>,
    /// WCE of the caching mode page.
    pub write_cache: bool,
    /// `D_SENSE` of the control mode page.
    pub descriptor_sense: bool,
    /// SWP of the control mode page.
    pub write_protect: bool,
    /// Stopped by START STOP UNIT.
    pub stopped: bool,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub removal_prevented: bool,
    /// Its reservations are in a store that other daemons use, too, and not here.
    pub shared: bool,
    /// Its reservations; empty if they are shared.
    pub reservations: ReservationsV1,
}

/// Sense data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenseV1 {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
    /// A logical block address.
    pub information: Option<u64>,
}

/// The reservations of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationsV1 {
    /// `PRGENERATION`.
    pub generation: u32,
    /// Registered initiators.
    pub registrations: Vec<RegistrationV1>,
    /// The persistent reservation.
    pub holder: Option<HolderV1>,
    /// `TransportID` of the holder of a reservation of SPC-2.
    pub legacy: Option<Vec<u8>>,
}

/// A registered initiator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationV1 {
    /// `TransportID`.
    pub initiator: Vec<u8>,
    /// Not 0.
    pub key: u64,
}

/// A persistent reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderV1 {
    /// TYPE.
    pub kind: u8,
    /// `TransportID`.
    pub initiator: Vec<u8>,
}

/// An event that waits for a buffer of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventV1 {
    /// 1 a unit came, 2 it went, 3 a parameter changed.
    pub kind: u8,
    /// Logical unit number.
    pub lun: u16,
    /// Of a parameter: additional sense code and qualifier; otherwise 0.
    pub reason: (u8, u8),
}

impl StateSchema for ScsiState {
    const KIND: DeviceKind = DeviceKind::Scsi;
    const VERSION: u16 = 1;
    const VERSION_OLDEST: u16 = 1;
    const SUPPORT: SchemaSupport = SchemaSupport::Savable;

    fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
        let Self {
            target,
            units,
            events,
        } = self;
        out.section(TARGET, 1, Importance::Critical, target)?;
        out.table(UNITS, 1, Importance::Critical, units)?;
        out.table(EVENTS, 1, Importance::Critical, events)
    }

    fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
        let mut target: Option<TargetV1> = None;
        let (mut units, mut events) = (None, None);
        while let Some(section) = input.next_section()? {
            match (section.tag, section.version) {
                (TARGET, 1) if target.is_none() => target = Some(section.decode()?),
                (UNITS, 1) => section.decode_table_onto(&mut units, UNITS_MAX)?,
                (EVENTS, 1) => section.decode_table_onto(&mut events, EVENTS_MAX)?,
                _ => input.unknown(&section)?,
            }
        }
        let missing = |tag| StateError::MissingSection { tag };
        Ok(Self {
            target: target.ok_or(missing(TARGET))?,
            units: units.ok_or(missing(UNITS))?,
            events: events.ok_or(missing(EVENTS))?,
        })
    }
}

#[cfg(test)]
mod tests;
