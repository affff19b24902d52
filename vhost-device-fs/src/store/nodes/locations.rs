//! The names of an inode, kept small: a million inodes have a million names, and nearly all have one.

use std::fmt;
use std::ops::Deref;

use crate::store::Name;

/// Longest name that needs no memory of its own, in bytes; what is in the longer ones takes as much room as the enum has.
const INLINE_BYTES_MAX: usize = 22;

/// The bytes of a name.
#[derive(Clone)]
enum Bytes {
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Heap(Box<[u8]>),
}

/// A name in a directory, raw bytes.
#[derive(Clone)]
pub(crate) struct KeptName(Bytes);

impl KeptName {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES_MAX];
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        Self(match bytes.get_mut(..name.len()) {
            Some(place) => {
                place.copy_from_slice(name);
                Bytes::Inline { length, bytes }
            }
            None => Bytes::Heap(name.into()),
        })
    }
}

impl Deref for KeptName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline { length, bytes } => bytes.get(..(*length).into()).unwrap_or_default(),
            Bytes::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for KeptName {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for KeptName {}

impl fmt::Debug for KeptName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.escape_ascii())
    }
}

/// A name under which the guest found an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// Nodeid of the directory.
    pub(crate) parent: u64,
    /// Name in it.
    pub(crate) name: KeptName,
}

impl Location {
    /// `name` in the directory `parent`.
    pub(crate) fn new(parent: u64, name: Name<'_>) -> Self {
        Self {
            parent,
            name: KeptName::new(name.bytes()),
        }
    }
}

/// All names of an inode, the newest last: read as a slice, and changed as a vector.
#[derive(Clone, Debug, Default)]
pub(crate) enum Locations {
    #[default]
    None,
    One(Location),
    Many(Vec<Location>),
}

impl Locations {
    /// Has `change` change them.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut Vec<Location>) -> R) -> R {
        let mut all = std::mem::take(self).into_vec();
        let result = change(&mut all);
        *self = all.into_iter().collect();
        result
    }

    fn into_vec(self) -> Vec<Location> {
        match self {
            Self::None => Vec::new(),
            Self::One(only) => vec![only],
            Self::Many(all) => all,
        }
    }
}

impl Deref for Locations {
    type Target = [Location];

    fn deref(&self) -> &[Location] {
        match self {
            Self::None => &[],
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(all) => all,
        }
    }
}

impl FromIterator<Location> for Locations {
    fn from_iter<I: IntoIterator<Item = Location>>(locations: I) -> Self {
        let mut locations = locations.into_iter();
        let Some(first) = locations.next() else {
            return Self::None;
        };
        match locations.next() {
            None => Self::One(first),
            Some(second) => Self::Many([first, second].into_iter().chain(locations).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(parent: u64, name: &[u8]) -> Location {
        Location::new(parent, Name::new(name).unwrap())
    }

    #[test]
    fn names_of_every_length_are_kept() {
        for length in 1..=255 {
            let name: Vec<u8> = (0..length).map(|index| b'a' + index % 26).collect();
            let kept = location(1, &name);
            assert_eq!(*kept.name, *name);
            assert_eq!(kept, kept.clone());
            assert_ne!(kept, location(2, &name));
            let mut longer = name.clone();
            longer.push(b'x');
            if let Ok(longer) = Name::new(&longer) {
                assert_ne!(kept, Location::new(1, longer));
            }
        }
        let text = format!("{:?}", location(1, b"caf\xe9").name);
        assert_eq!(text, r#""caf\xe9""#);
    }

    #[test]
    fn as_many_as_there_are() {
        let mut kept = Locations::default();
        let mut expected = Vec::new();
        for number in 0..4 {
            assert_eq!(*kept, *expected);
            let name = [b'a' + number];
            kept.change(|all| all.push(location(1, &name)));
            expected.push(location(1, &name));
        }
        while !expected.is_empty() {
            assert_eq!(kept.change(|all| all.remove(0)), expected.remove(0));
            assert_eq!(*kept, *expected);
        }
        assert!(matches!(kept, Locations::None));
    }

    #[test]
    fn an_inode_with_one_short_name_takes_no_memory_for_it() {
        assert_eq!(size_of::<KeptName>(), 24);
        assert!(size_of::<Locations>() <= 40, "{}", size_of::<Locations>());
    }
}
