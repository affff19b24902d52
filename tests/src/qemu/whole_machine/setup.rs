//! How the daemons of a machine are started: which devices there are, what they are given, and from which build they come.
//!
//! Knows their command lines, not what is done to them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use common::protocol::messages::protocol_feature::DEVICE_STATE;
use common::state::{DeviceKind, StateSchema};
use vhost_device_fs::state::FsState;
use vhost_device_gpu::state::GpuState;
use vhost_device_scsi::state::ScsiState;

use crate::daemon_runner::Daemon;
use crate::fs_daemon;
use crate::limited_backend::hide;
use crate::qemu::vm::Config;

/// All devices that a machine can have.
pub const DEVICES: [DeviceKind; 3] = [DeviceKind::Fs, DeviceKind::Scsi, DeviceKind::Gpu];

/// The size of the screen: small, for an emulated processor paints it.
pub const SCREEN: (u32, u32) = (640, 480);

/// What the daemons of one machine are started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The devices.
    pub devices: Vec<DeviceKind>,
    /// The folder that is shared.
    pub share: PathBuf,
    /// The image of the disk.
    pub image: PathBuf,
    /// The number of the disk's logical unit.
    pub lun: u16,
    /// A folder with daemons of another build.
    pub programs: Option<PathBuf>,
    /// States are written in the oldest version that there is.
    pub writes_oldest: bool,
    /// This device's daemon does not offer to move its state.
    pub without_state: Option<DeviceKind>,
}

impl Setup {
    /// A machine with all devices.
    pub fn new(share: &Path, image: &Path) -> Self {
        Self {
            devices: DEVICES.into(),
            share: share.to_owned(),
            image: image.to_owned(),
            lun: 0,
            programs: None,
            writes_oldest: false,
            without_state: None,
        }
    }

    /// Starts the daemon of a device.
    pub(super) fn start(&self, kind: DeviceKind) -> Result<Daemon> {
        let name = format!("vhost-device-{kind}");
        let arguments = self.arguments(kind)?;
        if let Some(folder) = &self.programs {
            return Daemon::start_at(&folder.join(name), arguments);
        }
        match std::env::var_os(name.to_uppercase().replace('-', "_")) {
            Some(path) => Daemon::start_at(Path::new(&path), arguments),
            None => Daemon::start(&name, arguments),
        }
    }

    fn arguments(&self, kind: DeviceKind) -> Result<Vec<OsString>> {
        let mut arguments = match kind {
            DeviceKind::Fs => fs_daemon::arguments(&self.share, "auto"),
            DeviceKind::Scsi => {
                // The serial number would follow from the path.
                let (path, lun) = (self.image.display(), self.lun);
                let unit = format!("path={path},lun={lun},serial=whole-machine-{lun}");
                vec!["--lun".into(), unit.into()]
            }
            DeviceKind::Gpu => vec!["--migratable".into()],
            DeviceKind::Connection | DeviceKind::Null => bail!("no machine has a null device"),
        };
        if self.writes_oldest {
            let version = oldest(kind).to_string();
            arguments.extend(["--state-version".into(), version.into()]);
        }
        Ok(arguments)
    }

    /// Adds a device to QEMU's command line.
    pub(super) fn add_to(
        &self,
        config: Config,
        kind: DeviceKind,
        daemon: &Daemon,
    ) -> Result<Config> {
        let mut socket = daemon.socket().to_owned();
        if self.without_state == Some(kind) {
            let limited = socket.with_file_name("limited");
            hide(&socket, &limited, DEVICE_STATE)?;
            socket = limited;
        }
        let socket = socket.display().to_string();
        let mut config = config.with_log(daemon.log_path());
        match kind {
            DeviceKind::Fs => config = config.with_fs("share", &socket),
            DeviceKind::Scsi => config = config.with_scsi("disk", &socket),
            DeviceKind::Gpu | DeviceKind::Connection | DeviceKind::Null => {
                let (width, height) = SCREEN;
                config.devices.extend([
                    "-chardev".to_owned(),
                    format!("socket,id=display,path={socket}"),
                    "-device".to_owned(),
                    format!("vhost-user-gpu-pci,id=gpu,chardev=display,xres={width},yres={height}"),
                ]);
            }
        }
        Ok(config)
    }
}

/// The oldest version of a device's schema that this build writes and reads.
pub fn oldest(kind: DeviceKind) -> u16 {
    match kind {
        DeviceKind::Fs => FsState::VERSION_OLDEST,
        DeviceKind::Scsi => ScsiState::VERSION_OLDEST,
        DeviceKind::Gpu => GpuState::VERSION_OLDEST,
        DeviceKind::Connection | DeviceKind::Null => 0,
    }
}
