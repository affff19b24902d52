//! The daemon: command line in, exit code out. What there is to know is in the library and in `common::daemon`.

use std::process::ExitCode;
use std::sync::Arc;

use common::daemon::{Capabilities, DaemonError, Entrance};
use common::sandbox::confine;
use vhost_device_gpu::args::GpuArgs;
use vhost_device_gpu::config::Config;
use vhost_device_gpu::device::GpuDevice;
use vhost_device_gpu::{sandbox, screenshot};

/// Of the features in QEMU's vhost-user.json there are `render-node` and `virgl`, and we have neither.
const CAPABILITIES: Capabilities = Capabilities {
    kind: "gpu",
    features: &[],
};

fn main() -> ExitCode {
    common::daemon::main(
        &CAPABILITIES,
        |args: &GpuArgs| args.daemon.log_level,
        |args| run(&args),
    )
}

fn run(args: &GpuArgs) -> Result<(), DaemonError> {
    let config = Config::try_from(args).map_err(DaemonError::usage)?;
    if args.daemon.handover {
        // Half of a conversation would stay with the old one.
        let text = "--handover: the questions that are asked on the display socket cannot be left to another daemon";
        return Err(DaemonError::usage(text));
    }
    let screenshots = config.screenshots.clone();
    let entrance = Entrance::open(&args.daemon)?;
    let policy = sandbox::policy(screenshots.as_deref(), entrance.reachable());
    confine(&policy, &args.confinement, "none")?;
    let device = GpuDevice::new(config).map_err(DaemonError::device)?;
    if let Some(directory) = screenshots {
        screenshot::on_signal(directory, Arc::clone(device.display()))
            .map_err(DaemonError::device)?;
    }
    common::daemon::serve(&args.daemon(), &entrance, device)
}
