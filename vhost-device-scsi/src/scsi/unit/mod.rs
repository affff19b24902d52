//! A logical unit: what it remembers, and how a command goes through it.
//!
//! Knows the order of checks (SAM-5, 5.1: the command is known, the initiator has heard what it must, no reservation is in the way,
//! the unit is ready); what a command means is in `handlers`.

pub(crate) mod handlers;
mod modes;
mod results;

use super::attention::{Attention, Attentions};
use super::command::Command;
use super::fast::Geometry;
use super::identity::Identity;
use super::opcode::{self, Entry, Found};
use super::reservation::{Class, Reservations};
use super::sense::{Key, Sense};
use super::{Action, Reply, Status};
pub use modes::ModeValues;

/// Everything that a unit remembers. Plain; a new field breaks saving and loading on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// What the initiator has to hear.
    pub attentions: Attentions,
    /// A failure of a command that was answered with GOOD.
    pub deferred: Option<Sense>,
    /// Reservations and registrations; those of all initiators.
    pub reservations: Reservations,
    /// What MODE SELECT can change.
    pub modes: ModeValues,
    /// Stopped by START STOP UNIT.
    pub stopped: bool,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub removal_prevented: bool,
    /// Logical blocks.
    pub blocks: u64,
    /// Logical blocks that the initiator was told last.
    pub blocks_reported: u64,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Unit {
    /// What it is.
    pub identity: Identity,
    /// What it remembers.
    pub state: UnitState,
    /// The modes that a reset restores.
    modes_default: ModeValues,
}

/// A command is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// With sense data.
    Sense(Sense),
    /// Another initiator holds a reservation.
    Conflict,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl Unit {
    /// A unit that was just switched on.
    pub fn new(identity: Identity, blocks: u64, write_cache: bool) -> Self {
        let modes = ModeValues {
            write_cache,
            ..ModeValues::default()
        };
        Self {
            identity,
            state: UnitState {
                attentions: [Attention::POWER_ON].into_iter().collect(),
                deferred: None,
                reservations: Reservations::default(),
                modes,
                stopped: false,
                removal_prevented: false,
                blocks,
                blocks_reported: blocks,
            },
            modes_default: modes,
        }
    }

    /// Begins a command of 1 to 32 bytes; what is behind the command is ignored.
    pub fn begin(&mut self, cdb: &[u8]) -> Action {
        let command = Command(cdb);
        let entry = match opcode::find(command) {
            Found::Entry(entry) => entry,
            Found::NoCode => return self.refuse(Sense::INVALID_COMMAND.into()),
            Found::NoAction => {
                return self.refuse(Sense::INVALID_FIELD.at_command(1, Some(4)).into());
            }
        };
        let result = self
            .admit(entry, command)
            .and_then(|()| (entry.handler)(self, command));
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// Goes on with a command that asked for a parameter list.
    pub fn begin_with(&mut self, cdb: &[u8], parameters: &[u8]) -> Action {
        let command = Command(cdb);
        let result = match command.byte(0) {
            0x15 => handlers::mode_parameters(self, parameters, false),
            0x55 => handlers::mode_parameters(self, parameters, true),
            0x41 | 0x93 => handlers::write_same_block(self, command, parameters),
            0x42 => handlers::unmap_list(self, parameters),
            0x5f => handlers::persistent_parameters(self, command, parameters),
            _ => Err(Sense::INVALID_COMMAND.into()),
        };
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// What stands between an initiator and any command.
    fn admit(&mut self, entry: &Entry, command: Command<'_>) -> Result<(), Refusal> {
        let has = |wanted: u8| entry.traits & wanted == wanted;
        if !has(opcode::IGNORES_ATTENTIONS) {
            if let Some(sense) = self.state.deferred.take() {
                return Err(sense.into());
            }
            if let Some(attention) = self.state.attentions.take() {
                return Err(attention.sense().into());
            }
        }
        let control = entry.usage.len().saturating_sub(1);
        if command.bit(control, 2) {
            // NACA, and NormACA is 0 (SAM-5, 5.2).
            let at = u16::try_from(control).unwrap_or(0);
            return Err(Sense::INVALID_FIELD.at_command(at, Some(2)).into());
        }
        self.require(entry.class)?;
        if has(opcode::NEEDS_MEDIUM) && self.state.stopped {
            return Err(Sense::NOT_READY.into());
        }
        if has(opcode::WRITES) && self.is_protected() {
            return Err(Sense::WRITE_PROTECTED.into());
        }
        Ok(())
    }

    /// A command of this class is in nobody's way.
    fn require(&self, class: Class) -> Result<(), Refusal> {
        let conflicts = self
            .state
            .reservations
            .conflicts(&self.identity.initiator, class);
        if conflicts {
            Err(Refusal::Conflict)
        } else {
            Ok(())
        }
    }

    fn is_protected(&self) -> bool {
        self.identity.readonly || self.state.modes.write_protect
    }

    fn refuse(&self, refusal: Refusal) -> Action {
        Action::Reply(match refusal {
            Refusal::Sense(sense) => self.failed(sense),
            Refusal::Conflict => Reply::status(Status::ReservationConflict),
        })
    }

    fn failed(&self, sense: Sense) -> Reply {
        Reply::failed(sense, self.state.modes.descriptor_sense)
    }

    /// A reset, or the loss of the nexus, which the initiator hears of. Persistent reservations outlive both.
    pub fn reset(&mut self, cause: Attention) {
        let state = &mut self.state;
        state.attentions.add(cause);
        state.deferred = None;
        state.removal_prevented = false;
        state.reservations.release_legacy(&self.identity.initiator);
        if cause != Attention::NEXUS_LOSS {
            state.modes = self.modes_default;
            state.stopped = false;
            state.reservations.forget_legacy();
        }
    }

    /// The medium has another size.
    pub fn resized(&mut self, blocks: u64) {
        self.state.blocks = blocks;
        if blocks == self.state.blocks_reported {
            self.state.attentions.withdraw(Attention::CAPACITY_CHANGED);
        } else {
            self.state.attentions.add(Attention::CAPACITY_CHANGED);
        }
    }

    /// The initiator has to hear something.
    pub fn attend(&mut self, attention: Attention) {
        self.state.attentions.add(attention);
    }

    /// A command that was answered with GOOD has failed after all.
    pub fn defer(&mut self, sense: Sense) {
        if self.state.deferred.is_none() {
            self.state.deferred = Some(Sense {
                deferred: true,
                ..sense
            });
        }
    }

    /// Takes over what other initiators have left for this one in a shared table.
    pub fn hear(&mut self) {
        let heard = self.state.reservations.heard_by(&self.identity.initiator);
        for attention in heard {
            self.state.attentions.add(attention);
        }
    }

    /// The reply when the unit's own means fail (INTERNAL TARGET FAILURE).
    pub fn broken(&self) -> Reply {
        self.failed(Sense::new(Key::HardwareError, 0x44, 0x00))
    }

    /// The reply to a command that a crash has interrupted and that cannot be done again, though it may be done already. Nothing
    /// that waits to be told is told by it.
    pub fn interrupted(&self) -> Reply {
        self.failed(Sense::new(Key::AbortedCommand, 0x44, 0x00))
    }

    /// The reply to a data-out buffer that is not as long as the command says.
    pub fn wrong_length(&self) -> Reply {
        self.failed(Sense::INVALID_FIELD)
    }

    /// What a plain read or write needs to know, if nothing of what the unit remembers is in its way.
    pub fn fast(&self) -> Option<Geometry> {
        let state = &self.state;
        let plain = state.attentions.is_empty()
            && state.deferred.is_none()
            && !state.stopped
            && !state.modes.write_protect
            && state.reservations.is_free();
        plain.then(|| self.geometry())
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_shift: self.identity.block_shift(),
            blocks: self.state.blocks,
            readonly: self.identity.readonly,
            write_through: !self.state.modes.write_cache,
        }
    }
}

/// A unit whose file is another's.
pub(crate) const NOT_OURS: Sense = Sense::new(Key::NotReady, 0x04, 0x03);

#[cfg(test)]
mod tests;
