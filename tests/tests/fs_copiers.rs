//! Are long reads that several threads carry out answered as one thread would answer them: cut into odd pieces, beside others that fail,
//! of a file that shrinks, and when they hang while the device is stopped or its front-end leaves? And long writes and listings?

use std::fs::{self, File, Permissions};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon_runner::Daemon;
use tests::fuse_client::{Client, ROOT, Ticket, encode, request};
use tests::guest::{Buffer, Manner, Table};
use tests::random::Random;
use tests::stoppable_storage::StoppableStorage;
use vhost_device_fs::fuse::abi::{
    EntryOut, MkDirIn, Opcode, OutHeader, ReadIn, WriteIn, WriteOut, init,
};
use vhost_device_fs::fuse::wire::Wire;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_secs(20);
/// The first ring for requests.
const RING: usize = 1;
/// From here on a read is long.
const LONG: usize = 128 << 10;
const FILE_BYTES: usize = (3 << 20) + 12_345;

fn start(share: &Path, options: &[&str]) -> Result<Daemon> {
    let share = share.to_str().context("plain names")?;
    let arguments = ["--shared-dir", share].into_iter();
    Daemon::start("vhost-device-fs", arguments.chain(options.iter().copied()))
}

/// A READ, how its reply is cut, and what is expected of it.
struct Read {
    handle: u64,
    offset: u64,
    size: usize,
    /// Less room than that is an error.
    room: usize,
}

/// A READ on its way.
struct Sent {
    unique: u64,
    head: u16,
    request: Buffer,
    reply: Vec<Buffer>,
}

impl Read {
    /// Puts it on the ring, in pieces of odd sizes, and tells the device nothing.
    fn add(&self, client: &mut Client, unique: u64, random: &mut Random) -> Result<Sent> {
        let read = ReadIn {
            handle: self.handle,
            offset: self.offset,
            size: u32::try_from(self.size)?,
            ..ReadIn::default()
        };
        let request = request(Opcode::Read, ROOT, unique, &encode(&read));
        let mut left = OutHeader::SIZE + self.room;
        let mut pieces = Vec::new();
        while left > 0 {
            let piece = match pieces.len() {
                0 => 1 + random.below(40), // the header, a part of it, or more
                1 => 1,
                40.. => left,
                _ => 1 + random.below(20_000),
            }
            .min(left);
            pieces.push(piece);
            left -= piece;
        }
        add(client, unique, &request, &pieces)
    }
}

/// Puts a request on the ring, with room for its reply in such pieces, and tells the device nothing.
fn add(client: &mut Client, unique: u64, request: &[u8], pieces: &[usize]) -> Result<Sent> {
    let memory = client.machine().memory().clone();
    let place = |size: usize, writable| -> Result<Buffer> {
        Ok(Buffer {
            address: memory.allocate(size as u64)?,
            length: u32::try_from(size)?,
            writable,
        })
    };
    let readable = place(request.len(), false)?;
    memory.write(readable.address, request)?;
    let reply = pieces.iter().map(|piece| place(*piece, true));
    let reply = reply.collect::<Result<Vec<_>>>()?;
    let chain = [&[readable][..], &reply].concat();
    let head = client.machine().ring(RING)?.add(&chain, Table::Indirect)?;
    Ok(Sent {
        unique,
        head,
        request: readable,
        reply,
    })
}

/// Answers by their order: the error number, and the data.
fn answers(client: &mut Client, sent: Vec<Sent>) -> Result<Vec<(i32, Vec<u8>)>> {
    let memory = client.machine().memory().clone();
    let mut used = Vec::new();
    while used.len() < sent.len() {
        used.extend(client.machine().ring(RING)?.wait(DEADLINE)?);
    }
    let mut answers = Vec::new();
    for sent in sent {
        let mut of_it = used.iter().filter(|used| used.head == sent.head);
        let written = of_it.next().context("it never came back")?.written as usize;
        ensure!(of_it.next().is_none(), "it came back twice");
        let mut bytes = Vec::new();
        for buffer in &sent.reply {
            bytes.extend(memory.read_vec(buffer.address, buffer.length as usize)?);
        }
        ensure!(written <= bytes.len(), "more than there is room for");
        bytes.truncate(written);
        let mut rest = bytes.as_slice();
        let header = OutHeader::take(&mut rest).context("no header")?;
        ensure!(
            header.len as usize == written && header.unique == sent.unique,
            "{header:?} in {written} bytes"
        );
        answers.push((-header.error, rest.to_vec()));
        for buffer in sent.reply.iter().chain([&sent.request]) {
            memory.release(buffer.address, buffer.length.into());
        }
    }
    Ok(answers)
}

#[test]
fn odd_pieces_come_back_whole_and_errors_are_of_their_own_read() -> Result<()> {
    let share = tempfile::tempdir()?;
    let mut random = Random::new(1);
    let content = random.bytes(FILE_BYTES);
    fs::write(share.path().join("file"), &content)?;
    let daemon = start(share.path(), &[])?;
    let mut client = Client::begin(daemon.connect()?, 0)?;
    let file = client.lookup(ROOT, "file")?;
    let good = client.open(file.nodeid, 0)?.handle;
    let folder = client.open_dir(ROOT)?.handle;
    for round in 0..60 {
        let mut reads = Vec::new();
        let mut expected = Vec::new();
        for number in 0..8 {
            let size = LONG + random.below(2 * LONG);
            let mut read = Read {
                handle: good,
                offset: random.below(FILE_BYTES - size) as u64,
                size,
                room: size + random.below(2) * 77,
            };
            let error = match (number + round) % 8 {
                2 => {
                    read.handle = good + 1_000;
                    libc::EBADF
                }
                4 => {
                    read.handle = folder;
                    libc::EISDIR
                }
                5 => {
                    read.room = size - 1;
                    libc::EINVAL
                }
                6 => {
                    read.offset = (FILE_BYTES - random.below(LONG)) as u64;
                    0
                }
                7 => {
                    read.offset = (FILE_BYTES + random.below(2)) as u64;
                    0
                }
                _ => 0,
            };
            let start = usize::try_from(read.offset)?.min(FILE_BYTES);
            let end = (start + size).min(FILE_BYTES);
            let data = content.get(start..end).filter(|_| error == 0);
            expected.push((error, data.unwrap_or_default()));
            reads.push(read);
        }
        let sent = (1..).zip(&reads);
        let sent = sent.map(|(unique, read)| read.add(&mut client, unique, &mut random));
        let sent = sent.collect::<Result<Vec<_>>>()?;
        client.machine().ring(RING)?.publish()?;
        for (number, (answer, expected)) in
            answers(&mut client, sent)?.iter().zip(expected).enumerate()
        {
            ensure!(answer.0 == expected.0, "read {number}: error {}", answer.0);
            ensure!(
                answer.1 == expected.1,
                "round {round}, read {number}: {} bytes for {}",
                answer.1.len(),
                expected.1.len()
            );
        }
    }
    Ok(())
}

/// Long writes to so many files in turns, and as many listings between them, are as those of one thread. Whether others help is told.
fn write_and_list(files: usize, listings: usize, others_help: bool) -> Result<()> {
    let share = tempfile::tempdir()?;
    for number in 0..files {
        fs::write(share.path().join(number.to_string()), "")?;
    }
    let daemon = start(share.path(), &[])?;
    let mut client = Client::begin(daemon.connect()?, 0)?;
    let mut random = Random::new(4);
    let mut opened = Vec::new();
    for number in 0..files {
        let nodeid = client.lookup(ROOT, number.to_string())?.nodeid;
        opened.push((nodeid, client.open(nodeid, 2)?.handle, Vec::new()));
    }
    let list = ReadIn {
        handle: client.open_dir(ROOT)?.handle,
        size: 8 << 10,
        ..ReadIn::default()
    };
    let listing = client.call(Opcode::ReadDirPlus, ROOT, &encode(&list))?;
    let list = encode(&list);
    let room = OutHeader::SIZE + listing.len().max(8 << 10);
    for _ in 0..20 {
        let mut sent = Vec::new();
        let mut sizes = Vec::new();
        for _ in 0..4 {
            for (nodeid, handle, expected) in &mut opened {
                let size = LONG + random.below(LONG);
                let data = random.bytes(size);
                let write = WriteIn {
                    handle: *handle,
                    offset: expected.len() as u64,
                    size: u32::try_from(size)?,
                    ..WriteIn::default()
                };
                expected.extend_from_slice(&data);
                let body = [encode(&write), data].concat();
                let bytes = request(Opcode::Write, *nodeid, sent.len() as u64, &body);
                let room = OutHeader::SIZE + WriteOut::SIZE;
                sent.push(add(&mut client, sent.len() as u64, &bytes, &[room])?);
                sizes.push(Some(write.size));
            }
            for _ in 0..listings {
                let bytes = request(Opcode::ReadDirPlus, ROOT, sent.len() as u64, &list);
                sent.push(add(&mut client, sent.len() as u64, &bytes, &[room])?);
                sizes.push(None);
            }
        }
        // All at once, so that others wait behind each but the last.
        client.machine().ring(RING)?.publish()?;
        for ((error, reply), size) in answers(&mut client, sent)?.iter().zip(sizes) {
            ensure!(*error == 0, "error {error}");
            match size {
                Some(size) => ensure!(reply.starts_with(&size.to_le_bytes()), "{reply:?}"),
                None => ensure!(reply.len() == listing.len()),
            }
        }
    }
    for (number, (_, _, expected)) in opened.iter().enumerate() {
        let written = fs::read(share.path().join(number.to_string()))?;
        ensure!(written == *expected, "file {number}");
    }
    check_others(&daemon, others_help)
}

/// Whether others help, where there is more than one processor. A thread that was started may have no name of its own yet.
fn check_others(daemon: &Daemon, help: bool) -> Result<()> {
    let expected = help && thread::available_parallelism()?.get() > 1;
    let end = Instant::now() + DEADLINE;
    loop {
        let names = threads(daemon)?;
        let found = names.iter().any(|name| name.starts_with("fs-copier"));
        if found == expected {
            return Ok(());
        }
        ensure!(!found && Instant::now() < end, "{names:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where there is more than one processor: one to write while another writes to another file, or lists. To write to the same file a second
/// thread would only wait.
#[test]
fn others_help_with_long_writes_and_listings_but_not_to_write_one_file() -> Result<()> {
    write_and_list(3, 0, true).context("writes")?;
    write_and_list(1, 2, true).context("listings")?;
    write_and_list(1, 0, false).context("one file")?;
    Ok(())
}

/// Each has the owner and the mode that its own request has asked for, whichever thread has made it, in sessions with and without ACLs.
#[test]
fn what_is_made_at_once_is_each_users_own() -> Result<()> {
    const FILES: u32 = 60;
    /// Where a request tells who it is from.
    const USER: Range<usize> = 24..32;
    let share = tempfile::tempdir()?;
    fs::set_permissions(share.path(), Permissions::from_mode(0o777))?;
    let options = ["--xattr", "--posix-acl=auto", "--persistent"];
    let daemon = start(share.path(), &options)?;
    for (round, flags) in [
        (0, init::POSIX_ACL | init::DONT_MASK | init::SETXATTR_EXT),
        (1, 0),
    ] {
        let mut client = Client::boot(daemon.connect()?)?;
        let agreed = client.init(flags)?;
        ensure!(u64::from(agreed.flags) & init::POSIX_ACL == flags & init::POSIX_ACL);
        // The second session's is not to be what is left of the first one's.
        let wanted = |number: u32| (number % 3, number % 4 * if round == 0 { 0o11 } else { 0 });
        let mut sent = Vec::new();
        for number in 0..FILES {
            let (uid, umask) = wanted(number);
            let make = MkDirIn { mode: 0o777, umask };
            let name = format!("{round}-{number}\0");
            let body = [&encode(&make)[..], name.as_bytes()];
            let mut bytes = request(Opcode::MkDir, ROOT, number.into(), &body.concat());
            bytes.splice(USER, [uid, uid].map(u32::to_le_bytes).concat());
            sent.push(add(
                &mut client,
                number.into(),
                &bytes,
                &[OutHeader::SIZE + EntryOut::SIZE],
            )?);
        }
        client.machine().ring(RING)?.publish()?;
        for (error, _) in answers(&mut client, sent)? {
            ensure!(error == 0, "error {error}");
        }
        for number in 0..FILES {
            let (uid, umask) = wanted(number);
            let made = fs::metadata(share.path().join(format!("{round}-{number}")))?;
            let mode = 0o777 & !umask;
            let found = (made.uid(), made.gid(), made.mode() & 0o7777);
            ensure!(
                found == (uid, uid, mode),
                "{round}-{number}: {found:?}, not {mode:o}"
            );
        }
    }
    check_others(&daemon, true)
}

/// Whatever is cut off is missing, or zeros that the host's kernel has put there; what is left is what it was.
#[test]
fn of_a_file_that_shrinks_there_is_less_and_nothing_else() -> Result<()> {
    const KEPT: usize = 1 << 20;
    let share = tempfile::tempdir()?;
    let content: Vec<u8> = (0..FILE_BYTES)
        .map(|at| u8::try_from(1 + at % 251))
        .collect::<Result<_, _>>()?;
    let path = share.path().join("file");
    fs::write(&path, &content)?;
    let daemon = start(share.path(), &[])?;
    let mut client = Client::begin(daemon.connect()?, 0)?;
    let file = client.lookup(ROOT, "file")?;
    let handle = client.open(file.nodeid, 0)?.handle;
    let stop = AtomicBool::new(false);
    let shrunk = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let host = scope.spawn(|| -> Result<()> {
            let file = File::options().write(true).open(&path)?;
            while !stop.load(Ordering::Relaxed) {
                file.set_len(KEPT as u64)?;
                file.write_all_at(content.get(KEPT..).unwrap_or_default(), KEPT as u64)?;
            }
            Ok(())
        });
        let mut random = Random::new(2);
        let mut read_all = || -> Result<()> {
            let end = Instant::now() + DEADLINE;
            for round in 0.. {
                if round >= 100 && shrunk.load(Ordering::Relaxed) {
                    return Ok(());
                }
                ensure!(Instant::now() < end, "it never shrinks");
                let mut sent = Vec::new();
                let mut starts = Vec::new();
                for unique in 1..9 {
                    let size = LONG + random.below(2 * LONG);
                    let offset = KEPT - LONG + random.below(FILE_BYTES - KEPT);
                    let read = Read {
                        handle,
                        offset: offset as u64,
                        size,
                        room: size,
                    };
                    starts.push((offset, size));
                    sent.push(read.add(&mut client, unique, &mut random)?);
                }
                client.machine().ring(RING)?.publish()?;
                for ((error, data), (offset, size)) in
                    answers(&mut client, sent)?.iter().zip(starts)
                {
                    ensure!(*error == 0 && data.len() <= size, "error {error}");
                    let least = size.min(KEPT.saturating_sub(offset));
                    ensure!(data.len() >= least, "{} bytes at {offset}", data.len());
                    if data.len() < size.min(FILE_BYTES.saturating_sub(offset)) {
                        shrunk.store(true, Ordering::Relaxed);
                    }
                    for (at, (is, was)) in
                        (offset..).zip(data.iter().zip(content.iter().skip(offset)))
                    {
                        let cut_off = *is == 0 && at >= KEPT;
                        ensure!(is == was || cut_off, "byte {at} is {is} and was {was}");
                    }
                }
            }
            Ok(())
        };
        let result = read_all();
        stop.store(true, Ordering::Relaxed);
        host.join().expect("the host")?;
        result
    })
}

/// Reads of a file whose storage hangs: some are with threads, others on the ring.
struct Hanging {
    storage: StoppableStorage,
    content: Vec<u8>,
}

const READS: usize = 6;

impl Hanging {
    fn new() -> Result<Self> {
        let storage = StoppableStorage::new()?;
        storage.file("file", 0)?;
        let content = Random::new(3).bytes(READS * LONG);
        fs::write(storage.beneath("file"), &content)?;
        Ok(Self { storage, content })
    }

    /// Returns when nothing moves any more.
    fn send(&self, client: &mut Client) -> Result<Vec<Ticket>> {
        let file = client.lookup(ROOT, "file")?;
        let handle = client.open(file.nodeid, 0)?.handle;
        self.storage.hang()?;
        (0..READS)
            .map(|number| {
                let read = ReadIn {
                    handle,
                    offset: (number * LONG) as u64,
                    size: u32::try_from(LONG)?,
                    ..ReadIn::default()
                };
                client.send(Opcode::Read, file.nodeid, &encode(&read))
            })
            .collect()
    }

    fn check(&self, client: &mut Client, tickets: Vec<Ticket>) -> Result<()> {
        for (piece, ticket) in self.content.chunks(LONG).zip(tickets) {
            ensure!(client.wait(ticket)? == piece, "another file's data");
        }
        Ok(())
    }
}

fn count_answered(client: &mut Client, tickets: &[Ticket]) -> Result<usize> {
    let mut count = 0;
    for ticket in tickets {
        count += usize::from(client.is_answered(ticket)?);
    }
    Ok(count)
}

/// A device with reads on their way is not suspended; when it is, none of them is on its way, and each is answered once, here or where the
/// device goes on.
#[test]
fn reads_that_hang_are_waited_for_and_the_others_stay_with_the_guest() -> Result<()> {
    let hanging = Hanging::new()?;
    let options = ["--suspend-timeout-ms=300"];
    let source = start(hanging.storage.path(), &options)?;
    let mut client = Client::begin(source.connect()?, 0)?;
    let tickets = hanging.send(&mut client)?;
    thread::sleep(Duration::from_millis(100));
    ensure!(client.machine().frontend().suspend().is_err());
    ensure!(count_answered(&mut client, &tickets)? == 0);
    hanging.storage.release()?;
    client.machine().suspend_at_last()?;
    let before = client.machine().memory().snapshot()?;
    let answered = count_answered(&mut client, &tickets)?;
    thread::sleep(Duration::from_millis(100));
    ensure!(client.machine().memory().changed_pages(&before)?.is_empty());
    ensure!(count_answered(&mut client, &tickets)? == answered);
    client.machine().frontend().resume()?;
    hanging.check(&mut client, tickets)?;

    let tickets = hanging.send(&mut client)?;
    hanging.storage.release()?;
    let destination = start(hanging.storage.path(), &options)?;
    let frontend = destination.connect()?;
    client.machine().migrate_to(frontend, Manner::QEMU)?;
    hanging.check(&mut client, tickets)
}

fn count_below(daemon: &Daemon, folder: &str) -> Result<usize> {
    let path = format!("/proc/{}/{folder}", daemon.id().as_raw_nonzero());
    Ok(fs::read_dir(path)?.count())
}

/// The front-end leaves while reads hang for longer than they are waited for. The next one is served as soon as they end, its device can
/// be stopped, saved and loaded, and of the one before nothing is left.
#[test]
fn reads_that_outlive_their_front_end_leave_nothing_behind() -> Result<()> {
    let hanging = Hanging::new()?;
    let daemon = start(hanging.storage.path(), &["--persistent"])?;
    let mut counts = None;
    for round in 0..3 {
        let mut client = Client::begin(daemon.connect()?, 0)?;
        let _lost = hanging.send(&mut client)?;
        thread::sleep(Duration::from_millis(100));
        drop(client);
        // The connection is taken when the one before is done with.
        let mut client = Client::boot(daemon.connect()?)?;
        ensure!(
            daemon.log()?.matches("at disconnect").count() == round + 1,
            "nothing was in flight any more: {}",
            daemon.log()?
        );
        hanging.storage.release()?;
        client.init(0)?;
        let state = client.machine().snapshot()?;
        let tickets = hanging.send(&mut client)?;
        hanging.storage.release()?;
        hanging.check(&mut client, tickets)?;
        let bases = client.machine().stop()?;
        client.machine().frontend().load(&mut &state[..])?;
        client.machine().start(&bases)?;
        let end = Instant::now() + DEADLINE;
        loop {
            let now = (count_below(&daemon, "fd")?, count_below(&daemon, "task")?);
            if *counts.get_or_insert(now) == now {
                break;
            }
            ensure!(
                Instant::now() < end,
                "descriptors and threads: {now:?}, and {counts:?} before; {}",
                daemon.log()?
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Names of the daemon's threads.
fn threads(daemon: &Daemon) -> Result<Vec<String>> {
    let tasks = format!("/proc/{}/task", daemon.id().as_raw_nonzero());
    let mut names = Vec::new();
    for task in fs::read_dir(tasks)? {
        // One may have ended in between.
        names.extend(fs::read_to_string(task?.path().join("comm")));
    }
    Ok(names)
}

/// Until the threads that wait for requests of a connection that is gone have ended.
fn until_buried(daemon: &Daemon) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let names = threads(daemon)?;
        if !names.iter().any(|name| name.contains("farewell")) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{names:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The same, and the next front-end brings a guest from elsewhere: its state is refused while the reads hang, and taken when they have ended,
/// whether the front-end came before that or after.
#[test]
fn a_guest_moves_in_when_reads_of_the_one_before_have_ended() -> Result<()> {
    let hanging = Hanging::new()?;
    let daemon = start(hanging.storage.path(), &["--persistent"])?;
    let elsewhere = start(hanging.storage.shared(), &[])?;
    let mut guest = Client::begin(elsewhere.connect()?, 0)?;
    guest.mk_dir(ROOT, "folder", 0o755)?;
    let mut client = Client::begin(daemon.connect()?, 0)?;
    let _lost = hanging.send(&mut client)?;
    thread::sleep(Duration::from_millis(100));
    drop(client);
    let frontend = daemon.connect()?;
    ensure!(guest.machine().migrate_to(frontend, Manner::QEMU).is_err());
    let frontend = daemon.connect()?;
    let end = Instant::now() + DEADLINE;
    while daemon.log()?.matches("front-end connected").count() < 3 {
        ensure!(Instant::now() < end, "it is not accepted");
        thread::sleep(Duration::from_millis(20));
    }
    hanging.storage.release()?;
    until_buried(&daemon)?;
    guest
        .machine()
        .migrate_to(frontend, Manner::QEMU)
        .with_context(|| daemon.log().unwrap_or_default())?;
    guest.lookup(ROOT, "folder")?;
    Ok(())
}
