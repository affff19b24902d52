//! One transfer of the device's state, from `SET_DEVICE_STATE_FD` to `CHECK_DEVICE_STATE`.
//!
//! Rules: vhost-user.rst, "Migrating back-end state". The reply to `SET_DEVICE_STATE_FD` leaves before a byte moves, for
//! the front-end reads only after it and a pipe holds 64 KiB; so the bytes move on a thread of their own. What was read
//! is applied by `CHECK_DEVICE_STATE`, on the control thread, while nothing can start: a LOAD that is never checked
//! changes nothing.
//!
//! Knows the state stream as a whole, and none of its sections.

mod whole;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::channel::{Cancellation, Channel};
use super::messages::Direction;
use crate::device::{Device, LoadError, SaveError};
use crate::report;
use crate::state::{Limits, StateError, StateSchema, read_state, write_state};
use whole::save_to_memfd;

/// Through which descriptor SAVE goes. (LOAD always comes through the front-end's.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveChannel {
    /// The one that the front-end offers.
    #[default]
    Offered,
    /// A sealed memfd of our own, which holds the whole state when the front-end gets it.
    Memfd,
}

/// How states are moved.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// Through which descriptor SAVE goes.
    pub save_channel: SaveChannel,
    /// Bounds on what is read.
    pub limits: Limits,
    /// The schema version to write; the newest if `None`.
    pub write_version: Option<u16>,
    /// Longest time without progress on the channel, and longest wait in `CHECK_DEVICE_STATE`.
    pub patience: Duration,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            save_channel: SaveChannel::Offered,
            limits: Limits::default(),
            write_version: None,
            patience: Duration::from_mins(1),
        }
    }
}

/// A transfer did not begin, or did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// State was to be moved while rings run.
    #[error("front-end: the device is not suspended")]
    NotSuspended,
    /// A second transfer was to begin before the first has ended.
    #[error("front-end: a {running} is still running")]
    Busy {
        /// The one that runs.
        running: Direction,
    },
    /// `CHECK_DEVICE_STATE` without a transfer.
    #[error("front-end: CHECK_DEVICE_STATE, but no transfer was begun")]
    NothingToCheck,
    /// The descriptor is of a kind that no state can move through.
    #[error("front-end: a state cannot move through {found}")]
    Descriptor {
        /// What it is.
        found: String,
    },
    /// The transfer had not ended when the wait for it did.
    #[error("front-end: {direction} has not ended within {waited_ms} ms of CHECK_DEVICE_STATE")]
    Endless {
        /// The direction.
        direction: Direction,
        /// The wait in milliseconds.
        waited_ms: u128,
    },
    /// The device panicked.
    #[error("the {direction} panicked; please report this")]
    Panicked {
        /// The direction.
        direction: Direction,
    },
    /// The device could not produce its state.
    #[error("SAVE failed")]
    Save(#[from] SaveError),
    /// The state could not be written or read.
    #[error("the state could not be moved")]
    Stream(#[from] StateError),
    /// The device refused the state.
    #[error("LOAD failed; the device is unchanged")]
    Load(#[from] LoadError),
    /// The host refused a descriptor or a thread.
    #[error("host: no means to move a state")]
    Host(#[from] io::Error),
}

/// What a transfer leaves for `CHECK_DEVICE_STATE`.
enum Outcome<S> {
    Saved,
    /// Read and decoded; not yet applied.
    Decoded(S),
}

type Verdict<S> = Result<Outcome<S>, TransferError>;

struct Running<S> {
    direction: Direction,
    thread: JoinHandle<()>,
    /// Set before the channel is closed, for a front-end that sees its end may begin the next transfer at once.
    ended: Arc<AtomicBool>,
    verdict: Receiver<Verdict<S>>,
}

enum Slot<S> {
    Empty,
    Running(Running<S>),
    Done(Verdict<S>),
}

/// The transfers of one device, one at a time.
pub(crate) struct Transfers<D: Device> {
    device: Arc<D>,
    options: TransferOptions,
    /// Held for as long as CHECK waits.
    slot: Mutex<Slot<D::State>>,
    /// Of the transfer that runs; apart from the slot, so that a disconnect ends the wait of a CHECK.
    cancellation: Mutex<Option<Cancellation>>,
}

impl<D: Device> Transfers<D> {
    pub(crate) fn new(device: Arc<D>, options: TransferOptions) -> Self {
        Self {
            device,
            options,
            slot: Mutex::new(Slot::Empty),
            cancellation: Mutex::default(),
        }
    }

    /// Begins a transfer; returns the descriptor to use instead of `file`, if there is one.
    ///
    /// A transfer that has ended, well or not, need not have been checked: QEMU sends no CHECK after a failed one.
    pub(super) fn begin(
        &self,
        direction: Direction,
        file: File,
        started: bool,
    ) -> Result<Option<File>, TransferError> {
        if started {
            return Err(TransferError::NotSuspended);
        }
        let mut slot = self.lock();
        if let Slot::Running(running) = &*slot
            && !running.ended.load(Ordering::Acquire)
        {
            return Err(TransferError::Busy {
                running: running.direction,
            });
        }
        std::mem::replace(&mut *slot, Slot::Empty).forget();
        let cancellation = Cancellation::new()?;
        let channel = Channel::new(file, direction, cancellation.clone(), self.options.patience)?;
        if direction == Direction::Save && self.options.save_channel == SaveChannel::Memfd {
            let memfd = guarded(direction, || save_to_memfd(&*self.device, self.options))?;
            *slot = Slot::Done(Ok(Outcome::Saved));
            return Ok(Some(memfd));
        }
        *slot = Slot::Running(self.spawn(direction, channel)?);
        *self.cancellation() = Some(cancellation);
        Ok(None)
    }

    fn spawn(&self, direction: Direction, mut channel: Channel) -> io::Result<Running<D::State>> {
        let device = Arc::clone(&self.device);
        let options = self.options;
        let (sender, verdict) = sync_channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name(format!("state-{direction}").to_lowercase())
            .spawn(move || {
                let result = guarded(direction, || match direction {
                    Direction::Save => {
                        save(&*device, options, &mut channel).map(|()| Outcome::Saved)
                    }
                    Direction::Load => load(options, &mut channel).map(Outcome::Decoded),
                });
                ending.store(true, Ordering::Release);
                // Before the verdict: a front-end that still writes into a LOAD that has failed gets EPIPE and need not
                // come to CHECK to find out; one that reads gets its EOF.
                drop(channel);
                let _gone = sender.send(result);
            })?;
        Ok(Running {
            direction,
            thread,
            ended,
            verdict,
        })
    }

    /// `CHECK_DEVICE_STATE`: waits for the transfer to end; applies what was loaded.
    pub(super) fn check(&self, started: bool) -> Result<(), TransferError> {
        let mut slot = self.lock();
        let verdict = match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Empty => return Err(TransferError::NothingToCheck),
            Slot::Done(verdict) => verdict,
            Slot::Running(running) => {
                let verdict = running.wait(self.options.patience);
                self.stop();
                verdict
            }
        };
        match verdict? {
            // The front-end may have started rings since. What was saved meanwhile may be torn, and what came is not the state
            // of that guest.
            Outcome::Saved | Outcome::Decoded(_) if started => Err(TransferError::NotSuspended),
            Outcome::Saved => Ok(()),
            Outcome::Decoded(state) => guarded(Direction::Load, || self.apply(state)),
        }
    }

    fn apply(&self, state: D::State) -> Result<(), TransferError> {
        let began = Instant::now();
        self.device.check(&state)?;
        let check_ms = began.elapsed().as_millis();
        self.device.load(state)?;
        let apply_ms = began.elapsed().as_millis();
        log::info!(
            "state phase=load result=ok check_ms={check_ms} load_ms={} apply_ms={apply_ms}",
            apply_ms.saturating_sub(check_ms)
        );
        Ok(())
    }

    /// The front-end is gone: ends a running transfer and forgets it.
    pub(super) fn cancel(&self) {
        self.stop(); // so that a CHECK gives the slot up
        let slot = std::mem::replace(&mut *self.lock(), Slot::Empty);
        self.stop(); // a transfer may have begun until the slot was ours
        slot.forget();
    }

    fn stop(&self) {
        if let Some(cancellation) = self.cancellation().take() {
            cancellation.cancel();
        }
    }

    fn cancellation(&self) -> MutexGuard<'_, Option<Cancellation>> {
        self.cancellation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Slot<D::State>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Slot<S> {
    /// Nobody asks any more what came of a transfer: QEMU sends no CHECK when the channel breaks, as it does when what comes through it
    /// is refused. So the log has to tell.
    fn forget(self) {
        let Self::Running(running) = self else {
            return;
        };
        let _never_panics = running.thread.join();
        if let Ok(Err(error)) = running.verdict.try_recv() {
            let (direction, chain) = (running.direction, report::chain(&error));
            log::error!("{direction} failed, and the front-end did not ask: {chain}");
        }
    }
}

impl<S> Running<S> {
    fn wait(self, limit: Duration) -> Verdict<S> {
        let direction = self.direction;
        match self.verdict.recv_timeout(limit) {
            Ok(verdict) => verdict,
            Err(RecvTimeoutError::Timeout) => Err(TransferError::Endless {
                direction,
                waited_ms: limit.as_millis(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(TransferError::Panicked { direction }),
        }
    }
}

/// Makes a panic of the device an error of the transfer.
fn guarded<T>(
    direction: Direction,
    work: impl FnOnce() -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(TransferError::Panicked { direction }))
}

fn save<D: Device>(
    device: &D,
    options: TransferOptions,
    out: &mut dyn io::Write,
) -> Result<(), TransferError> {
    let began = Instant::now();
    let state = device.save()?;
    let collect_ms = began.elapsed().as_millis();
    let version = options.write_version.unwrap_or(D::State::VERSION);
    let summary = write_state(&state, version, out)?;
    log::info!(
        "state phase=save result=ok version={version} bytes={} sections={} collect_ms={collect_ms} total_ms={}",
        summary.bytes,
        summary.sections,
        began.elapsed().as_millis()
    );
    Ok(())
}

fn load<S: StateSchema>(
    options: TransferOptions,
    input: &mut dyn io::Read,
) -> Result<S, TransferError> {
    let began = Instant::now();
    let state = read_state(input, &options.limits)?;
    log::info!(
        "state phase=receive result=ok ms={}",
        began.elapsed().as_millis()
    );
    Ok(state)
}

/// [`Device::prepare_save`] on a thread of its own, while the guest still runs.
pub(super) struct Preparation<D> {
    device: Arc<D>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<D: Device> Preparation<D> {
    pub(super) fn new(device: Arc<D>) -> Self {
        Self {
            device,
            thread: Mutex::default(),
        }
    }

    /// Begins, unless one is under way.
    pub(super) fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let device = Arc::clone(&self.device);
        let spawned = thread::Builder::new()
            .name("prepare-save".into())
            .spawn(move || device.prepare_save());
        match spawned {
            Ok(handle) => *thread = Some(handle),
            Err(error) => log::warn!("host: no thread to prepare saving with: {error}"),
        }
    }

    /// Waits for it to end.
    pub(super) fn finish(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("preparing to save panicked; please report this");
        }
    }
}

#[cfg(test)]
mod tests;
