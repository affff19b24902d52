//! A state as a whole, without a front-end that moves it: for a connection that changes hands.

use std::fs::File;

use super::{Transfers, guarded, load, save_to_memfd};
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
        let mut input = std::io::BufReader::new(file);
        let state = load(self.options, &mut input)?;
        guarded(Direction::Load, || self.apply(state))
    }
}
