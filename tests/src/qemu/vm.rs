//! One virtual machine: a QEMU process with its monitor and its guest's console.
//!
//! Every error carries what is needed to understand it: QEMU's messages, the guest's last lines
//! and the logs of the daemons that serve this machine.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::console::{Console, Output};
use super::process::{POLL_INTERVAL, Process, tail};
use super::qmp::{Qmp, connect};
use super::rig::Rig;

/// A boot takes 5 to 8 s with TCG on an idle machine, and much longer beside a compiler.
pub const BOOT_DEADLINE: Duration = Duration::from_mins(4);

/// For commands in the guest, and for QEMU to start or end: only to turn hangs into failures.
pub const DEADLINE: Duration = Duration::from_mins(2);

/// Guest memory in MiB.
const MEMORY_MIB: u32 = 512;

/// Lines of each log in a failure report.
const REPORT_LINES: usize = 25;

/// How a machine comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By booting.
    Boot,
    /// By a migration or a snapshot that comes in.
    Incoming,
}

/// What distinguishes one machine from the others of its rig.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of its files, unique in the rig.
    pub name: String,
    /// How it comes to life.
    pub start: Start,
    /// QEMU arguments for the devices under test.
    pub devices: Vec<String>,
    /// Logs of the daemons behind them, for failure reports.
    pub logs: Vec<PathBuf>,
    /// QEMU's `-accel`, if not the rig's.
    pub accelerator: Option<String>,
}

impl Config {
    /// A machine without devices under test.
    pub fn new(name: &str, start: Start) -> Self {
        Self {
            name: name.to_owned(),
            start,
            devices: Vec::new(),
            logs: Vec::new(),
            accelerator: None,
        }
    }

    /// Adds a virtio-fs device called `tag` in the guest, served by the daemon at `socket`.
    #[must_use]
    pub fn with_fs(mut self, tag: &str, socket: &str) -> Self {
        self.devices.extend([
            "-chardev".to_owned(),
            format!("socket,id={tag},path={socket}"),
            "-device".to_owned(),
            format!("vhost-user-fs-pci,id={tag}-device,chardev={tag},tag={tag}"),
        ]);
        self
    }

    /// Adds a SCSI controller called `id`, served by the daemon at `socket`.
    #[must_use]
    pub fn with_scsi(mut self, id: &str, socket: &str) -> Self {
        self.devices.extend([
            "-chardev".to_owned(),
            format!("socket,id={id},path={socket}"),
            "-device".to_owned(),
            format!("vhost-user-scsi-pci,id={id}-device,chardev={id}"),
        ]);
        self
    }

    /// Has QEMU connect to a daemon again when it has gone and come back.
    #[must_use]
    pub fn reconnecting(mut self, id: &str) -> Self {
        let chardev = format!("socket,id={id},");
        for argument in &mut self.devices {
            if argument.starts_with(&chardev) {
                argument.push_str(",reconnect-ms=200");
            }
        }
        self
    }

    /// Adds a daemon's log to the failure reports.
    #[must_use]
    pub fn with_log(mut self, log: impl Into<PathBuf>) -> Self {
        self.logs.push(log.into());
        self
    }
}

/// A running QEMU. It is killed when this is dropped.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Process,
    qmp: Qmp,
    console: Console,
    logs: Vec<PathBuf>,
}

impl Vm {
    /// Starts QEMU and connects to it. The guest of a [`Start::Boot`] begins to boot.
    pub fn start(rig: &Rig, config: Config) -> Result<Self> {
        let file = |suffix| rig.path(&format!("{}.{suffix}", config.name));
        let (monitor, serial) = (file("qmp"), file("serial"));
        for stale in [&monitor, &serial] {
            // Most of the time there is none.
            let _ = fs::remove_file(stale);
        }
        let serial_log = file("serial.log");
        let mut command = rig.provision.qemu.command();
        command.args(machine_arguments(rig, &config));
        command.arg("-chardev").arg(format!(
            "socket,id=serial,path={},server=on,wait=off,logfile={}",
            serial.display(),
            serial_log.display()
        ));
        command.args(["-serial", "chardev:serial", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let mut process = Process::start(&config.name, &mut command, &file("stderr"))?;

        let mut logs = vec![process.log().to_owned(), serial_log];
        logs.extend(config.logs);
        let connected = Self::connect(&mut process, &monitor, &serial);
        let (qmp, console) = connected.with_context(|| report(&config.name, &logs))?;
        let mut vm = Self {
            name: config.name,
            process,
            qmp,
            console,
            logs,
        };
        if config.start == Start::Boot {
            // Held back until now, so that nothing the guest prints is lost.
            vm.execute("cont", &json!({}))?;
        }
        Ok(vm)
    }

    fn connect(process: &mut Process, monitor: &Path, serial: &Path) -> Result<(Qmp, Console)> {
        let mut alive = || match process.status()? {
            Some(status) => bail!("QEMU ended at start: {status}"),
            None => Ok(()),
        };
        let monitor = connect(monitor, DEADLINE, &mut alive)?;
        let serial = connect(serial, DEADLINE, &mut alive)?;
        Ok((Qmp::new(monitor)?, Console::new(serial)))
    }

    /// Waits until the guest's shell listens.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let ready = self.console.wait_ready(deadline);
        ready.with_context(|| self.report())
    }

    /// Runs a command in the guest; a status other than 0 is an error.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let output = self.try_run(command)?;
        if output.status != 0 {
            let (status, text) = (output.status, output.text);
            let error = anyhow::anyhow!("guest: {command}: status {status}\n{text}");
            return Err(error.context(self.report()));
        }
        Ok(output.text)
    }

    /// Runs a command in the guest, whatever its status.
    pub fn try_run(&mut self, command: &str) -> Result<Output> {
        let output = self.console.run(command, DEADLINE);
        output.with_context(|| self.report())
    }

    /// As [`try_run`](Self::try_run), without a report, of a guest that may well hang: until the deadline, or until `is_hopeless`.
    pub fn try_run_unless(
        &mut self,
        command: &str,
        deadline: Duration,
        is_hopeless: impl FnMut() -> bool,
    ) -> Result<Output> {
        self.console.run_unless(command, deadline, is_hopeless)
    }

    /// Runs a QMP command.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let value = self.qmp.execute(command, arguments);
        value.with_context(|| self.report())
    }

    /// The monitor, for events and for commands that are expected to fail.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Stops the virtual CPUs, and with them the rings of every device.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", &json!({}))?;
        self.expect_status("paused")
    }

    /// Lets them run again.
    pub fn cont(&mut self) -> Result<()> {
        self.execute("cont", &json!({}))?;
        self.expect_status("running")
    }

    /// Resets the whole machine, as a button would; the guest boots again.
    pub fn reset(&mut self) -> Result<()> {
        // Otherwise the option -no-reboot ends it.
        self.execute("set-action", &json!({ "reboot": "reset" }))?;
        self.execute("system_reset", &json!({}))?;
        Ok(())
    }

    /// QEMU's run state.
    pub fn status(&mut self) -> Result<String> {
        let status = self.execute("query-status", &json!({}))?;
        let status = status.get("status").and_then(Value::as_str);
        Ok(status.context("query-status without status")?.to_owned())
    }

    /// An error unless QEMU's run state is `expected`.
    pub fn expect_status(&mut self, expected: &str) -> Result<()> {
        let status = self.status()?;
        if status != expected {
            let error = anyhow::anyhow!("{} is {status}, not {expected}", self.name);
            return Err(error.context(self.report()));
        }
        Ok(())
    }

    /// Waits for a run state that QEMU reaches by itself.
    pub fn wait_status(&mut self, expected: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while self.status()? != expected && Instant::now() < end {
            thread::sleep(POLL_INTERVAL);
        }
        self.expect_status(expected)
    }

    /// Ends QEMU in an orderly way, which closes its devices.
    pub fn quit(mut self) -> Result<()> {
        self.execute("quit", &json!({}))?;
        let status = self.process.wait(DEADLINE)?;
        if !status.success() {
            bail!("{}: QEMU ended with {status}\n{}", self.name, self.report());
        }
        Ok(())
    }

    /// QEMU's process id.
    pub fn id(&self) -> Pid {
        self.process.id()
    }

    /// How QEMU has ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.status()
    }

    /// The file that holds what QEMU printed.
    pub fn log_path(&self) -> &Path {
        self.process.log()
    }

    /// Whether QEMU has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.status()?.is_some())
    }

    /// The last lines of everything that was logged about this machine.
    pub fn report(&self) -> String {
        report(&self.name, &self.logs)
    }
}

fn report(name: &str, logs: &[PathBuf]) -> String {
    let mut text = format!("machine {name}");
    for log in logs {
        let end = tail(log, REPORT_LINES);
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {}:\n{}", log.display(), end.trim_end());
    }
    text
}

fn machine_arguments(rig: &Rig, config: &Config) -> Vec<String> {
    let accelerator = config.accelerator.as_ref().unwrap_or(&rig.accelerator);
    // The test of time sources, entropy from outside and mitigations only cost time under TCG. A cursor that
    // blinks changes pictures.
    let kernel_arguments = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check \
                            tsc=reliable random.trust_cpu=on vt.global_cursor_default=0";
    let mut arguments: Vec<String> = format!(
        "-name {} -nodefaults -no-user-config -no-reboot -display none -smp 1 -m {MEMORY_MIB}M \
         -accel {accelerator} -cpu {} -machine q35,memory-backend=memory \
         -object memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on",
        config.name,
        // The smallest CPU boots fastest where it has to be emulated.
        if accelerator == "kvm" {
            "host"
        } else {
            "qemu64"
        },
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect();
    let paths = [("-kernel", &rig.provision.kernel), ("-initrd", &rig.image)];
    for (option, path) in paths {
        arguments.extend([option.to_owned(), path.display().to_string()]);
    }
    arguments.extend(["-append".to_owned(), kernel_arguments.to_owned()]);
    let devices = config.devices.iter();
    arguments.extend(devices.map(|argument| rig.device_argument(argument)));
    match config.start {
        Start::Boot => arguments.push("-S".to_owned()),
        Start::Incoming => arguments.extend(["-incoming".to_owned(), "defer".to_owned()]),
    }
    arguments
}
