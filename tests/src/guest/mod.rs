//! The guest's side of a device without a guest: memory, the driver's half of rings, and a machine of them.
//!
//! Knows nothing of what the requests on a ring mean.

pub mod chain;
pub mod machine;
pub mod memory;
pub mod ring;

pub use chain::{Buffer, Descriptor, Table, Used};
pub use machine::{LoadOrder, Machine, Manner};
pub use memory::Memory;
pub use ring::Ring;
