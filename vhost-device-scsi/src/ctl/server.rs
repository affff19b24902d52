//! The daemon's side of the control socket: a thread that accepts, and one for each of a few clients.
//!
//! Knows lines and deadlines; what a command does is for [`Administer`] to know.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::daemon::{DaemonError, listen_at};
use common::report;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{
    Administer, Answer, Command, REQUEST_BYTES_MAX, Remove, Reply, Request, Resize, VERSION,
    Versioned,
};
use crate::args::{UnitError, UnitOptions, lowest_free};

/// Clients that are served at once; another one is told to come again.
const CLIENTS_MAX: usize = 8;
/// How long a client has to send a whole request, and to take the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The control socket of a daemon; it is gone when this is dropped.
pub struct Server {
    path: PathBuf,
    /// Closing it ends the thread.
    stopper: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`; a stale socket there is replaced.
    pub fn start(path: &Path, device: Arc<dyn Administer>) -> Result<Self, DaemonError> {
        Self::with_patience(path, device, PATIENCE)
    }

    pub(super) fn with_patience(
        path: &Path,
        device: Arc<dyn Administer>,
        patience: Duration,
    ) -> Result<Self, DaemonError> {
        let listener = listen_at(path)?;
        // From here on the socket is removed if something fails.
        let mut server = Self {
            path: path.to_owned(),
            stopper: None,
            thread: None,
        };
        let host = |source| DaemonError::Listen {
            path: path.to_owned(),
            source,
        };
        let (stop, stopper) = UnixStream::pair().map_err(host)?;
        let clients = Clients {
            device,
            patience,
            count: Arc::default(),
        };
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &stop, &clients))
            .map_err(host)?;
        server.stopper = Some(stopper);
        server.thread = Some(thread);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stopper.take());
        if let Some(thread) = self.thread.take() {
            let _it_has_logged = thread.join();
        }
        let _gone_already = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, stop: &UnixStream, clients: &Clients) {
    loop {
        let mut sides = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match poll(&mut sides, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return log::error!("host: the control socket is of no use: {error}"),
            Ok(_) => {}
        }
        let [stop, _] = &sides;
        if !stop.revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => clients.welcome(stream),
            // Out of descriptors: it is still waiting, and there may be some again soon.
            Err(error) => {
                log::warn!("host: a client of the control socket cannot be accepted: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

struct Clients {
    device: Arc<dyn Administer>,
    patience: Duration,
    count: Arc<AtomicUsize>,
}

/// One of [`CLIENTS_MAX`].
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clients {
    fn welcome(&self, mut stream: UnixStream) {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&self.count));
        if before >= CLIENTS_MAX {
            let busy = Answer::Refused(format!("{CLIENTS_MAX} clients are being served already"));
            // It fits into the socket's buffer, so this does not wait.
            let _gone_perhaps = stream.write_all(&line(busy));
            return;
        }
        let (device, patience) = (Arc::clone(&self.device), self.patience);
        let spawned = thread::Builder::new()
            .name("control-client".into())
            .spawn(move || {
                let _seat = seat;
                if let Err(error) = serve(&stream, &*device, patience) {
                    log::warn!("client of the control socket: {error}");
                }
            });
        if let Err(error) = spawned {
            log::warn!("host: no thread for a client of the control socket: {error}");
        }
    }
}

/// Answers requests until the client leaves.
fn serve(stream: &UnixStream, device: &dyn Administer, patience: Duration) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let deadline = Instant::now() + patience;
        let Some(request) = next_line(stream, &mut buffer, deadline)? else {
            return Ok(());
        };
        let answer = answer(&request, device);
        write_all(stream, &line(answer), Instant::now() + patience)?;
    }
}

/// The next line without its end; `None` if the client has left. `buffer` has what came behind it.
fn next_line(
    mut stream: &UnixStream,
    buffer: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    let mut searched = 0;
    loop {
        let fresh = buffer.iter().skip(searched);
        if let Some(at) = fresh.copied().position(|byte| byte == b'\n') {
            let rest = buffer.split_off(searched + at + 1);
            let mut request = std::mem::replace(buffer, rest);
            request.pop();
            return Ok(Some(request));
        }
        searched = buffer.len();
        if searched >= REQUEST_BYTES_MAX {
            let reason = format!("a request of more than {REQUEST_BYTES_MAX} bytes");
            return Err(io::Error::other(reason));
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut piece = [0; 4096];
        let size = match stream.read(&mut piece) {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if size == 0 {
            return Ok(None);
        }
        buffer.extend(piece.iter().take(size));
    }
}

fn write_all(mut stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(size) => bytes = bytes.get(size..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn line(answer: Answer) -> Vec<u8> {
    let reply = Reply {
        version: VERSION,
        answer,
    };
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A command that is not carried out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("client: not a request")]
    Json(#[source] serde_json::Error),
    #[error("client: version {0} of the protocol, and {VERSION} is spoken here")]
    Version(u16),
    #[error("client: the unit does not make sense")]
    Unit(#[source] UnitError),
    #[error("client: {0} is not an absolute path")]
    Relative(String),
    #[error("client: logical unit {lun} has the serial number {serial} already")]
    Twin { lun: u16, serial: String },
    #[error("logical unit {lun} is not {done}")]
    Device {
        lun: u16,
        done: &'static str,
        #[source]
        source: common::device::DeviceError,
    },
}

fn answer(request: &[u8], device: &dyn Administer) -> Answer {
    match carry_out(request, device) {
        Ok(answer) => answer,
        Err(refusal) => {
            let text = report::chain(&refusal);
            log::warn!("control socket: refused: {text}");
            Answer::Refused(text)
        }
    }
}

fn carry_out(request: &[u8], device: &dyn Administer) -> Result<Answer, Refusal> {
    let Versioned { version } = serde_json::from_slice(request).map_err(Refusal::Json)?;
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let Request { command, .. } = serde_json::from_slice(request).map_err(Refusal::Json)?;
    match command {
        Command::Add(options) => add(&options, device),
        Command::Remove(Remove { lun }) => {
            let failed = |source| failed(lun, "removed", source);
            device.remove(lun).map_err(failed)?;
            log::info!("control socket: logical unit {lun} removed");
            Ok(Answer::Unit { lun })
        }
        Command::Resize(Resize { lun, blocks }) => {
            let failed = |source| failed(lun, "resized", source);
            let blocks = device.resize(lun, blocks).map_err(failed)?;
            log::info!("control socket: logical unit {lun} has {blocks} blocks");
            Ok(Answer::Resized { lun, blocks })
        }
        Command::Show => Ok(Answer::Shown(device.show())),
    }
}

fn failed(lun: u16, done: &'static str, source: common::device::DeviceError) -> Refusal {
    Refusal::Device { lun, done, source }
}

fn add(options: &UnitOptions, device: &dyn Administer) -> Result<Answer, Refusal> {
    let units = device.show().units;
    let free = lowest_free(0, |lun| units.iter().any(|unit| unit.lun == lun));
    let unit = options.config(free).map_err(Refusal::Unit)?;
    for path in [Some(&unit.path), unit.reservations.as_ref()] {
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            return Err(Refusal::Relative(path.display().to_string()));
        }
    }
    if let Some(twin) = units.iter().find(|shown| shown.serial == unit.serial) {
        let (lun, serial) = (twin.lun, unit.serial);
        return Err(Refusal::Twin { lun, serial });
    }
    let lun = unit.lun;
    let failed = |source| failed(lun, "added", source);
    device.add(unit).map_err(failed)?;
    log::info!("control socket: logical unit {lun} added");
    Ok(Answer::Unit { lun })
}
