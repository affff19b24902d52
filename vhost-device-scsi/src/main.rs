//! The daemon: command line in, exit code out. `ctl` as the first word makes it the client of one that runs.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use common::daemon::{Capabilities, DaemonError, Entrance, descriptors};
use common::sandbox::confine;
use vhost_device_scsi::args::ScsiArgs;
use vhost_device_scsi::config::{Config, LUN_MAX};
use vhost_device_scsi::ctl;
use vhost_device_scsi::device::ScsiDevice;
use vhost_device_scsi::sandbox;

/// There are no names for features of SCSI back-ends in QEMU's vhost-user.json.
const CAPABILITIES: Capabilities = Capabilities {
    kind: "scsi",
    features: &[],
};

/// An image and a store of reservations for each of the most units there can be, and the daemon's own.
const DESCRIPTORS_WANTED: u64 = 2 * (LUN_MAX as u64 + 1) + 4096;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    if words.next().is_some_and(|word| word == "ctl") {
        return control(&ctl::CtlArgs::parse_from(
            std::iter::once(program).chain(words),
        ));
    }
    common::daemon::main(
        &CAPABILITIES,
        |args: &ScsiArgs| args.daemon.log_level,
        |args| run(&args),
    )
}

/// Has a daemon that runs do something.
fn control(args: &ctl::CtlArgs) -> ExitCode {
    match ctl::run(args) {
        Ok(answer) => {
            let printed = std::io::stdout().write_all(answer.as_bytes());
            ExitCode::from(u8::from(printed.is_err()))
        }
        Err(error) => {
            eprintln!("{}", common::report::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &ScsiArgs) -> Result<(), DaemonError> {
    let config = Config::try_from(args).map_err(DaemonError::usage)?;
    descriptors::raise_limit(DESCRIPTORS_WANTED);
    let control_socket = config.control_socket.clone();
    let entrance = Entrance::open(&args.daemon)?;
    confine(&sandbox::policy(), &args.confinement, "none")?;
    let device = ScsiDevice::new(config).map_err(DaemonError::device)?;
    let _control = control_socket
        .map(|path| ctl::Server::start(&path, device.administration()))
        .transpose()?;
    common::daemon::serve(&args.daemon, &entrance, device)
}
