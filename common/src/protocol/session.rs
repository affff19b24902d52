//! One front-end, from its connection to its end: the stock daemon, the private link to it, and the relay between.
//!
//! A stock daemon serves one connection and cannot be used again, so there is a new one for each front-end; the device, its
//! lifecycle and its transfers live on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
    socket_with,
};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vmm_sys_util::epoll::EventSet;

use super::adapter::Adapter;
use super::control::Control;
use super::handover::{self, HandoverError, Inheritance, Keeper};
use super::inflight::Regions;
use super::relay::{End, Explicit, Relay, RelayError, Until};
use super::transfer::{TransferOptions, Transfers};
use super::vring::{Connection, RingObserver, observed};
use crate::device::{Device, NoDisplay, SuspendError};

/// Time that requests in flight get when the front-end has gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a device works on after it could not be handed over, before that is tried again.
const RESPITE: Duration = Duration::from_secs(1);

/// Limits of one device.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest time that SUSPEND waits for requests and background work in flight.
    pub suspend_limit: Duration,
    /// How states are moved.
    pub transfer: TransferOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suspend_limit: Duration::from_secs(5),
            transfer: TransferOptions::default(),
        }
    }
}

/// A connection could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("host: no private link to the stock daemon")]
    Link(#[source] io::Error),
    /// The stock error is neither an [`std::error::Error`] nor [`Sync`]: its text is kept.
    #[error("host: the stock daemon does not start: {0}")]
    Daemon(String),
    #[error("host: a worker cannot be given its wake-up event")]
    Waker(#[source] io::Error),
    #[error("host: no thread for requests that outlive the connection")]
    Farewell(#[source] io::Error),
    #[error("what another daemon has left cannot be gone on with; it is still kept")]
    TakeOver(#[source] HandoverError),
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// A device with all that outlives a connection.
pub(crate) struct Host<D: Device> {
    device: Arc<D>,
    control: Arc<Control<D>>,
    options: Options,
}

impl<D: Device> Explicit for Control<D> {
    fn suspend(&self) -> Result<(), SuspendError> {
        Control::suspend(self)
    }

    fn resume(&self) {
        Control::resume(self);
    }

    fn set_display_socket(&self, socket: UnixStream) -> Result<(), NoDisplay> {
        self.device.set_display_socket(socket)
    }
}

impl<D: Device> Host<D> {
    pub(crate) fn new(device: D, options: Options) -> Self {
        let device = Arc::new(device);
        Self {
            control: Arc::new(Control::new(Arc::clone(&device), options.suspend_limit)),
            device,
            options,
        }
    }

    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Serves one front-end until it leaves, or `stop` becomes readable.
    pub(crate) fn serve(
        &self,
        front_end: &UnixStream,
        stop: BorrowedFd<'_>,
    ) -> Result<End, SessionError> {
        self.serve_kept(front_end, stop, None, None)
    }

    /// The same, where `keeper` gets the connection when `stop` becomes readable. It is gone on with, if it is inherited.
    pub(crate) fn serve_kept(
        &self,
        front_end: &UnixStream,
        stop: BorrowedFd<'_>,
        keeper: Option<&dyn Keeper>,
        inheritance: Option<Inheritance>,
    ) -> Result<End, SessionError> {
        let transfers = Transfers::new(Arc::clone(&self.device), self.options.transfer);
        let adapter = Arc::new(Adapter::new(Arc::clone(&self.control), transfers));
        self.run(&adapter, front_end, stop, keeper, inheritance)
    }

    fn run(
        &self,
        adapter: &Arc<Adapter<D>>,
        front_end: &UnixStream,
        stop: BorrowedFd<'_>,
        keeper: Option<&dyn Keeper>,
        inheritance: Option<Inheritance>,
    ) -> Result<End, SessionError> {
        let (mut listener, back_end) = private_link().map_err(SessionError::Link)?;
        let observer: Weak<dyn RingObserver> = Arc::<Control<D>>::downgrade(&self.control);
        let info = self.device.info();
        let connection = Connection {
            regions: info
                .resubmits
                .then(|| Regions::new(info.rings, info.ring_size_max)),
            ..Connection::default()
        };
        let mut daemon = observed(observer, &connection, || {
            VhostUserDaemon::new(
                info.name.to_owned(),
                Arc::clone(adapter),
                self.control.memory().table().clone(),
            )
        })
        .map_err(|error| SessionError::Daemon(error.to_string()))?;
        self.register_wakers(&daemon, adapter)?;
        daemon
            .start(&mut listener)
            .map_err(|error| SessionError::Daemon(error.to_string()))?;
        self.control.connect();
        let regions = connection.regions.clone();
        let mut relay = Relay::new(front_end, &back_end, &*self.control, regions);
        let end = self.relay(adapter, &mut relay, stop, keeper, inheritance);
        let kept = matches!(end, Ok(End::HandedOver) | Err(SessionError::TakeOver(_)));
        relay.close(!kept);

        // The stock thread may be waiting for a ring or for a transfer; nobody else does any more.
        connection.retired.set();
        self.control.abandon();
        adapter.disconnect();
        let stock = daemon.wait();
        // Its last messages may have begun another one.
        adapter.disconnect();
        if connection.regions.is_some_and(|regions| regions.are_used()) {
            self.control.finish_unless(|| is_readable(stop));
        }
        let drained = self.control.disconnect(FAREWELL);
        self.control.set_wakers(Vec::new());
        bury(daemon, drained)?;
        if let (Ok(End::Refused) | Err(SessionError::TakeOver(_)), Err(error)) = (&end, stock) {
            log::error!("connection closed: {error}");
        }
        end
    }

    /// Goes on with what was left, if something was; relays; and leaves it to the next daemon, if there may be one.
    fn relay(
        &self,
        adapter: &Adapter<D>,
        relay: &mut Relay<'_>,
        stop: BorrowedFd<'_>,
        keeper: Option<&dyn Keeper>,
        inheritance: Option<Inheritance>,
    ) -> Result<End, SessionError> {
        let Some(keeper) = keeper else {
            return Ok(relay.run(Until::Readable(stop))?);
        };
        relay.keep_record();
        if let Some(inheritance) = inheritance {
            handover::take_over(&self.control, adapter, relay, inheritance, keeper)
                .map_err(SessionError::TakeOver)?;
        }
        let mut until = Until::Readable(stop);
        loop {
            let end = relay.run(until)?;
            if end != End::Stopped {
                return Ok(end);
            }
            match handover::leave(&self.control, adapter, relay, keeper) {
                Ok(end) => return Ok(end),
                Err(error) => log::warn!(
                    "the connection cannot be left to the next daemon yet: {}",
                    crate::report::chain(&error)
                ),
            }
            until = Until::At(Instant::now() + RESPITE);
        }
    }

    /// Gives each worker an event by which RESUME makes it look at its rings again.
    fn register_wakers(
        &self,
        daemon: &VhostUserDaemon<Arc<Adapter<D>>>,
        adapter: &Adapter<D>,
    ) -> Result<(), SessionError> {
        let mut events = Vec::new();
        for worker in daemon.get_epoll_handlers() {
            let waker: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| SessionError::Waker(error.into()))?;
            // Edge-triggered, so that nobody has to read it.
            worker
                .register_listener(
                    waker.as_raw_fd(),
                    EventSet::IN | EventSet::EDGE_TRIGGERED,
                    adapter.waker_token(),
                )
                .map_err(SessionError::Waker)?;
            events.push(waker);
        }
        let wakers = (0..self.device.info().rings)
            .filter_map(|ring| events.get(self.device.worker_of(ring)))
            .map(OwnedFd::try_clone)
            .collect::<io::Result<_>>();
        self.control
            .set_wakers(wakers.map_err(SessionError::Waker)?);
        Ok(())
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Ends the workers. One that is not `idle` would be waited for, perhaps for ever, and the end of this connection with it:
/// that is left to a thread.
fn bury<D: Device>(
    daemon: VhostUserDaemon<Arc<Adapter<D>>>,
    idle: bool,
) -> Result<(), SessionError> {
    if idle {
        drop(daemon);
        return Ok(());
    }
    std::thread::Builder::new()
        .name("farewell".into())
        .spawn(move || drop(daemon))
        .map(drop)
        .map_err(SessionError::Farewell)
}

/// A listener on which our own connection is already waiting, and that connection.
///
/// The stock daemon takes a listener and nothing else. An abstract address chosen by the kernel needs no file system; with a
/// backlog of 0 one connection fits, so if ours succeeds without waiting, nobody else's is there.
fn private_link() -> io::Result<(Listener, UnixStream)> {
    let flags = SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&listener, &SocketAddrUnix::new_unnamed())?;
    listen(&listener, 0)?;
    let address = getsockname(&listener)?;
    let stream = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags | SocketFlags::NONBLOCK,
        None,
    )?;
    connect(&stream, &address)?;
    rustix::io::ioctl_fionbio(stream.as_fd(), false)?;
    Ok((
        Listener::from(UnixListener::from(listener)),
        UnixStream::from(stream),
    ))
}

#[cfg(test)]
mod tests;
