//! A state as a whole, without a front-end that moves it: for a connection that changes hands.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use super::{TransferOptions, Transfers, guarded, load, save};
use crate::device::Device;
use crate::protocol::messages::Direction;
use crate::protocol::transfer::TransferError;

impl<D: Device> Transfers<D> {
    /// The state of the device, which is suspended, in a memfd that nobody can change any more.
    pub(in crate::protocol) fn save_whole(&self) -> Result<File, TransferError> {
        guarded(Direction::Save, || {
            save_to_memfd(&*self.device, self.options)
        })
    }

    /// Gives the device, which is suspended, the state in `file`.
    pub(in crate::protocol) fn load_whole(&self, file: &mut File) -> Result<(), TransferError> {
        let mut input = io::BufReader::new(file);
        let state = load(self.options, &mut input)?;
        guarded(Direction::Load, || self.apply(state))
    }
}

/// The whole state in a memfd that nobody can change any more, with its offset at the start: the offset is shared with
/// the front-end.
pub(super) fn save_to_memfd<D: Device>(
    device: &D,
    options: TransferOptions,
) -> Result<File, TransferError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd: OwnedFd =
        rustix::fs::memfd_create("device-state", flags).map_err(io::Error::from)?;
    let mut file = File::from(memfd);
    save(device, options, &mut io::BufWriter::new(&mut file))?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
    Ok(file)
}
