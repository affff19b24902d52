//! Why a daemon could not do its work.

use std::io;
use std::path::PathBuf;

use crate::sandbox::SandboxError;

/// The daemon could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Neither a path nor a descriptor to find the front-end with.
    #[error("one of --socket-path, --fd or socket activation (LISTEN_FDS) is needed")]
    NoSocket,
    /// The socket cannot be made.
    #[error("host: socket {path} cannot be listened on")]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path that does not fit into a socket address.
    #[error("the socket path has {len} bytes, at most 107 are possible: {path}")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The group does not exist, or we may not give the socket to it.
    #[error("host: socket cannot be given to group {group}")]
    Group {
        /// Its name.
        group: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The inherited descriptor is not a UNIX stream socket.
    #[error("descriptor {fd} is not a listening or connected UNIX stream socket")]
    Descriptor {
        /// The number.
        fd: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be caught, or the socket cannot be waited on.
    #[error("host: {doing}")]
    Host {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the front-end failed")]
    Session(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The daemon could not be confined, or what ran confined has ended badly.
    #[error("the sandbox failed")]
    Sandbox(#[from] SandboxError),
    /// The device's own set-up failed.
    #[error("the device cannot be set up as configured")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The command line asks for something that the device does not do.
    #[error("the command line cannot be served")]
    Usage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DaemonError {
    /// The device's own set-up failed.
    pub fn device(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Device(error.into())
    }

    /// The command line asks for something that the device does not do.
    pub fn usage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    pub(super) fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { doing, source }
    }
}
