//! Those options of the source's operator that decide what the guest's names and numbers mean on the host: the destination
//! must have the same, or files would change their owners and attributes their names.
//!
//! As they are understood, not as they are written: a shorthand is the same as what it stands for.

use serde::{Deserialize, Serialize};

/// The options; empty where one was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationV1 {
    /// `--xattrmap`, in the order of the rules.
    pub xattr_rules: Vec<XattrRuleV1>,
    /// `--translate-uid`, ids of the guest, in their order.
    pub users_to_host: Vec<IdRangeV1>,
    /// `--translate-uid`, ids of the host.
    pub users_to_guest: Vec<IdRangeV1>,
    /// `--translate-gid`, ids of the guest.
    pub groups_to_host: Vec<IdRangeV1>,
    /// `--translate-gid`, ids of the host.
    pub groups_to_guest: Vec<IdRangeV1>,
}

/// A rule of `--xattrmap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrRuleV1 {
    /// What it does.
    pub action: XattrActionV1,
    /// It is for names that come from the guest.
    pub client: bool,
    /// It is for names that come from the host.
    pub server: bool,
    /// What the guest's names begin with.
    pub key: Vec<u8>,
    /// What the host's names begin with.
    pub prepend: Vec<u8>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the rules")]
pub enum XattrActionV1 {
    Prefix,
    Ok,
    Bad,
    Unsupported,
}

/// A range of ids, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRangeV1 {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What they become.
    pub target: IdTargetV1,
}

/// What becomes of the ids in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdTargetV1 {
    /// The same distance from this one.
    From(u32),
    /// All become this one.
    Squash(u32),
    /// None may be used.
    Forbidden,
}

/// In what two configurations differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The option.
    pub option: &'static str,
    /// The first rule or range that is not the same, from 1 on. Ranges are counted in their order, those of the guest's
    /// ids first.
    pub entry: usize,
    /// Whether the source has such an entry.
    pub at_source: bool,
    /// Whether this back-end has.
    pub here: bool,
}

impl ConfigurationV1 {
    /// Whether none of the options was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// In what `self`, the source's, differs from `here`.
    pub fn difference(&self, here: &Self) -> Option<Difference> {
        let Self {
            xattr_rules,
            users_to_host,
            users_to_guest,
            groups_to_host,
            groups_to_guest,
        } = self;
        let uid = "--translate-uid";
        let gid = "--translate-gid";
        first_difference("--xattrmap", 0, xattr_rules, &here.xattr_rules)
            .or_else(|| first_difference(uid, 0, users_to_host, &here.users_to_host))
            .or_else(|| {
                let before = users_to_host.len();
                first_difference(uid, before, users_to_guest, &here.users_to_guest)
            })
            .or_else(|| first_difference(gid, 0, groups_to_host, &here.groups_to_host))
            .or_else(|| {
                let before = groups_to_host.len();
                first_difference(gid, before, groups_to_guest, &here.groups_to_guest)
            })
    }
}

pub(super) fn first_difference<T: PartialEq>(
    option: &'static str,
    before: usize,
    source: &[T],
    here: &[T],
) -> Option<Difference> {
    let index =
        (0..source.len().max(here.len())).find(|index| source.get(*index) != here.get(*index))?;
    Some(Difference {
        option,
        entry: before + index + 1,
        at_source: index < source.len(),
        here: index < here.len(),
    })
}
