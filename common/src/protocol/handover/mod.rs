//! A connection changes hands: the daemon that is to end leaves it for the next one, and the front-end notices
//! nothing but that an answer takes longer.
//!
//! ```text
//! ends     barrier, suspend, save into a memfd, stop rings, pack, keep      the front-end's messages wait in its socket,
//! begins   unpack, suspend, load, say again, forget what is kept, resume    the guest's requests on its rings
//! ```
//!
//! Until it is kept, every step can be taken back, and the one that was to end goes on. Until it is forgotten, the next one can
//! fail, and yet another one can try. Who keeps it is a [`Keeper`]. Knows no service manager.

mod parcel;
mod record;

use std::io::{self, Seek as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

pub(crate) use parcel::{Inheritance, PARCEL_BYTES_MAX, PARCEL_FILES_MAX, Parcel};
pub(crate) use record::Record;

use super::adapter::Adapter;
use super::control::Control;
use super::messages::Request;
use super::relay::{End, Relay, RelayError, Until};
use super::transfer::TransferError;
use crate::device::{Device, SuspendError};
use crate::state::{DeviceKind, StateError};

/// Keeps what one daemon leaves, for the next.
pub(crate) trait Keeper {
    /// When this returns without an error, it is kept whatever becomes of this process. With an error, nothing is.
    fn keep(&self, record: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()>;
    /// The next one has it.
    fn forget(&self) -> io::Result<()>;
}

/// A connection did not change hands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    #[error("front-end: a state transfer is under way")]
    Transferring,
    #[error("the device cannot be suspended")]
    Suspend(#[from] SuspendError),
    #[error("the device's state")]
    State(#[from] TransferError),
    #[error("the record of the connection")]
    Record(#[source] StateError),
    #[error("front-end: {0} descriptors belong to the connection, {PARCEL_FILES_MAX} can be left")]
    TooManyFiles(usize),
    #[error("front-end: the record has {0} bytes, {PARCEL_BYTES_MAX} can be left")]
    TooLarge(usize),
    #[error("service manager: the connection is not kept")]
    Keep(#[source] io::Error),
    #[error("service manager: what is kept cannot be forgotten")]
    Forget(#[source] io::Error),
    #[error("the record is of a device with number {found}, this one is {ours}")]
    Device { found: u16, ours: DeviceKind },
    #[error("the record tells of {told} descriptors, and {found} came with it")]
    Files { told: usize, found: usize },
    #[error("the record's first descriptor is no connection")]
    NoConnection,
    #[error("the record has a {request} that cannot be said again")]
    Message { request: Request },
    #[error("host: the device's state cannot be read from its beginning")]
    Rewind(#[source] io::Error),
    #[error("the link to the stock daemon")]
    Relay(#[from] RelayError),
}

/// Leaves the connection to the next daemon. On an error this one goes on.
pub(super) fn leave<D: Device>(
    control: &Control<D>,
    adapter: &Adapter<D>,
    relay: &mut Relay<'_>,
    keeper: &dyn Keeper,
) -> Result<End, HandoverError> {
    let began = Instant::now();
    if let Some(end) = relay.barrier(Until::Never)? {
        return Ok(end);
    }
    // Every answer has come by now, so it is known what was refused.
    if relay.record().is_transferring() {
        return Err(HandoverError::Transferring);
    }
    control.suspend()?;
    if let Err(error) = leave_suspended(control, adapter, relay, keeper) {
        if !relay.record().is_suspended() {
            control.resume();
        }
        return Err(error);
    }
    log::info!(
        "handover phase=leave result=ok ms={}",
        began.elapsed().as_millis()
    );
    Ok(End::HandedOver)
}

fn leave_suspended<D: Device>(
    control: &Control<D>,
    adapter: &Adapter<D>,
    relay: &mut Relay<'_>,
    keeper: &dyn Keeper,
) -> Result<(), HandoverError> {
    let state = adapter.save_whole()?;
    relay.stop_rings()?;
    let kept = parcel::pack(
        control.device.info().kind,
        relay.record(),
        relay.front_end(),
        state.as_fd(),
    )
    .and_then(|(record, files)| keeper.keep(&record, &files).map_err(HandoverError::Keep));
    if kept.is_err() {
        relay.restart_rings()?;
    }
    kept
}

/// Goes on with what another daemon has left. On an error it is still kept.
pub(super) fn take_over<D: Device>(
    control: &Control<D>,
    adapter: &Adapter<D>,
    relay: &mut Relay<'_>,
    inheritance: Inheritance,
    keeper: &dyn Keeper,
) -> Result<(), HandoverError> {
    let began = Instant::now();
    let Inheritance {
        mut state,
        suspended,
        messages,
        front_end: _,
    } = inheritance;
    control.suspend()?;
    // The offset is shared with whoever tried before.
    state.rewind().map_err(HandoverError::Rewind)?;
    adapter.load_whole(&mut state)?;
    relay.repeat(messages, suspended)?;
    keeper.forget().map_err(HandoverError::Forget)?;
    if !suspended {
        control.resume();
    }
    log::info!(
        "handover phase=take result=ok ms={}",
        began.elapsed().as_millis()
    );
    Ok(())
}
