//! QEMU machine protocol: commands, replies and events of one QEMU process.
//!
//! A thread reads the socket, because replies and events interleave: events go to a list with the
//! time at which they arrived, replies to whoever waits for one. The end of the stream means that
//! QEMU is gone and is an error for every waiter.
//!
//! Knows no command by name: see `vm.rs` and `migration.rs`.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// Time for QEMU to answer one command; they all answer at once, unless the machine is overloaded.
const REPLY_DEADLINE: Duration = Duration::from_mins(1);

/// Something QEMU reported by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// Name, such as `STOP` or `MIGRATION`.
    pub name: String,
    /// Its `data` member, or null.
    pub data: Value,
    /// QEMU's own clock, since the epoch.
    pub timestamp: Duration,
    /// When we read it.
    pub arrived: Instant,
}

#[derive(Debug, Default)]
struct Events {
    list: Vec<Event>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    events: Mutex<Events>,
    changed: Condvar,
}

/// One connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Value>,
    shared: Arc<Shared>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Qmp {
    /// Takes over a fresh connection: reads the greeting, negotiates capabilities.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, replies) = channel();
        let input = BufReader::new(stream.try_clone()?);
        let for_reader = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || read(input, &sender, &for_reader))?;
        let mut qmp = Self {
            stream,
            replies,
            shared,
            reader: Some(reader),
        };
        let greeting = qmp.receive("greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QMP: expected a greeting, got {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its `return` member. An error reply is an error with QEMU's text.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("QMP: sending {command}"))?;
        let mut reply = self.receive(command)?;
        if let Some(error) = reply.get("error") {
            let text = error.get("desc").and_then(Value::as_str);
            bail!("QEMU refused {command}: {}", text.unwrap_or("no reason"));
        }
        match reply.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("QMP: reply to {command} has neither return nor error: {reply}"),
        }
    }

    /// As [`execute`](Self::execute); QEMU's HMP commands, for what QMP lacks.
    pub fn execute_human(&mut self, line: &str) -> Result<String> {
        let arguments = json!({ "command-line": line });
        let text = self.execute("human-monitor-command", &arguments)?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// A position in the list of events: "from now on".
    pub fn now(&self) -> usize {
        let events = self.shared.events.lock();
        events.unwrap_or_else(PoisonError::into_inner).list.len()
    }

    /// The first event called `name` at or after position `since`; waits for it.
    pub fn wait_event(&self, name: &str, since: usize, deadline: Duration) -> Result<Event> {
        let end = Instant::now() + deadline;
        let events = self.shared.events.lock();
        let mut events = events.unwrap_or_else(PoisonError::into_inner);
        loop {
            let found = events.list.iter().skip(since).find(|e| e.name == name);
            if let Some(event) = found {
                return Ok(event.clone());
            }
            if events.closed {
                bail!("QEMU closed QMP before the event {name}");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no event {name} from QEMU within {deadline:?}");
            }
            let waited = self.shared.changed.wait_timeout(events, left);
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last event called `name` at or after position `since`, if there was one.
    pub fn last_event(&self, name: &str, since: usize) -> Option<Event> {
        let events = self.shared.events.lock();
        let events = events.unwrap_or_else(PoisonError::into_inner);
        let mut since = events.list.iter().skip(since).rev();
        since.find(|event| event.name == name).cloned()
    }

    /// Names of all events at or after position `since`: for failure reports.
    pub fn event_names(&self, since: usize) -> Vec<String> {
        let events = self.shared.events.lock();
        let events = events.unwrap_or_else(PoisonError::into_inner);
        let since = events.list.iter().skip(since);
        since.map(|event| event.name.clone()).collect()
    }

    fn receive(&self, what: &str) -> Result<Value> {
        match self.replies.recv_timeout(REPLY_DEADLINE) {
            Ok(value) => Ok(value),
            Err(RecvTimeoutError::Timeout) => bail!("QMP: no reply to {what}"),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU closed QMP instead of {what}"),
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reader; fails only when QEMU closed first.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Connects to a socket that a child is about to create.
pub fn connect(
    path: &Path,
    deadline: Duration,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<UnixStream> {
    let end = Instant::now() + deadline;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(anyhow!(error).context(format!("connecting to {}", path.display())));
            }
            Err(_) => alive()?,
        }
        thread::sleep(super::process::POLL_INTERVAL);
    }
}

fn read(input: BufReader<UnixStream>, replies: &Sender<Value>, shared: &Shared) {
    for line in input.lines() {
        let Ok(line) = line else { break };
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            log::warn!("QMP: not JSON: {line}");
            break;
        };
        match value.get("event").and_then(Value::as_str) {
            Some(name) => push_event(name, &value, shared),
            // Fails when the client is gone; then the stream ends too.
            None => drop(replies.send(value)),
        }
    }
    let events = shared.events.lock();
    events.unwrap_or_else(PoisonError::into_inner).closed = true;
    shared.changed.notify_all();
}

fn push_event(name: &str, value: &Value, shared: &Shared) {
    let clock = |unit: &str| {
        let number = value.pointer(&format!("/timestamp/{unit}"));
        number.and_then(Value::as_u64).unwrap_or(0)
    };
    let event = Event {
        name: name.to_owned(),
        data: value.get("data").cloned().unwrap_or(Value::Null),
        timestamp: Duration::from_secs(clock("seconds"))
            + Duration::from_micros(clock("microseconds")),
        arrived: Instant::now(),
    };
    let events = shared.events.lock();
    events
        .unwrap_or_else(PoisonError::into_inner)
        .list
        .push(event);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_mins(1);

    /// A QEMU that greets, then answers each line with the next of `answers` (each may hold lines).
    fn fake_qemu(answers: &'static [&'static str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut output = theirs.try_clone().unwrap();
            output.write_all(b"{\"QMP\": {\"version\": {}}}\n").unwrap();
            let mut lines = BufReader::new(theirs).lines();
            for answer in answers {
                lines.next().unwrap().unwrap();
                output.write_all(answer.as_bytes()).unwrap();
                output.write_all(b"\n").unwrap();
            }
        });
        ours
    }

    const OK: &str = "{\"return\": {}}";

    #[test]
    fn events_between_replies_are_kept_in_order() {
        let stop = "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 2, \"microseconds\": 5}}\n\
                    {\"event\": \"RESUME\", \"data\": {\"a\": 1}}\n{\"return\": {\"b\": 2}}";
        let answers: &'static [&'static str] = Box::leak(Box::new([OK, stop]));
        let mut qmp = Qmp::new(fake_qemu(answers)).unwrap();
        assert_eq!(qmp.execute("x", &json!({})).unwrap(), json!({ "b": 2 }));
        let event = qmp.wait_event("STOP", 0, DEADLINE).unwrap();
        assert_eq!(event.timestamp, Duration::from_micros(2_000_005));
        assert_eq!(qmp.event_names(0), ["STOP", "RESUME"]);
        assert_eq!(qmp.now(), 2);
        let resume = qmp.wait_event("RESUME", 1, DEADLINE).unwrap();
        assert_eq!(resume.data, json!({ "a": 1 }));
    }

    #[test]
    fn an_error_reply_is_an_error_with_its_text() {
        let refusal = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"blocked by vfs0\"}}";
        let answers: &'static [&'static str] = Box::leak(Box::new([OK, refusal]));
        let mut qmp = Qmp::new(fake_qemu(answers)).unwrap();
        let error = qmp.execute("migrate", &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused migrate: blocked by vfs0");
    }

    #[test]
    fn the_end_of_the_stream_ends_every_wait() {
        let mut qmp = Qmp::new(fake_qemu(&[OK])).unwrap();
        assert!(qmp.wait_event("STOP", 0, DEADLINE).is_err());
        assert!(qmp.execute("stop", &json!({})).is_err());
    }
}
