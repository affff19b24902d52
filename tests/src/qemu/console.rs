//! Serial console of the guest: a shell that runs one command at a time.
//!
//! The guest's init (see `image.rs`) reads commands from the serial port without echo. Each command
//! is followed by an `echo` of a marker with the exit status; the marker's text is split by quotes,
//! so that it never appears in what we send. Markers count up over the life of the *process*:
//! a guest that has migrated keeps printing to a new connection, and must not repeat an old marker.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What the guest's init prints when the shell is about to listen.
pub const READY: &str = "GUEST-READY";

/// More than this without a marker is a runaway guest.
const BUFFER_BYTES_MAX: usize = 64 << 20;

/// How often it is asked whether there is hope.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

static MARKER: AtomicU64 = AtomicU64::new(1);

/// What a guest command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status of the command.
    pub status: u32,
    /// Standard output and error, mixed as they came.
    pub text: String,
}

/// Our end of the guest's serial port.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Console {
    /// Takes over a connection to QEMU's serial socket.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Waits until the guest's shell listens.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        self.read_line_with(READY, deadline)?;
        Ok(())
    }

    /// Runs `command` in the guest's shell; any exit status is a success here.
    pub fn run(&mut self, command: &str, deadline: Duration) -> Result<Output> {
        self.run_unless(command, deadline, || false)
    }

    /// As [`run`](Self::run), until `is_hopeless` knows that there will be no answer.
    pub fn run_unless(
        &mut self,
        command: &str,
        deadline: Duration,
        mut is_hopeless: impl FnMut() -> bool,
    ) -> Result<Output> {
        let number = MARKER.fetch_add(1, Ordering::Relaxed);
        let line = format!("{{ {command}\n}} 2>&1; echo \"@@{number}\"\":$?\"\n");
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("sending to the guest: {command}"))?;
        let marker = format!("@@{number}:");
        let (text, status) = self
            .read_line_unless(&marker, deadline, &mut is_hopeless)
            .with_context(|| format!("guest command: {command}"))?;
        let status = status
            .parse()
            .with_context(|| format!("exit status {status:?} of: {command}"))?;
        Ok(Output { status, text })
    }

    fn read_line_with(&mut self, marker: &str, deadline: Duration) -> Result<(String, String)> {
        self.read_line_unless(marker, deadline, &mut || false)
    }

    /// Reads up to the line that holds `marker`: the text before the marker, and the rest of its line.
    fn read_line_unless(
        &mut self,
        marker: &str,
        deadline: Duration,
        is_hopeless: &mut dyn FnMut() -> bool,
    ) -> Result<(String, String)> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(found) = take_line_with(&mut self.pending, marker) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the guest did not print {marker} within {deadline:?}");
            }
            if is_hopeless() {
                bail!("the guest will not print {marker}");
            }
            self.stream.set_read_timeout(Some(left.min(LOOK_AGAIN)))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("QEMU closed the serial console before {marker}"),
                Ok(count) => self.pending.extend(buffer.iter().take(count)),
                Err(error) if is_no_data(error.kind()) => {}
                Err(error) => return Err(error).context("reading the serial console"),
            }
            if self.pending.len() > BUFFER_BYTES_MAX {
                bail!("the guest printed {BUFFER_BYTES_MAX} bytes without {marker}");
            }
        }
    }
}

fn is_no_data(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn take_line_with(pending: &mut Vec<u8>, marker: &str) -> Option<(String, String)> {
    let start = pending
        .windows(marker.len())
        .position(|window| window == marker.as_bytes())?;
    let after = pending.get(start + marker.len()..)?;
    let length = after.iter().position(|byte| *byte == b'\n')?;
    let rest = String::from_utf8_lossy(after.get(..length)?)
        .trim()
        .to_owned();
    let text = String::from_utf8_lossy(pending.get(..start)?).replace('\r', "");
    pending.drain(..=start + marker.len() + length);
    Some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::thread;

    const DEADLINE: Duration = Duration::from_mins(1);

    /// A host shell behind a socket, with the same loop as the guest's init.
    fn shell() -> Console {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut output = theirs.try_clone().unwrap();
            writeln!(output, "noise {READY} 1.0").unwrap();
            let mut lines = BufReader::new(theirs).lines();
            while let (Some(Ok(first)), Some(Ok(second))) = (lines.next(), lines.next()) {
                let script = format!("{first}\n{second}\n");
                let mut shell = std::process::Command::new("sh");
                let result = shell.args(["-c", &script]).output().unwrap();
                output.write_all(&result.stdout).unwrap();
            }
        });
        Console::new(ours)
    }

    #[test]
    fn commands_return_their_text_and_status() {
        let mut console = shell();
        console.wait_ready(DEADLINE).unwrap();
        let output = console.run("echo one; echo two >&2", DEADLINE).unwrap();
        assert_eq!((output.status, output.text.as_str()), (0, "one\ntwo\n"));
        let output = console
            .run("printf unfinished; (exit 7)", DEADLINE)
            .unwrap();
        assert_eq!((output.status, output.text.as_str()), (7, "unfinished"));
    }

    #[test]
    fn a_marker_waits_for_the_end_of_its_line() {
        let mut pending = b"text @@7:1".to_vec();
        assert_eq!(take_line_with(&mut pending, "@@7:"), None);
        pending.extend(b"2\r\nnext");
        let found = take_line_with(&mut pending, "@@7:").unwrap();
        assert_eq!(found, ("text ".to_owned(), "12".to_owned()));
        assert_eq!(pending, b"next");
    }

    #[test]
    fn a_guest_that_dies_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Console::new(ours).wait_ready(DEADLINE).is_err());
    }
}
