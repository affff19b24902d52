//! Guest memory as the core wants it: bytes at addresses.

use std::sync::Arc;

use common::memory::GuestMemory;
use vm_memory::{Bytes as _, GuestAddress, GuestMemory as _, Permissions};

use crate::two_d::GuestBytes;

/// Guest memory as it is now.
pub(crate) struct GuestRam(pub(crate) Arc<GuestMemory>);

impl GuestBytes for GuestRam {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.0.read_slice(into, GuestAddress(address)).is_ok()
    }

    fn contains(&self, address: u64, len: u64) -> bool {
        usize::try_from(len).is_ok_and(|len| {
            self.0
                .check_range(GuestAddress(address), len, Permissions::Read)
        })
    }
}
