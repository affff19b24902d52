//! What became of the commands of a load: numbers, and nothing else.

/// What has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands that came back done.
    pub done: u64,
    /// Commands that were in flight at a crash.
    pub interrupted: u64,
    /// COMPARE AND WRITEs of which the device did not know whether they were done.
    pub unknown: u64,
    /// Of those, the ones that were.
    pub unknown_and_done: u64,
    /// Commands that the device was given once more after a crash, and did not do.
    pub repeated: u64,
    /// Task management functions that came back.
    pub tasks: u64,
}
