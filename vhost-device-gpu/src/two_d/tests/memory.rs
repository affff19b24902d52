//! Guest memory for tests: bytes at the address 0.

use crate::two_d::GuestBytes;

pub(crate) struct TestMemory(pub(crate) Vec<u8>);

impl TestMemory {
    /// Each byte is its address.
    pub(crate) fn counting(len: u8) -> Self {
        Self((0..len).collect())
    }
}

impl GuestBytes for TestMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let start = usize::try_from(address).unwrap();
        let source = self.0.get(start..).and_then(|rest| rest.get(..into.len()));
        source.map(|source| into.copy_from_slice(source)).is_some()
    }

    fn contains(&self, address: u64, len: u64) -> bool {
        address
            .checked_add(len)
            .is_some_and(|end| end <= self.0.len() as u64)
    }
}
