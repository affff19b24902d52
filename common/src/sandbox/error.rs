//! Why a daemon could not be confined. It does not serve then.

use std::io;
use std::path::PathBuf;

/// The daemon could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The namespaces that were asked for are not to be had.
    #[error("host: namespaces are not possible here: {hint}; --sandbox=none goes on without them")]
    Unshare {
        /// What is most likely missing.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The user namespace does not get the ids that were asked for.
    #[error("host: no user namespace with these ids: {0}")]
    Maps(String),
    /// The file system of one directory cannot be made.
    #[error("host: no file system for the sandbox: {doing}; --sandbox=none goes on without one")]
    Mount {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process for the inside cannot be started, or not be waited for.
    #[error("host: no process inside the sandbox")]
    Process(#[source] io::Error),
    /// The process inside has ended badly.
    #[error("the process inside the sandbox ended: {0}")]
    Ended(String),
    /// Capabilities cannot be given up.
    #[error("host: capabilities cannot be given up")]
    Capabilities(#[source] io::Error),
    /// A path that is to stay reachable cannot be opened.
    #[error("host: {path} is to stay reachable in the sandbox and cannot be opened")]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: landlock::PathFdError,
    },
    /// Landlock is there and refuses.
    #[error("host: Landlock refuses to restrict the daemon")]
    Landlock(#[source] landlock::RulesetError),
    /// The filter of system calls is refused.
    #[error("host: system calls cannot be filtered; --seccomp=none goes on without a filter")]
    Seccomp(#[source] seccompiler::Error),
}

impl SandboxError {
    pub(super) fn mount(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Mount {
            doing,
            source: errno.into(),
        }
    }
}
