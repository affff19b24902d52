//! Unit attentions: what an initiator has to hear before its next command (SAM-5, 5.14).
//!
//! Knows the order and that nothing is told twice; does not know which commands report them.

use std::collections::VecDeque;

use super::sense::{Key, Sense};

/// One condition, by its additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attention {
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
}

impl Attention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    pub const POWER_ON: Self = Self::new(0x29, 0x00);
    /// BUS DEVICE RESET FUNCTION OCCURRED: a logical unit reset.
    pub const UNIT_RESET: Self = Self::new(0x29, 0x03);
    /// `I_T` NEXUS LOSS OCCURRED.
    pub const NEXUS_LOSS: Self = Self::new(0x29, 0x07);
    /// MODE PARAMETERS CHANGED.
    pub const MODE_CHANGED: Self = Self::new(0x2a, 0x01);
    /// RESERVATIONS PREEMPTED.
    pub const RESERVATIONS_PREEMPTED: Self = Self::new(0x2a, 0x03);
    /// RESERVATIONS RELEASED.
    pub const RESERVATIONS_RELEASED: Self = Self::new(0x2a, 0x04);
    /// REGISTRATIONS PREEMPTED.
    pub const REGISTRATIONS_PREEMPTED: Self = Self::new(0x2a, 0x05);
    /// CAPACITY DATA HAS CHANGED.
    pub const CAPACITY_CHANGED: Self = Self::new(0x2a, 0x09);
    /// COMMANDS CLEARED BY ANOTHER INITIATOR.
    pub const COMMANDS_CLEARED: Self = Self::new(0x2f, 0x00);
    /// REPORTED LUNS DATA HAS CHANGED.
    pub const LUNS_CHANGED: Self = Self::new(0x3f, 0x0e);
    /// INQUIRY DATA HAS CHANGED.
    pub const INQUIRY_CHANGED: Self = Self::new(0x3f, 0x03);

    /// A condition.
    pub const fn new(asc: u8, ascq: u8) -> Self {
        Self { asc, ascq }
    }

    /// As sense data.
    pub fn sense(self) -> Sense {
        Sense::new(Key::UnitAttention, self.asc, self.ascq)
    }

    fn is_reset(self) -> bool {
        self.asc == 0x29
    }
}

/// Conditions that an initiator has not heard of yet, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attentions(VecDeque<Attention>);

impl Attentions {
    /// Greatest number; there are fewer different conditions than that.
    pub const MAX: usize = 64;

    /// Adds a condition, unless it is waiting already. A reset makes all before it pointless, and comes first (SAM-5, 5.14.2).
    pub fn add(&mut self, attention: Attention) {
        if attention.is_reset() {
            self.0.retain(|waiting| waiting.is_reset());
            // One reset tells of all: the one that says most.
            if self.0.contains(&Attention::POWER_ON) {
                return;
            }
            self.0.clear();
        }
        if !self.0.contains(&attention) && self.0.len() < Self::MAX {
            self.0.push_back(attention);
        }
    }

    /// The oldest condition, which is heard of by this.
    pub fn take(&mut self) -> Option<Attention> {
        self.0.pop_front()
    }

    /// Withdraws a condition: REPORT LUNS does that to [`Attention::LUNS_CHANGED`].
    pub fn withdraw(&mut self, attention: Attention) {
        self.0.retain(|waiting| *waiting != attention);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Attention> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Attention> for Attentions {
    /// In this order; for states, which were in order when they were saved.
    fn from_iter<I: IntoIterator<Item = Attention>>(attentions: I) -> Self {
        let mut list = Self::default();
        for attention in attentions {
            if !list.0.contains(&attention) && list.0.len() < Self::MAX {
                list.0.push_back(attention);
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_and_once() {
        let mut list = Attentions::default();
        for attention in [
            Attention::CAPACITY_CHANGED,
            Attention::MODE_CHANGED,
            Attention::CAPACITY_CHANGED,
        ] {
            list.add(attention);
        }
        assert_eq!(list.take(), Some(Attention::CAPACITY_CHANGED));
        assert_eq!(list.take(), Some(Attention::MODE_CHANGED));
        assert_eq!(list.take(), None);
    }

    #[test]
    fn a_reset_replaces_what_was_before_it() {
        let mut list = Attentions::default();
        list.add(Attention::CAPACITY_CHANGED);
        list.add(Attention::UNIT_RESET);
        list.add(Attention::MODE_CHANGED);
        list.add(Attention::POWER_ON);
        list.add(Attention::NEXUS_LOSS);
        assert_eq!(list.iter().collect::<Vec<_>>(), [Attention::POWER_ON]);
    }
}
