//! A daemon with the options that it gets, and the QEMU that it is connected to.
//!
//! Knows how daemons are started, and not what they do.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Pid;

use super::Device;
use super::observation::{Finding, ending, messages};
use crate::daemon_runner::built;
use crate::qemu::process::{POLL_INTERVAL, Process};
use crate::qemu::provision::Program;
use crate::qemu::{Config, Rig, Start, Vm};

/// Stands for the share or the image in a daemon's arguments.
pub const RESOURCE: &str = "{resource}";

/// Stands for the daemon's socket in QEMU's arguments.
pub const SOCKET: &str = "{socket}";

/// How long a daemon may take until it has a socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(30);

/// How long a guest may go on without its daemon: with what it has in its cache.
const ALONE_DEADLINE: Duration = Duration::from_secs(5);

/// How long it may boot without its daemon: it may do without the device.
const ALONE_BOOT_DEADLINE: Duration = Duration::from_mins(1);

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Names the column: who, and with which options.
    pub title: String,
    /// What it is.
    pub device: Device,
    /// The daemon.
    pub program: Program,
    /// Its arguments but the socket.
    pub arguments: Vec<String>,
    /// QEMU's arguments for the device.
    pub devices: Vec<String>,
    /// Whether QEMU has the device types of our module.
    pub stateful: bool,
    /// What begins the daemon's state in QEMU's stream, if there is any: its name, which its version and its length follow, both of
    /// four bytes.
    pub carrier: Option<&'static [u8]>,
}

impl Participant {
    /// The title, arguments separated by blanks, QEMU's arguments.
    pub fn new(
        title: &str,
        device: Device,
        program: Program,
        arguments: &str,
        devices: &[&str],
    ) -> Self {
        Self {
            title: title.to_owned(),
            device,
            program,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            devices: devices.iter().map(|&one| one.to_owned()).collect(),
            stateful: false,
            carrier: None,
        }
    }

    /// The same in a QEMU with the device types of our module.
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self.carrier = Some(b"-stateful/back-end");
        self
    }

    /// Starts a daemon for `resource`, with these options besides its own, and a machine with it.
    pub fn start(
        &self,
        rig: &Rig,
        name: &str,
        start: Start,
        resource: &Path,
        options: &[&str],
    ) -> Result<Machine> {
        let backend = Backend::start(rig, name, self, resource, options)?;
        let socket = backend.socket.display().to_string();
        let mut config = Config::new(name, start);
        let devices = self.devices.iter();
        config.devices = devices.map(|one| one.replace(SOCKET, &socket)).collect();
        Ok(Machine {
            vm: Vm::start(rig, config)?,
            backend,
        })
    }
}

/// A program that nobody has to prepare anything for.
pub fn plain(path: PathBuf) -> Program {
    Program {
        path,
        arguments: Vec::new(),
        environment: Vec::new(),
    }
}

/// A daemon of ours, or the one that the environment names: another build.
pub fn ours(program: &str) -> Result<Program> {
    let variable = program.to_uppercase().replace('-', "_");
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => built(program)?,
    };
    Ok(plain(path))
}

/// A running daemon. It is killed when this is dropped.
#[derive(Debug)]
pub struct Backend {
    process: Process,
    socket: PathBuf,
}

impl Backend {
    fn start(
        rig: &Rig,
        name: &str,
        participant: &Participant,
        resource: &Path,
        options: &[&str],
    ) -> Result<Self> {
        let socket = rig.path(&format!("{name}.daemon"));
        let log = rig.path(&format!("{name}.daemon.log"));
        let resource = resource.display().to_string();
        let mut command = participant.program.command();
        command.arg("--socket-path").arg(&socket).args(options);
        let arguments = participant.arguments.iter();
        command.args(arguments.map(|one| one.replace(RESOURCE, &resource)));
        let process = Process::start(name, &mut command, &log)?;
        let mut backend = Self { process, socket };
        backend.wait_for_socket()?;
        Ok(backend)
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let end = Instant::now() + SOCKET_DEADLINE;
        while !self.socket.exists() {
            if let Some(status) = self.exit_status()? {
                let mut finding = Finding::fails("the daemon does not start");
                finding.messages = messages("daemon", self.process.log());
                return Err(finding.with(ending("daemon", status)).into());
            }
            if Instant::now() > end {
                return Err(Finding::fails("the daemon has no socket").into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// How it has ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.status()
    }

    /// Its process.
    pub fn id(&self) -> Pid {
        self.process.id()
    }
}

/// A machine and the daemon of its only device.
#[derive(Debug)]
pub struct Machine {
    /// The machine.
    pub vm: Vm,
    /// The daemon.
    pub backend: Backend,
}

impl Machine {
    /// Runs a command in the guest. That it hangs or fails is a finding.
    pub fn run(&mut self, what: &str, command: &str, deadline: Duration) -> Result<String> {
        let Self { vm, backend } = self;
        let mut alone: Option<Instant> = None;
        let output = vm.try_run_unless(command, deadline, || {
            let has_ended = matches!(backend.exit_status(), Ok(Some(_)));
            let since = has_ended.then(|| *alone.get_or_insert_with(Instant::now));
            since.is_some_and(|since| since.elapsed() > ALONE_DEADLINE)
        });
        let Ok(output) = output else {
            return Err(Finding::fails(format!("guest hangs: {what}")).into());
        };
        if output.status != 0 {
            let last = output.text.lines().last().unwrap_or_default();
            let finding = Finding::fails(format!("guest fails: {what}"));
            return Err(finding.with(format!("guest: {last}")).into());
        }
        Ok(output.text)
    }

    /// Waits until its guest has booted. That it does not is a finding.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let mut alone: Option<Instant> = None;
        // In turns with a look at the daemon: without it the guest may wait for ever.
        loop {
            if self.vm.wait_ready(Duration::from_secs(2)).is_ok() {
                return Ok(());
            }
            if self.vm.exit_status()?.is_some() {
                return Err(Finding::fails("QEMU ends at boot").into());
            }
            if alone.is_none() && self.backend.exit_status()?.is_some() {
                alone = Some(Instant::now());
            }
            let is_hopeless = alone.is_some_and(|since| since.elapsed() > ALONE_BOOT_DEADLINE);
            if is_hopeless || Instant::now() > end {
                return Err(Finding::fails("guest hangs at boot").into());
            }
        }
    }

    /// Who has ended.
    pub fn endings(&mut self, side: &str) -> Vec<String> {
        let daemon = self.backend.exit_status().ok().flatten();
        let qemu = self.vm.exit_status().ok().flatten();
        let daemon = daemon.map(|status| ending(&format!("{side}daemon"), status));
        let qemu = qemu.map(|status| ending(&format!("{side}QEMU"), status));
        daemon.into_iter().chain(qemu).collect()
    }

    /// What was said about it, as far as it tells of trouble.
    pub fn messages(&self, side: &str) -> Vec<String> {
        let mut all = messages(&format!("{side}daemon"), self.backend.process.log());
        all.extend(messages(&format!("{side}QEMU"), self.vm.log_path()));
        all
    }

    /// Ends QEMU; its daemon is killed.
    pub fn quit(self) -> Result<()> {
        self.vm.quit().context("ending QEMU")
    }
}
