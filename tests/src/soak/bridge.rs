//! The soak on this host, through the FUSE bridge.
//!
//! Knows what can happen to a device behind our own front-end.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::frontend::Channel;
use tempfile::TempDir;

use super::bare::path;
use super::place::{Event, Folder, Place, Ran};
use super::programs::{Commands, Toolbox};
use crate::guest::Manner;
use crate::guest::machine::LoadOrder;
use crate::mounted_share::Share;
use crate::qemu::process::Process;
use crate::random::Random;

/// Longest time in milliseconds without an event, and within one.
const APART_MAX: u32 = 1_000;
const STOPPED_MAX: u32 = 100;

pub(super) struct Bridged {
    // First of all, so that it is gone before the mount that it uses.
    process: Option<Process>,
    share: Share,
    programs: Commands,
    scratch: TempDir,
}

impl Bridged {
    pub(super) fn new(toolbox: &Toolbox) -> Result<Self> {
        Ok(Self {
            process: None,
            share: Share::new(&["--xattr"])?,
            programs: toolbox.on_host()?,
            scratch: tempfile::tempdir()?,
        })
    }
}

impl Place for Bridged {
    fn programs(&self) -> &Commands {
        &self.programs
    }

    fn new_folder(&mut self, name: &str) -> Result<Folder> {
        let inside = self.share.at(name);
        fs::create_dir(&inside)?;
        Ok(Folder {
            inside: path(&inside)?.to_owned(),
            on_host: self.share.on_host(name),
        })
    }

    fn remove_folder(&mut self, folder: &Folder) -> Result<()> {
        fs::remove_dir_all(&folder.inside).with_context(|| format!("removing {}", folder.inside))
    }

    fn start(&mut self, script: &str) -> Result<()> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        let log = self.scratch.path().join("output");
        self.process = Some(Process::start("sh", &mut command, &log)?);
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<Ran>> {
        let process = self.process.as_mut().context("nothing was started")?;
        let Some(status) = process.status()? else {
            return Ok(None);
        };
        let output = fs::read(process.log())?;
        Ok(Some(Ran {
            status: status.code(),
            output: String::from_utf8_lossy(&output).into_owned(),
        }))
    }

    fn disturb(&mut self, random: &mut Random) -> Result<Event> {
        let while_stopped = Duration::from_millis(random.between(0, STOPPED_MAX).into());
        let bridge = &mut self.share.bridge;
        Ok(match random.below(4) {
            0 => {
                bridge.stop().context("stopping")?;
                thread::sleep(while_stopped);
                bridge.start().context("starting")?;
                Event::Stop
            }
            1 => {
                bridge.suspend().context("suspending")?;
                thread::sleep(while_stopped);
                bridge.resume().context("resuming")?;
                Event::Suspend
            }
            2 => {
                bridge.snapshot().context("a snapshot")?;
                Event::Snapshot
            }
            _ => {
                let manner = manner(random);
                let migrated = self.share.migrate_as(manner);
                migrated.with_context(|| format!("migrating as {manner:?}"))?;
                Event::Migration
            }
        })
    }

    fn interval(&self, random: &mut Random) -> Duration {
        Duration::from_millis(random.between(0, APART_MAX).into())
    }

    fn log(&self) -> String {
        self.share.log().unwrap_or_default()
    }

    fn finish(self: Box<Self>) -> Result<Option<usize>> {
        drop(self.process);
        Ok(Some(self.share.bridge.unmount()?.in_flight_at_stop))
    }
}

/// Any manner in which a VMM migrates.
fn manner(random: &mut Random) -> Manner {
    let orders = [
        LoadOrder::BeforeFeatures,
        LoadOrder::BeforeMemory,
        LoadOrder::BeforeRings,
    ];
    let channels = [Channel::Pipe, Channel::SocketPair, Channel::File];
    Manner {
        order: random.one_of(&orders, LoadOrder::BeforeFeatures),
        channel: random.one_of(&channels, Channel::Pipe),
        suspend: random.one_in(2),
    }
}
