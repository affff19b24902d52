//! What a driver puts on a ring and what it gets back: descriptors, buffers, used elements.

/// `VIRTQ_DESC_F_NEXT`: another descriptor follows.
pub const DESCRIPTOR_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes.
pub const DESCRIPTOR_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table of descriptors.
pub const DESCRIPTOR_INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub const DESCRIPTOR_SIZE: u64 = 16;

/// One descriptor, as it is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// `DESCRIPTOR_` bits.
    pub flags: u16,
    /// The next descriptor of the chain.
    pub next: u16,
}

impl Descriptor {
    /// The 16 bytes.
    pub fn encode(self) -> [u8; 16] {
        let fields = u128::from(self.address)
            | u128::from(self.length) << 64
            | u128::from(self.flags) << 96
            | u128::from(self.next) << 112;
        fields.to_le_bytes()
    }
}

/// A buffer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// Whether the device writes it; otherwise the device reads it.
    pub writable: bool,
}

/// How a chain lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// In the ring's own descriptors.
    Direct,
    /// In a table of its own, which takes one descriptor of the ring (virtio 1.3, 2.7.5.3).
    Indirect,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Ring::add`](super::Ring::add) returned.
    pub head: u16,
    /// How many bytes the device says it wrote.
    pub written: u32,
}
