//! `cargo xtask e2e --peers`: what other daemons do in the scenarios that ours have to pass, beside ours, in the same QEMU.
//!
//! Knows how to tell about it; the tests crate makes the observations. Exit codes: 0 it could be observed, whatever came of it; 1 not.

use std::process::ExitCode;
use std::time::Instant;

use ::tests::peers::{Device, compare};
use anyhow::{Context as _, Result};

/// A device by its name.
pub(crate) fn parse(name: &str) -> Result<Device, String> {
    let found = Device::ALL.into_iter().find(|one| one.name() == name);
    found.ok_or_else(|| format!("one of {}", Device::ALL.map(Device::name).join(", ")))
}

/// Observes those whose title has `who` in it, of these devices, or of all if none is named; and prints a table for each.
pub(crate) fn run(devices: &[Device], who: &str) -> Result<ExitCode> {
    let wanted = |one: &Device| devices.is_empty() || devices.contains(one);
    let mut reports = Vec::new();
    for device in Device::ALL.into_iter().filter(wanted) {
        let began = Instant::now();
        let report = compare(device, who, |who, what, observation| {
            let seconds = began.elapsed().as_secs();
            println!("{seconds:4} s  {who}: {what}: {}", observation.text);
            for message in &observation.messages {
                println!("            {message}");
            }
        });
        reports.push(report.with_context(|| device.name())?);
    }
    for report in reports {
        println!("\n{report}");
    }
    Ok(ExitCode::SUCCESS)
}
