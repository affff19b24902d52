//! The share as the guest's requests see it: [`FileSystem`] passes them through to files of the host.
//!
//! Knows nodeids and handles, files and credentials, and nothing of how a request looks or came here. All methods may
//! be called from several threads at once. Nothing is trusted: a nodeid, handle, name or number of the guest's that
//! makes no sense is an error of that request.

mod attributes;
mod close;
mod credentials;
mod directory;
mod entries;
mod files;
mod flags;
mod handle;
mod host;
mod names;
mod tables;
mod xattrs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::Mode;

pub use host::ConfigurationError;

use crate::config::Config;
use crate::fuse::session::SessionOptions;
use credentials::Credentials;
use host::Host;
use tables::Tables;

/// `FUSE_WRITEBACK_CACHE` in the session's flags.
const SESSION_WRITEBACK: u64 = 1 << 16;
/// `FUSE_SUBMOUNTS` in the session's flags.
const SESSION_SUBMOUNTS: u64 = 1 << 27;

/// A shared directory, and what one guest knows of it.
#[derive(Debug)]
pub struct FileSystem {
    host: Arc<Host>,
    credentials: Credentials,
    tables: RwLock<Arc<Tables>>,
    session: RwLock<Option<SessionOptions>>,
    /// Whether the guest changed anything on the share since it was last put on stable storage.
    changed: AtomicBool,
}

impl FileSystem {
    /// Opens the shared directory. The guest knows its root only.
    ///
    /// Clears the file mode creation mask of the process: the modes of new files are the guest's business.
    pub fn new(config: &Config) -> Result<Self, ConfigurationError> {
        rustix::process::umask(Mode::empty());
        let host = Arc::new(Host::new(config)?);
        let unusable = |source| ConfigurationError::SharedDirectory {
            path: config.shared_dir.clone(),
            source,
        };
        Ok(Self {
            tables: RwLock::new(Arc::new(Tables::new(&host, 1).map_err(unusable)?)),
            credentials: Credentials::current().map_err(unusable)?,
            session: RwLock::new(None),
            changed: AtomicBool::new(false),
            host,
        })
    }

    /// The guest and we have agreed on a session.
    pub fn session_started(&self, negotiated: SessionOptions) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = Some(negotiated);
    }

    /// What the guest and we have agreed on; `None` before `FUSE_INIT`.
    pub fn session(&self) -> Option<SessionOptions> {
        *self.session.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest is gone, or begins anew: forgets all that it knew.
    ///
    /// Should the host refuse to tell of the shared directory, the tables stay; the next session does not use them.
    pub fn destroy(&self) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = None;
        let old = self.tables();
        // Handles and nodeids go on counting: an old one must not be taken for a new one.
        match Tables::new(&self.host, old.handles.next()) {
            Ok(tables) => {
                tables.nodes.set_next(old.nodes.next());
                self.replace(tables);
            }
            Err(errno) => log::error!("host: shared directory cannot be examined: {errno}"),
        }
    }

    fn replace(&self, tables: Tables) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
    }

    fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn mark_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    fn session_has(&self, flag: u64) -> bool {
        self.session()
            .is_some_and(|session| session.flags & flag != 0)
    }
}

#[cfg(test)]
mod tests;
