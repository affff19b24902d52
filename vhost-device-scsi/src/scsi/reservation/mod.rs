//! Reservations of a logical unit: who may do what while somebody holds it (SPC-5, 5.14; SPC-2, 5.5).
//!
//! Knows initiators by name, and the rules; knows neither commands' other parts nor where a table is kept. A table holds the
//! registrations of all initiators, of this daemon or another.

mod change;
mod initiator;
mod report;

pub use initiator::{Initiator, InvalidInitiator, TRANSPORT_ID_MAX};

use super::attention::Attention;
use super::unit::Refusal;

/// Greatest number of registrations.
pub const REGISTRATIONS_MAX: usize = 256;

/// How a command stands to reservations (SPC-5, tables 66 and 67; SBC-4, table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// In nobody's way.
    Always,
    /// Conflicts with exclusive access.
    Read,
    /// Conflicts with everything.
    Write,
    /// RESERVE: a reservation of its own kind.
    Reserve,
}

/// Types of persistent reservations (SPC-5, table 194).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The holder writes, all read.
    WriteExclusive = 1,
    /// The holder reads and writes.
    ExclusiveAccess = 3,
    /// Registrants write, all read.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registrants read and write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Registrants write, all read, and all registrants hold it.
    WriteExclusiveAllRegistrants = 7,
    /// Registrants read and write, and all of them hold it.
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    /// All types.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// From the TYPE field.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    fn is_for_reads(self) -> bool {
        match self {
            Self::ExclusiveAccess
            | Self::ExclusiveAccessRegistrantsOnly
            | Self::ExclusiveAccessAllRegistrants => true,
            Self::WriteExclusive
            | Self::WriteExclusiveRegistrantsOnly
            | Self::WriteExclusiveAllRegistrants => false,
        }
    }

    fn is_of_all(self) -> bool {
        match self {
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants => true,
            Self::WriteExclusive
            | Self::ExclusiveAccess
            | Self::WriteExclusiveRegistrantsOnly
            | Self::ExclusiveAccessRegistrantsOnly => false,
        }
    }

    fn is_for_registrants(self) -> bool {
        match self {
            Self::WriteExclusive | Self::ExclusiveAccess => false,
            Self::WriteExclusiveRegistrantsOnly
            | Self::ExclusiveAccessRegistrantsOnly
            | Self::WriteExclusiveAllRegistrants
            | Self::ExclusiveAccessAllRegistrants => true,
        }
    }
}

/// A registered initiator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub initiator: Initiator,
    /// Under which key; not 0.
    pub key: u64,
}

/// A persistent reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which type.
    pub kind: Kind,
    /// Who made it; of the types for all registrants, each of them holds it.
    pub initiator: Initiator,
}

/// The reservations of a unit. Plain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// `PRGENERATION`.
    pub generation: u32,
    /// They outlive a power loss (APTPL).
    pub aptpl: bool,
    /// Registered initiators, in the order in which they came.
    pub registrations: Vec<Registration>,
    /// The persistent reservation.
    pub holder: Option<Holder>,
    /// The reservation of SPC-2.
    pub legacy: Option<Initiator>,
    /// What other initiators have to hear, for whoever shares the table with them.
    pub notices: Vec<(Initiator, Attention)>,
}

/// A table that makes no sense, in a state or a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgedReservations {
    /// Too many registrations.
    #[error("{0} registrations, and {REGISTRATIONS_MAX} are the most")]
    Registrations(usize),
    /// A key of 0 is no registration.
    #[error("{0} is registered with the key 0")]
    Key(Initiator),
    /// One initiator twice.
    #[error("{0} is registered twice")]
    Twice(Initiator),
    /// A reservation of an initiator that is not registered.
    #[error("{0} holds a reservation and is not registered")]
    Holder(Initiator),
    /// Both kinds of reservations at once.
    #[error("a persistent reservation or registration, and one of SPC-2")]
    Both,
}

impl Reservations {
    /// Whether nobody is in anybody's way.
    pub fn is_free(&self) -> bool {
        self.holder.is_none() && self.legacy.is_none()
    }

    /// Whether a command of `who` is in the way of a reservation.
    pub fn conflicts(&self, who: &Initiator, class: Class) -> bool {
        match class {
            Class::Always | Class::Reserve => false,
            Class::Read | Class::Write => {
                self.legacy.as_ref().is_some_and(|holder| holder != who)
                    || self.holder.as_ref().is_some_and(|holder| {
                        let concerned = class == Class::Write || holder.kind.is_for_reads();
                        let allowed = if holder.kind.is_for_registrants() {
                            self.key_of(who).is_some()
                        } else {
                            holder.initiator == *who
                        };
                        concerned && !allowed
                    })
            }
        }
    }

    /// The key under which an initiator is registered.
    pub fn key_of(&self, who: &Initiator) -> Option<u64> {
        let registration = self
            .registrations
            .iter()
            .find(|registration| registration.initiator == *who)?;
        Some(registration.key)
    }

    /// Initiators that have been preempted and do not know it yet.
    pub fn preempted(&self) -> Vec<Initiator> {
        self.notices
            .iter()
            .filter(|(_, attention)| *attention == Attention::REGISTRATIONS_PREEMPTED)
            .map(|(initiator, _)| initiator.clone())
            .collect()
    }

    fn holds(&self, who: &Initiator) -> bool {
        self.holder.as_ref().is_some_and(|holder| {
            holder.initiator == *who || holder.kind.is_of_all() && self.key_of(who).is_some()
        })
    }

    /// RESERVE of SPC-2. There are no persistent reservations then (CRH is 0).
    pub(super) fn reserve_legacy(&mut self, who: &Initiator) -> Result<(), Refusal> {
        let others = self.legacy.as_ref().is_some_and(|holder| holder != who);
        if others || !self.registrations.is_empty() {
            return Err(Refusal::Conflict);
        }
        self.legacy = Some(who.clone());
        Ok(())
    }

    /// RELEASE of SPC-2, and what ends one's reservation.
    pub fn release_legacy(&mut self, who: &Initiator) {
        self.legacy.take_if(|holder| holder == who);
    }

    /// A reset ends the reservation of SPC-2, whoever has it.
    pub fn forget_legacy(&mut self) {
        self.legacy = None;
    }

    /// Persistent reservations are not there while another has reserved the unit by RESERVE.
    pub(super) fn refuse_legacy(&self, who: &Initiator) -> Result<(), Refusal> {
        match &self.legacy {
            Some(holder) if holder != who => Err(Refusal::Conflict),
            _ => Ok(()),
        }
    }

    /// Whether a table of a state or of a store makes sense.
    pub fn validate(&self) -> Result<(), ForgedReservations> {
        let registrations = &self.registrations;
        if registrations.len() > REGISTRATIONS_MAX {
            return Err(ForgedReservations::Registrations(registrations.len()));
        }
        let mut known = std::collections::HashSet::new();
        for Registration { initiator, key } in registrations {
            if *key == 0 {
                return Err(ForgedReservations::Key(initiator.clone()));
            }
            if !known.insert(initiator) {
                return Err(ForgedReservations::Twice(initiator.clone()));
            }
        }
        if let Some(holder) = &self.holder
            && !known.contains(&holder.initiator)
        {
            return Err(ForgedReservations::Holder(holder.initiator.clone()));
        }
        if self.legacy.is_some() && !registrations.is_empty() {
            return Err(ForgedReservations::Both);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
