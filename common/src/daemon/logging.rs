//! Logging to standard error: plain lines, with the priorities of sd-daemon(3) when the journal reads them.

use std::io::Write as _;

use log::{Level, LevelFilter};

/// Starts logging at `level`, unless `RUST_LOG` says otherwise.
pub(super) fn start(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env();
    builder.format(move |out, record| {
        if journal {
            writeln!(out, "<{}>{}", priority(record.level()), record.args())
        } else {
            writeln!(
                out,
                "[{} {}] {}",
                record.level(),
                record.target(),
                record.args()
            )
        }
    });
    // A second start is one too many, and harmless: the first logger stays.
    let _already_started = builder.try_init();
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
