//! A small service manager: it starts a daemon, keeps what that leaves in its store of descriptors, and starts it again.
//!
//! What systemd does for a unit with `NotifyAccess=all` and `FileDescriptorStoreMax=`, as `sd_notify(3)` describes it. Knows no
//! device and no vhost-user.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use common::frontend::Frontend;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::daemon_runner::{DEADLINE, READY};
use crate::qemu::process::{POLL_INTERVAL, Process, tail};

/// What a daemon says when it goes on with what was left.
const TAKEN: &str = "handover phase=take result=ok";

type Store = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// A unit and its daemon, which is killed when this is dropped.
#[derive(Debug)]
pub struct Service {
    program: PathBuf,
    arguments: Vec<OsString>,
    store: Store,
    process: Process,
    starts: u32,
    folder: TempDir,
}

impl Service {
    /// Starts the daemon at `program` with `--handover` and `arguments`, on a socket of its own.
    pub fn start<A: Into<OsString>>(
        program: PathBuf,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("service-").tempdir()?;
        let store = Store::default();
        let notify = UnixDatagram::bind(folder.path().join("notify"))?;
        let kept = Arc::clone(&store);
        // Ends when the test does: nobody joins it.
        thread::Builder::new()
            .name("service-manager".into())
            .spawn(move || listen(&notify, &kept))?;
        let arguments: Vec<_> = arguments.into_iter().map(Into::into).collect();
        let process = spawn(&program, &arguments, &store, folder.path(), 0)?;
        let mut service = Self {
            program,
            arguments,
            store,
            process,
            starts: 1,
            folder,
        };
        service.wait_for(READY)?;
        Ok(service)
    }

    /// A front-end for it, with nothing said yet.
    pub fn connect(&self) -> Result<Frontend> {
        Ok(Frontend::connect(self.socket())?)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// SIGTERM, and its end; then another one goes on.
    pub fn restart(&mut self) -> Result<()> {
        let status = self.stop()?;
        ensure!(status.success(), "{status}\n{}", self.log());
        self.start_again()?;
        self.wait_for(TAKEN)
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill_process(self.process.id(), Signal::TERM)?;
        self.wait()
    }

    /// SIGTERM, and nothing else.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(self.process.id(), Signal::TERM)?)
    }

    /// Its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let ended = self.process.wait(DEADLINE);
        ended.with_context(|| self.log())
    }

    /// The program and options of the next start: an upgrade.
    pub fn set_arguments<A: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = A>) {
        self.arguments = arguments.into_iter().map(Into::into).collect();
    }

    /// Starts it with what is in the store, and waits for nothing.
    pub fn start_again(&mut self) -> Result<()> {
        let folder = self.folder.path();
        self.process = spawn(
            &self.program,
            &self.arguments,
            &self.store,
            folder,
            self.starts,
        )?;
        self.starts += 1;
        Ok(())
    }

    /// Waits until it goes on with what was left.
    pub fn wait_until_taken(&mut self) -> Result<()> {
        self.wait_for(TAKEN)
    }

    /// Waits until its log has `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !std::fs::read_to_string(self.process.log())?.contains(text) {
            if let Some(status) = self.process.status()? {
                bail!("it ended: {status}\n{}", self.log());
            }
            ensure!(Instant::now() < end, "no {text:?} in\n{}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// How many descriptors are in the store.
    pub fn stored(&self) -> usize {
        lock(&self.store).len()
    }

    /// The file that the daemon logs to that was started last.
    pub fn log_path(&self) -> &Path {
        self.process.log()
    }

    /// The end of the log of the daemon that was started last.
    pub fn log(&self) -> String {
        tail(self.process.log(), 30)
    }
}

fn spawn(
    program: &Path,
    arguments: &[OsString],
    store: &Store,
    folder: &Path,
    number: u32,
) -> Result<Process> {
    let mut stored = None;
    for (name, file) in lock(store).iter() {
        ensure!(stored.is_none(), "this manager passes one descriptor only");
        stored = Some((name.clone(), file.try_clone()?));
    }
    let mut script =
        "export LISTEN_PID=$$; exec \"$0\" --socket-path \"$SOCKET\" --handover \"$@\"".to_owned();
    let mut command = Command::new("sh");
    let mut input = Stdio::null();
    if let Some((name, file)) = stored {
        script.push_str(" 3<&0 </dev/null");
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        input = Stdio::from(file);
    }
    command
        .arg("-c")
        .arg(script)
        .arg(program)
        .args(arguments)
        .env("SOCKET", folder.join("socket"))
        .env("NOTIFY_SOCKET", folder.join("notify"));
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = folder.join(format!("log-{number}"));
    Process::start_with_input(&name, &mut command, &log, input)
}

/// Does what daemons ask for.
fn listen(notify: &UnixDatagram, store: &Store) {
    loop {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [IoSliceMut::new(&mut text)];
        let Ok(got) = recvmsg(notify, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) else {
            return;
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        let text = String::from_utf8_lossy(text.get(..got.bytes).unwrap_or_default());
        let fields: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let name = fields.get("FDNAME").copied().unwrap_or("stored").to_owned();
        // A socket whose other end is closed would be dropped from the store.
        if fields.contains_key("FDSTORE") && fields.get("FDPOLL") == Some(&"0") {
            lock(store).extend(files.pop().map(|file| (name, file)));
        } else if fields.contains_key("FDSTOREREMOVE") {
            lock(store).remove(&name);
        }
        // What is left, a barrier for instance, is closed here.
    }
}

fn lock(store: &Store) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
