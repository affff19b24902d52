//! File locks of a Linux guest that others on the host see: are they still the guest's when it was stopped, when it was moved, and
//! when a move has failed, and does who waits for one get it at the destination?

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use common::file_locks::{is_held, try_range, unlock_range};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use tests::daemon_runner::Daemon;
use tests::qemu::fs_machine::FsMachine;
use tests::qemu::rig::LOCKER;
use tests::qemu::{Rig, Start, channel, migration};

/// Kinds of locks, as the guest's program calls them; the files are called so, too.
const KINDS: [&str; 2] = ["bytes", "whole"];

fn daemon(share: &Path) -> Result<Daemon> {
    let share = share.to_str().context("a plain name")?;
    let options = [
        "--shared-dir",
        share,
        "--remote-posix-locks",
        "--remote-flock",
    ];
    Daemon::start("vhost-device-fs", options)
}

fn machine(rig: &Rig, name: &str, start: Start, share: &Path) -> Result<FsMachine> {
    FsMachine::start_on(rig, name, start, daemon(share)?)
}

fn open(path: &Path) -> Result<File> {
    Ok(File::options().read(true).write(true).open(path)?)
}

/// Whether the host's `file` can be locked; it is not, afterwards.
fn is_free(file: &File, kind: &str) -> Result<bool> {
    if kind == "bytes" {
        return Ok(!is_held(file.as_fd(), 0)?);
    }
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => flock(file, FlockOperation::Unlock)?,
        Err(Errno::AGAIN) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// A share with files that the guest has locked, and files that the host has locked and the guest waits for.
struct Scene {
    rig: Rig,
    share: PathBuf,
    machine: FsMachine,
    of_host: Vec<(&'static str, File)>,
}

impl Scene {
    fn set() -> Result<Self> {
        let rig = Rig::prepare()?;
        let share = rig.path("shared");
        fs::create_dir(&share)?;
        let mut machine = machine(&rig, "first", Start::Boot, &share)?;
        machine.mount()?;
        let mut of_host = Vec::new();
        for kind in KINDS {
            let wanted = share.join(format!("wanted.{kind}"));
            fs::write(share.join(kind), "")?;
            fs::write(&wanted, "")?;
            let wanted = open(&wanted)?;
            match kind {
                "bytes" => ensure!(try_range(wanted.as_fd(), true, 0, 0)?),
                _ => flock(&wanted, FlockOperation::NonBlockingLockExclusive)?,
            }
            of_host.push((kind, wanted));
        }
        let mut scene = Self {
            rig,
            share,
            machine,
            of_host,
        };
        for kind in KINDS {
            scene.start_holding(kind, kind)?;
            scene.wait_for(&format!("{kind}.held"))?;
            scene.start_holding(&format!("wanted.{kind}"), kind)?;
        }
        scene.check("in the beginning")?;
        Ok(scene)
    }

    fn start_holding(&mut self, file: &str, kind: &str) -> Result<()> {
        self.machine.vm.run(&format!(
            "{LOCKER} hold /mnt/{file} {kind} /tmp/{file} </dev/null >/tmp/{file}.log 2>&1 &"
        ))?;
        Ok(())
    }

    fn wait_for(&mut self, file: &str) -> Result<()> {
        self.machine.vm.run(&format!(
            "n=0; while [ ! -e /tmp/{file} ]; do n=$((n+1)); [ $n -lt 600 ] || {{ cat /tmp/*.log; exit 1; }}; sleep 0.1; done"
        ))?;
        Ok(())
    }

    /// The guest has its locks, and those that it waits for it has not.
    fn check(&mut self, when: &str) -> Result<()> {
        for kind in KINDS {
            let file = open(&self.share.join(kind))?;
            ensure!(!is_free(&file, kind)?, "{kind}: free {when}");
            let script = format!(
                "{LOCKER} try /mnt/{kind} {kind}; {LOCKER} try /mnt/wanted.{kind} {kind}; ls /tmp/wanted.{kind}.held || true"
            );
            let answer = self.machine.vm.run(&script)?;
            let taken = answer.matches("taken").count();
            ensure!(taken == 2, "{kind}, {when}: {answer:?}");
            ensure!(!answer.contains("free"), "{kind}, {when}: {answer:?}");
            let held = answer
                .lines()
                .any(|line| line == format!("/tmp/wanted.{kind}.held"));
            ensure!(!held, "{kind}: two have it {when}");
        }
        Ok(())
    }

    fn move_to(&mut self, name: &str) -> Result<()> {
        let mut next = machine(&self.rig, name, Start::Incoming, &self.share)?;
        let socket = self.rig.path(&format!("{name}.migration"));
        let outcome = migration::live(&mut self.machine.vm, &mut next.vm, &socket)?;
        outcome.completed()?;
        std::mem::replace(&mut self.machine, next).quit()
    }

    /// The destination's daemon is killed with the state on its way.
    fn fail_to_move(&mut self) -> Result<()> {
        let mut next = machine(&self.rig, "failure", Start::Incoming, &self.share)?;
        let listen = self.rig.path("failure.listen");
        let between = self.rig.path("failure.between");
        let victim = next.daemon.id();
        // The signal fails only if it was dead before.
        let seen = channel::intercept(&between, &listen, move |_| {
            let _ = kill_process(victim, Signal::KILL);
        })?;
        let source = &mut self.machine.vm;
        let outcome = migration::live_through(source, &mut next.vm, &between, &listen)?;
        let reported = outcome.failed()?;
        ensure!(seen.get(), "failed before the state: {}", reported.report);
        drop(next);
        self.machine.vm.wait_status("running")
    }

    /// The host gives back what the guest waits for, then the guest everything.
    fn end(mut self) -> Result<()> {
        for (kind, file) in self.of_host.drain(..) {
            match kind {
                "bytes" => unlock_range(file.as_fd(), 0, 0)?,
                _ => flock(&file, FlockOperation::Unlock)?,
            }
        }
        for kind in KINDS {
            self.wait_for(&format!("wanted.{kind}.held"))?;
            for name in [kind.to_owned(), format!("wanted.{kind}")] {
                let file = open(&self.share.join(&name))?;
                ensure!(!is_free(&file, kind)?, "{name}: the guest has it");
                self.machine.vm.run(&format!("touch /tmp/{name}.release"))?;
                self.wait_for(&format!("{name}.done"))?;
                ensure!(is_free(&file, kind)?, "{name}: nobody has it");
                let text = fs::read_to_string(self.share.join(&name))?;
                ensure!(text == format!("/tmp/{name}"), "{name}: {text:?}");
            }
        }
        self.machine.vm.run("wait; umount /mnt")?;
        self.machine.quit()
    }
}

#[test]
fn locks_of_a_guest_survive_stops_failures_and_moves_and_waiters_get_theirs_afterwards()
-> Result<()> {
    let mut scene = Scene::set()?;
    scene.machine.vm.stop()?;
    scene.machine.vm.cont()?;
    scene.check("after a stop")?;
    scene.fail_to_move().context("a move that fails")?;
    scene.check("after a move that failed")?;
    for name in ["second", "third"] {
        scene.move_to(name)?;
        scene.check(name)?;
    }
    scene.end()
}
