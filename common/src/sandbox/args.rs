//! The options of the sandbox that all daemons share, spelled as virtiofsd spells them.

use std::fmt;

use clap::{Args, ValueEnum};
use rustix::thread::CapabilitySet;

/// Options of the sandbox.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfinementArgs {
    /// What becomes of a daemon that makes a system call which it has no use for
    #[arg(long, value_name = "ACTION", value_enum, default_value_t)]
    pub seccomp: Action,

    /// Capabilities to keep beside those that are needed (+NAME), or to give up in spite of it (-NAME), separated by colons
    #[arg(
        long,
        value_name = "CHANGES",
        value_delimiter = ':',
        allow_hyphen_values = true,
        value_parser = CapabilityChange::parse
    )]
    pub modcaps: Vec<CapabilityChange>,
}

impl ConfinementArgs {
    /// `needed`, changed as the operator wishes.
    pub(super) fn capabilities(&self, needed: CapabilitySet) -> CapabilitySet {
        self.modcaps
            .iter()
            .fold(needed, |set, change| match change {
                CapabilityChange::Keep(one) => set | *one,
                CapabilityChange::GiveUp(one) => set - *one,
            })
    }
}

/// What becomes of a daemon that makes a system call which is not on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Nothing is filtered.
    None,
    /// It is killed.
    #[default]
    Kill,
    /// The kernel logs the call, and does it.
    Log,
    /// It gets SIGSYS, which kills it with a core dump that tells the call.
    Trap,
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Log => "log",
            Self::Trap => "trap",
        })
    }
}

/// One change of the capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapabilityChange {
    /// Kept although the device does not need it.
    Keep(CapabilitySet),
    /// Given up although the device has a use for it.
    GiveUp(CapabilitySet),
}

impl CapabilityChange {
    fn parse(text: &str) -> Result<Self, String> {
        let (change, name): (fn(CapabilitySet) -> Self, _) =
            match (text.strip_prefix('+'), text.strip_prefix('-')) {
                (Some(name), _) => (Self::Keep, name),
                (_, Some(name)) => (Self::GiveUp, name),
                (None, None) => return Err("must begin with + or -".to_owned()),
            };
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        let capability = CapabilitySet::from_name(name);
        capability
            .map(change)
            .ok_or_else(|| format!("{name} is no capability"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConfinementArgs,
    }

    fn parse(line: &[&str]) -> Result<ConfinementArgs, clap::Error> {
        let line = ["daemon"].iter().chain(line);
        Line::try_parse_from(line).map(|line| line.args)
    }

    #[test]
    fn calls_are_filtered_unless_the_operator_says_otherwise() {
        assert_eq!(parse(&[]).unwrap().seccomp, Action::Kill);
        assert_eq!(parse(&["--seccomp=none"]).unwrap().seccomp, Action::None);
        assert!(parse(&["--seccomp=none", "--seccomp=kill"]).is_err());
        assert!(parse(&["--seccomp=maybe"]).is_err());
    }

    #[test]
    fn capabilities_are_added_and_taken_away_in_order() {
        let args = parse(&["--modcaps", "+sys_admin:-CAP_CHOWN:-mknod:+MKNOD"]).unwrap();
        let needed = CapabilitySet::CHOWN | CapabilitySet::FOWNER;
        let expected = CapabilitySet::FOWNER | CapabilitySet::SYS_ADMIN | CapabilitySet::MKNOD;
        assert_eq!(args.capabilities(needed), expected);
        assert_eq!(parse(&[]).unwrap().capabilities(needed), needed);
        assert!(parse(&["--modcaps=-chown"]).is_ok());
        for wrong in ["chown", "+", "+everything", ""] {
            let result = parse(&["--modcaps", wrong]);
            assert!(result.is_err(), "{wrong:?} is accepted");
        }
    }
}
