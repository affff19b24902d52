//! `--xattrmap`: other names on the host for the extended attributes that the guest knows.
//!
//! A list of rules, of which the first that matches a name decides: names of the guest's (GETXATTR, SETXATTR,
//! REMOVEXATTR) are compared with `key`, names on the host (LISTXATTR) with `prepend`, both as prefixes. The syntax is
//! virtiofsd's. Unlike there, a list in which a name may match no rule is refused when it is parsed, so that there is
//! an answer for every name that a guest thinks of.
//!
//! Knows names only: no file, no errno, no limits of the host's.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Rules in one map, `map` counted as what it stands for: each name is compared with all of them.
pub const RULES_MAX: usize = 64;
/// Bytes of a `key` or `prepend`: no name on Linux is longer (`XATTR_NAME_MAX`).
pub const PREFIX_BYTES_MAX: usize = 255;

/// What becomes of a name that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest's name gets `prepend` in front of it, which is taken off of the host's.
    Prefix,
    /// The name is the same on both sides.
    Ok,
    /// The guest gets `EPERM`, and does not see the host's.
    Bad,
    /// The guest gets `ENOTSUP`, and does not see the host's.
    Unsupported,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// It is for names that come from the guest.
    pub client: bool,
    /// It is for names that come from the host.
    pub server: bool,
    /// What the guest's names begin with.
    pub key: Vec<u8>,
    /// What the host's names begin with.
    pub prepend: Vec<u8>,
}

/// What the host is asked for in place of a name of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName<'a> {
    /// This one.
    Named(Cow<'a, [u8]>),
    /// Nothing: the guest may not use the name.
    Denied,
    /// Nothing: there are no such attributes.
    Unsupported,
}

/// Rules of which one matches every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMap {
    rules: Vec<Rule>,
}

impl XattrMap {
    /// The rules, in their order, without shorthands.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the guest's `name` is on the host.
    pub fn to_host<'a>(&self, name: &'a [u8]) -> HostName<'a> {
        let matching = |rule: &&Rule| rule.client && name.starts_with(&rule.key);
        // There always is one: `from_str` sees to it.
        let Some(rule) = self.rules.iter().find(matching) else {
            return HostName::Unsupported;
        };
        match rule.action {
            Action::Prefix => HostName::Named([rule.prepend.as_slice(), name].concat().into()),
            Action::Ok => HostName::Named(name.into()),
            Action::Bad => HostName::Denied,
            Action::Unsupported => HostName::Unsupported,
        }
    }

    /// What the guest sees of the host's `name`; `None` if it does not see it.
    pub fn to_guest<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let matching = |rule: &&Rule| rule.server && name.starts_with(&rule.prepend);
        let rule = self.rules.iter().find(matching)?;
        match rule.action {
            // A name that is nothing but the prefix would be empty.
            Action::Prefix => name
                .strip_prefix(rule.prepend.as_slice())
                .filter(|rest| !rest.is_empty()),
            Action::Ok => Some(name),
            Action::Bad | Action::Unsupported => None,
        }
    }
}

/// A list of rules that makes no sense, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} (byte {offset}): {complaint}")]
pub struct XattrMapError {
    /// Number of the rule, from 1 on.
    pub rule: usize,
    /// Where it begins in the text, in bytes.
    pub offset: usize,
    /// What is wrong with it.
    pub complaint: Complaint,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// There is no rule at all.
    #[error("there is no rule")]
    NoRules,
    /// There are too many.
    #[error("there are more than {RULES_MAX} rules")]
    TooManyRules,
    /// It does not begin with a separator.
    #[error(
        "it begins with {0:?}; a rule begins with its separator, which is no letter and no digit"
    )]
    Separator(char),
    /// It ends too early.
    #[error("the field {0} does not end with the separator {1:?}")]
    Unfinished(&'static str, char),
    /// Its type is not one of those that there are.
    #[error("the type is {0:?}, and must be prefix, ok, bad, unsupported or map")]
    Type(String),
    /// Its scope is not one of those that there are.
    #[error("the scope is {0:?}, and must be client, server or all")]
    Scope(String),
    /// A prefix that no name has.
    #[error("the field {field} has {bytes} bytes, and names have {PREFIX_BYTES_MAX} at most")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A character that is in no name.
    #[error("the field {0} has a NUL in it")]
    Nul(&'static str),
    /// `map` ends the list.
    #[error("a map rule must be the last one")]
    MapNotLast,
    /// Some names match no rule.
    #[error(
        "it is the last one, and some names of the {from} match no rule; end with one for all, such as :bad:all:::"
    )]
    Unterminated {
        /// Whose names.
        from: Side,
    },
}

/// Where names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest.
    Guest,
    /// The host.
    Host,
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Guest => "guest",
            Self::Host => "host",
        })
    }
}

impl FromStr for XattrMap {
    type Err = XattrMapError;

    fn from_str(text: &str) -> Result<Self, XattrMapError> {
        let mut rules = Vec::new();
        let mut number = 0;
        let mut offset = 0;
        let mut start = 0;
        let failed = |rule, offset, complaint| XattrMapError {
            rule,
            offset,
            complaint,
        };
        loop {
            let rest = text.get(offset..).unwrap_or_default();
            let trimmed = rest.trim_start();
            if trimmed.is_empty() {
                break;
            }
            number += 1;
            start = offset + rest.len() - trimmed.len();
            let failed = |complaint| failed(number, start, complaint);
            let mut fields = Fields::new(trimmed).map_err(failed)?;
            fields.rule(&mut rules).map_err(failed)?;
            if rules.len() > RULES_MAX {
                return Err(failed(Complaint::TooManyRules));
            }
            offset = text.len() - fields.rest.len();
        }
        if rules.is_empty() {
            return Err(failed(1, 0, Complaint::NoRules));
        }
        let any_name = |rule: &Rule| {
            (
                rule.client && rule.key.is_empty(),
                rule.server && rule.prepend.is_empty(),
            )
        };
        let from = if !rules.iter().any(|rule| any_name(rule).0) {
            Side::Guest
        } else if !rules.iter().any(|rule| any_name(rule).1) {
            Side::Host
        } else {
            return Ok(Self { rules });
        };
        Err(failed(number, start, Complaint::Unterminated { from }))
    }
}

/// The fields of one rule, and what comes behind it.
struct Fields<'a> {
    separator: char,
    rest: &'a str,
}

impl<'a> Fields<'a> {
    fn new(text: &'a str) -> Result<Self, Complaint> {
        let mut characters = text.chars();
        match characters.next() {
            Some(separator) if !separator.is_alphanumeric() => Ok(Self {
                separator,
                rest: characters.as_str(),
            }),
            other => Err(Complaint::Separator(other.unwrap_or_default())),
        }
    }

    fn next(&mut self, name: &'static str) -> Result<&'a str, Complaint> {
        let (field, rest) = self
            .rest
            .split_once(self.separator)
            .ok_or(Complaint::Unfinished(name, self.separator))?;
        self.rest = rest;
        Ok(field)
    }

    fn prefix(&mut self, name: &'static str) -> Result<Vec<u8>, Complaint> {
        let field = self.next(name)?;
        if field.len() > PREFIX_BYTES_MAX {
            let bytes = field.len();
            return Err(Complaint::TooLong { field: name, bytes });
        }
        if field.contains('\0') {
            return Err(Complaint::Nul(name));
        }
        Ok(field.as_bytes().to_vec())
    }

    /// Appends the rule, or those that it stands for.
    fn rule(&mut self, rules: &mut Vec<Rule>) -> Result<(), Complaint> {
        let action = match self.next("type")? {
            "prefix" => Action::Prefix,
            "ok" => Action::Ok,
            "bad" => Action::Bad,
            "unsupported" => Action::Unsupported,
            "map" => {
                let (key, prepend) = (self.prefix("key")?, self.prefix("prepend")?);
                rules.extend(shorthand(key, prepend));
                return if self.rest.trim_start().is_empty() {
                    Ok(())
                } else {
                    Err(Complaint::MapNotLast)
                };
            }
            other => return Err(Complaint::Type(other.to_owned())),
        };
        let (client, server) = match self.next("scope")? {
            "client" => (true, false),
            "server" => (false, true),
            "all" => (true, true),
            other => return Err(Complaint::Scope(other.to_owned())),
        };
        rules.push(Rule {
            action,
            client,
            server,
            key: self.prefix("key")?,
            prepend: self.prefix("prepend")?,
        });
        Ok(())
    }
}

/// What `:map:key:prepend:` stands for: names that begin with `key` get `prepend`; neither side comes near the other's;
/// of the rest all is passed through, or nothing if there is no `key`.
fn shorthand(key: Vec<u8>, prepend: Vec<u8>) -> impl Iterator<Item = Rule> {
    let rule = |action, key, prepend| Rule {
        action,
        client: true,
        server: true,
        key,
        prepend,
    };
    let (apart, rest) = if key.is_empty() {
        (None, Action::Bad)
    } else {
        let apart = rule(Action::Bad, prepend.clone(), key.clone());
        (Some(apart), Action::Ok)
    };
    [Some(rule(Action::Prefix, key, prepend)), apart]
        .into_iter()
        .flatten()
        .chain([rule(rest, Vec::new(), Vec::new())])
}

#[cfg(test)]
mod tests;
