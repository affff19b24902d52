//! The limits: fio on the bare file, without a guest and without rings.
//!
//! Knows fio's options and its report.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::load::{Direction, Order, Work};
use tests::qemu::provision::Program;

use super::peers::Image;
use super::report::Sample;

/// How fio does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// As many requests in flight as there are on the rings, and submissions gathered as a daemon can do that.
    IoUring,
    /// A system call for each request, one after the other: what the kernel takes for them, and nothing else.
    Calls,
}

impl Engine {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "fio io_uring, bare file",
            Self::Calls => "fio psync, bare file",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::IoUring => "--ioengine=io_uring",
            Self::Calls => "--ioengine=psync",
        }
    }
}

/// Runs fio for `time`, with as many jobs as the work has rings.
pub(super) fn run(
    fio: &Program,
    engine: Engine,
    image: Image<'_>,
    work: &Work,
    time: Duration,
) -> Result<Sample> {
    let (direction, kind) = match (work.direction, work.order) {
        (Direction::Read, Order::Random) => ("read", "randread"),
        (Direction::Read, Order::Sequential) => ("read", "read"),
        (Direction::Write, Order::Random) => ("write", "randwrite"),
        (Direction::Write, Order::Sequential) => ("write", "write"),
    };
    let batch = (work.depth / 2).max(1);
    let mut command = fio.command();
    command.args(["--name=limit", engine.option()]);
    if engine == Engine::IoUring {
        command
            .arg("--registerfiles=1")
            .arg(format!("--iodepth={}", work.depth))
            .arg(format!("--iodepth_batch_submit={batch}"))
            .arg(format!("--iodepth_batch_complete_max={}", work.depth));
    }
    let output = command
        .args([
            "--time_based",
            "--norandommap",
            "--randrepeat=0",
            "--thread",
            "--group_reporting",
        ])
        .args(["--invalidate=0", "--fadvise_hint=0", "--output-format=json"])
        .arg(format!("--filename={}", image.path.display()))
        .arg(format!("--size={}", image.bytes))
        .arg(format!("--direct={}", u8::from(image.direct)))
        .arg(format!("--rw={kind}"))
        .arg(format!("--bs={}", work.request_bytes))
        .arg(format!("--numjobs={}", work.rings))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .output()
        .context("starting fio")?;
    ensure!(
        output.status.success(),
        "fio: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    sample(&String::from_utf8_lossy(&output.stdout), direction, work)
}

/// What fio's report says of one direction.
fn sample(text: &str, direction: &str, work: &Work) -> Result<Sample> {
    // Notes may come before the report.
    let report = text.find('{').and_then(|start| text.get(start..));
    let report: Value = serde_json::from_str(report.context("fio without a report")?)?;
    let number = |path: &str| {
        report
            .pointer(&format!("/jobs/0/{path}"))
            .and_then(Value::as_f64)
            .with_context(|| format!("fio's report has no {path}"))
    };
    let percentile = |percent: &str| {
        let nanoseconds = number(&format!("{direction}/clat_ns/percentile/{percent}"))?;
        anyhow::Ok(nanoseconds / 1e3)
    };
    let rate = number(&format!("{direction}/iops"))?;
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let jobs = work.rings as f64;
    // Of one job's time; of all jobs on average.
    let busy = (number("usr_cpu")? + number("sys_cpu")?) / 100.0 * jobs;
    Ok(Sample {
        rate,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        cpu_us: busy / rate.max(1.0) * 1e6,
    })
}
