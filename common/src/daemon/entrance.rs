//! Where front-ends come from: a socket of ours, or one that was inherited, listening or connected.

use std::fs::Permissions;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::store::Store;
use super::{DaemonError, inherited};
use crate::args::DaemonArgs;
use crate::sandbox::{Access, Reachable};

/// Where front-ends come from.
#[derive(Debug)]
pub struct Entrance {
    socket: inherited::Socket,
    /// If the socket is ours.
    file: Option<SocketFile>,
    /// Where a connection is left for the next daemon, if it is.
    store: Option<Store>,
}

/// A socket of ours in the file system. It is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

impl SocketFile {
    /// Somebody else removes it.
    pub fn leave(mut self) {
        // Nothing is at the empty path.
        self.0 = PathBuf::new();
    }
}

impl Entrance {
    /// What the options name.
    pub fn open(args: &DaemonArgs) -> Result<Self, DaemonError> {
        let store = args.handover.then(Store::open).transpose()?;
        if let Some(path) = &args.socket_path {
            let entrance = Self {
                socket: inherited::Socket::Listening(listen_at(path)?),
                file: Some(SocketFile(path.clone())),
                store,
            };
            // From here on the socket is removed if something fails.
            if let Some(group) = &args.socket_group {
                give_to_group(path, group).map_err(|source| DaemonError::Group {
                    group: group.clone(),
                    source,
                })?;
            }
            return Ok(entrance);
        }
        let fd = match args.fd {
            Some(fd) => fd,
            None => inherited::activated().ok_or(DaemonError::NoSocket)?,
        };
        let socket =
            inherited::socket(fd).map_err(|source| DaemonError::Descriptor { fd, source })?;
        Ok(Self {
            socket,
            file: None,
            store,
        })
    }

    /// The folder of a socket of ours will have another path, that `moved` gives for its present one.
    pub fn move_file<E>(
        &mut self,
        moved: impl FnOnce(&Path) -> Result<PathBuf, E>,
    ) -> Result<(), E> {
        let Some(folder) = self.reachable() else {
            return Ok(());
        };
        if let Some(SocketFile(path)) = &mut self.file
            && let Some(name) = path.file_name()
        {
            *path = moved(&folder.path)?.join(name);
        }
        Ok(())
    }

    /// What must stay reachable, so that a socket of ours can be removed in the end: its folder.
    pub fn reachable(&self) -> Option<Reachable> {
        let folder = self.file.as_ref()?.0.parent()?;
        let here = folder.as_os_str().is_empty();
        Some(Reachable {
            path: if here { ".".into() } else { folder.to_owned() },
            access: Access::RemoveFiles,
        })
    }

    /// Takes the file from the entrance, which can be used without it.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub(super) fn is_single(&self) -> bool {
        match &self.socket {
            inherited::Socket::Connected(_) => true,
            inherited::Socket::Listening(_) => false,
        }
    }

    /// The next front-end; `None` if `stop` became readable first.
    pub(super) fn accept(&self, stop: BorrowedFd<'_>) -> Result<Option<UnixStream>, DaemonError> {
        let listener = match &self.socket {
            inherited::Socket::Connected(stream) => {
                let stream = stream.try_clone();
                return stream
                    .map(Some)
                    .map_err(DaemonError::host("the connection cannot be duplicated"));
            }
            inherited::Socket::Listening(listener) => listener,
        };
        let waiting = DaemonError::host("front-ends cannot be waited for");
        let mut sides = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        loop {
            match poll(&mut sides, None) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(waiting(error.into())),
                Ok(_) => {}
            }
            let [stop, _] = &sides;
            if !stop.revents().is_empty() {
                return Ok(None);
            }
            return match listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) => Err(waiting(error)),
            };
        }
    }
}

/// A new socket at `path` that only we can connect to; a stale one, that nobody listens on, is replaced.
pub fn listen_at(path: &Path) -> Result<UnixListener, DaemonError> {
    let len = path.as_os_str().len();
    if len > 107 {
        return Err(DaemonError::PathTooLong {
            path: path.to_owned(),
            len,
        });
    }
    let refused = |source| DaemonError::Listen {
        path: path.to_owned(),
        source,
    };
    remove_stale(path).map_err(refused)?;
    // Created so that nobody else can connect before the permissions are set.
    let previous = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(previous);
    bound.map_err(refused)
}

/// Removes a socket that nobody has any more. One that does not take our connection for any other reason (not ours to
/// connect to, not of our type) is somebody's.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if std::fs::symlink_metadata(path)?.file_type().is_socket() {
                std::fs::remove_file(path)?;
            }
            Ok(())
        }
        // Nothing there, or something that binding will complain about.
        Err(_) => Ok(()),
    }
}

fn give_to_group(path: &Path, group: &str) -> io::Result<()> {
    let id = inherited::group_id(group)?;
    std::os::unix::fs::chown(path, None, Some(id))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))
}
