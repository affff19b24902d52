//! Messages of the display socket (QEMU's docs/interop/vhost-user-gpu.rst).
//!
//! Knows their layout, not when they are sent. Words are in the host's byte order, which is little-endian, see lib.rs.

/// Length of a message's header in bytes: request, flags, size of what follows.
pub(crate) const HEADER_BYTES: usize = 12;
/// Set in the flags of a reply.
pub(crate) const FLAG_REPLY: u32 = 4;
/// Greatest reply that is read: an EDID has 1056 bytes.
pub(crate) const REPLY_BYTES_MAX: usize = 4096;

/// Protocol feature: `GET_EDID` is understood.
pub(crate) const FEATURE_EDID: u64 = 1 << 0;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    GetProtocolFeatures = 1,
    SetProtocolFeatures = 2,
    GetDisplayInfo = 3,
    CursorPosition = 4,
    CursorHide = 5,
    CursorUpdate = 6,
    Scanout = 7,
    Update = 8,
    GetEdid = 11,
}

impl Request {
    /// The request with this number, if it is one that has a reply.
    pub(crate) fn answered(number: u32) -> Option<Self> {
        [
            Self::GetProtocolFeatures,
            Self::GetDisplayInfo,
            Self::GetEdid,
        ]
        .into_iter()
        .find(|request| *request as u32 == number)
    }
}

/// Begins a message in `out`, which is emptied: header, then `words`. `more` bytes will follow.
pub(crate) fn begin(out: &mut Vec<u8>, request: Request, words: &[u32], more: usize) {
    out.clear();
    let size = u32::try_from(words.len() * 4 + more).unwrap_or(u32::MAX);
    let header = [request as u32, 0, size];
    out.reserve(HEADER_BYTES + words.len() * 4 + more);
    for word in header.iter().chain(words) {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyHeader {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    pub(crate) size: u32,
}

/// The words at the beginning of `bytes`; missing ones are zero.
pub(crate) fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, four) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*four);
    }
    words
}

impl ReplyHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let [request, flags, size] = words(bytes);
        Self {
            request,
            flags,
            size,
        }
    }
}
