//! The lifecycle of a device, as one table without side effects.
//!
//! ```text
//!         ,---------.            start:   rings run
//!         v         |            suspend: drained and silent, state kept, may be resumed
//!      started --> stopped       stop:    no ring is started; a stateful device keeps its state
//!         ^  \       ^ |
//!         |   v      | v
//!         suspended -'-'
//! ```
//!
//! *Suspended* is the explicit state, entered by SUSPEND and left by RESUME; *stopped* is the implicit one of
//! vhost-user.rst, "Suspended device state". In both the device is silent and its state may be saved or loaded.
//! Knows no ring, no gate and no message; `protocol/control.rs` carries out what the table says.

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// At least one ring is started, and the device works.
    Started,
    /// SUSPEND was acknowledged. Rings may be stopped, set up and started meanwhile; nothing is served.
    Suspended,
    /// No ring is started. Devices are born here.
    Stopped,
}

/// What happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SUSPEND, after the drain succeeded.
    Suspend,
    /// RESUME; `rings` is whether any ring is started by now.
    Resume {
        /// Whether any ring is started.
        rings: bool,
    },
    /// A ring was started.
    RingStarted,
    /// The last started ring was stopped.
    LastRingStopped,
    /// `RESET_DEVICE`: leaves the suspended state; rings stay started as the stock handler has them.
    Reset {
        /// Whether any ring is started.
        rings: bool,
    },
    /// The front-end went away, and its rings with it.
    Disconnect,
}

impl Lifecycle {
    /// The state after `event`. Total: no order of messages is an error, let alone a panic.
    #[must_use]
    pub fn next(self, event: Event) -> Self {
        match event {
            Event::Suspend => Self::Suspended,
            Event::Resume { rings: true } | Event::Reset { rings: true } => Self::Started,
            Event::Resume { rings: false } | Event::Reset { rings: false } | Event::Disconnect => {
                Self::Stopped
            }
            Event::RingStarted => match self {
                Self::Suspended => Self::Suspended,
                Self::Started | Self::Stopped => Self::Started,
            },
            Event::LastRingStopped => match self {
                Self::Suspended => Self::Suspended,
                Self::Started | Self::Stopped => Self::Stopped,
            },
        }
    }

    /// Whether the device may work, and must not be saved or loaded.
    pub fn is_started(self) -> bool {
        match self {
            Self::Started => true,
            Self::Suspended | Self::Stopped => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The table as a table: a change of behaviour is a change of this text.
    #[test]
    fn the_whole_table() {
        let events = [
            Event::Suspend,
            Event::Resume { rings: true },
            Event::Resume { rings: false },
            Event::RingStarted,
            Event::LastRingStopped,
            Event::Reset { rings: true },
            Event::Reset { rings: false },
            Event::Disconnect,
        ];
        let mut printed = String::new();
        for event in events {
            let after = [Lifecycle::Started, Lifecycle::Suspended, Lifecycle::Stopped]
                .map(|state| state.next(event));
            writeln!(printed, "{event:?}: {after:?}").unwrap();
        }
        println!("{printed}");
        assert_eq!(
            printed,
            "\
Suspend: [Suspended, Suspended, Suspended]
Resume { rings: true }: [Started, Started, Started]
Resume { rings: false }: [Stopped, Stopped, Stopped]
RingStarted: [Started, Suspended, Started]
LastRingStopped: [Stopped, Suspended, Stopped]
Reset { rings: true }: [Started, Started, Started]
Reset { rings: false }: [Stopped, Stopped, Stopped]
Disconnect: [Stopped, Stopped, Stopped]
"
        );
    }
}
