//! What a guest may have done before it moves, and must find again: a few lines for its shell, and what the shell must say then.

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Special {
    /// Names a row.
    pub title: &'static str,
    /// Options that the daemons need for it.
    pub options: &'static [&'static str],
    /// What the guest does before. Its shell is the same afterwards, with the files that it has open.
    pub before: &'static str,
    /// What happens on the host before the guest moves.
    pub on_host: OnHost,
    /// What the guest does afterwards.
    pub after: &'static str,
    /// What that prints.
    pub expected: &'static str,
}

/// Something that happens on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHost {
    /// Nothing.
    Nothing,
    /// The kernel forgets names of files that nobody uses, as it does when memory is short. It takes root.
    ForgetNames,
}
