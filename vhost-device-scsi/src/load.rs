//! From a state to the live target. Everything is built aside; nothing of the old is touched until all is well.
//!
//! A unit is the same if its names are: a state of another disk is refused. It may have grown; the guest hears of that.

use std::collections::BTreeMap;

use common::device::LoadError;

use crate::scsi::attention::Attention;
use crate::scsi::reservation::{
    Holder, Initiator, InvalidInitiator, Kind, Registration, Reservations,
};
use crate::scsi::sense::{Key, Sense};
use crate::scsi::unit::{ModeValues, UnitState};
use crate::state::{
    EventV1, HolderV1, RegistrationV1, ReservationsV1, ScsiState, SenseV1, TargetV1, UnitV1,
};
use crate::target::unit::LogicalUnit;
use crate::target::{Table, Target, TargetError};
use crate::virtio::events::{EVENTS_MAX, Event, EventKind, Pending};

/// The state is sound, but not of this target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another target number.
    #[error("the source has --target {source_target}, and this back-end has {target}")]
    Target {
        /// Of the source.
        source_target: u8,
        /// Ours.
        target: u8,
    },
    /// Another initiator.
    #[error("the source has --initiator {source_initiator}, and this back-end has {initiator}")]
    Initiator {
        /// Of the source.
        source_initiator: String,
        /// Ours.
        initiator: String,
    },
    /// The guest has a unit that is not here.
    #[error(
        "the source has a logical unit {lun} (serial number {serial}), and this back-end has none"
    )]
    Absent {
        /// Logical unit number.
        lun: u16,
        /// Its serial number.
        serial: String,
    },
    /// Something about a unit differs that may not.
    #[error("logical unit {lun}: {what} is {theirs} at the source, and {ours} here")]
    Unit {
        /// Logical unit number.
        lun: u16,
        /// What.
        what: &'static str,
        /// At the source.
        theirs: String,
        /// Here.
        ours: String,
    },
}

/// Whether `state` could be loaded, as far as can be told without touching anything.
pub(crate) fn check(target: &Target, state: &ScsiState) -> Result<(), LoadError> {
    state
        .validate()
        .map_err(|forged| LoadError::Stream(forged.into()))?;
    fits(target, state).map_err(|mismatch| LoadError::Mismatch(mismatch.into()))
}

fn fits(target: &Target, state: &ScsiState) -> Result<(), Mismatch> {
    let TargetV1 {
        target: number,
        initiator,
        command_bytes: _,
        sense_bytes: _,
        events_missed: _,
    } = &state.target;
    if *number != target.config().target {
        return Err(Mismatch::Target {
            source_target: *number,
            target: target.config().target,
        });
    }
    if initiator != target.initiator().transport_id() {
        let name = Initiator::from_transport_id(initiator);
        return Err(Mismatch::Initiator {
            source_initiator: name.map_or_else(|_| "?".to_owned(), |name| name.to_string()),
            initiator: target.initiator().to_string(),
        });
    }
    let table = target.table();
    for unit in &state.units {
        let ours = table.get(&unit.lun).ok_or_else(|| Mismatch::Absent {
            lun: unit.lun,
            serial: unit.serial.clone(),
        })?;
        fits_unit(unit, ours)?;
    }
    Ok(())
}

fn fits_unit(unit: &UnitV1, ours: &LogicalUnit) -> Result<(), Mismatch> {
    let identity = ours.with(|core| core.identity.clone());
    let pairs = [
        ("its serial number", unit.serial.clone(), identity.serial),
        (
            "its world wide name",
            format!("{:016x}", unit.wwn),
            format!("{:016x}", identity.wwn),
        ),
        (
            "its block size",
            unit.block_size.to_string(),
            identity.block_size.to_string(),
        ),
        (
            "readonly",
            unit.readonly.to_string(),
            identity.readonly.to_string(),
        ),
        ("thin", unit.thin.to_string(), identity.thin.to_string()),
        (
            "a store of reservations",
            unit.shared.to_string(),
            ours.store().is_some().to_string(),
        ),
    ];
    for (what, theirs, ours) in pairs {
        if theirs != ours {
            return Err(Mismatch::Unit {
                lun: unit.lun,
                what,
                theirs,
                ours,
            });
        }
    }
    Ok(())
}

/// Takes over `state`, which has passed [`check`]. On an error nothing has changed.
pub(crate) fn load(target: &Target, state: &ScsiState) -> Result<(), LoadError> {
    let table = target.table();
    let states = state
        .units
        .iter()
        .map(live_unit)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| LoadError::Stream(error.into()))?;
    let sizes = may_be_taken(&table).map_err(|error| LoadError::Host(error.into()))?;
    are_large_enough(state, &sizes).map_err(|mismatch| LoadError::Mismatch(mismatch.into()))?;
    let mut events = Pending {
        events: state.events.iter().map(event).collect(),
        missed: state.target.events_missed,
    };
    let mut loaded = Vec::new();
    for (unit, live) in state.units.iter().zip(states) {
        let blocks = sizes.get(&unit.lun).copied().unwrap_or(unit.blocks);
        if blocks != unit.blocks {
            events.events.push_back(Event {
                kind: EventKind::Changed(Attention::CAPACITY_CHANGED),
                lun: unit.lun,
            });
        }
        if let Some(ours) = table.get(&unit.lun) {
            ours.with(|core| {
                core.state = live;
                core.resized(blocks);
            });
        }
        loaded.push(unit.lun);
    }
    announce_others(&table, &loaded, &mut events);
    if events.events.len() > EVENTS_MAX {
        events.events.truncate(EVENTS_MAX);
        events.missed = true;
    }
    target.events.set_pending(events);
    target.set_command_bytes(state.target.command_bytes);
    target.set_sense_bytes(state.target.sense_bytes);
    target.loaded();
    Ok(())
}

/// Units that the guest does not know yet.
fn announce_others(table: &Table, loaded: &[u16], events: &mut Pending) {
    let others: Vec<u16> = table
        .keys()
        .filter(|lun| !loaded.contains(lun))
        .copied()
        .collect();
    if others.is_empty() {
        return;
    }
    for unit in table.values() {
        unit.with(|core| core.attend(Attention::LUNS_CHANGED));
    }
    for lun in others {
        events.events.push_back(Event {
            kind: EventKind::Rescan,
            lun,
        });
    }
}

/// The sizes of all units in blocks; an error if the source, or anybody else, still has the lock of one.
fn may_be_taken(table: &Table) -> Result<BTreeMap<u16, u64>, TargetError> {
    table
        .iter()
        .map(|(lun, unit)| {
            let failed = |source| TargetError::Backing {
                lun: *lun,
                path: unit.config().path.clone(),
                source,
            };
            if unit.config().lock {
                unit.backing().lock().map_err(failed)?;
                unit.backing().unlock();
            }
            let size = unit.backing().size().map_err(failed)?;
            Ok((*lun, size / u64::from(unit.config().block_size)))
        })
        .collect()
}

/// A disk may have grown, of which the guest is told. One that is smaller has lost what the guest wrote at its end.
fn are_large_enough(state: &ScsiState, sizes: &BTreeMap<u16, u64>) -> Result<(), Mismatch> {
    for unit in &state.units {
        let ours = sizes.get(&unit.lun).copied().unwrap_or(unit.blocks);
        if ours < unit.blocks {
            return Err(Mismatch::Unit {
                lun: unit.lun,
                what: "its size in blocks",
                theirs: unit.blocks.to_string(),
                ours: ours.to_string(),
            });
        }
    }
    Ok(())
}

fn live_unit(unit: &UnitV1) -> Result<UnitState, InvalidInitiator> {
    let UnitV1 {
        lun: _,
        serial: _,
        wwn: _,
        block_size: _,
        readonly: _,
        thin: _,
        blocks,
        blocks_reported,
        attentions,
        deferred,
        write_cache,
        descriptor_sense,
        write_protect,
        stopped,
        removal_prevented,
        shared: _,
        reservations,
    } = unit;
    Ok(UnitState {
        attentions: attentions
            .iter()
            .map(|(asc, ascq)| Attention::new(*asc, *ascq))
            .collect(),
        deferred: deferred.as_ref().map(sense),
        reservations: live_reservations(reservations)?,
        modes: ModeValues {
            write_cache: *write_cache,
            descriptor_sense: *descriptor_sense,
            write_protect: *write_protect,
        },
        stopped: *stopped,
        removal_prevented: *removal_prevented,
        blocks: *blocks,
        blocks_reported: *blocks_reported,
    })
}

fn sense(sense: &SenseV1) -> Sense {
    let &SenseV1 {
        key,
        asc,
        ascq,
        information,
    } = sense;
    Sense {
        information,
        deferred: true,
        ..Sense::new(Key::from_code(key), asc, ascq)
    }
}

fn live_reservations(reservations: &ReservationsV1) -> Result<Reservations, InvalidInitiator> {
    let ReservationsV1 {
        generation,
        registrations,
        holder,
        legacy,
    } = reservations;
    let initiator = |bytes: &Vec<u8>| Initiator::from_transport_id(bytes);
    let holder = holder.as_ref().map(
        |HolderV1 {
             kind,
             initiator: of,
         }| {
            Ok(Holder {
                // Validation has seen that there is such a type.
                kind: Kind::from_code(*kind).unwrap_or(Kind::ExclusiveAccess),
                initiator: initiator(of)?,
            })
        },
    );
    Ok(Reservations {
        generation: *generation,
        aptpl: false,
        registrations: registrations
            .iter()
            .map(|RegistrationV1 { initiator: of, key }| {
                Ok(Registration {
                    initiator: initiator(of)?,
                    key: *key,
                })
            })
            .collect::<Result<_, InvalidInitiator>>()?,
        holder: holder.transpose()?,
        legacy: legacy.as_ref().map(initiator).transpose()?,
        notices: Vec::new(),
    })
}

fn event(event: &EventV1) -> Event {
    let &EventV1 { kind, lun, reason } = event;
    Event {
        kind: match kind {
            1 => EventKind::Rescan,
            2 => EventKind::Removed,
            _ => EventKind::Changed(Attention::new(reason.0, reason.1)),
        },
        lun,
    }
}
