//! A share between trees that must not change, a daemon that serves it, and a guest. Knows no attack.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Answer, Client, ROOT};
use tests::guest::{Buffer, Table};
use vhost_device_fs::fuse::abi::{InHeader, Opcode};
use vhost_device_fs::fuse::wire::Wire;

/// Text of the file outside of the share that nobody may read or change.
pub(crate) const SECRET: &str = "secret of the host";

/// The number of every request.
const UNIQUE: u64 = 77;

/// What a file is, as far as an attack could change it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    links: u64,
    content: Vec<u8>,
}

/// See the [module](self).
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) folder: TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

impl Rig {
    /// A share that is prepared by `prepare`, and a daemon with `options`; INIT is done.
    pub(crate) fn start<S: AsRef<OsStr>>(
        options: &[S],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let mut rig = Self::boot(options, prepare)?;
        rig.client.init(u64::MAX)?;
        Ok(rig)
    }

    /// The same without INIT.
    pub(crate) fn boot<S: AsRef<OsStr>>(
        options: &[S],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let outside = folder.path().join("outside");
        fs::create_dir_all(outside.join("d"))?;
        fs::write(outside.join("secret"), SECRET)?;
        fs::write(outside.join("d/f"), SECRET)?;
        fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o600))?;
        let share = folder.path().join("share");
        fs::create_dir(&share)?;
        prepare(&share)?;
        let arguments = [OsStr::new("--shared-dir"), share.as_os_str()];
        let options = options.iter().map(AsRef::as_ref);
        let daemon = Daemon::start("vhost-device-fs", arguments.into_iter().chain(options))?;
        let client = Client::boot(daemon.connect()?)?;
        Ok(Self {
            daemon,
            client,
            before: look(&outside)?,
            folder,
        })
    }

    /// A path in the share.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// A path beside the share.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join("outside").join(name)
    }

    /// Sends a request in buffers of the given sizes: `request` split as `readable` says (the last buffer takes the
    /// rest), and room for the reply as `writable` says. Returns the bytes of the reply.
    pub(crate) fn exchange(
        &mut self,
        request: &[u8],
        readable: &[usize],
        writable: &[usize],
    ) -> Result<Vec<u8>> {
        let memory = self.client.machine().memory().clone();
        let mut buffers = Vec::new();
        let mut rest = request;
        let mut place = |bytes: Option<&[u8]>, size: usize| -> Result<()> {
            let address = memory.allocate(size as u64)?;
            if let Some(bytes) = bytes {
                memory.write(address, bytes)?;
            }
            buffers.push(Buffer {
                address,
                length: u32::try_from(size)?,
                writable: bytes.is_none(),
            });
            Ok(())
        };
        for &size in readable {
            let (head, tail) = rest.split_at(size.min(rest.len()));
            rest = tail;
            if !head.is_empty() {
                place(Some(head), head.len())?;
            }
        }
        if !rest.is_empty() {
            place(Some(rest), rest.len())?;
        }
        for &size in writable {
            place(None, size)?;
        }
        let ring = self.client.machine().ring(1)?;
        ring.add(&buffers, Table::Indirect)?;
        ring.publish()?;
        let used = ring.wait(tests::daemon_runner::DEADLINE)?;
        let [used] = used.as_slice() else {
            bail!("one request, and used are {used:?}");
        };
        let mut left = usize::try_from(used.written)?;
        let mut reply = Vec::new();
        for buffer in buffers.iter().filter(|buffer| buffer.writable) {
            let length = left.min(buffer.length as usize);
            reply.extend(memory.read_vec(buffer.address, length)?);
            left -= length;
        }
        ensure!(left == 0, "{left} bytes more than there is room for");
        for buffer in buffers {
            memory.release(buffer.address, buffer.length.into());
        }
        Ok(reply)
    }

    /// The daemon serves, nothing in it panicked, and what is beside the share is what it was.
    pub(crate) fn survived(mut self) -> Result<()> {
        self.client
            .get_attr(ROOT, None)
            .context("a request after the attack")?;
        if let Some(status) = self.daemon.status()? {
            bail!("the daemon ended: {status}");
        }
        let log = self.daemon.log()?;
        ensure!(!log.contains("panicked"), "{log}");
        let now = look(&self.folder.path().join("outside"))?;
        ensure!(now == self.before, "outside of the share:\n{now:?}");
        Ok(())
    }
}

/// All files at and below `path`.
fn look(path: &Path) -> Result<BTreeMap<PathBuf, Seen>> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let mut content = Vec::new();
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if metadata.is_file() {
            content = fs::read(&path)?;
        }
        let file = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            links: metadata.nlink(),
            content,
        };
        seen.insert(path, file);
    }
    Ok(seen)
}

/// Nothing is prepared.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands where others prepare something, which can fail"
)]
pub(crate) fn empty(_share: &Path) -> Result<()> {
    Ok(())
}

/// No options of the daemon's.
pub(crate) const DEFAULT: &[&str] = &[];

/// The error number of an answer that must be a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> Result<i32> {
    match answer {
        Err(error) => match error.errno() {
            Some(errno) => Ok(errno),
            None => Err(error.into()),
        },
        Ok(answer) => bail!("answered with {answer:?}"),
    }
}

/// A request with a sound header.
pub(crate) fn request(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(InHeader::SIZE + body.len()).unwrap_or(u32::MAX);
    request_of_length(len, opcode, nodeid, body)
}

/// A request whose header tells `len`.
pub(crate) fn request_of_length(len: u32, opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len,
        opcode,
        unique: UNIQUE,
        nodeid,
        ..InHeader::default()
    };
    let mut bytes = tests::fuse_client::encode(&header);
    bytes.extend_from_slice(body);
    bytes
}

/// The error number in a reply (0: success), which must be sound.
pub(crate) fn outcome(reply: &[u8]) -> Result<i32> {
    tests::fuse_client::outcome(reply, UNIQUE)
}

/// A name as it is in a request.
pub(crate) fn name(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [bytes.as_ref(), b"\0"].concat()
}

/// An opcode with a nodeid and a body.
pub(crate) type Question = (Opcode, u64, Vec<u8>);

/// CREATE of `file` with the label `label`; the error number, 0 for success.
pub(crate) fn labelled(rig: &mut Rig, file: &str, label: &str, value: &[u8]) -> Result<i32> {
    use vhost_device_fs::fuse::abi::{CreateIn, ExtensionHeader, SecurityContextHeader};
    let create = CreateIn {
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | 0o600,
        ..CreateIn::default()
    };
    let context = SecurityContextHeader {
        size: u32::try_from(value.len())?,
        padding: 0,
    };
    let label = [
        tests::fuse_client::encode(&context),
        name(label),
        value.to_vec(),
    ]
    .concat();
    let header = ExtensionHeader {
        size: u32::try_from(ExtensionHeader::SIZE + label.len())?,
        kind: 1,
    };
    let mut body = [
        tests::fuse_client::encode(&create),
        name(file),
        tests::fuse_client::encode(&header),
        label,
    ]
    .concat();
    let end = body.len() - name(file).len();
    body.resize(body.len() + end.next_multiple_of(8) - end, 0);
    match rig.client.call(Opcode::Create, ROOT, &body) {
        Ok(_) => Ok(0),
        refusal => refused(refusal),
    }
}
