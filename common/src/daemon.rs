//! The scaffolding of a daemon: where front-ends come from, signals, logging, capabilities, exit codes.
//!
//! Knows no device beyond the trait. Conventions: vhost-user.rst, "Backend program conventions"; one guest per process by
//! default, as libvirt, Cloud Hypervisor and `KubeVirt` expect of virtiofsd.
//!
//! # Exit codes
//!
//! | code | meaning |
//! |---|---|
//! | 0 | the front-end left, or SIGTERM or SIGINT came |
//! | 1 | something failed at run time |
//! | 2 | the command line is wrong, or asks for what is not there (also what clap uses) |

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

use crate::args::DaemonArgs;
use crate::device::{Device, StateSupport};
use crate::protocol::{End, HandoverError, Host, Inheritance, Keeper, Options, SessionError};
use crate::report;

pub mod descriptors;
mod entrance;
mod error;
mod inherited;
mod logging;
mod store;

pub use entrance::{Entrance, SocketFile, listen_at};
pub use error::DaemonError;
pub use logging::Logging;

/// After SIGTERM, requests in flight get this long; then the process ends with them.
const GRACE: Duration = Duration::from_secs(2);

/// What `--print-capabilities` prints (docs/interop/vhost-user.json in QEMU; libvirt reads `features` from here).
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// The back-end's type, such as `"fs"`.
    pub kind: &'static str,
    /// Names of features.
    pub features: &'static [&'static str],
}

impl Capabilities {
    /// The JSON text.
    pub fn json(&self) -> String {
        let features: Vec<String> = self
            .features
            .iter()
            .map(|feature| format!("    \"{feature}\""))
            .collect();
        let list = if features.is_empty() {
            "[]".to_owned()
        } else {
            format!("[\n{}\n  ]", features.join(",\n"))
        };
        format!(
            "{{\n  \"type\": \"{}\",\n  \"features\": {list}\n}}\n",
            self.kind
        )
    }
}

/// A daemon's `main`: answers `--print-capabilities` whatever else is on the command line, parses the command line, starts
/// logging, and turns what `run` returns into an exit code.
pub fn main<A: Parser, L: Into<Logging>>(
    capabilities: &Capabilities,
    logging: impl FnOnce(&A) -> L,
    run: impl FnOnce(A) -> Result<(), DaemonError>,
) -> ExitCode {
    main_of(capabilities, Ok::<_, DaemonError>, logging, run)
}

/// The same, for a daemon that has spellings of its own: `expand` writes the command line, program included, as
/// clap is to see it.
pub fn main_of<A: Parser, L: Into<Logging>, E: std::error::Error>(
    capabilities: &Capabilities,
    expand: impl FnOnce(Vec<OsString>) -> Result<Vec<OsString>, E>,
    logging: impl FnOnce(&A) -> L,
    run: impl FnOnce(A) -> Result<(), DaemonError>,
) -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let mut arguments = line.iter().skip(1);
    if arguments.any(|argument| argument == "--print-capabilities" || argument == "-c") {
        let printed = io::stdout().write_all(capabilities.json().as_bytes());
        return ExitCode::from(u8::from(printed.is_err()));
    }
    let args = match expand(line) {
        Ok(line) => A::parse_from(line),
        Err(error) => A::command()
            .error(ErrorKind::InvalidValue, report::chain(&error))
            .exit(),
    };
    logging::start(logging(&args).into());
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::chain(&error));
            if matches!(
                error,
                DaemonError::NoSocket | DaemonError::PathTooLong { .. } | DaemonError::Usage(_)
            ) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Serves `device` as the options say, until the front-end leaves (or, with `--persistent`, until a signal comes).
pub fn run<D: Device>(args: &DaemonArgs, device: D) -> Result<(), DaemonError> {
    serve(args, &Entrance::open(args)?, device)
}

/// Like [`run`], where the entrance was opened before the daemon was confined, and the device is made afterwards.
pub fn serve<D: Device>(
    args: &DaemonArgs,
    entrance: &Entrance,
    device: D,
) -> Result<(), DaemonError> {
    let store = entrance.store();
    // What is in flight is waited for, where it would be lost to the guest otherwise.
    let stop = stop_on_signal(store.is_none().then_some(GRACE))?;
    if let StateSupport::CannotBeSaved { reason } = device.state_support() {
        if store.is_some() {
            let text = format!("--handover, for a device that cannot be saved: {reason}");
            return Err(DaemonError::usage(text));
        }
        log::warn!("this device cannot be migrated or saved: {reason}");
    }
    let mut inheritance = inherit(entrance, &device)?;
    let host = Host::new(device, args.options());
    log::info!("Waiting for vhost-user socket connection...");
    // Who is to go on with a connection is ready when it does.
    if let (Some(store), None) = (store, &inheritance) {
        store.ready().map_err(DaemonError::host(
            "the service manager cannot be told anything",
        ))?;
    }
    while let Some((front_end, left)) = next(entrance, &mut inheritance, stop.as_fd())? {
        let keeper = store.map(|store| -> &dyn Keeper { store });
        match host.serve_kept(&front_end, stop.as_fd(), keeper, left) {
            Ok(End::FrontEndLeft) => log::info!("front-end disconnected"),
            Ok(End::Stopped | End::HandedOver) => break,
            Ok(End::Refused) if args.persistent => {}
            Ok(End::Refused) => {
                return Err(DaemonError::Session(
                    "a message was refused, see above".into(),
                ));
            }
            Err(error) if args.persistent && is_of_the_connection(&error) => {
                log::error!("connection closed: {}", report::chain(&error));
            }
            Err(error) => return Err(DaemonError::Session(error.into())),
        }
        if !args.persistent || entrance.is_single() {
            break;
        }
    }
    Ok(())
}

/// What an earlier daemon has left for this one, if there is something.
fn inherit<D: Device>(entrance: &Entrance, device: &D) -> Result<Option<Inheritance>, DaemonError> {
    let refused = |error: HandoverError| DaemonError::Session(error.into());
    let Some(store) = entrance.store() else {
        return Ok(None);
    };
    let parcel = store.parcel().map_err(DaemonError::host(
        "what an earlier daemon has left cannot be read",
    ))?;
    let kind = device.info().kind;
    parcel
        .map(|parcel| parcel.unpack(kind))
        .transpose()
        .map_err(refused)
}

/// The next front-end: the one whose connection was left, then those that come. `None` if `stop` became readable first.
fn next(
    entrance: &Entrance,
    inheritance: &mut Option<Inheritance>,
    stop: BorrowedFd<'_>,
) -> Result<Option<(UnixStream, Option<Inheritance>)>, DaemonError> {
    if let Some(left) = inheritance.take() {
        let front_end = left
            .front_end()
            .map_err(DaemonError::host("the connection cannot be duplicated"))?;
        log::info!("going on with the connection of an earlier daemon");
        return Ok(Some((front_end, Some(left))));
    }
    let accepted = entrance.accept(stop)?;
    if accepted.is_some() {
        log::info!("front-end connected");
    }
    Ok(accepted.map(|front_end| (front_end, None)))
}

/// A device that is served in this process, one connection after another, by whoever embeds it: what [`run`] is to a
/// daemon, for a VMM with in-process devices and for tests.
pub struct Server<D: Device>(Host<D>);

impl<D: Device> Server<D> {
    /// The device starts stopped, as all devices do.
    pub fn new(device: D, options: Options) -> Self {
        Self(Host::new(device, options))
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        self.0.device()
    }

    /// Serves one front-end until it leaves, or until `stop` becomes readable.
    pub fn serve(&self, front_end: &UnixStream, stop: BorrowedFd<'_>) -> Result<(), DaemonError> {
        match self.0.serve(front_end, stop) {
            Ok(End::FrontEndLeft | End::Stopped | End::HandedOver) => Ok(()),
            Ok(End::Refused) => Err(DaemonError::Session("a message was refused".into())),
            Err(error) => Err(DaemonError::Session(error.into())),
        }
    }
}

/// Whether the next front-end may fare better.
fn is_of_the_connection(error: &SessionError) -> bool {
    match error {
        SessionError::Relay(_) => true,
        SessionError::Link(_)
        | SessionError::Daemon(_)
        | SessionError::TakeOver(_)
        | SessionError::Waker(_)
        | SessionError::Farewell(_) => false,
    }
}

/// A descriptor that becomes readable, for good, on SIGTERM or SIGINT. Should the process not have ended that long after
/// that, because something in flight does not end, it is ended.
///
/// SIGXFSZ is caught to be ignored: a write beyond `LimitFSIZE=` is to fail, and not to end the process.
fn stop_on_signal(grace: Option<Duration>) -> Result<OwnedFd, DaemonError> {
    let caught = DaemonError::host("signals cannot be caught");
    let (stop, stopper) = UnixStream::pair().map_err(DaemonError::host("no socket pair"))?;
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGXFSZ]).map_err(caught)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().any(|signal| signal != SIGXFSZ) {
                log::info!("signal to end received");
                drop(stopper);
                let Some(grace) = grace else {
                    return;
                };
                std::thread::sleep(grace);
                log::warn!("requests in flight have not ended; ending without them");
                end_now();
            }
        })
        .map_err(DaemonError::host("no thread for signals"))?;
    Ok(stop.into())
}

#[expect(
    clippy::disallowed_methods,
    reason = "main itself is waiting for something that may never end"
)]
fn end_now() {
    std::process::exit(0);
}
