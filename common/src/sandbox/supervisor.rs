//! Two processes: one outside, that the service manager started and knows, and one inside the sandbox, that serves.
//!
//! A process does not enter a new PID namespace, its children do. The one outside does nothing but pass signals on, wait,
//! and remove the socket in the end, which cannot be reached from inside. Neither survives the other.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid,
};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{CapabilitySet, Namespaces, SandboxError, capabilities, raw};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Place {
    /// Inside: it is the only process that it sees, and its root is a [`Share`](super::Share).
    Inside,
    /// Outside.
    Outside(Supervised),
}

/// The process inside, as seen from outside.
#[derive(Debug)]
pub struct Supervised {
    id: Pid,
    signals: Signals,
}

/// Starts a process in `namespaces`, and returns in both.
pub fn enter(namespaces: &Namespaces) -> Result<Place, SandboxError> {
    namespaces.leave_old()?;
    let (mut ours, mut theirs) = UnixStream::pair().map_err(SandboxError::Process)?;
    if let Some(id) = raw::fork().map_err(SandboxError::Process)? {
        let signals = Signals::new([SIGTERM, SIGINT, SIGCHLD]).map_err(SandboxError::Process)?;
        drop(theirs);
        // The socket may be in a folder of somebody else's.
        capabilities::keep(CapabilitySet::DAC_OVERRIDE).map_err(SandboxError::Capabilities)?;
        // Should it be gone already, waiting tells.
        let _gone = ours.write_all(&[1]);
        return Ok(Place::Outside(Supervised { id, signals }));
    }
    drop(ours);
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| SandboxError::Process(error.into()))?;
    // Should the other one have died before that, this ends, too.
    let mut alive = [0];
    theirs
        .read_exact(&mut alive)
        .map_err(SandboxError::Process)?;
    namespaces.furnish()?;
    Ok(Place::Inside)
}

/// What happens in namespaces like `namespaces`, found out by a process that ends then.
pub(super) fn attempt(namespaces: &Namespaces) -> Result<Result<(), String>, SandboxError> {
    let (mut ours, mut theirs) = UnixStream::pair().map_err(SandboxError::Process)?;
    let Some(id) = raw::fork().map_err(SandboxError::Process)? else {
        drop(ours);
        let text = match namespaces.leave_old().and_then(|()| namespaces.furnish()) {
            Ok(()) => String::new(),
            Err(error) => crate::report::chain(&error),
        };
        let sent = theirs.write_all(text.as_bytes());
        end(i32::from(sent.is_err()));
    };
    drop(theirs);
    let mut text = String::new();
    let heard = ours.read_to_string(&mut text);
    let status = wait(id).map_err(SandboxError::Process)?;
    heard.map_err(SandboxError::Process)?;
    Ok(match (status.success(), text.is_empty()) {
        (true, true) => Ok(()),
        (_, false) => Err(text),
        (false, true) => Err(status.to_string()),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process that was made to find something out has no main to return to"
)]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

fn wait(id: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(Some(id), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Supervised {
    /// Passes signals on until the process inside has ended.
    pub fn wait(mut self) -> Result<(), SandboxError> {
        for signal in self.signals.forever() {
            if signal == SIGCHLD {
                // Nobody else is our child.
                break;
            }
            log::debug!("signal {signal} is passed on");
            // It is not waited for yet, so the id is still its own.
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _gone = kill_process(self.id, signal);
            }
        }
        let status = wait(self.id).map_err(SandboxError::Process)?;
        if status.success() {
            return Ok(());
        }
        let hint = match status.signal() {
            Some(libc::SIGSYS) => {
                "; it made a system call that --seccomp forbids: the kernel's log names it, and so does --seccomp=log"
            }
            _ => "",
        };
        Err(SandboxError::Ended(format!("{status}{hint}")))
    }
}
