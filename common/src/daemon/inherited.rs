//! What a daemon inherits: sockets by number (`--fd`, socket activation), and the names of groups.

#![expect(
    unsafe_code,
    reason = "a number on the command line becomes a descriptor that we own"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::FileType;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// The first descriptor of socket activation (`sd_listen_fds(3)`).
const LISTEN_FDS_START: RawFd = 3;

/// A socket of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Connected(UnixStream),
    Listening(UnixListener),
}

/// The name of the descriptor that a daemon leaves in the service manager's store.
pub(super) const STORED: &str = "vhost-user-connection";

/// Most descriptors that a service manager is believed to pass.
const LISTEN_FDS_MAX: u32 = 1024;

/// The descriptors that the service manager passes to this process, with their names (`sd_listen_fds_with_names(3)`).
fn passed() -> Vec<(RawFd, String)> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(LISTEN_FDS_MAX);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned);
    let numbers = (LISTEN_FDS_START..).take(usize::try_from(count).unwrap_or(0));
    numbers
        .zip(names.chain(std::iter::repeat_with(String::new)))
        .collect()
}

/// The socket that the service manager passes, if it passes exactly one, beside what is from its store.
pub(super) fn activated() -> Option<RawFd> {
    let mut sockets = passed();
    sockets.retain(|(_, name)| name != STORED);
    match sockets.as_slice() {
        [(fd, _)] => Some(*fd),
        _ => None,
    }
}

/// What an earlier daemon has left in the service manager's store.
pub(super) fn stored() -> io::Result<Option<OwnedFd>> {
    let Some((fd, _)) = passed().into_iter().find(|(_, name)| name == STORED) else {
        return Ok(None);
    };
    take(fd, |_| Ok(())).map(|(stored, ())| Some(stored))
}

/// Takes over descriptor `fd`, which must be a UNIX stream socket.
pub(super) fn socket(fd: RawFd) -> io::Result<Socket> {
    if fd <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "0, 1 and 2 are the standard streams",
        ));
    }
    let (owned, listening) = take(fd, examine)?;
    rustix::io::ioctl_fionbio(&owned, false)?;
    Ok(if listening {
        Socket::Listening(owned.into())
    } else {
        Socket::Connected(owned.into())
    })
}

/// Takes over descriptor `fd`, if it is open and `examine` finds nothing wrong with it.
fn take<T>(fd: RawFd, examine: impl FnOnce(&OwnedFd) -> io::Result<T>) -> io::Result<(OwnedFd, T)> {
    // SAFETY: the number is examined before anything else uses it; the caller of the program says that it is ours, and
    // no other part of this program has opened anything that it has not kept for itself.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let examined = examine(&owned).and_then(|found| {
        rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
        Ok(found)
    });
    match examined {
        Ok(found) => Ok((owned, found)),
        Err(error) => {
            // Not ours after all: perhaps not even open, and then closing it would be an error too.
            let _not_closed = std::os::fd::IntoRawFd::into_raw_fd(owned);
            Err(error)
        }
    }
}

/// Whether the socket listens.
fn examine(socket: &OwnedFd) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(socket)?.st_mode);
    if kind != FileType::Socket
        || sockopt::socket_domain(socket)? != AddressFamily::UNIX
        || sockopt::socket_type(socket)? != SocketType::STREAM
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a UNIX stream socket",
        ));
    }
    Ok(sockopt::socket_acceptconn(socket)?)
}

/// The number of a group, by name or as a number.
pub(super) fn group_id(name: &str) -> io::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let c_name = std::ffi::CString::new(name)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut group = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live objects of the sizes given; `found` is set to `group` or to null.
    let error = unsafe {
        libc::getgrnam_r(
            c_name.as_ptr(),
            group.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    if found.is_null() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such group"));
    }
    // SAFETY: `found` is not null, so getgrnam_r has filled in `group`.
    Ok(unsafe { group.assume_init() }.gr_gid)
}
