//! What the tests of the whole are made of. Nothing depends on this crate but `xtask`.

pub mod qemu;
