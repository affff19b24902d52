//! The guest's side of a device without a guest: memory, and the driver's half of a ring.
//!
//! Knows nothing of what the requests on a ring mean.

pub mod chain;
pub mod memory;
pub mod ring;

pub use chain::{Buffer, Descriptor, Table, Used};
pub use memory::Memory;
pub use ring::Ring;
