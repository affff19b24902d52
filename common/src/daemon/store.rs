//! The service manager's store of descriptors, as the keeper of a connection that is left to the next daemon.
//!
//! One descriptor is stored: a socket in which one message waits, with the record of the connection and all its descriptors.
//! So there is everything or nothing, whatever fails in between. The message is only looked at, and stays until the store is
//! told to forget the socket. (A store that got the descriptors one by one would drop those that are the same file twice, as
//! QEMU's memory is.) Knows `sd_notify(3)` and `sd_pid_notify_with_fds(3)`; knows nothing of what is kept.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{DaemonError, inherited};
use crate::protocol::{Keeper, PARCEL_BYTES_MAX, PARCEL_FILES_MAX, Parcel};

/// How long the service manager may take to say that it has read what was sent.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The store, open before the sandbox is entered.
#[derive(Debug)]
pub(super) struct Store {
    notify: UnixDatagram,
    /// What an earlier daemon has left.
    found: Option<OwnedFd>,
}

impl Store {
    /// The store that `NOTIFY_SOCKET` leads to.
    pub(super) fn open() -> Result<Self, DaemonError> {
        let name = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| {
            DaemonError::usage("--handover takes a service manager (NOTIFY_SOCKET is not set)")
        })?;
        let opened = || -> io::Result<Self> {
            // Before anything is opened: if it is not there, its number would be given to that.
            let found = inherited::stored()?;
            let notify = UnixDatagram::unbound()?;
            match name.as_encoded_bytes().strip_prefix(b"@") {
                Some(abstract_name) => {
                    notify.connect_addr(&SocketAddr::from_abstract_name(abstract_name)?)?;
                }
                None => notify.connect(&name)?,
            }
            Ok(Self { notify, found })
        };
        opened().map_err(DaemonError::host(
            "the service manager cannot be told anything (NOTIFY_SOCKET)",
        ))
    }

    /// What an earlier daemon has left, if one has. It stays in the store.
    pub(super) fn parcel(&self) -> io::Result<Option<Parcel>> {
        self.found.as_ref().map(look).transpose()
    }

    /// Tells the service manager that the daemon is ready (`Type=notify`).
    pub(super) fn ready(&self) -> io::Result<()> {
        self.tell("READY=1", None)
    }

    /// Has the store forget what is kept.
    fn remove(&self) -> io::Result<()> {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={}", inherited::STORED);
        self.tell(&text, None)?;
        // Once it was sent it will be read: there is no way back.
        if let Err(error) = self.barrier() {
            log::warn!("service manager: it does not say that it has forgotten: {error}");
        }
        Ok(())
    }

    fn tell(&self, text: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send(self.notify.as_fd(), text.as_bytes(), file.as_slice())
    }

    /// Waits until the service manager has read everything up to here.
    fn barrier(&self) -> io::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        self.tell("BARRIER=1", Some(writer.as_fd()))?;
        drop(writer);
        let mut polled = [PollFd::new(&reader, PollFlags::empty())];
        loop {
            match poll(&mut polled, Some(&PATIENCE)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Keeper for Store {
    fn keep(&self, record: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        send(near.as_fd(), record, files)?;
        drop(near);
        // Its other end is closed already: without FDPOLL=0 it would be taken for one that nobody needs any more.
        let name = inherited::STORED;
        let kept = self
            .tell(
                &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
                Some(far.as_fd()),
            )
            .and_then(|()| self.barrier());
        if kept.is_err() {
            self.remove()?;
        }
        kept
    }

    fn forget(&self) -> io::Result<()> {
        self.remove()?;
        if let Err(error) = self.ready() {
            log::warn!("service manager: it cannot be told that the daemon is ready: {error}");
        }
        Ok(())
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARCEL_FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOMANYREFS.into());
    }
    loop {
        let bytes = [IoSlice::new(bytes)];
        match sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The message in `socket`, which stays there.
fn look(socket: &OwnedFd) -> io::Result<Parcel> {
    let mut record = vec![0; PARCEL_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARCEL_FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut record)],
        &mut control,
        flags,
    )?;
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more was left than can be read, or opened",
        ));
    }
    record.truncate(got.bytes);
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    Ok(Parcel { record, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store whose service manager is this test.
    fn store(found: Option<OwnedFd>) -> (Store, UnixDatagram) {
        let (notify, manager) = UnixDatagram::pair().unwrap();
        (Store { notify, found }, manager)
    }

    #[test]
    fn what_is_kept_can_be_looked_at_again_and_again() {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let same = near.as_fd();
        send(near.as_fd(), b"record", &[same; PARCEL_FILES_MAX]).unwrap();
        drop(near);
        let (store, _manager) = store(Some(far));
        for _ in 0..3 {
            let parcel = store.parcel().unwrap().unwrap();
            assert_eq!(parcel.record, b"record");
            assert_eq!(parcel.files.len(), PARCEL_FILES_MAX);
        }
    }

    /// Who goes on with what was left is ready when nobody else has to.
    #[test]
    fn it_is_ready_once_what_was_kept_is_forgotten() {
        let (store, manager) = store(None);
        let patience = std::time::Duration::from_mins(1);
        manager.set_read_timeout(Some(patience)).unwrap();
        let forgetting = std::thread::spawn(move || store.forget());
        let mut said = Vec::new();
        for _ in 0..3 {
            // The barrier's pipe is closed unread: that is the answer.
            let mut text = [0; 100];
            let count = manager.recv(&mut text).unwrap();
            said.push(String::from_utf8_lossy(&text[..count]).into_owned());
        }
        forgetting.join().unwrap().unwrap();
        let forget = format!("FDSTOREREMOVE=1\nFDNAME={}", inherited::STORED);
        assert_eq!(said, [&forget, "BARRIER=1", "READY=1"]);
    }

    #[test]
    fn a_service_manager_that_is_gone_keeps_nothing() {
        let (store, manager) = store(None);
        assert!(store.parcel().unwrap().is_none());
        drop(manager);
        assert!(store.keep(b"record", &[]).is_err());
    }
}
