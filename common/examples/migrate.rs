//! Migrates a device from one back-end to another: what a VMM does, without the VM.
//!
//! ```text
//! vhost-device-fs --socket-path /tmp/a.sock --shared-dir /srv &
//! vhost-device-fs --socket-path /tmp/b.sock --shared-dir /srv &
//! cargo run -p common --example migrate /tmp/a.sock /tmp/b.sock
//! ```
//!
//! A VMM has guest memory and rings besides; the comments say where they come in. On two hosts, the
//! bytes that are kept in `state` here travel inside the VM's own migration stream.

use std::process::ExitCode;

use common::frontend::{Frontend, FrontendError};
use common::lifecycle::Lifecycle;
use common::protocol::messages::protocol_feature;

/// What this example needs. A VMM asks for everything that it understands.
const WANTED: u64 =
    protocol_feature::REPLY_ACK | protocol_feature::DEVICE_STATE | protocol_feature::SUSPEND;

/// Opens a session. A VMM goes on with `set_features`, `set_memory` and `start`; on the destination only
/// after the state is loaded.
fn open(path: &str) -> Result<Frontend, FrontendError> {
    let mut frontend = Frontend::connect(path)?;
    let offer = frontend.negotiate(WANTED)?;
    println!(
        "{path}: offers features {:#x}, agreed on {:#x}",
        offer.features, offer.agreed
    );
    Ok(frontend)
}

fn migrate(from: &str, to: &str) -> Result<(), FrontendError> {
    let mut source = open(from)?;

    // From here on the device is silent: no access to guest memory, no interrupt, nothing on disk. Its
    // rings stay set up. A back-end that has no SUSPEND is stopped instead: `source.stop()`, whose
    // result tells where each ring is to be continued. A VMM sends the last dirty pages after this.
    if source.agreed() & protocol_feature::SUSPEND != 0 {
        source.suspend()?;
    }

    // SET_DEVICE_STATE_FD, the bytes, CHECK_DEVICE_STATE.
    let mut state = Vec::new();
    let size = source.save(&mut state)?;
    println!("saved {size} bytes");

    // The destination may refuse: then the source, which is unchanged, goes on.
    let mut destination = match open(to).and_then(|mut destination| {
        destination.load(&mut state.as_slice())?;
        Ok(destination)
    }) {
        Ok(destination) => destination,
        Err(error) => {
            if source.state() == Lifecycle::Suspended {
                source.resume()?;
            }
            println!("the source goes on");
            return Err(error);
        }
    };

    // A VMM now describes features, memory and rings to the destination, the latter with the bases that
    // `source.stop()` returned, and with `start` the device works on. RESUME is for a device that was
    // suspended itself.
    println!("loaded; the device is {:?} on {to}", destination.state());
    destination.features()?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        eprintln!("usage: migrate SOURCE-SOCKET DESTINATION-SOCKET");
        return ExitCode::from(2);
    };
    match migrate(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
