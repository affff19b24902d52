//! `--uid-map` and `--gid-map`: which ids of the host a user namespace has, and under which numbers. The syntax is
//! virtiofsd's: `:INSIDE:OUTSIDE:COUNT:`, with any separator that is no letter and no digit.
//!
//! Knows how a range is written; the namespace is made by others.

use std::fmt;
use std::str::FromStr;

/// A range of ids of a user namespace (`user_namespaces(7)`, a line of `/proc/PID/uid_map`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The first id in the namespace.
    pub inside: u32,
    /// The first id outside of it.
    pub outside: u32,
    /// How many, at least one. Neither range ends beyond `u32::MAX`.
    pub count: u32,
}

impl fmt::Display for IdMap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inside,
            outside,
            count,
        } = self;
        write!(formatter, ":{inside}:{outside}:{count}:")
    }
}

/// A range that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// It is not of the form.
    #[error(
        "{0:?} is not of the form :INSIDE:OUTSIDE:COUNT:, with one separator at both ends and in between"
    )]
    Form(String),
    /// Something else than a number.
    #[error("{0:?} is not a number from 0 to 4294967295")]
    Number(String),
    /// A range without an id.
    #[error("the range is empty")]
    Empty,
    /// A range that goes on beyond the last id.
    #[error("the range ends beyond 4294967294, the last id there is")]
    Beyond,
}

impl FromStr for IdMap {
    type Err = IdMapError;

    fn from_str(text: &str) -> Result<Self, IdMapError> {
        let form = || IdMapError::Form(text.to_owned());
        let separator = text.chars().next().ok_or_else(form)?;
        if separator.is_alphanumeric() {
            return Err(form());
        }
        let fields = text
            .strip_prefix(separator)
            .and_then(|text| text.strip_suffix(separator))
            .ok_or_else(form)?
            .split(separator)
            .map(|field| {
                let number = field.parse::<u32>();
                number.map_err(|_| IdMapError::Number(field.to_owned()))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let &[inside, outside, count] = fields.as_slice() else {
            return Err(form());
        };
        if count == 0 {
            return Err(IdMapError::Empty);
        }
        if inside.max(outside).checked_add(count).is_none() {
            return Err(IdMapError::Beyond);
        }
        Ok(Self {
            inside,
            outside,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_it_is_written_as() {
        let map = IdMap {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        };
        for text in [":0:100000:65536:", "/0/100000/65536/", " 0 100000 65536 "] {
            assert_eq!(text.parse(), Ok(map));
        }
        assert_eq!(map.to_string(), ":0:100000:65536:");
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<IdMap>().unwrap_err();
        for text in [
            "",
            ":",
            "::",
            "0:1:2",
            ":0:1:2",
            "0:1:2:",
            ":0:1:",
            ":0:1:2:3:",
            "a0a1a2a",
        ] {
            let named = matches!(error(text), IdMapError::Form(_) | IdMapError::Number(_));
            assert!(named, "{text:?}: {:?}", error(text));
        }
        assert_eq!(error(":0:x:1:"), IdMapError::Number("x".to_owned()));
        assert_eq!(error(":0:0:0:"), IdMapError::Empty);
        assert_eq!(error(":1:0:4294967295:"), IdMapError::Beyond);
        assert_eq!(error(":0:4294967295:1:"), IdMapError::Beyond);
        assert!(":0:0:4294967295:".parse::<IdMap>().is_ok());
    }
}
