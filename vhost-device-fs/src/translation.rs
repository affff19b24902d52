//! `--translate-uid` and `--translate-gid`: other numbers on the host for users and groups of the guest.
//!
//! Two tables, one for each direction, neither of which follows from the other. What is in no range is the same on both
//! sides. The syntax is virtiofsd's.
//!
//! Knows numbers only: not whether they are of users or of groups, and no file.

use std::fmt;
use std::str::FromStr;

/// Ranges in each direction, more than anybody needs who can still read the command line.
pub const RANGES_MAX: usize = 1024;

/// What becomes of the ids in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same distance from this one.
    From(u32),
    /// All become this one.
    Squash(u32),
    /// None may be used.
    Forbidden,
}

/// A range of ids, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many, at least one. The last one is not `u32::MAX`, which is no id.
    pub count: u32,
    /// What they become.
    pub target: Target,
}

/// An id that the operator does not let the guest use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden;

/// One direction: ranges that do not overlap, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Direction(Vec<Range>);

impl Direction {
    fn translate(&self, id: u32) -> Result<u32, Forbidden> {
        // `u32::MAX` is in no range: it stays what it is, and is refused where it matters.
        let before = self.0.partition_point(|range| range.first <= id);
        let range = before.checked_sub(1).and_then(|index| self.0.get(index));
        match range {
            Some(range) if id - range.first < range.count => match range.target {
                Target::From(first) => Ok(first + (id - range.first)),
                Target::Squash(to) => Ok(to),
                Target::Forbidden => Err(Forbidden),
            },
            _ => Ok(id),
        }
    }

    fn add(&mut self, range: Range) -> Result<(), Complaint> {
        if self.0.len() >= RANGES_MAX {
            return Err(Complaint::TooMany);
        }
        let at = self.0.partition_point(|other| other.first < range.first);
        let before = at.checked_sub(1).and_then(|index| self.0.get(index));
        let overlaps = before.is_some_and(|before| range.first - before.first < before.count)
            || self
                .0
                .get(at)
                .is_some_and(|after| after.first - range.first < range.count);
        if overlaps {
            return Err(Complaint::Overlap);
        }
        self.0.insert(at, range);
        Ok(())
    }
}

/// The translation of one sort of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    to_host: Direction,
    to_guest: Direction,
}

impl Translation {
    /// What all of `options` say together. `option` is their name, for an error.
    pub fn new(
        option: &'static str,
        options: &[TranslationOption],
    ) -> Result<Self, TranslationError> {
        let mut translation = Self::default();
        for text in options {
            translation
                .add(text)
                .map_err(|complaint| TranslationError {
                    option,
                    text: text.to_string(),
                    complaint,
                })?;
        }
        Ok(translation)
    }

    fn add(&mut self, option: &TranslationOption) -> Result<(), Complaint> {
        let TranslationOption {
            kind,
            source,
            target,
            count,
        } = *option;
        let range = |first, target| Range {
            first,
            count,
            target,
        };
        match kind {
            Kind::Guest => self.to_host.add(range(source, Target::From(target))),
            Kind::Host => self.to_guest.add(range(source, Target::From(target))),
            Kind::SquashGuest => self.to_host.add(range(source, Target::Squash(target))),
            Kind::SquashHost => self.to_guest.add(range(source, Target::Squash(target))),
            Kind::ForbidGuest => self.to_host.add(range(source, Target::Forbidden)),
            Kind::Map => {
                self.to_host.add(range(source, Target::From(target)))?;
                self.to_guest.add(range(target, Target::From(source)))
            }
        }
    }

    /// The id on the host for one of the guest's.
    pub fn to_host(&self, id: u32) -> Result<u32, Forbidden> {
        self.to_host.translate(id)
    }

    /// The id that the guest sees for one on the host.
    pub fn to_guest(&self, id: u32) -> u32 {
        // Nothing is forbidden in this direction.
        self.to_guest.translate(id).unwrap_or(id)
    }

    /// The ranges of the guest's ids, in their order.
    pub fn ranges_to_host(&self) -> &[Range] {
        &self.to_host.0
    }

    /// The ranges of the host's ids, in their order.
    pub fn ranges_to_guest(&self) -> &[Range] {
        &self.to_guest.0
    }

    /// Whether all ids are the same on both sides.
    pub fn is_empty(&self) -> bool {
        self.to_host.0.is_empty() && self.to_guest.0.is_empty()
    }
}

/// Users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translations {
    /// `--translate-uid`.
    pub users: Translation,
    /// `--translate-gid`.
    pub groups: Translation,
}

/// What one option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Guest,
    Host,
    SquashGuest,
    SquashHost,
    ForbidGuest,
    Map,
}

impl Kind {
    const ALL: [(&'static str, Self); 6] = [
        ("guest", Self::Guest),
        ("host", Self::Host),
        ("squash-guest", Self::SquashGuest),
        ("squash-host", Self::SquashHost),
        ("forbid-guest", Self::ForbidGuest),
        ("map", Self::Map),
    ];
}

/// The value of one `--translate-uid` or `--translate-gid`: `TYPE:SOURCE:TARGET:COUNT`, or
/// `forbid-guest:SOURCE:COUNT`. Any separator will do that is no letter, digit, `-` or `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationOption {
    kind: Kind,
    source: u32,
    /// 0 if there is none.
    target: u32,
    count: u32,
}

impl fmt::Display for TranslationOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            source,
            target,
            count,
        } = self;
        let name = Kind::ALL.iter().find(|(_, other)| other == kind);
        let name = name.map_or("", |(name, _)| name);
        write!(formatter, "{name}:{source}:")?;
        if *kind != Kind::ForbidGuest {
            write!(formatter, "{target}:")?;
        }
        write!(formatter, "{count}")
    }
}

/// A translation that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} {text}: {complaint}")]
pub struct TranslationError {
    /// The option.
    pub option: &'static str,
    /// Its value.
    pub text: String,
    /// What is wrong with it.
    pub complaint: Complaint,
}

/// What is wrong with a translation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// No such type.
    #[error(
        "{0:?} is not guest, host, squash-guest, squash-host, forbid-guest or map, and a separator"
    )]
    Type(String),
    /// Too few or too many numbers.
    #[error("there must be {expected} numbers behind the type, and there are {found}")]
    Fields {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Something else than a number.
    #[error("{0:?} is not a number from 0 to 4294967295")]
    Number(String),
    /// A range without an id.
    #[error("the range is empty")]
    Empty,
    /// A range that goes on beyond the last id.
    #[error("the range ends beyond 4294967294, the last id there is")]
    Beyond,
    /// Two ranges of which one id is in both.
    #[error("the range overlaps with an earlier one of the same direction")]
    Overlap,
    /// Too many.
    #[error("there are more than {RANGES_MAX} ranges in one direction")]
    TooMany,
}

impl FromStr for TranslationOption {
    type Err = Complaint;

    fn from_str(text: &str) -> Result<Self, Complaint> {
        let is_of_type = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        let end = text.find(|c| !is_of_type(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        let mut characters = rest.chars();
        let separator = characters.next();
        let known = Kind::ALL
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        let (Some((_, kind)), Some(separator)) = (known, separator) else {
            return Err(Complaint::Type(name.to_owned()));
        };
        let numbers = characters
            .as_str()
            .split(separator)
            .map(|field| {
                field
                    .parse()
                    .map_err(|_| Complaint::Number(field.to_owned()))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let fields = |expected| Complaint::Fields {
            expected,
            found: numbers.len(),
        };
        let (source, target, count) = match (kind, numbers.as_slice()) {
            (Kind::ForbidGuest, &[source, count]) => (source, None, count),
            (Kind::ForbidGuest, _) => return Err(fields(2)),
            (_, &[source, target, count]) => (source, Some(target), count),
            (_, _) => return Err(fields(3)),
        };
        if count == 0 {
            return Err(Complaint::Empty);
        }
        let of_target = match kind {
            Kind::Guest | Kind::Host | Kind::Map => count,
            Kind::SquashGuest | Kind::SquashHost | Kind::ForbidGuest => 1,
        };
        // The end of a range may be `u32::MAX`, which is then the first id that is not in it.
        let fits = |first: u32, count: u32| first.checked_add(count).is_some();
        let target_fits = target.is_none_or(|target| fits(target, of_target));
        if !fits(source, count) || !target_fits {
            return Err(Complaint::Beyond);
        }
        Ok(Self {
            kind,
            source,
            target: target.unwrap_or(0),
            count,
        })
    }
}

#[cfg(test)]
mod tests;
