//! From the live target to its state. Consumes nothing: the guest may go on, and the next one is saved the same way.

use common::device::SaveError;

use crate::scsi::reservation::{Holder, Registration, Reservations};
use crate::scsi::sense::Sense;
use crate::scsi::unit::{ModeValues, Unit, UnitState};
use crate::state::{
    EventV1, HolderV1, RegistrationV1, ReservationsV1, ScsiState, SenseV1, TargetV1, UnitV1,
};
use crate::target::Target;
use crate::virtio::events::{Event, EventKind, Pending};

/// The state of a target that is suspended: what was written is durable, and its files are free for the next owner.
pub(crate) fn save(target: &Target) -> Result<ScsiState, SaveError> {
    let Pending { events, missed } = target.events.pending();
    let sizes = target.sizes();
    let size = |bytes: usize| u32::try_from(bytes).map_err(|error| SaveError::Host(error.into()));
    Ok(ScsiState {
        target: TargetV1 {
            target: target.config().target,
            initiator: target.initiator().transport_id().to_vec(),
            command_bytes: size(sizes.command)?,
            sense_bytes: size(sizes.sense)?,
            events_missed: missed,
        },
        units: target
            .table()
            .values()
            .map(|unit| unit.with(|core| save_unit(core, unit.store().is_some())))
            .collect(),
        events: events.into_iter().map(event).collect(),
    })
}

fn save_unit(unit: &Unit, shared: bool) -> UnitV1 {
    let identity = &unit.identity;
    let UnitState {
        attentions,
        deferred,
        reservations,
        modes,
        stopped,
        removal_prevented,
        blocks,
        blocks_reported,
    } = &unit.state;
    let ModeValues {
        write_cache,
        descriptor_sense,
        write_protect,
    } = *modes;
    UnitV1 {
        lun: identity.lun,
        serial: identity.serial.clone(),
        wwn: identity.wwn,
        block_size: identity.block_size,
        readonly: identity.readonly,
        thin: identity.thin,
        blocks: *blocks,
        blocks_reported: *blocks_reported,
        attentions: attentions
            .iter()
            .map(|attention| (attention.asc, attention.ascq))
            .collect(),
        deferred: deferred.as_ref().map(sense),
        write_cache,
        descriptor_sense,
        write_protect,
        stopped: *stopped,
        removal_prevented: *removal_prevented,
        shared,
        reservations: if shared {
            ReservationsV1::default()
        } else {
            save_reservations(reservations)
        },
    }
}

/// A deferred error has no field pointer: the command that it is about is long gone.
fn sense(sense: &Sense) -> SenseV1 {
    let &Sense {
        key,
        asc,
        ascq,
        information,
        field: _,
        deferred: _,
    } = sense;
    SenseV1 {
        key: key as u8,
        asc,
        ascq,
        information,
    }
}

/// Without a store there is nobody to leave notices for, and nothing outlives a power loss.
fn save_reservations(reservations: &Reservations) -> ReservationsV1 {
    let Reservations {
        generation,
        aptpl: _,
        registrations,
        holder,
        legacy,
        notices: _,
    } = reservations;
    ReservationsV1 {
        generation: *generation,
        registrations: registrations
            .iter()
            .map(|Registration { initiator, key }| RegistrationV1 {
                initiator: initiator.transport_id().to_vec(),
                key: *key,
            })
            .collect(),
        holder: holder.as_ref().map(|Holder { kind, initiator }| HolderV1 {
            kind: *kind as u8,
            initiator: initiator.transport_id().to_vec(),
        }),
        legacy: legacy
            .as_ref()
            .map(|initiator| initiator.transport_id().to_vec()),
    }
}

fn event(event: Event) -> EventV1 {
    let Event { kind, lun } = event;
    let (kind, reason) = match kind {
        EventKind::Rescan => (1, (0, 0)),
        EventKind::Removed => (2, (0, 0)),
        EventKind::Changed(attention) => (3, (attention.asc, attention.ascq)),
    };
    EventV1 { kind, lun, reason }
}
