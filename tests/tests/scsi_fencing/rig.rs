//! Initiators on one unit, `sg_persist` for each of them, and migrations between steps. Knows no rule.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::qemu::provision::{Program, scsi_tools};
use tests::scsi_suite::gateway::{Gateway, UNITS};
use tests::scsi_suite::initiator::{Data, GOOD, Outcome, RESPONSE_OK, Sense};
use tests::scsi_suite::port::{Backend, Port};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_mins(1);
/// What `sg_persist` exits with: done, and RESERVATION CONFLICT (`SG_LIB_CAT_RES_CONFLICT`).
pub(crate) const DONE: i32 = 0;
pub(crate) const CONFLICT: i32 = 24;
/// The command is refused (`SG_LIB_CAT_ILLEGAL_REQ`).
pub(crate) const REFUSED: i32 = 5;

/// Unit attentions of fencing (SPC-5, 5.14).
pub(crate) const POWER_ON: Sense = Sense(6, 0x29, 0x00);
pub(crate) const RESERVATIONS_PREEMPTED: Sense = Sense(6, 0x2a, 0x03);
pub(crate) const RESERVATIONS_RELEASED: Sense = Sense(6, 0x2a, 0x04);
pub(crate) const REGISTRATIONS_PREEMPTED: Sense = Sense(6, 0x2a, 0x05);

/// The three initiators, by their ports.
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const C: usize = 2;
/// One who only looks, so that unit attentions of others stay where they are.
const OBSERVER: usize = 3;
/// The key of each.
const KEYS: [&str; 3] = ["0xa", "0xb", "0xc"];

/// The types of reservations, by their numbers (SPC-5, table 194).
pub(crate) const WRITE_EXCLUSIVE: u8 = 1;
pub(crate) const EXCLUSIVE_ACCESS: u8 = 3;
pub(crate) const KINDS: [u8; 6] = [1, 3, 5, 6, 7, 8];
/// One for its holder, one for registrants, one of all registrants: enough where somebody is migrated.
const SOME_KINDS: [u8; 3] = [1, 6, 7];

/// The key of an initiator.
pub(crate) fn key(port: usize) -> &'static str {
    KEYS.get(port).copied().unwrap_or("0")
}

/// What `sg_persist` came to.
#[derive(Debug)]
pub(crate) struct Persisted {
    pub(crate) status: i32,
    pub(crate) output: String,
}

/// See the [module](self).
pub(crate) struct Rig {
    gateway: Gateway,
    sg_persist: Program,
    /// How many steps there were, if somebody is migrated at each.
    steps: Option<usize>,
    pub(crate) folder: TempDir,
}

impl Rig {
    /// Initiators who have heard that the power is on. Somebody may be moved at each [`step`](Self::step).
    pub(crate) fn start(migrates: bool) -> Result<Self> {
        let folder = folder()?;
        File::create_new(image(folder.path()))?.set_len(64 << 20)?;
        let mut ports = Vec::new();
        for number in [A, B, C, OBSERVER] {
            ports.push(port(folder.path(), number)?);
        }
        let mut rig = Self {
            gateway: Gateway::new(ports)?,
            sg_persist: scsi_tools()?.program("usr/bin/sg_persist")?,
            steps: migrates.then_some(0),
            folder,
        };
        for number in [A, B, C, OBSERVER] {
            ensure!(rig.heard(number)? == [POWER_ON]);
        }
        Ok(rig)
    }

    /// A step of a scenario is done: time to migrate one of them, A and B in turn.
    pub(crate) fn step(&mut self) -> Result<()> {
        let Some(steps) = &mut self.steps else {
            return Ok(());
        };
        *steps += 1;
        let number = if steps.is_multiple_of(2) { A } else { B };
        self.port(number)?.migrate()
    }

    pub(crate) fn port(&mut self, number: usize) -> Result<&mut Port> {
        let port = self.gateway.ports.get_mut(number);
        port.with_context(|| format!("no port {number}"))
    }

    /// Another daemon for an initiator whose daemon has died.
    pub(crate) fn replace(&mut self, number: usize) -> Result<()> {
        let next = port(self.folder.path(), number)?;
        *self.port(number)? = next;
        Ok(())
    }

    /// Runs `sg_persist` as an initiator.
    pub(crate) fn persist(&mut self, number: usize, arguments: &[&str]) -> Result<Persisted> {
        let device = format!("/dev/sg{}", number * usize::from(UNITS));
        let mut command = self.sg_persist.command();
        command.args(arguments).arg(device);
        let finished = self.gateway.run(&mut command, LIMIT)?;
        let status = finished.status.code();
        Ok(Persisted {
            status: status.with_context(|| format!("sg_persist died: {}", finished.status))?,
            output: finished.output,
        })
    }

    /// PERSISTENT RESERVE OUT by `sg_persist` with an expected exit status; then a [`step`](Self::step).
    pub(crate) fn out(&mut self, number: usize, arguments: &[&str], expected: i32) -> Result<()> {
        let all = [&["--out"], arguments].concat();
        let persisted = self.persist(number, &all)?;
        ensure!(
            persisted.status == expected,
            "initiator {number}, {arguments:?}: {persisted:?}"
        );
        self.step()
    }

    /// REGISTER with an initiator's own key.
    pub(crate) fn register(&mut self, number: usize) -> Result<()> {
        let key = format!("--param-sark={}", key(number));
        self.out(number, &["--register", &key], DONE)
    }

    /// A service action with an initiator's own key and a type.
    pub(crate) fn act(
        &mut self,
        number: usize,
        action: &str,
        kind: u8,
        expected: i32,
    ) -> Result<()> {
        let key = format!("--param-rk={}", key(number));
        let kind = format!("--prout-type={kind}");
        self.out(number, &[action, &key, &kind], expected)
    }

    /// PREEMPT or PREEMPT AND ABORT of whoever has the key of `victim`.
    pub(crate) fn preempt(
        &mut self,
        number: usize,
        action: &str,
        victim: &str,
        kind: u8,
        expected: i32,
    ) -> Result<()> {
        let keys = [
            format!("--param-rk={}", key(number)),
            format!("--param-sark={victim}"),
            format!("--prout-type={kind}"),
        ];
        let [own, other, kind] = &keys;
        self.out(number, &[action, own, other, kind], expected)
    }

    /// The registered keys, in order.
    pub(crate) fn keys(&mut self) -> Result<Vec<String>> {
        let read = self.persist(OBSERVER, &["--in", "--read-keys"])?;
        ensure!(read.status == DONE, "{read:?}");
        let keys = read.output.lines().map(str::trim);
        let keys = keys.filter(|line| line.starts_with("0x"));
        Ok(keys.map(str::to_owned).collect())
    }

    /// The reservation: key, and type in words.
    pub(crate) fn reservation(&mut self) -> Result<Option<(String, String)>> {
        let read = self.persist(OBSERVER, &["--in", "--read-reservation"])?;
        ensure!(read.status == DONE, "{read:?}");
        let field = |name: &str| {
            let (_, rest) = read.output.split_once("Reservation follows:")?;
            let (_, rest) = rest.split_once(name)?;
            rest.lines().next().map(|value| value.trim().to_owned())
        };
        Ok(field("Key=").zip(field("type:")))
    }

    /// The types to be tried.
    pub(crate) fn kinds(&self) -> &'static [u8] {
        if self.steps.is_none() {
            &KINDS
        } else {
            &SOME_KINDS
        }
    }

    /// Daemons of all initiators die together, then others start. The one who only looks would keep the store alive.
    pub(crate) fn power_loss(&mut self) -> Result<()> {
        self.restart(&[A, B, C, OBSERVER])?;
        ensure!(self.heard(OBSERVER)? == [POWER_ON]);
        Ok(())
    }

    /// Kills the daemons of `numbers` together, then starts others.
    pub(crate) fn restart(&mut self, numbers: &[usize]) -> Result<()> {
        for &number in numbers {
            self.port(number)?.daemon().kill()?;
        }
        for &number in numbers {
            self.replace(number)?;
        }
        Ok(())
    }

    /// The unit attentions that wait for an initiator; it has heard of them then.
    pub(crate) fn heard(&mut self, number: usize) -> Result<Vec<Sense>> {
        self.port(number)?.initiator.clear_attentions(0)
    }

    /// Exactly these wait for A, B and C.
    pub(crate) fn all_heard(&mut self, expected: [&[Sense]; 3]) -> Result<()> {
        self.step()?;
        for (number, expected) in expected.into_iter().enumerate() {
            let heard = self.heard(number)?;
            ensure!(
                heard == expected,
                "initiator {number} has heard {heard:?}, not {expected:?}"
            );
        }
        Ok(())
    }

    /// Sends a command.
    pub(crate) fn command(&mut self, number: usize, cdb: &[u8], data: Data<'_>) -> Result<Outcome> {
        self.port(number)?.initiator.command(0, cdb, data)
    }

    /// Writes a block, with what came of it.
    pub(crate) fn write(&mut self, number: usize) -> Result<u8> {
        let block = [u8::try_from(number)? + 1; 512];
        let cdb = [0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0];
        let outcome = self.command(number, &cdb, Data::Out(&block))?;
        ensure!(outcome.response == RESPONSE_OK, "{outcome:?}");
        Ok(outcome.status)
    }

    /// Who may write.
    pub(crate) fn writers(&mut self) -> Result<Vec<usize>> {
        let mut writers = Vec::new();
        for number in [A, B, C] {
            if self.write(number)? == GOOD {
                writers.push(number);
            }
        }
        Ok(writers)
    }
}

/// In memory if possible: each change of reservations is made durable, twice, for which disks of test machines take their time.
fn folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let folder = tempfile::Builder::new()
        .prefix("fencing-")
        .tempdir_in(memory);
    Ok(folder.or_else(|_| tempfile::tempdir())?)
}

fn image(folder: &Path) -> PathBuf {
    folder.join("image")
}

fn port(folder: &Path, number: usize) -> Result<Port> {
    let image = image(folder);
    let image = image.to_str().context("a path that is not UTF-8")?;
    let unit = format!("path={image},lock=off,reservations={image}.reservations");
    let initiator = format!("iqn.2026-01.org.vhost-device:{number}");
    Port::new(Backend::new()?.with(["--initiator", &initiator, "--lun", &unit]))
}

/// Runs a scenario twice: with nobody migrated, and with A or B migrated between any two steps.
pub(crate) fn at_rest_and_migrating(scenario: impl Fn(&mut Rig) -> Result<()>) -> Result<()> {
    for migrates in [false, true] {
        let ran = scenario(&mut Rig::start(migrates)?);
        ran.with_context(|| format!("migrating: {migrates}"))?;
    }
    Ok(())
}
