//! The names of an inode as versions 1 and 2 of the state have them: no more of them are decoded than there can be.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::LOCATIONS_MAX;
use crate::state::LocationV1;

/// See the [module](self).
pub(super) struct Few(Vec<LocationV1>);

impl IntoIterator for Few {
    type Item = LocationV1;
    type IntoIter = std::vec::IntoIter<LocationV1>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'de> Deserialize<'de> for Few {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Few;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "at most {LOCATIONS_MAX} names of an inode")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Few, A::Error> {
                let mut few = Vec::new();
                while let Some(name) = sequence.next_element()? {
                    few.push(name);
                    if few.len() > LOCATIONS_MAX {
                        return Err(A::Error::invalid_length(few.len(), &self));
                    }
                }
                Ok(Few(few))
            }
        }

        deserializer.deserialize_seq(Names)
    }
}
