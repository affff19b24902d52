//! What came of something that was done to a machine: few words, and the messages behind them.
//!
//! Knows how daemons and QEMU write their logs, and what in them is only decoration.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;

/// Messages that are kept of one log, at its beginning and at its end: the first one is often the cause.
const MESSAGES_MAX: usize = 3;

/// Whether something was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As if nothing had been done.
    Works,
    /// Refused with a reason, and the guest goes on.
    Refused,
    /// Anything else.
    Fails,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Observation {
    /// Whether it was right.
    pub verdict: Verdict,
    /// What happened.
    pub text: String,
    /// Who said what about it.
    pub messages: Vec<String>,
}

impl Observation {
    /// Nothing was lost. `note` may be empty.
    pub fn works(note: &str) -> Self {
        let separator = if note.is_empty() { "" } else { ", " };
        Self {
            verdict: Verdict::Works,
            text: format!("works{separator}{note}"),
            messages: Vec::new(),
        }
    }
}

/// Something that was found out, and ends a scenario.
#[derive(Debug)]
pub struct Finding {
    /// What.
    pub text: String,
    /// Whether the guest goes on, and was looked after.
    pub verdict: Verdict,
    /// What belongs to it, such as QEMU's reason.
    pub messages: Vec<String>,
}

impl Finding {
    /// The guest has lost something, or no longer works.
    pub fn fails(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            verdict: Verdict::Fails,
            messages: Vec::new(),
        }
    }

    /// Somebody said no, and nothing happened.
    pub fn refused(text: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            verdict: Verdict::Refused,
            messages: vec![message.into()],
        }
    }

    /// The same with something that was said.
    #[must_use]
    pub fn with(mut self, message: impl Into<String>) -> Self {
        self.messages.push(message.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Finding {}

/// How a process has ended, in words for a table.
pub fn ending(who: &str, status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("{who} exits with {code}"),
        (None, signal) => format!("{who} dies of signal {}", signal.unwrap_or_default()),
    }
}

/// The messages of a log that tell of trouble, each with who wrote it.
pub fn messages(who: &str, log: &Path) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut found: Vec<String> = Vec::new();
    for line in text.lines().filter_map(essence) {
        let message = format!("{who}: {line}");
        if found.last() != Some(&message) {
            found.push(message);
        }
    }
    let end = found.len().saturating_sub(MESSAGES_MAX);
    if end > MESSAGES_MAX {
        found.splice(MESSAGES_MAX..end, [format!("{who}: ...")]);
    }
    found
}

/// A line without time and place; nothing if it only says that all is well.
fn essence(line: &str) -> Option<&str> {
    let line = line.trim();
    let (head, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((head, rest)) => (head, rest.trim()),
        None => ("", line),
    };
    let is_news = ["INFO", "DEBUG", "TRACE"]
        .iter()
        .any(|level| head.contains(level));
    // QEMU begins each line with its path.
    let rest = match rest.split_once(": ") {
        Some((program, rest)) if program.ends_with("qemu-system-x86_64") => rest,
        _ => rest,
    };
    // GLib's carry a process id and the time.
    let rest = match rest.split_once(" **: ") {
        Some((head, rest)) if head.starts_with("** ") => {
            rest.split_once(": ").map_or(rest, |(_, rest)| rest)
        }
        _ => rest,
    };
    let is_empty = rest.is_empty() || rest.starts_with("Waiting for vhost-user socket connection");
    (!is_news && !is_empty).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_reduced_to_its_complaints() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[2026-01-01T00:00:00Z INFO  virtiofsd] hello\n\
                    [2026-01-01T00:00:00Z ERROR virtiofsd] lost\n\
                    [2026-01-01T00:00:01Z ERROR virtiofsd] lost\n\
                    ** (gpu:31): CRITICAL **: 08:57:14.022: assertion 'x' failed\n\
                    ** (gpu:31): CRITICAL **: 08:57:14.028: assertion 'x' failed\n\
                    /path/qemu-system-x86_64: load of migration failed: Input/output error\n\n";
        std::fs::write(file.path(), text).unwrap();
        let expected = [
            "x: lost",
            "x: assertion 'x' failed",
            "x: load of migration failed: Input/output error",
        ];
        assert_eq!(messages("x", file.path()), expected);
    }

    #[test]
    fn the_first_and_the_last_messages_are_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let expected = ["x: 0", "x: 1", "x: 2", "x: ...", "x: 17", "x: 18", "x: 19"];
        assert_eq!(messages("x", file.path()), expected);
    }

    #[test]
    fn the_end_of_a_process_is_told() {
        let run = |script: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).status().unwrap()
        };
        assert_eq!(ending("a", run("exit 3")), "a exits with 3");
        assert_eq!(ending("a", run("kill -9 $$")), "a dies of signal 9");
    }
}
