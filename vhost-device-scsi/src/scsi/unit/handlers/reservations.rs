//! RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT, as commands; the rules are in [`reservation`](crate::scsi::reservation).

use super::super::{Refusal, Unit};
use crate::scsi::command::Command;
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Reply};

fn done() -> Action {
    Action::Reply(Reply::good(Vec::new(), 0))
}

/// RESERVE (SPC-2, 7.21).
pub(crate) fn reserve(unit: &mut Unit, _command: Command<'_>) -> Result<Action, Refusal> {
    let Unit {
        identity, state, ..
    } = unit;
    state.reservations.reserve_legacy(&identity.initiator)?;
    Ok(done())
}

/// RELEASE (SPC-2, 7.16): of what one does not hold, it is no error.
pub(crate) fn release(unit: &mut Unit, _command: Command<'_>) -> Result<Action, Refusal> {
    let Unit {
        identity, state, ..
    } = unit;
    state.reservations.release_legacy(&identity.initiator);
    Ok(done())
}

/// PERSISTENT RESERVE IN (SPC-5, 6.15).
pub(crate) fn persistent_in(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let Unit {
        identity, state, ..
    } = unit;
    state.reservations.refuse_legacy(&identity.initiator)?;
    let action = command.byte(1) & 0x1f;
    let data = state
        .reservations
        .report(action, identity.persistence)
        .ok_or(Sense::INVALID_FIELD.at_command(1, Some(4)))?;
    Ok(Action::Reply(Reply::good(data, u32::from(command.u16(7)))))
}

/// PERSISTENT RESERVE OUT (SPC-5, 6.16).
pub(crate) fn persistent_out(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let Unit {
        identity, state, ..
    } = unit;
    state.reservations.refuse_legacy(&identity.initiator)?;
    let len = usize::try_from(command.u32(5)).unwrap_or(usize::MAX);
    // 24 bytes without SPEC_I_PT, which is not supported.
    if len == 24 {
        Ok(Action::Parameters { len })
    } else {
        Err(Sense::PARAMETER_LENGTH.into())
    }
}

/// Its parameter list.
pub(crate) fn persistent_parameters(
    unit: &mut Unit,
    command: Command<'_>,
    parameters: &[u8],
) -> Result<Action, Refusal> {
    let Unit {
        identity, state, ..
    } = unit;
    let heard = state.reservations.change(
        &identity.initiator,
        command,
        Command(parameters),
        identity.persistence,
    )?;
    for attention in heard {
        state.attentions.add(attention);
    }
    Ok(done())
}
