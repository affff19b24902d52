//! What makes a migration fail, and how everybody is told of it.
//!
//! Knows the destination that goes wrong, not the source, which has to go on.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use common::state::DeviceKind;
use rustix::process::{Pid, Signal, kill_process};

use super::DISK_BYTES;
use crate::qemu::channel::{self, Moment};
use crate::qemu::process::POLL_INTERVAL;
use crate::qemu::vm::DEADLINE;
use crate::qemu::whole_machine::WholeMachine;
use crate::qemu::whole_machine::setup::Setup;

/// The thread of a daemon that reads a state: it is there as soon as `SET_DEVICE_STATE_FD` was answered.
const LOADING_THREAD: &str = "state-load";

/// A step of the transfer of a state, as the destination's back-end lives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The machine's memory begins to come.
    Start,
    /// `SET_DEVICE_STATE_FD` was accepted, and not a byte has come.
    Descriptor,
    /// A part of the state has come.
    Middle,
    /// All of the state has come, and `CHECK_DEVICE_STATE` is not answered.
    Check,
}

impl Step {
    pub(super) const ALL: [Self; 4] = [Self::Start, Self::Descriptor, Self::Middle, Self::Check];

    /// What QEMU says if the back-end is gone by then; more than one where it may have come a little farther.
    const fn messages(self) -> &'static [&'static str] {
        match self {
            Self::Start => &["Failed to send SET_DEVICE_STATE_FD message"],
            Self::Descriptor => &[
                "Failed to receive SET_DEVICE_STATE_FD reply",
                "Failed to send state",
            ],
            Self::Middle => &["Failed to send state", "CHECK_DEVICE_STATE"],
            Self::Check => &["CHECK_DEVICE_STATE"],
        }
    }
}

/// What goes wrong at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// This device's daemon is killed.
    Killed(DeviceKind, Step),
    /// QEMU is killed when this device's state comes.
    QemuKilled(DeviceKind),
    /// A bit of this device's state is flipped on the way.
    Damaged(DeviceKind),
    /// The shared folder is empty.
    MissingShare,
    /// The guest's disk is not there, but another one.
    MissingUnit,
    /// The guest's disk is smaller.
    SmallerImage,
    /// This device's daemon does not offer to move its state.
    WithoutState(DeviceKind),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(kind, step) => write!(formatter, "{kind} killed at {step:?}"),
            Self::QemuKilled(kind) => write!(formatter, "QEMU killed as the state of {kind} comes"),
            Self::Damaged(kind) => write!(formatter, "state of {kind} damaged"),
            Self::MissingShare => formatter.write_str("share empty"),
            Self::MissingUnit => formatter.write_str("disk missing"),
            Self::SmallerImage => formatter.write_str("disk smaller"),
            Self::WithoutState(kind) => write!(formatter, "{kind} without DEVICE_STATE"),
        }
    }
}

/// Whether a fault has happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Happened(Arc<AtomicBool>);

impl Happened {
    /// Waits for it: who makes it happen may still be about to say so.
    pub(super) fn wait(&self) -> bool {
        let end = Instant::now() + DEADLINE;
        while !self.0.load(Ordering::Relaxed) {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
        true
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Fault {
    /// Each state is damaged.
    pub(super) fn damages(devices: &[DeviceKind]) -> Vec<Self> {
        devices.iter().copied().map(Self::Damaged).collect()
    }

    /// Each daemon is killed at each step, and then QEMU, when most has come.
    pub(super) fn deaths(devices: &[DeviceKind]) -> Vec<Self> {
        let killed = |kind: &DeviceKind| Step::ALL.map(|step| Self::Killed(*kind, step));
        let last = devices.last().copied().map(Self::QemuKilled);
        devices.iter().flat_map(killed).chain(last).collect()
    }

    /// Each thing on the host is missing that these devices need.
    pub(super) fn mismatches(devices: &[DeviceKind]) -> Vec<Self> {
        let all = [
            (DeviceKind::Fs, Self::MissingShare),
            (DeviceKind::Scsi, Self::MissingUnit),
            (DeviceKind::Scsi, Self::SmallerImage),
        ];
        let possible = all.iter().filter(|(kind, _)| devices.contains(kind));
        possible.map(|(_, fault)| *fault).collect()
    }

    /// Whether QEMU and the daemons of the destination have said what has happened.
    pub(super) fn is_told_by(self, said: &str) -> bool {
        let device = |kind| match kind {
            // QEMU's own words.
            DeviceKind::Fs => "virtio-user-fs device".to_owned(),
            DeviceKind::Scsi | DeviceKind::Gpu | DeviceKind::Connection | DeviceKind::Null => {
                format!("vhost-user-{kind}-stateful device")
            }
        };
        let has = |text: &str| said.contains(text);
        match self {
            // QEMU gives this connection up at once, and misses it when the state comes.
            Self::Killed(DeviceKind::Scsi, Step::Start) => {
                has(&device(DeviceKind::Scsi)) && has("has no connection to its back-end")
            }
            Self::Killed(kind, step) => {
                has(&device(kind)) && step.messages().iter().any(|text| has(text))
            }
            // Nobody is left to say it: the source does.
            Self::QemuKilled(_) => true,
            Self::Damaged(_) => has("checksum"),
            Self::MissingShare => has("cannot be carried over (--migration-on-error=abort)"),
            Self::MissingUnit => has("the source has a logical unit 0"),
            Self::SmallerImage => has("logical unit 0: its size in blocks is"),
            Self::WithoutState(kind @ DeviceKind::Fs) => {
                has(&device(kind)) && has("does not support migration through qemu")
            }
            Self::WithoutState(kind) => {
                has(&format!(
                    "The back-end of vhost-user-{kind}-stateful device"
                )) && has("does not offer VHOST_USER_PROTOCOL_F_DEVICE_STATE")
            }
        }
    }

    /// Makes a destination's setup wrong. `spare` are paths for a folder and an image.
    pub(super) fn prepare(self, setup: &mut Setup, spare: [&Path; 2]) -> Result<()> {
        let [folder, image] = spare;
        match self {
            Self::MissingShare => {
                std::fs::create_dir(folder)?;
                folder.clone_into(&mut setup.share);
            }
            Self::MissingUnit | Self::SmallerImage => {
                let is_smaller = self == Self::SmallerImage;
                let bytes = DISK_BYTES >> u32::from(is_smaller);
                File::create_new(image)?.set_len(bytes)?;
                image.clone_into(&mut setup.image);
                setup.lun = u16::from(!is_smaller);
            }
            Self::WithoutState(kind) => setup.without_state = Some(kind),
            Self::Killed(..) | Self::QemuKilled(_) | Self::Damaged(_) => {}
        }
        Ok(())
    }

    /// Lies in wait for a migration to `destination`, between `listen` and `forward`.
    pub(super) fn lie_in_wait(
        self,
        destination: &WholeMachine,
        listen: &Path,
        forward: &Path,
    ) -> Result<Happened> {
        let happened = Happened::default();
        let mark = happened.clone();
        let victim = if let Self::Killed(kind, _) = self {
            destination.daemon(kind)?.id()
        } else {
            destination.vm.id()
        };
        channel::watch(listen, forward, move |moment| {
            if self.happens(moment, victim) {
                mark.set();
            }
        })?;
        if matches!(
            self,
            Self::MissingShare | Self::MissingUnit | Self::SmallerImage | Self::WithoutState(_)
        ) {
            happened.set();
        }
        Ok(happened)
    }

    /// Does what it has to at this moment; whether the fault has happened by that.
    fn happens(self, moment: Moment<'_>, victim: Pid) -> bool {
        let kill = || kill(victim);
        match (self, moment) {
            (Self::Killed(_, Step::Start), Moment::Begin) => kill(),
            (Self::Killed(kind, Step::Descriptor), Moment::State(one, _)) if one == kind => {
                wait_for_loading(victim, |_| true) && kill()
            }
            (Self::Killed(kind, Step::Middle), Moment::Piece(one)) if one == kind => {
                wait_for_loading(victim, |bytes| bytes > 0) && kill()
            }
            (Self::Killed(kind, Step::Check), Moment::Whole(one, size)) if one == kind => {
                // It has read all, and sees neither the end nor anything later.
                let _killed_at_the_end = wait_for_loading(victim, |bytes| bytes >= size)
                    && kill_process(victim, Signal::STOP).is_ok();
                false
            }
            (Self::Killed(kind, Step::Check), Moment::End(one)) if one == kind => kill(),
            (Self::QemuKilled(kind), Moment::State(one, _)) if one == kind => kill(),
            (Self::Damaged(kind), Moment::State(one, state)) if one == kind => {
                channel::damage(state);
                true
            }
            _ => false,
        }
    }
}

/// Kills a process, and waits until nothing is left of it but what its parent has to ask for, or not even that: its descriptors are
/// closed then.
fn kill(process: Pid) -> bool {
    let folder = format!("/proc/{}", process.as_raw_nonzero());
    let is_gone = || {
        let threads = std::fs::read_dir(format!("{folder}/task")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("{folder}/status"));
        threads <= 1 && status.map_or(true, |status| status.contains("State:\tZ"))
    };
    let end = Instant::now() + DEADLINE;
    // It has not been waited for, so the process is there.
    let mut is_killed = kill_process(process, Signal::KILL).is_ok();
    while is_killed && !is_gone() {
        thread::sleep(POLL_INTERVAL);
        is_killed = Instant::now() < end;
    }
    is_killed
}

/// Waits until a daemon loads a state, and has read as much of it as `enough` wants.
fn wait_for_loading(daemon: Pid, enough: impl Fn(u64) -> bool) -> bool {
    let threads = format!("/proc/{}/task", daemon.as_raw_nonzero());
    let end = Instant::now() + DEADLINE;
    while !bytes_loaded(&threads).is_some_and(&enough) {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
    true
}

/// How many bytes the thread that loads a state has read, as the kernel counts them; none if there is no such thread.
fn bytes_loaded(threads: &str) -> Option<u64> {
    let mut folders = std::fs::read_dir(threads).ok()?.flatten();
    let thread = folders.find(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.trim() == LOADING_THREAD)
    })?;
    let count = std::fs::read_to_string(thread.path().join("io")).ok()?;
    let mut lines = count.lines();
    lines
        .find_map(|line| line.strip_prefix("rchar: "))?
        .parse()
        .ok()
}
