//! Logging to standard error: plain lines, with the priorities of sd-daemon(3) when the journal reads them. Or to the
//! system's log, in the words of RFC 3164 that every such log understands.

use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use log::Level;

use crate::args;

/// Where the system's log listens.
const SYSTEM_LOG: &str = "/dev/log";
/// `LOG_USER` of syslog(3).
const FACILITY: u8 = 1;

/// How much is logged, and where.
#[derive(Clone, Copy, Debug)]
pub struct Logging {
    /// How much; the environment variable `RUST_LOG` overrides it.
    pub level: args::Level,
    /// To the system's log, not to standard error.
    pub syslog: bool,
}

impl From<args::Level> for Logging {
    fn from(level: args::Level) -> Self {
        Self {
            level,
            syslog: false,
        }
    }
}

/// Starts logging.
pub(super) fn start(logging: Logging) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(logging.level.into())
        .parse_default_env();
    let system = logging
        .syslog
        .then(|| SystemLog::connect(Path::new(SYSTEM_LOG)));
    let (system, refused) = match system.transpose() {
        Ok(system) => (system, None),
        Err(error) => (None, Some(error)),
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    builder.format(move |out, record| {
        let (level, text) = (record.level(), record.args());
        let sent = system.as_ref().map(|system| system.send(level, text));
        match sent {
            Some(Ok(())) => Ok(()),
            // Whoever reads the log would not know what is missing.
            Some(Err(_)) | None if journal => writeln!(out, "<{}>{text}", priority(level)),
            Some(Err(_)) | None => writeln!(out, "[{level} {}] {text}", record.target()),
        }
    });
    // A second start is one too many, and harmless: the first logger stays.
    let _already_started = builder.try_init();
    if let Some(error) = refused {
        log::warn!("host: the system's log at {SYSTEM_LOG} cannot be used, this one is: {error}");
    }
}

/// A connection to the system's log, which is kept: a sandbox may hide the way to it later.
struct SystemLog {
    socket: UnixDatagram,
    /// Who we are.
    tag: String,
}

impl SystemLog {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A log that hangs must not make the device hang.
        socket.set_nonblocking(true)?;
        let program = std::env::current_exe()?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let tag = format!("{name}[{}]", std::process::id());
        Ok(Self { socket, tag })
    }

    fn send(&self, level: Level, text: &Arguments<'_>) -> io::Result<()> {
        let code = FACILITY << 3 | priority(level);
        let line = format!("<{code}>{}: {text}", self.tag);
        self.socket.send(line.as_bytes()).map(drop)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_log_gets_priority_name_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let log = SystemLog::connect(&path).unwrap();
        log.send(Level::Warn, &format_args!("one {}", 2)).unwrap();
        let mut line = [0; 256];
        let length = receiver.recv(&mut line).unwrap();
        let line = std::str::from_utf8(&line[..length]).unwrap();
        let (code, rest) = line.split_once('>').unwrap();
        assert_eq!(code, "<12", "LOG_USER and LOG_WARNING");
        assert!(
            rest.ends_with(&format!("[{}]: one 2", std::process::id())),
            "{rest}"
        );
    }

    #[test]
    fn a_system_log_that_hangs_or_is_gone_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let log = SystemLog::connect(&path).unwrap();
        let refused = (0..100_000).find_map(|_| log.send(Level::Info, &format_args!("x")).err());
        assert_eq!(
            refused.map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
        drop(receiver);
        assert!(log.send(Level::Info, &format_args!("x")).is_err());
        assert!(SystemLog::connect(&folder.path().join("none")).is_err());
    }
}
