//! Moves a machine: live to another QEMU, or through a file.
//!
//! The capability `return-path` is always set: without it the source reports success although the
//! destination died while loading.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::POLL_INTERVAL;
use super::vm::{DEADLINE, Vm};

/// Bytes per second: QEMU's default of 128 MiB/s would decide about the measured times.
const BANDWIDTH_MAX: u64 = 10_000_000_000;

/// So slow that the memory of a guest takes a minute.
const BANDWIDTH_MIN: u64 = 1_000_000;

/// A whole migration: generous, only to turn a hang into a failure.
const MIGRATION_DEADLINE: Duration = Duration::from_mins(4);

/// How a migration ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest runs on the destination.
    Completed(Transfer),
    /// It does not.
    Failed(Failure),
}

/// Why a migration failed.
#[derive(Debug)]
pub struct Failure {
    /// As the source tells it.
    pub reason: String,
    /// What everybody logged; the cause is often on the destination's side.
    pub report: String,
}

impl Outcome {
    /// The measurements, or an error if the migration failed.
    pub fn completed(self) -> Result<Transfer> {
        match self {
            Self::Completed(transfer) => Ok(transfer),
            Self::Failed(Failure { reason, report }) => bail!("migration: {reason}\n{report}"),
        }
    }

    /// The failure, or an error if the migration succeeded.
    pub fn failed(self) -> Result<Failure> {
        match self {
            Self::Failed(failure) => Ok(failure),
            Self::Completed(transfer) => bail!("the migration succeeded: {transfer:?}"),
        }
    }
}

/// Measurements of one completed migration.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// From the request to the end, as QEMU counts it.
    pub total: Duration,
    /// Without a running guest, as the source estimates it.
    pub downtime: Duration,
    /// From the source's STOP to the destination's RESUME, by the clock of the host they share.
    pub silence: Duration,
    /// Guest memory that was sent.
    pub memory_bytes: u64,
}

/// Migrates a running guest to `destination`, through a socket at the path `socket`.
pub fn live(source: &mut Vm, destination: &mut Vm, socket: &Path) -> Result<Outcome> {
    live_through(source, destination, socket, socket)
}

/// As [`live`], with sockets that may differ: a [`channel`](super::channel) may lie between them.
pub fn live_through(
    source: &mut Vm,
    destination: &mut Vm,
    send: &Path,
    listen: &Path,
) -> Result<Outcome> {
    let (source_since, destination_since) = (source.qmp().now(), destination.qmp().now());
    configure(destination, true)?;
    let uri = format!("unix:{}", listen.display());
    destination.execute("migrate-incoming", &json!({ "uri": uri }))?;
    configure(source, true)?;
    let uri = format!("unix:{}", send.display());
    let mut transfer = match send_to(source, &uri)? {
        Outcome::Completed(transfer) => transfer,
        Outcome::Failed(mut failure) => {
            failure.report = format!("{}\n{}", failure.report, destination.report());
            return Ok(Outcome::Failed(failure));
        }
    };
    let deadline = DEADLINE;
    let stop = source.qmp().wait_event("STOP", source_since, deadline)?;
    let resume = destination
        .qmp()
        .wait_event("RESUME", destination_since, deadline);
    let resume = resume.with_context(|| destination.report())?;
    destination.expect_status("running")?;
    transfer.silence = resume.timestamp.saturating_sub(stop.timestamp);
    Ok(Outcome::Completed(transfer))
}

/// Begins to migrate a running guest, slowly, and cancels that while its memory is copied.
pub fn cancelled(source: &mut Vm, destination: &mut Vm, socket: &Path) -> Result<()> {
    configure(destination, true)?;
    let uri = format!("unix:{}", socket.display());
    destination.execute("migrate-incoming", &json!({ "uri": uri }))?;
    configure(source, true)?;
    let slow = json!({ "max-bandwidth": BANDWIDTH_MIN });
    source.execute("migrate-set-parameters", &slow)?;
    source.execute("migrate", &json!({ "uri": uri }))?;
    let mut is_cancelled = false;
    let end = Instant::now() + MIGRATION_DEADLINE;
    loop {
        let state = source.execute("query-migrate", &json!({}))?;
        let sent = state.pointer("/ram/transferred").and_then(Value::as_u64);
        match state.get("status").and_then(Value::as_str) {
            Some("cancelled") => return Ok(()),
            Some("active") if !is_cancelled && sent > Some(0) => {
                source.execute("migrate_cancel", &json!({}))?;
                is_cancelled = true;
            }
            Some("completed" | "failed") => bail!("not cancelled, but {state}"),
            _ if Instant::now() > end => bail!("no end of {state}\n{}", source.report()),
            _ => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Stops the guest and writes its whole state to a file. It stays stopped and can go on.
pub fn save(vm: &mut Vm, file: &Path) -> Result<Outcome> {
    vm.stop()?;
    configure(vm, false)?;
    let uri = format!("file:{}", file.display());
    let outcome = send_to(vm, &uri)?;
    if matches!(outcome, Outcome::Completed(_)) {
        // QEMU says "completed" a moment before it is; until then it refuses to go on: "Migration is not finalized yet".
        vm.wait_status("postmigrate")?;
    }
    Ok(outcome)
}

/// Lets a machine that was started with [`Start::Incoming`](super::Start) go on from a file.
pub fn restore(vm: &mut Vm, file: &Path) -> Result<()> {
    let since = vm.qmp().now();
    configure(vm, false)?;
    let uri = format!("file:{}", file.display());
    vm.execute("migrate-incoming", &json!({ "uri": uri }))?;
    let status = wait_incoming(vm, since)?;
    if status != "completed" {
        bail!(
            "restoring from {}: {status}\n{}",
            file.display(),
            vm.report()
        );
    }
    // A guest that was stopped when it was saved is restored as stopped.
    vm.cont()
}

/// Waits until the state that comes in is loaded or refused; `completed`, or what happened instead.
fn wait_incoming(vm: &mut Vm, since: usize) -> Result<String> {
    let end = Instant::now() + MIGRATION_DEADLINE;
    loop {
        if vm.has_ended()? {
            return Ok("QEMU ended".to_owned());
        }
        let event = vm.qmp().last_event("MIGRATION", since);
        let status = event.and_then(|event| Some(event.data.get("status")?.as_str()?.to_owned()));
        if let Some(status) = status.filter(|s| matches!(s.as_str(), "completed" | "failed")) {
            return Ok(status);
        }
        if Instant::now() > end {
            bail!("no end of the incoming migration\n{}", vm.report());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Starts an outgoing migration and waits for its end as the source sees it.
fn send_to(source: &mut Vm, uri: &str) -> Result<Outcome> {
    let failed = |reason: String, source: &Vm| {
        let report = source.report();
        Ok(Outcome::Failed(Failure { reason, report }))
    };
    if let Err(refusal) = source.qmp().execute("migrate", &json!({ "uri": uri })) {
        return failed(format!("{refusal:#}"), source);
    }
    let end = Instant::now() + MIGRATION_DEADLINE;
    loop {
        let state = source.execute("query-migrate", &json!({}))?;
        match state.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(Outcome::Completed(transfer(&state))),
            Some("failed" | "cancelled") => {
                let reason = state.get("error-desc").and_then(Value::as_str);
                return failed(reason.unwrap_or("no reason given").to_owned(), source);
            }
            _ if Instant::now() > end => bail!("no end of {state}\n{}", source.report()),
            _ => thread::sleep(POLL_INTERVAL),
        }
    }
}

fn configure(vm: &mut Vm, return_path: bool) -> Result<()> {
    let capabilities = json!([
        { "capability": "events", "state": true },
        { "capability": "return-path", "state": return_path },
    ]);
    let capabilities = json!({ "capabilities": capabilities });
    vm.execute("migrate-set-capabilities", &capabilities)?;
    let parameters = json!({ "max-bandwidth": BANDWIDTH_MAX });
    vm.execute("migrate-set-parameters", &parameters)?;
    Ok(())
}

fn transfer(state: &Value) -> Transfer {
    let number = |pointer| state.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Transfer {
        total: Duration::from_millis(number("/total-time")),
        downtime: Duration::from_millis(number("/downtime")),
        silence: Duration::ZERO,
        memory_bytes: number("/ram/transferred"),
    }
}
