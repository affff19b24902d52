//! SCSI tools of others against a back-end of ours, without a guest and without SCSI in the host's kernel.
//!
//! ```text
//!   iscsi-test-cu, sg_*             this process                                 daemons
//!   open("/dev/sg0"), SG_IO --->  gateway --> port: initiator, rings in memory --> back-end, and the next one, and the next one
//!   (sgshim, preloaded)    wire
//! ```
//!
//! The [`gateway`] runs a program with `sgshim` in front of libc, so that its SCSI devices are [`port`]s here. Between any two commands of the
//! program a port can be migrated to a new daemon, and the program must not notice.

pub mod conformance;
pub mod gateway;
pub mod initiator;
pub mod iscsi;
pub mod load;
pub mod port;
pub mod tgtd;
pub mod wire;
