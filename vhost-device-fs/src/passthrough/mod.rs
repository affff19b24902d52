//! The share as the guest's requests see it: [`FileSystem`] passes them through to files of the host.
//!
//! Knows nodeids and handles, files and credentials, and nothing of how a request looks or came here. All methods may
//! be called from several threads at once. Nothing is trusted: a nodeid, handle, name or number of the guest's that
//! makes no sense is an error of that request.

mod attributes;
mod budget;
mod close;
mod creation_mask;
mod credentials;
mod directory;
mod entries;
mod files;
mod flags;
mod handle;
mod host;
mod lock_table;
mod locks;
mod name_locks;
mod names;
mod tables;
mod xattrs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::Thread;

use rustix::fs::Mode;

pub use entries::Folder;
pub use host::ConfigurationError;

pub(crate) use attributes::{host_device, kernel_device};
pub(crate) use directory::{Directory, PendingEntry};
pub(crate) use flags::{GuestFlags, host_flags};
pub(crate) use handle::{Handle, Target};
pub(crate) use host::{Host, ProcPath, open_path, stat_descriptor};
pub(crate) use lock_table::{LAST_BYTE, LockImage};
pub(crate) use locks::{lose, set as set_lock};
pub(crate) use tables::Tables;

use crate::config::Config;
use crate::fuse::session::SessionOptions;
use crate::operations::{Caller, FsResult};
use credentials::Credentials;

/// A shared directory, and what one guest knows of it.
#[derive(Debug)]
pub struct FileSystem {
    host: Arc<Host>,
    credentials: Credentials,
    tables: RwLock<Arc<Tables>>,
    session: RwLock<Option<SessionOptions>>,
    /// The name on the host of what is `security.capability` in the guest, if it is another one.
    remapped_capabilities: Option<Vec<u8>>,
    /// Whoever has requests that wait for locks.
    lock_waiter: Mutex<Option<Thread>>,
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
            credentials: Credentials::current(config.translations.clone()).map_err(unusable)?,
            remapped_capabilities: xattrs::remapped_capabilities(config),
            session: RwLock::new(None),
            lock_waiter: Mutex::new(None),
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

    /// The guest ends its session, or begins another: forgets all that it knew.
    ///
    /// Handles and nodeids go on counting: what is left in flight of the old session must not be taken for the new one's.
    pub fn destroy(&self) {
        let old = self.tables();
        self.begin_anew(old.handles.next(), Some(old.nodes.next()));
    }

    /// Another guest came, or the same one rebooted, and nothing is in flight: the state of a new device.
    pub fn reset(&self) {
        self.begin_anew(1, None);
    }

    /// Should the host refuse to tell of the shared directory, the tables stay; the next session does not use them.
    fn begin_anew(&self, next_handle: u64, next_nodeid: Option<u64>) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = None;
        match Tables::new(&self.host, next_handle) {
            Ok(tables) => {
                if let Some(next) = next_nodeid {
                    tables.nodes.set_next(next);
                }
                self.replace(tables);
            }
            Err(errno) => log::error!("host: shared directory cannot be examined: {errno}"),
        }
    }

    fn replace(&self, tables: Tables) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
    }

    /// Takes over what a guest knew and agreed on elsewhere.
    pub(crate) fn adopt(&self, tables: Tables, session: Option<SessionOptions>) -> Arc<Tables> {
        self.replace(tables);
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = session;
        self.tables()
    }

    /// The share on the host.
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// What the guest knows.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts on stable storage what the guest changed since the last time.
    pub(crate) fn sync_changed(&self) -> FsResult<()> {
        if !self.changed.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        let result = self.tables().sync();
        if result.is_err() {
            self.changed.store(true, Ordering::Release);
        }
        result
    }

    /// Whether guest and host heed POSIX ACLs in this session.
    fn acls(&self) -> bool {
        self.session().is_some_and(|session| session.acls())
    }

    /// Makes something by `work`, which gets the permissions to make it with, as the caller, to whom it then belongs.
    fn creating<T>(
        &self,
        caller: &Caller,
        mode: u32,
        umask: u32,
        work: impl FnOnce(Mode) -> FsResult<T>,
    ) -> FsResult<T> {
        let permissions = |mask: u32| Mode::from_raw_mode(mode & 0o7777 & !mask);
        if !self.acls() {
            let work = || work(permissions(umask));
            return self.credentials.as_caller(caller, work);
        }
        creation_mask::with_mask(umask, || {
            self.credentials.as_caller(caller, || work(permissions(0)))
        })
    }

    /// The thread that is woken when the guest has given a lock back.
    pub(crate) fn set_lock_waiter(&self, thread: Thread) {
        let waiter = self.lock_waiter.lock();
        *waiter.unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Whoever waits for a lock may get it now.
    fn lock_given_back(&self) {
        let waiter = self.lock_waiter.lock();
        let waiter = waiter.unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*waiter {
            thread.unpark();
        }
    }

    /// Held while something on the share is changed.
    fn changing(&self) -> Changing<'_> {
        Changing(&self.changed)
    }
}

/// Notes a change when it is dropped, that is when the change is made: noted ahead, it would be forgotten by a sync that
/// runs in between and does not see it.
#[must_use]
struct Changing<'a>(&'a AtomicBool);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
