//! The FUSE bridge: this host's own kernel is the guest of a virtio-fs daemon.
//!
//! What the kernel asks through `/dev/fuse` goes to the daemon over real rings, behind a real vhost-user
//! front-end, and the replies go back. So every program of this host is a program of the guest, and a
//! migration is a swap of daemons between two requests, with real nodeids and handles in use.
//!
//! ```text
//! program -> kernel -> /dev/fuse -> pump -> guest::Machine -> rings -> daemon
//! ```
//!
//! One thread, the pump, does all of it; several requests are in flight, since it waits for none of them.
//! As a guest's kernel does, it sends FORGET on ring 0 and gets no answer, and never sends INTERRUPT.
//! Knows the framing of FUSE and how large replies may be; knows nothing of files.
//!
//! No daemon can leave a mount behind that hangs: a daemon that dies, stays silent or answers nonsense
//! ends the pump, which closes `/dev/fuse`, which makes the kernel abort the connection (the same as
//! `/sys/fs/fuse/connections/N/abort`).

mod idmapped;
mod mount;
mod pump;

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use common::frontend::Frontend;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use crate::guest::Manner;
use crate::guest::machine::Migrated;
pub use idmapped::IdMapped;
use mount::Mounted;
use pump::{Command, Pump};

/// What went over a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were answered.
    pub answered: u64,
    /// FORGET and `BATCH_FORGET`.
    pub forgets: u64,
    /// INTERRUPT, none of which was passed on.
    pub interrupts: u64,
    /// Requests in flight at this moment.
    pub in_flight_now: usize,
    /// Most requests in flight at a time.
    pub in_flight_most: usize,
    /// Requests in flight, summed over all migrations, snapshots, stops and suspends at the moment they began.
    pub in_flight_at_stop: usize,
}

/// A mounted share. Dropping it aborts the connection and takes the mount away;
/// [`unmount`](Self::unmount) does it properly.
#[derive(Debug)]
pub struct Bridge {
    pump: Option<JoinHandle<Result<Traffic>>>,
    commands: Sender<Command>,
    wake: OwnedFd,
    mount: Mounted,
}

impl Bridge {
    /// Mounts the share of the daemon behind `frontend`, with which nothing was said yet, at `mountpoint`.
    /// Needs root.
    pub fn mount(frontend: Frontend, mountpoint: &Path) -> Result<Self> {
        // The pump must exist before the kernel asks, and the kernel cannot be asked before the mount.
        let (fuse, mount) = Mounted::new(mountpoint)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (commands, receiver) = mpsc::channel();
        let pump = Pump::new(frontend, fuse, wake.try_clone()?, receiver)?;
        let pump = thread::Builder::new()
            .name("bridge".into())
            .spawn(move || pump.run())?;
        Ok(Self {
            pump: Some(pump),
            commands,
            wake,
            mount,
        })
    }

    /// Moves the device to another daemon while programs go on. If that fails it goes on where it was.
    pub fn migrate_to(&mut self, destination: Frontend, manner: Manner) -> Result<Migrated> {
        let (answer, receiver) = mpsc::channel();
        self.ask(Command::Migrate(destination, manner, answer), &receiver)
    }

    /// The device's state; the device goes on afterwards.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        let (answer, receiver) = mpsc::channel();
        self.ask(Command::Snapshot(answer), &receiver)
    }

    /// Stops all rings, as a VMM does that stops its guest's processors. Requests go on being put on them.
    pub fn stop(&mut self) -> Result<()> {
        self.order(Command::Stop)
    }

    /// Starts them again.
    pub fn start(&mut self) -> Result<()> {
        self.order(Command::Start)
    }

    /// Suspends the device, by SUSPEND. Requests go on being put on its rings.
    pub fn suspend(&mut self) -> Result<()> {
        self.order(Command::Suspend)
    }

    /// Resumes it, by RESUME.
    pub fn resume(&mut self) -> Result<()> {
        self.order(Command::Resume)
    }

    /// What went over the bridge so far.
    pub fn traffic(&mut self) -> Result<Traffic> {
        let (answer, receiver) = mpsc::channel();
        self.ask(Command::Traffic(answer), &receiver)
    }

    /// Where the share is mounted.
    pub fn mountpoint(&self) -> &Path {
        self.mount.path()
    }

    /// Unmounts. An error if a program still uses the mount, or if something went wrong on the bridge
    /// since it was mounted.
    pub fn unmount(mut self) -> Result<Traffic> {
        self.mount.unmount()?;
        // A mount namespace that was made meanwhile may have a copy of the mount, with which the kernel's end of the connection
        // stays. Otherwise that is gone by now, and the pump ends by itself.
        self.end();
        self.join()
    }

    /// Has the pump end.
    fn end(&self) {
        // Either may be gone already; `/dev/fuse` is closed in any case when the thread has ended.
        let _gone = self.commands.send(Command::End);
        let _gone = pump::wake(&self.wake);
    }

    fn order(&mut self, order: fn(Sender<Result<()>>) -> Command) -> Result<()> {
        let (answer, receiver) = mpsc::channel();
        self.ask(order(answer), &receiver)
    }

    fn ask<T>(&mut self, command: Command, answer: &Receiver<Result<T>>) -> Result<T> {
        let sent = self.commands.send(command);
        pump::wake(&self.wake)?;
        // The pump answers every command, or ends and drops the sender of its answer.
        match sent.ok().and_then(|()| answer.recv().ok()) {
            Some(answered) => answered,
            None => Err(self
                .join()
                .err()
                .unwrap_or_else(|| anyhow!("the bridge was unmounted"))),
        }
    }

    /// How the pump ended.
    fn join(&mut self) -> Result<Traffic> {
        let pump = self.pump.take().context("the bridge has failed before")?;
        pump.join()
            .map_err(|_panic| anyhow!("the bridge's thread has panicked"))?
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.end();
        if self.pump.is_some() {
            let _ended = self.join();
        }
    }
}

#[cfg(test)]
mod tests;
