//! Two processes: one outside, that the service manager started and knows, and one inside the sandbox, that serves.
//!
//! A process does not enter a new PID namespace, its children do. The one outside writes the ids of a new user namespace, if there are
//! any; then it does nothing but pass signals on, wait, and remove the socket in the end, which cannot be reached from inside. Neither
//! survives the other.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, waitpid,
};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::link::{Link, Said};
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
///
/// There is a third one for a moment: who makes a PID namespace is not in it, its children are. That child is ours then, who have
/// stayed outside of all new namespaces.
pub fn enter(namespaces: &Namespaces) -> Result<Place, SandboxError> {
    let failed = SandboxError::Process;
    set_child_subreaper(Some(getpid())).map_err(|error| failed(error.into()))?;
    let (mut link, mut far) = Link::pair().map_err(failed)?;
    let Some(first) = raw::fork().map_err(failed)? else {
        drop(link);
        return inside(namespaces, &mut far);
    };
    drop(far);
    let told = link.listen(namespaces, first);
    let status = wait(first).map_err(failed)?;
    let Some(Said::Inside(id)) = told.map_err(failed)? else {
        return Err(SandboxError::Ended(status.to_string()));
    };
    let signals = Signals::new([SIGTERM, SIGINT, SIGCHLD]).map_err(failed)?;
    // The socket may be in a folder of somebody else's.
    capabilities::keep(CapabilitySet::DAC_OVERRIDE).map_err(SandboxError::Capabilities)?;
    // Should it be gone already, waiting tells.
    let _gone = link.say(&Said::Begin).and_then(|()| link.hear());
    let _gone = link.say(&Said::Begin);
    Ok(Place::Outside(Supervised { id, signals }))
}

/// The part of [`enter`] on the other side of the link.
fn inside(namespaces: &Namespaces, link: &mut Link) -> Result<Place, SandboxError> {
    let failed = SandboxError::Process;
    namespaces.leave_old(|| link.ask_for_maps())?;
    if let Some(id) = raw::fork().map_err(failed)? {
        let told = link.say(&Said::Inside(id));
        end(i32::from(told.is_err()));
    }
    link.expect_begin().map_err(failed)?;
    // Now that it is the process outside whose death is meant.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    // Should it have died before that, this ends, too.
    link.say(&Said::Begin)
        .and_then(|()| link.expect_begin())
        .map_err(failed)?;
    namespaces.furnish()?;
    Ok(Place::Inside)
}

/// What happens in namespaces like `namespaces`, found out by a process that ends then.
pub(super) fn attempt(namespaces: &Namespaces) -> Result<Result<(), String>, SandboxError> {
    let failed = SandboxError::Process;
    let (mut link, mut far) = Link::pair().map_err(failed)?;
    let Some(id) = raw::fork().map_err(failed)? else {
        drop(link);
        let result = namespaces
            .leave_old(|| far.ask_for_maps())
            .and_then(|()| namespaces.furnish());
        let text = result.map_err(|error| crate::report::chain(&error));
        let told = far.say(&Said::Result(text.err().unwrap_or_default()));
        end(i32::from(told.is_err()));
    };
    drop(far);
    let told = link.listen(namespaces, id);
    let status = wait(id).map_err(failed)?;
    Ok(match told.map_err(failed)? {
        Some(Said::Result(text)) if text.is_empty() => Ok(()),
        Some(Said::Result(text)) => Err(text),
        _ => Err(status.to_string()),
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
