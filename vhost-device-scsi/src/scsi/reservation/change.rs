//! PERSISTENT RESERVE OUT: what the service actions do to the table (SPC-5, 5.14.10 and 5.14.11, 6.16).
//!
//! All of an action is done, or nothing. What others have to hear goes to the table's notices.

use super::super::attention::Attention;
use super::super::command::Command;
use super::super::sense::{Key, Sense};
use super::super::unit::Refusal;
use super::{Holder, Initiator, Kind, REGISTRATIONS_MAX, Registration, Reservations};

/// INVALID RELEASE OF PERSISTENT RESERVATION.
const INVALID_RELEASE: Sense = Sense::new(Key::IllegalRequest, 0x26, 0x04);
/// INSUFFICIENT REGISTRATION RESOURCES.
const NO_ROOM: Sense = Sense::new(Key::IllegalRequest, 0x55, 0x04);

const INVALID_TYPE: Sense = Sense::INVALID_FIELD.at_command(2, Some(3));

/// A request, taken apart.
struct Change<'a> {
    who: &'a Initiator,
    key: u64,
    service_key: u64,
    /// SCOPE and TYPE as they came.
    scope_and_type: u8,
    aptpl: bool,
}

impl Change<'_> {
    /// The scope is the logical unit, and the type one that there is.
    fn kind(&self) -> Result<Kind, Refusal> {
        let kind = Kind::from_code(self.scope_and_type); // scope 0 is all zeros
        kind.ok_or(Refusal::Sense(INVALID_TYPE))
    }
}

impl Reservations {
    /// Does a service action of `who`; returns what `who` itself has to hear.
    pub(in crate::scsi) fn change(
        &mut self,
        who: &Initiator,
        command: Command<'_>,
        parameters: Command<'_>,
        persistence: bool,
    ) -> Result<Vec<Attention>, Refusal> {
        let action = command.byte(1) & 0x1f;
        let flags = parameters.byte(20);
        let change = Change {
            who,
            key: parameters.u64(0),
            service_key: parameters.u64(8),
            scope_and_type: command.byte(2),
            aptpl: flags & 1 != 0,
        };
        let registers = matches!(action, 0 | 6);
        // SPEC_I_PT, ALL_TG_PT, and APTPL without a place for it.
        if registers && (flags & 0x0c != 0 || change.aptpl && !persistence) {
            return Err(Sense::INVALID_PARAMETER.at_parameter(20, None).into());
        }
        if action != 6 && !(action == 0 && self.key_of(who).is_none()) {
            self.require_key(&change)?;
        }
        match action {
            0 if self.key_of(who).is_none() && change.key != 0 => Err(Refusal::Conflict),
            0 | 6 => self.register(&change),
            1 => self.reserve(&change),
            2 => self.release(&change),
            3 => {
                self.clear(&change);
                Ok(())
            }
            4 | 5 => self.preempt(&change),
            _ => Err(Sense::INVALID_FIELD.at_command(1, Some(4)).into()),
        }?;
        Ok(self.heard_by(who))
    }

    fn require_key(&self, change: &Change<'_>) -> Result<(), Refusal> {
        if self.key_of(change.who) == Some(change.key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    fn register(&mut self, change: &Change<'_>) -> Result<(), Refusal> {
        let place = self
            .registrations
            .iter()
            .position(|registration| registration.initiator == *change.who);
        match (place, change.service_key) {
            (None, 0) => {}
            (Some(_), 0) => self.unregister(change.who),
            (Some(place), key) => {
                if let Some(registration) = self.registrations.get_mut(place) {
                    registration.key = key;
                }
            }
            (None, _) if self.registrations.len() >= REGISTRATIONS_MAX => {
                return Err(NO_ROOM.into());
            }
            (None, key) => self.registrations.push(Registration {
                initiator: change.who.clone(),
                key,
            }),
        }
        self.aptpl = change.aptpl && !self.registrations.is_empty();
        self.count();
        Ok(())
    }

    /// A registrant leaves, and what it held with it.
    fn unregister(&mut self, who: &Initiator) {
        self.registrations
            .retain(|registration| registration.initiator != *who);
        let Some(holder) = &mut self.holder else {
            return;
        };
        if holder.kind.is_of_all() {
            // The others hold it still, if there are any.
            match self.registrations.first() {
                Some(first) if holder.initiator == *who => {
                    holder.initiator = first.initiator.clone();
                }
                Some(_) => {}
                None => self.holder = None,
            }
        } else if holder.initiator == *who {
            let kind = holder.kind;
            self.holder = None;
            if kind.is_for_registrants() {
                self.tell_others(who, Attention::RESERVATIONS_RELEASED);
            }
        }
    }

    fn reserve(&mut self, change: &Change<'_>) -> Result<(), Refusal> {
        let kind = change.kind()?;
        match &self.holder {
            Some(holder) if holder.kind != kind || !self.holds(change.who) => {
                Err(Refusal::Conflict)
            }
            Some(_) => Ok(()),
            None => {
                self.hold(change.who, kind);
                Ok(())
            }
        }
    }

    fn hold(&mut self, who: &Initiator, kind: Kind) {
        self.holder = Some(Holder {
            kind,
            initiator: who.clone(),
        });
    }

    fn release(&mut self, change: &Change<'_>) -> Result<(), Refusal> {
        if !self.holds(change.who) {
            return Ok(()); // nothing of one's own to release
        }
        let kind = self.holder.as_ref().map(|holder| holder.kind);
        if kind.is_none() || kind != Kind::from_code(change.scope_and_type) {
            return Err(INVALID_RELEASE.into());
        }
        self.holder = None;
        if kind.is_some_and(Kind::is_for_registrants) {
            self.tell_others(change.who, Attention::RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    fn clear(&mut self, change: &Change<'_>) {
        self.tell_others(change.who, Attention::RESERVATIONS_PREEMPTED);
        self.registrations.clear();
        self.holder = None;
        self.aptpl = false;
        self.count();
    }

    /// PREEMPT, and PREEMPT AND ABORT: commands of the preempted that are in flight elsewhere are their daemon's business.
    fn preempt(&mut self, change: &Change<'_>) -> Result<(), Refusal> {
        let holder = self.holder.clone();
        let of_all = holder
            .as_ref()
            .is_some_and(|holder| holder.kind.is_of_all());
        let of_holder = holder.as_ref().is_some_and(|holder| {
            !of_all && self.key_of(&holder.initiator) == Some(change.service_key)
        });
        let takes_over = of_holder || of_all && change.service_key == 0;
        if !takes_over && change.service_key == 0 {
            return Err(Sense::INVALID_PARAMETER.at_parameter(8, Some(7)).into());
        }
        let kind = change.kind();
        let is_victim = |registration: &Registration| {
            registration.initiator != *change.who
                && (takes_over && of_all || registration.key == change.service_key)
        };
        let known = self
            .registrations
            .iter()
            .any(|registration| registration.key == change.service_key);
        if !takes_over && !known {
            return Err(Refusal::Conflict);
        }
        let new_kind = if takes_over { Some(kind?) } else { None };
        let (victims, rest): (Vec<_>, Vec<_>) = self.registrations.drain(..).partition(is_victim);
        self.registrations = rest;
        let gone = victims.into_iter().map(|victim| victim.initiator);
        self.notices
            .extend(gone.map(|victim| (victim, Attention::REGISTRATIONS_PREEMPTED)));
        if let Some(kind) = new_kind {
            if holder.is_some_and(|holder| holder.kind != kind) {
                self.tell_others(change.who, Attention::RESERVATIONS_RELEASED);
            }
            self.hold(change.who, kind);
        } else if let Some(holder) = &mut self.holder
            && of_all
            && !self
                .registrations
                .iter()
                .any(|registration| registration.initiator == holder.initiator)
        {
            // It made the reservation, and the others hold it still: who preempts is one of them.
            holder.initiator = change.who.clone();
        }
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// All registrants but `who` have to hear something.
    fn tell_others(&mut self, who: &Initiator, attention: Attention) {
        let others = self
            .registrations
            .iter()
            .filter(|registration| registration.initiator != *who);
        self.notices
            .extend(others.map(|registration| (registration.initiator.clone(), attention)));
    }

    /// Takes out what `who` has to hear.
    pub(in crate::scsi) fn heard_by(&mut self, who: &Initiator) -> Vec<Attention> {
        self.notices
            .extract_if(.., |(initiator, _)| initiator == who)
            .map(|(_, attention)| attention)
            .collect()
    }
}
