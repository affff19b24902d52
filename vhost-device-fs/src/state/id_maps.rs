//! The ids of the user namespace that the source is in: what its numbers of users and groups are on the host. On the file system that
//! the source had they must mean the same at the destination, or files would change their owners.

use serde::{Deserialize, Serialize};

use super::Difference;
use super::configuration::first_difference;

/// `--uid-map` and `--gid-map`, in the order of the ids inside; empty where an option was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapsV1 {
    /// Users.
    pub users: Vec<IdMapV1>,
    /// Groups.
    pub groups: Vec<IdMapV1>,
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdMapV1 {
    /// The first, as the source has it.
    pub inside: u32,
    /// What it is on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdMapsV1 {
    /// Whether neither option was given.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// In what `self`, the source's, differs from `here`.
    pub fn difference(&self, here: &Self) -> Option<Difference> {
        first_difference("--uid-map", 0, &self.users, &here.users)
            .or_else(|| first_difference("--gid-map", 0, &self.groups, &here.groups))
    }
}
