//! The control socket: how an operator adds, removes, resizes and shows logical units of a daemon that runs.
//!
//! Knows what is said on the socket, and who carries it out only as a trait. One JSON object is a line each way; a client may send
//! several, one after the other:
//!
//! ```text
//! -> {"version":1,"command":{"add":{"path":"/srv/disk.img","lun":3,"readonly":true}}}    keys as in --lun
//! -> {"version":1,"command":{"remove":{"lun":3}}}
//! -> {"version":1,"command":{"resize":{"lun":3,"blocks":2048}}}                        without blocks: as the file is
//! -> {"version":1,"command":"show"}
//! <- {"version":1,"answer":{"unit":{"lun":3}}}
//! <- {"version":1,"answer":{"resized":{"lun":3,"blocks":2048}}}
//! <- {"version":1,"answer":{"shown":{...}}}
//! <- {"version":1,"answer":{"refused":"why"}}
//! ```
//!
//! Whoever may open the socket (mode 0600) has the daemon open files for it, and is the operator. Still, nothing that a client sends
//! or leaves unsent makes the daemon wait or grow.

use common::device::DeviceError;
use serde::{Deserialize, Serialize};

use crate::args::UnitOptions;
use crate::config::UnitConfig;

mod client;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientError, CtlArgs, run};
pub use server::Server;

/// Version of the protocol. A new one comes with a change that an older side would misunderstand.
pub const VERSION: u16 = 1;
/// Greatest length of a request in bytes, its newline included: two paths of `PATH_MAX`, escaped.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Greatest length of an answer in bytes: all units there can be.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What can be done to a daemon that runs.
pub trait Administer: Send + Sync {
    /// Adds a unit; the guest hears of it.
    fn add(&self, unit: UnitConfig) -> Result<(), DeviceError>;

    /// Removes a unit, when its commands have ended; the guest hears of it.
    fn remove(&self, lun: u16) -> Result<(), DeviceError>;

    /// Gives a unit this many logical blocks, or as many as its file has; the guest hears of it. Returns the blocks.
    fn resize(&self, lun: u16, blocks: Option<u64>) -> Result<u64, DeviceError>;

    /// The daemon as it is now.
    fn show(&self) -> Shown;
}

/// What the operator sees of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Target number.
    pub target: u8,
    /// Name of the initiator, that is of the guest.
    pub initiator: String,
    /// Events that the guest has not fetched.
    pub events_waiting: u64,
    /// Whether the guest will be told that it missed some.
    pub events_missed: bool,
    /// Units, by number.
    pub units: Vec<ShownUnit>,
}

/// What the operator sees of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches"
)]
pub struct ShownUnit {
    /// Logical unit number.
    pub lun: u16,
    /// Its file; a byte that is no UTF-8 is replaced.
    pub path: String,
    /// Unit serial number.
    pub serial: String,
    /// World wide name, 16 hexadecimal digits.
    pub wwn: String,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Refuses writes, by configuration or because the guest wants it so.
    pub readonly: bool,
    /// Has a volatile write cache (WCE).
    pub write_cache: bool,
    /// Stopped by the guest (START STOP UNIT).
    pub stopped: bool,
    /// What the guest has not heard of yet, as additional sense code and qualifier: `29/00`.
    pub attentions: Vec<String>,
    /// Registered initiators.
    pub registrations: u64,
    /// Whether somebody has reserved it.
    pub reserved: bool,
}

/// A line of a client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: u16,
    command: Command,
}

/// The part of a line that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Add(Box<UnitOptions>),
    Remove(Remove),
    Resize(Resize),
    Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    lun: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    lun: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocks: Option<u64>,
}

/// A line of the daemon's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reply {
    version: u16,
    answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// Added or removed.
    Unit {
        lun: u16,
    },
    Resized {
        lun: u16,
        blocks: u64,
    },
    Shown(Shown),
    Refused(String),
}
