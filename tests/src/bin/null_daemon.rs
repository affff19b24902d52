//! The least that a daemon is: the null device behind the options that all daemons share. For the tests of `common::daemon`.

use std::process::ExitCode;

use clap::Parser;
use common::args::DaemonArgs;
use common::daemon::{self, Capabilities};
use tests::null_device::NullDevice;

const CAPABILITIES: Capabilities = Capabilities {
    kind: "null",
    features: &["sum"],
};

/// A device that adds up numbers.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    daemon::main(
        &CAPABILITIES,
        |args: &Args| args.daemon.log_level,
        |args| daemon::run(&args.daemon, NullDevice::default()),
    )
}
