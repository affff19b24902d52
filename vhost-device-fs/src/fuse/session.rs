//! What a guest and this back-end agreed on in `FUSE_INIT`. Plain data: copied freely, and carried by the state.

/// The INIT record of a running session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Minor version of the protocol that both sides speak (the major version is 7).
    pub minor: u32,
    /// The flags that the guest offered, `flags` and `flags2` in one word.
    pub flags_offered: u64,
    /// The flags that we answered.
    pub flags: u64,
    /// Greatest read-ahead, in bytes.
    pub max_readahead: u32,
    /// Greatest data of a WRITE, in bytes.
    pub max_write: u32,
    /// Greatest number of pages in a request.
    pub max_pages: u16,
    /// Greatest number of background requests.
    pub max_background: u16,
    /// Number of background requests above which the guest holds back.
    pub congestion_threshold: u16,
    /// Granularity of timestamps, in nanoseconds.
    pub time_granularity_ns: u32,
}
