//! What can go wrong for a front-end, and who is to blame.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::lifecycle::Lifecycle;
use crate::protocol::codec::CodecError;
use crate::protocol::messages::{Direction, Request};

/// Why a call of [`Frontend`](super::Frontend) failed.
///
/// After [`Refused`](Self::Refused) by a stock rust-vmm back-end the connection is closed, except for the
/// requests of a state transfer and for SUSPEND and RESUME. After [`Connection`](Self::Connection),
/// [`Closed`](Self::Closed), [`Unanswered`](Self::Unanswered) and [`Reply`](Self::Reply) it is useless.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// There is no back-end at that path.
    #[error("host: cannot connect to a back-end at {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The host refused a socket option, a pipe or a memory file.
    #[error("host: cannot {what}")]
    Host {
        /// What was wanted.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The connection failed, or what came was no message.
    #[error("back-end: connection failed during {request}")]
    Connection {
        /// The request under way.
        request: Request,
        /// The reason.
        #[source]
        source: CodecError,
    },
    /// The back-end closed the connection, the stock answer to what it does not like.
    #[error("back-end: closed the connection instead of answering {request}")]
    Closed {
        /// The request under way.
        request: Request,
    },
    /// The back-end hangs.
    #[error("back-end: no answer to {request} after {limit:?}")]
    Unanswered {
        /// The request under way.
        request: Request,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The back-end answered something else, or in another form.
    #[error(
        "back-end: answered {request} with {got}, flags {flags:#x}, {size} bytes, {files} files"
    )]
    Reply {
        /// The request under way.
        request: Request,
        /// The request that is answered.
        got: Request,
        /// Its flags.
        flags: u32,
        /// Bytes of its payload.
        size: usize,
        /// Number of its files.
        files: usize,
    },
    /// The back-end said no.
    #[error("back-end: refused {request} with code {code:#x}")]
    Refused {
        /// The request.
        request: Request,
        /// The reply's payload.
        code: u64,
    },
    /// The caller asked for something that this back-end does not offer, or that was not negotiated.
    #[error("front-end: {request} needs protocol feature {feature}, which is not negotiated")]
    NotNegotiated {
        /// The request.
        request: Request,
        /// The protocol feature's name.
        feature: &'static str,
    },
    /// The caller wants to move the state of a device that is not silent.
    #[error("front-end: {request} while the device is {state:?}; suspend or stop it first")]
    State {
        /// The request.
        request: Request,
        /// The state it is in.
        state: Lifecycle,
    },
    /// The channel of a state transfer failed.
    #[error("back-end: the state channel failed ({direction:?})")]
    Channel {
        /// Which way the state went.
        direction: Direction,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The back-end neither moves state nor ends the transfer.
    #[error("back-end: no progress on the state channel for {limit:?} ({direction:?})")]
    Stalled {
        /// Which way the state went.
        direction: Direction,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The caller's own reader or writer failed.
    #[error("front-end: the caller's side of the state failed ({direction:?})")]
    Caller {
        /// Which way the state went.
        direction: Direction,
        /// The reason.
        #[source]
        source: io::Error,
    },
}
