//! Is the device what the SCSI standards say? libiscsi's 215 tests ask, at rest and while the device is migrated from daemon to daemon at random moments.
//!
//! Every test that is not passed stands in [`FAILED`] or [`SKIPPED`] with the reason. Most tests run on `/dev/sg0`. Those that need a second initiator
//! run over iSCSI, and each initiator has a daemon of its own: what they share is the image and a store of reservations.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tests::qemu::provision::{Program, scsi_tools};
use tests::scsi_suite::conformance::{self, TESTS, Verdict};
use tests::scsi_suite::gateway::{Gateway, Moves};
use tests::scsi_suite::port::{Backend, Port};

/// Tests that fail, by the beginnings of their names, and why.
const FAILED: &[(&str, &str)] = &[(
    "SCSI.GetLBAStatus.UnmapSingle",
    "asks for block i + 1 and wants block i + 8 in the answer where a physical block has 8 logical ones, as ours have",
)];

/// Tests of which something is skipped.
const SKIPPED: &[(&str, &str)] = &[
    ("SCSI.PreventAllow.", NOT_REMOVABLE),
    ("SCSI.StartStopUnit.Simple", NOT_REMOVABLE),
    ("SCSI.Sanitize.", "SANITIZE is not there"),
    ("SCSI.MultipathIO.", "there is one path"),
    ("SCSI.ExtendedCopy.", "EXTENDED COPY is not there"),
    ("SCSI.ReceiveCopyResults.", "EXTENDED COPY is not there"),
    (
        "SCSI.WriteAtomic16.",
        "a file of the host has no atomic writes",
    ),
    ("SCSI.WriteSame10.ZeroBlocks", NO_ZERO_BLOCKS),
    ("SCSI.WriteSame16.ZeroBlocks", NO_ZERO_BLOCKS),
];

const NO_ZERO_BLOCKS: &str =
    "WSNZ is 1: WRITE SAME up to the end of the medium would have no bound in time";

const NOT_REMOVABLE: &str = "the medium is not removable";

/// Tests that run over iSCSI only: most make a second session under another name.
const OVER_ISCSI: &[&str] = &[
    "SCSI.CompareAndWrite.InvalidDataOutSize",
    "SCSI.ProutPreempt.",
    "SCSI.ProutReserve.Access",
    "SCSI.ProutReserve.Ownership",
    "SCSI.Reserve6.2Initiators",
    "SCSI.Reserve6.ITNexusLoss",
    "SCSI.Reserve6.LUNReset",
    "SCSI.Reserve6.Logout",
    "SCSI.Reserve6.Target",
];

/// Tests that want a unit that cannot be written to.
const READ_ONLY: &[&str] = &["SCSI.ReadOnly."];

fn tool() -> Result<Program> {
    scsi_tools()?.program("usr/bin/iscsi-test-cu")
}

fn begins_with_one_of(name: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| name.starts_with(start))
}

/// The way to a device of its own for the test `name`, and how the test is to call it.
fn device(backend: &Backend, name: &str, folder: &Path) -> Result<(Gateway, String)> {
    let image = folder.join("image");
    File::create_new(&image)?.set_len(100 << 20)?;
    let image = image.to_str().context("a path that is not UTF-8")?;
    if !begins_with_one_of(name, OVER_ISCSI) {
        let read_only = begins_with_one_of(name, READ_ONLY);
        let unit = format!("path={image}{}", if read_only { ",readonly" } else { "" });
        let gateway = Gateway::new(vec![Port::new(backend.with(["--lun", &unit]))?])?;
        return Ok((gateway, "/dev/sg0".to_owned()));
    }
    let unit = format!("path={image},lock=off,reservations={image}.reservations");
    let port = |number: u32| {
        let initiator = format!("iqn.2026-01.org.vhost-device:{number}");
        Port::new(backend.with(["--initiator", &initiator, "--lun", &unit]))
    };
    let gateway = Gateway::new(vec![port(1)?, port(2)?])?;
    let url = gateway.url()?;
    Ok((gateway, url))
}

/// Runs `name` on a device of its own; `every` as for [`Moves`].
fn judge(
    tool: &Program,
    backend: &Backend,
    name: &str,
    every: Option<u64>,
    migrations: &AtomicU32,
) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (mut gateway, device) = device(backend, name, folder.path())?;
    let seed = name.bytes().fold(0_u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    gateway.moves = every.map(|every| Moves::new(seed, every));
    let verdict = conformance::run(tool, name, &[device], &mut gateway);
    for port in &gateway.ports {
        migrations.fetch_add(port.migrations(), Ordering::Relaxed);
    }
    Ok(verdict)
}

/// The verdicts on all tests, and how many migrations there were.
fn judge_all(every: Option<u64>) -> Result<(BTreeMap<String, Verdict>, u32)> {
    let tool = tool()?;
    let names = conformance::names(&tool)?;
    ensure!(names.len() == TESTS, "{} tests, not {TESTS}", names.len());
    let backend = Backend::new()?;
    let migrations = AtomicU32::new(0);
    let verdicts = conformance::run_all(&names, |name| {
        judge(&tool, &backend, name, every, &migrations)
            .unwrap_or_else(|error| Verdict::Broken(format!("{error:#}")))
    });
    ensure!(verdicts.len() == TESTS, "{} verdicts", verdicts.len());
    for (name, verdict) in &verdicts {
        if *verdict != Verdict::Passed {
            println!("{name} {verdict}");
        }
    }
    Ok((verdicts, migrations.into_inner()))
}

fn count(verdicts: &BTreeMap<String, Verdict>, which: impl Fn(&Verdict) -> bool) -> usize {
    verdicts.values().filter(|verdict| which(verdict)).count()
}

/// What differs from [`FAILED`] and [`SKIPPED`].
fn surprises(verdicts: &BTreeMap<String, Verdict>) -> Vec<String> {
    let stands_in =
        |table: &[(&str, &str)], name: &str| table.iter().any(|(start, _)| name.starts_with(start));
    let as_expected = |name: &str, verdict: &Verdict| match verdict {
        Verdict::Passed => !stands_in(FAILED, name) && !stands_in(SKIPPED, name),
        Verdict::Skipped(_) => stands_in(SKIPPED, name),
        Verdict::Failed(_) => stands_in(FAILED, name),
        Verdict::Broken(_) => false,
    };
    verdicts
        .iter()
        .filter(|(name, verdict)| !as_expected(name, verdict))
        .map(|(name, verdict)| format!("{name} {verdict}"))
        .collect()
}

#[test]
fn libiscsi_finds_what_is_known_and_nothing_else() -> Result<()> {
    let (verdicts, _) = judge_all(None)?;
    let passed = count(&verdicts, |verdict| *verdict == Verdict::Passed);
    let skipped = count(&verdicts, |verdict| matches!(verdict, Verdict::Skipped(_)));
    let failed = count(&verdicts, |verdict| matches!(verdict, Verdict::Failed(_)));
    let broken = count(&verdicts, |verdict| matches!(verdict, Verdict::Broken(_)));
    println!("{passed} passed, {skipped} skipped, {failed} failed, {broken} broken");
    ensure!(
        broken == 0 && failed <= 3 && skipped <= 40,
        "worse than was promised"
    );
    let surprises = surprises(&verdicts);
    ensure!(surprises.is_empty(), "{}", surprises.join("\n"));
    Ok(())
}

#[test]
fn libiscsi_finds_the_same_during_migrations() -> Result<()> {
    let (verdicts, migrations) = judge_all(Some(5))?;
    println!("{migrations} migrations");
    ensure!(migrations as usize > TESTS, "only {migrations} migrations");
    let surprises = surprises(&verdicts);
    ensure!(surprises.is_empty(), "{}", surprises.join("\n"));
    Ok(())
}
