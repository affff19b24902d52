//! The end of a command that needed the medium.
//!
//! Knows which sense data a failure is; does not know how the medium is read.

use super::{NOT_OURS, Unit};
use crate::scsi::command::Command;
use crate::scsi::sense::{Key, Sense};
use crate::scsi::{Completion, Extent, Failure, Operation, Reply};

impl Unit {
    /// Ends a command.
    pub fn finish(
        &mut self,
        cdb: &[u8],
        operation: &Operation,
        result: Result<Completion, Failure>,
    ) -> Reply {
        match (result, operation) {
            (Ok(Completion::Done), _) => Reply::good(Vec::new(), 0),
            (Ok(Completion::Allocation(extents)), _) => {
                let data = self.lba_status(&extents);
                Reply::good(data, Command(cdb).u32(10))
            }
            (Err(failure), _) => self.failed(self.sense_of(failure)),
        }
    }

    fn sense_of(&self, failure: Failure) -> Sense {
        let block = |at: u64| at >> self.identity.block_shift();
        match failure {
            Failure::Read { at } => Sense::new(Key::MediumError, 0x11, 0x00).about(block(at)),
            Failure::Write { at } => Sense::new(Key::MediumError, 0x0c, 0x00).about(block(at)),
            // SPACE ALLOCATION FAILED WRITE PROTECT (SBC-4, 4.7.3.6)
            Failure::NoSpace { at } => Sense::new(Key::DataProtect, 0x27, 0x07).about(block(at)),
            Failure::Miscompare { offset } => Sense::new(Key::Miscompare, 0x1d, 0x00).about(offset),
            Failure::NotReady => NOT_OURS,
            Failure::Aborted => Sense::new(Key::AbortedCommand, 0x00, 0x00),
        }
    }

    /// GET LBA STATUS (SBC-4, 5.6): a header, and a descriptor for each extent.
    fn lba_status(&self, extents: &[(Extent, bool)]) -> Vec<u8> {
        let shift = self.identity.block_shift();
        let length = u32::try_from(4 + 16 * extents.len()).unwrap_or(u32::MAX);
        let mut data = length.to_be_bytes().to_vec();
        data.extend_from_slice(&[0; 4]);
        for (extent, allocated) in extents {
            data.extend_from_slice(&(extent.at >> shift).to_be_bytes());
            let blocks = u32::try_from(extent.len >> shift).unwrap_or(u32::MAX);
            data.extend_from_slice(&blocks.to_be_bytes());
            data.extend_from_slice(&[u8::from(!allocated), 0, 0, 0]);
        }
        data
    }
}
