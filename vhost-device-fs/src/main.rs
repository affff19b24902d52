//! The daemon: command line in, exit code out. What there is to know is in the library and in `common::daemon`.

use std::process::ExitCode;

use common::daemon::{Capabilities, DaemonError, Entrance};
use common::sandbox::Share;
use vhost_device_fs::args::{FsArgs, expand};
use vhost_device_fs::config::Config;
use vhost_device_fs::device::FsDevice;
use vhost_device_fs::limits::raise_descriptor_limit;
use vhost_device_fs::sandbox;

/// The names are virtiofsd's: libvirt migrates a file system whose daemon has `migrate-precopy`, passes long options to
/// one that has `separate-options`, and values of `--posix-acl` and `--security-label` to one that has the other two.
const CAPABILITIES: Capabilities = Capabilities {
    kind: "fs",
    features: &[
        "migrate-precopy",
        "posix-acl-negotiation-mode",
        "security-label-negotiation-mode",
        "separate-options",
    ],
};

fn main() -> ExitCode {
    common::daemon::main_of(&CAPABILITIES, expand, FsArgs::logging, |args: FsArgs| {
        run(&args)
    })
}

fn run(args: &FsArgs) -> Result<(), DaemonError> {
    let config = Config::try_from(args).map_err(DaemonError::usage)?;
    let descriptors_max =
        raise_descriptor_limit(args.rlimit_nofile).map_err(DaemonError::device)?;
    let entrance = Entrance::open(&args.daemon)?;
    let share = Share {
        directory: config.shared_dir.clone(),
        readonly: config.readonly,
    };
    let Some((shared_dir, entrance)) =
        sandbox::start(&args.sandbox, share, &config.id_maps, entrance)?
    else {
        return Ok(());
    };
    let config = Config {
        shared_dir,
        descriptors_max,
        ..config
    };
    let device = FsDevice::new(config).map_err(DaemonError::device)?;
    common::daemon::serve(&args.daemon, &entrance, device)
}
