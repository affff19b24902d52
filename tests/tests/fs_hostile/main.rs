//! Does the file system daemon survive a guest that attacks it, and does the rest of the host?
//!
//! The guest here is no kernel: it sends what a kernel never would, over real rings to the real daemon. Each test
//! ends with [`Rig::survived`]: the daemon still serves, nothing in it panicked, and a tree beside the share is
//! byte for byte what it was.

mod exhaustion;
mod files;
mod fuzz;
mod malformed;
mod names;
mod numbers;
mod readonly;
mod rig;
mod session;
