//! File locks that others see: two guests and programs of the host on one share, with migrations and restarts in the middle.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::file_locks::{conflict, is_held, try_range, unlock, unlock_range, write};
use common::frontend::Channel;
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use tempfile::TempDir;
use tests::bridge::Bridge;
use tests::daemon_runner::{Daemon, built};
use tests::fuse_client::{Client, ROOT, encode};
use tests::guest::{LoadOrder, Manner};
use tests::mounted_share::Share;
use tests::service_manager::Service;
use vhost_device_fs::fuse::abi::{FileLock, LK_FLOCK, LkIn, Opcode, init};

const BOTH: &[&str] = &["--remote-posix-locks", "--remote-flock"];
const PATIENCE: Duration = Duration::from_mins(1);
const EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;
const UNLOCK: FlockOperation = FlockOperation::Unlock;

/// Asks for a suspension first.
const SUSPENDING: Manner = Manner {
    order: LoadOrder::BeforeRings,
    channel: Channel::SocketPair,
    suspend: true,
};

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    Ok(options.read(true).write(true).open(path)?)
}

fn locks(file: &File, exclusive: bool, start: i64, len: i64) -> Result<bool> {
    Ok(try_range(file.as_fd(), exclusive, start, len)?)
}

/// One test at a time: a daemon that is started by one has the open files of all others for a moment, with their locks.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A share with a file, as a guest and as the host has it.
fn share(options: &[&str]) -> Result<(Share, File, File)> {
    let share = Share::new(options)?;
    fs::write(share.on_host("file"), "text")?;
    let (in_guest, on_host) = (open(&share.at("file"))?, open(&share.on_host("file"))?);
    Ok((share, in_guest, on_host))
}

#[test]
fn locks_on_bytes_exclude_the_host_another_guest_and_other_programs_of_this_one() -> Result<()> {
    let _alone = alone();
    let (share, one, host) = share(BOTH)?;
    let other_program = open(&share.at("file"))?;
    let second = tempfile::tempdir()?;
    let daemon = share.another_daemon()?;
    let other_guest = Bridge::mount(daemon.connect()?, second.path())?;
    let far = open(&second.path().join("file"))?;

    ensure!(locks(&one, true, 10, 10)?, "nobody has it");
    for (who, file) in [
        ("host", &host),
        ("program", &other_program),
        ("guest", &far),
    ] {
        ensure!(!locks(file, false, 19, 1)?, "{who}");
        ensure!(locks(file, true, 30, 1)?, "{who}: another byte");
        let found = conflict(file.as_fd(), false, 0, 0)?.context("GETLK")?;
        assert_eq!((found.exclusive, found.start, found.len), (true, 10, 10));
        unlock(file.as_fd(), 30)?;
    }
    // Part of it becomes shared, part of it is given back.
    ensure!(locks(&one, false, 10, 5)?);
    unlock_range(one.as_fd(), 18, 2)?;
    for file in [&host, &other_program, &far] {
        ensure!(locks(file, false, 10, 5)? && locks(file, true, 18, 0)?);
        ensure!(!locks(file, false, 15, 1)? && !locks(file, true, 10, 1)?);
        unlock_range(file.as_fd(), 0, 0)?;
    }
    // What somebody else has, the guest is refused.
    ensure!(
        locks(&host, true, 50, 0)? && !locks(&one, false, 60, 1)? && !locks(&far, false, 99, 1)?
    );
    let found = conflict(one.as_fd(), false, 0, 0)?.context("GETLK")?;
    assert_eq!((found.start, found.len), (50, 0));
    drop(one);
    wait_until(|| locks(&far, true, 0, 50)).context("locks go with the file")?;
    drop((far, other_program));
    other_guest.unmount()?;
    wait_until(|| locks(&host, true, 0, 0))?;
    share.bridge.unmount()?;
    Ok(())
}

#[test]
fn locks_of_a_process_go_when_it_closes_any_descriptor_of_the_file() -> Result<()> {
    let _alone = alone();
    let (share, one, host) = share(BOTH)?;
    fcntl_lock(&one, EXCLUSIVE)?;
    ensure!(is_held(host.as_fd(), 5)?);
    drop(open(&share.at("file"))?);
    ensure!(!is_held(host.as_fd(), 5)?, "as fcntl(2) says");
    fcntl_lock(&one, SHARED)?;
    drop(one);
    ensure!(!is_held(host.as_fd(), 5)?);
    share.bridge.unmount()?;
    Ok(())
}

#[test]
fn locks_on_files_exclude_others_and_can_be_converted() -> Result<()> {
    let _alone = alone();
    let (share, one, host) = share(BOTH)?;
    let other = open(&share.at("file"))?;
    flock(&one, SHARED)?;
    flock(&host, SHARED)?;
    flock(&other, SHARED)?;
    assert_eq!(flock(&host, EXCLUSIVE), Err(Errno::AGAIN));
    // The attempt has cost the host its own (flock(2)).
    flock(&other, UNLOCK)?;
    flock(&one, EXCLUSIVE)?;
    assert_eq!(flock(&host, SHARED), Err(Errno::AGAIN));
    assert_eq!(flock(&other, SHARED), Err(Errno::AGAIN));
    drop((one, other));
    wait_until(|| Ok(flock(&host, EXCLUSIVE).is_ok()))?;
    share.bridge.unmount()?;
    Ok(())
}

/// For what a guest does not wait for, such as RELEASE.
fn wait_until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = std::time::Instant::now();
    while !done()? {
        ensure!(begin.elapsed() < PATIENCE, "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn without_the_options_a_guest_keeps_its_locks_to_itself() -> Result<()> {
    let _alone = alone();
    let (share, one, host) = share(&[])?;
    ensure!(locks(&one, true, 0, 0)? && locks(&host, true, 0, 0)?);
    flock(&one, EXCLUSIVE)?;
    flock(&host, EXCLUSIVE)?;
    let other = open(&share.at("file"))?;
    ensure!(!locks(&other, true, 0, 0)?, "its own programs see them");
    drop((one, other));
    share.bridge.unmount()?;
    Ok(())
}

#[test]
fn locks_move_with_the_guest_and_are_taken_again_after_a_snapshot() -> Result<()> {
    let _alone = alone();
    let (mut share, one, host) = share(BOTH)?;
    let whole = open(&share.at("file"))?;
    ensure!(locks(&one, true, 10, 10)? && locks(&one, false, 30, 5)?);
    flock(&whole, EXCLUSIVE)?;
    let host_as_well = open(&share.on_host("file"))?;
    let held = || -> Result<()> {
        ensure!(!locks(&host, false, 12, 1)? && !locks(&host, true, 34, 1)?);
        ensure!(locks(&host, false, 34, 1)? && locks(&host, true, 20, 10)?);
        unlock_range(host.as_fd(), 0, 0)?;
        assert_eq!(flock(&host_as_well, SHARED), Err(Errno::AGAIN));
        Ok(())
    };
    held()?;
    for manner in [Manner::QEMU, SUSPENDING] {
        share.migrate_as(manner)?;
        held()?;
        share.bridge.snapshot()?;
        held()?;
    }
    // A destination without the options is refused by name, and the source has its locks again.
    let folder = share.on_host(".");
    let error = share
        .migrate_onto(&folder, &[], Manner::QEMU)
        .expect_err("a guest that believes in its locks");
    ensure!(
        format!("{error:#}").contains("CHECK_DEVICE_STATE"),
        "{error:#}"
    );
    held()?;
    // And they end where the guest is now.
    unlock(one.as_fd(), 12)?;
    ensure!(locks(&host, true, 12, 1)? && !locks(&host, true, 13, 1)?);
    drop((one, whole));
    wait_until(|| Ok(flock(&host_as_well, EXCLUSIVE).is_ok()))?;
    ensure!(locks(&host, true, 0, 0)?);
    share.bridge.unmount()?;
    Ok(())
}

#[test]
fn a_lock_that_the_destination_cannot_have_is_decided_by_the_operator() -> Result<()> {
    let _alone = alone();
    let (mut share, one, host) = share(BOTH)?;
    let whole = open(&share.at("file"))?;
    ensure!(locks(&one, true, 10, 10)?);
    flock(&whole, EXCLUSIVE)?;
    // A copy, where somebody else has one of them.
    let copy = tempfile::tempdir()?;
    fs::copy(share.on_host("file"), copy.path().join("file"))?;
    let somebody = open(&copy.path().join("file"))?;
    ensure!(locks(&somebody, false, 15, 1)?);

    let options = share.options().to_vec();
    share
        .migrate_onto(copy.path(), &options, Manner::QEMU)
        .expect_err("the lock is somebody else's");
    ensure!(
        !locks(&host, false, 10, 1)?,
        "the source has its locks again"
    );
    let mut text = String::new();
    (&one).read_to_string(&mut text)?;
    assert_eq!(text, "text");

    let lenient = [
        &options[..],
        &["--migration-on-error=guest-error".to_owned()],
    ]
    .concat();
    share.migrate_onto(copy.path(), &lenient, Manner::QEMU)?;
    ensure!(locks(&host, true, 0, 0)?, "the source is gone");
    let error = one.write_at(b"x", 0).expect_err("a lock that was lost");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(whole.write_at(b"x", 0)?, 1, "the other one is there");
    let other = open(&copy.path().join("file"))?;
    assert_eq!(flock(&other, SHARED), Err(Errno::AGAIN));
    drop((one, whole));
    share.bridge.unmount()?;
    Ok(())
}

/// A program in the guest that waits for an exclusive lock on a byte.
fn waiter(file: File, byte: i64) -> Receiver<std::io::Result<File>> {
    let (done, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = write(file.as_fd(), byte).map(|()| file);
        let _nobody_waits = done.send(locked);
    });
    receiver
}

/// Until so many requests have been sent that were not answered: nothing else tells that a lock is waited for.
fn until_in_flight(share: &mut Share, count: usize) -> Result<()> {
    wait_until(|| Ok(share.bridge.traffic()?.in_flight_now == count))
}

#[test]
fn who_waits_for_a_lock_keeps_nobody_else_waiting_and_gets_it_in_the_end() -> Result<()> {
    let _alone = alone();
    let (mut share, one, host) = share(BOTH)?;
    ensure!(locks(&one, true, 7, 1)? && locks(&host, true, 8, 1)?);
    let for_guest = waiter(open(&share.at("file"))?, 7);
    let for_host = waiter(open(&share.at("file"))?, 8);
    until_in_flight(&mut share, 2)?;
    // The rings go on.
    for number in 0..100 {
        fs::write(share.at("other"), number.to_string())?;
    }
    ensure!(for_guest.try_recv().is_err() && for_host.try_recv().is_err());
    unlock(one.as_fd(), 7)?;
    let got = for_guest.recv_timeout(PATIENCE)??;
    ensure!(!locks(&one, true, 7, 1)?);
    unlock(host.as_fd(), 8)?;
    let got_from_host = for_host.recv_timeout(PATIENCE)??;
    ensure!(!locks(&host, true, 8, 1)?);
    drop((got, got_from_host, one));
    share.bridge.unmount()?;
    Ok(())
}

#[test]
fn who_waits_for_a_lock_goes_on_waiting_at_the_destination() -> Result<()> {
    let _alone = alone();
    let (mut share, one, host) = share(BOTH)?;
    ensure!(locks(&host, true, 8, 2)?);
    let first = waiter(open(&share.at("file"))?, 8);
    let second = waiter(open(&share.at("file"))?, 9);
    let whole = {
        let (file, done) = (open(&share.at("file"))?, mpsc::channel());
        flock(&host, EXCLUSIVE)?;
        thread::spawn(move || done.0.send(flock(&file, FlockOperation::LockShared)));
        done.1
    };
    until_in_flight(&mut share, 3)?;
    for manner in [Manner::QEMU, SUSPENDING] {
        share.migrate_as(manner)?;
        share.bridge.snapshot()?;
        // A destination without the options is refused; the source waits on.
        let folder = share.on_host(".");
        share
            .migrate_onto(&folder, &[], manner)
            .expect_err("refused");
        fs::write(share.at("other"), "the rings go on")?;
        assert_eq!(share.bridge.traffic()?.in_flight_now, 3);
    }
    unlock(host.as_fd(), 8)?;
    let got = first.recv_timeout(PATIENCE)??;
    ensure!(second.try_recv().is_err() && whole.try_recv().is_err());
    share.migrate()?;
    ensure!(!locks(&host, true, 8, 1)?, "what was got moves");
    unlock(host.as_fd(), 9)?;
    flock(&host, UNLOCK)?;
    let got_second = second.recv_timeout(PATIENCE)??;
    whole.recv_timeout(PATIENCE)??;
    drop((got, got_second, one));
    wait_until(|| locks(&host, true, 0, 0))?;
    share.bridge.unmount()?;
    Ok(())
}

/// A lock on the first byte, as SETLKW asks for it.
fn wanted(handle: u64, owner: u64, kind: i32) -> Vec<u8> {
    wanted_at(0, handle, owner, kind, 0)
}

/// A lock on one byte, or on the whole file.
fn wanted_at(byte: u64, handle: u64, owner: u64, kind: i32, lk_flags: u32) -> Vec<u8> {
    encode(&LkIn {
        handle,
        owner,
        lock: FileLock {
            start: byte,
            end: byte,
            kind: kind.cast_unsigned(),
            pid: 4_321,
        },
        lk_flags,
        ..LkIn::default()
    })
}

/// A guest without a kernel that has a file open, its nodeid and its handle.
fn client_with_file() -> Result<(TempDir, Daemon, Client, u64, u64)> {
    let folder = tempfile::tempdir()?;
    let line = [
        "--remote-posix-locks",
        "--shared-dir",
        folder.path().to_str().context("a plain name")?,
    ];
    let daemon = Daemon::start("vhost-device-fs", line)?;
    let mut client = Client::boot(daemon.connect()?)?;
    client.init(init::POSIX_LOCKS)?;
    let read_write = libc::O_RDWR.cast_unsigned();
    let (entry, opened) = client.create(ROOT, "file", read_write, 0o600)?;
    Ok((folder, daemon, client, entry.nodeid, opened.handle))
}

#[test]
fn as_many_wait_as_leave_room_on_their_ring_for_who_ends_it() -> Result<()> {
    const WAITING_MAX: usize = 32;
    let _alone = alone();
    let (_folder, _daemon, mut client, node, handle) = client_with_file()?;
    client.call(Opcode::SetLk, node, &wanted(handle, 1, libc::F_WRLCK))?;

    // Who is in the way is told, and a lock that makes no sense is refused.
    let found = client.call(Opcode::GetLk, node, &wanted(handle, 2, libc::F_RDLCK))?;
    let expected = FileLock {
        kind: u32::try_from(libc::F_WRLCK)?,
        pid: 4_321,
        ..FileLock::default()
    };
    assert_eq!(found, encode(&expected));
    for (nonsense, errno) in [
        (wanted(handle, 2, 3), libc::EINVAL),
        (wanted(99, 2, libc::F_RDLCK), libc::EBADF),
        (
            wanted(handle, 2, libc::F_RDLCK)[..47].to_vec(),
            libc::EINVAL,
        ),
        (wanted(handle, 2, libc::F_RDLCK), libc::EAGAIN),
    ] {
        let answer = client.call(Opcode::SetLk, node, &nonsense);
        assert_eq!(answer.unwrap_err().errno(), Some(errno));
    }

    let waiting: Vec<_> = (0..WAITING_MAX)
        .map(|owner| {
            let body = wanted(handle, 10 + owner as u64, libc::F_RDLCK);
            client.send(Opcode::SetLkW, node, &body)
        })
        .collect::<Result<_>>()?;
    let one_more = wanted(handle, 2, libc::F_RDLCK);
    let mut saved = Vec::new();
    for _ in 0..2 {
        let answer = client.call(Opcode::SetLkW, node, &one_more);
        assert_eq!(answer.unwrap_err().errno(), Some(libc::ENOLCK));
        // They are part of the state, and counted after it, too.
        saved.push(client.machine().snapshot()?);
    }
    assert!(
        saved
            .windows(2)
            .all(|states| states[0].len() == states[1].len())
    );
    client.call(Opcode::SetLk, node, &wanted(handle, 1, libc::F_UNLCK))?;
    for ticket in waiting {
        client.wait(ticket)?;
    }
    saved.push(client.machine().snapshot()?);
    let waits = saved
        .iter()
        .map(|state| state.windows(4).any(|tag| tag == b"WAIT"));
    assert_eq!(waits.collect::<Vec<_>>(), [true, true, false]);
    Ok(())
}

/// A guest that reboots while somebody waits: nobody waits then, and nothing is answered that the new driver did not ask.
#[test]
fn nobody_waits_any_more_when_the_guest_has_rebooted() -> Result<()> {
    let _alone = alone();
    let (folder, _daemon, mut client, node, handle) = client_with_file()?;
    let host = open(&folder.path().join("file"))?;
    ensure!(locks(&host, true, 0, 0)?);
    let body = wanted(handle, 1, libc::F_WRLCK);
    let _never_answered = client.send(Opcode::SetLkW, node, &body)?;
    client.machine().stop()?;
    client.machine().reboot()?;
    unlock_range(host.as_fd(), 0, 0)?;
    client.init(init::POSIX_LOCKS)?;
    for _ in 0..10 {
        client.lookup(ROOT, "file")?;
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(locks(&host, true, 0, 0)?, "the lock was taken for nobody");
    Ok(())
}

/// A daemon that can be restarted, and a guest without a kernel: this process has no file of the guest's open, which the next
/// daemon would have to close before it is there to be asked.
fn restartable(folder: &Path) -> Result<(Service, Client, u64, u64)> {
    let service = Service::start(built("vhost-device-fs")?, line(folder))?;
    let mut client = Client::boot(service.connect()?)?;
    client.init(init::POSIX_LOCKS | init::FLOCK_LOCKS)?;
    let read_write = libc::O_RDWR.cast_unsigned();
    let (entry, opened) = client.create(ROOT, "file", read_write, 0o600)?;
    Ok((service, client, entry.nodeid, opened.handle))
}

fn line(folder: &Path) -> Vec<String> {
    let shared = ["--shared-dir".to_owned(), folder.display().to_string()];
    let options = BOTH.iter().map(|&option| option.to_owned());
    shared.into_iter().chain(options).collect()
}

#[test]
fn locks_and_who_waits_for_them_outlive_the_daemon() -> Result<()> {
    const FIRST: u64 = 1;
    const SECOND: u64 = 2;
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let (mut service, mut client, node, handle) = restartable(folder.path())?;
    let on_host = folder.path().join("file");
    let (host, whole_on_host) = (open(&on_host)?, open(&on_host)?);
    let (exclusive, none) = (libc::F_WRLCK, libc::F_UNLCK);
    client.call(Opcode::SetLk, node, &wanted(handle, FIRST, exclusive))?;
    let whole = client.open(node, libc::O_RDWR.cast_unsigned())?.handle;
    let flock_wanted = |kind| wanted_at(0, whole, 9, kind, LK_FLOCK);
    client.call(Opcode::SetLk, node, &flock_wanted(exclusive))?;
    ensure!(locks(&host, true, 8, 1)?);
    let behind_guest = wanted(handle, SECOND, exclusive);
    let behind_guest = client.send(Opcode::SetLkW, node, &behind_guest)?;
    let behind_host = wanted_at(8, handle, FIRST, exclusive, 0);
    let behind_host = client.send(Opcode::SetLkW, node, &behind_host)?;
    for round in 0..5 {
        service
            .restart()
            .with_context(|| format!("round {round}"))?;
        ensure!(!locks(&host, false, 0, 1)? && locks(&host, true, 1, 5)?);
        unlock_range(host.as_fd(), 1, 5)?;
        assert_eq!(flock(&whole_on_host, SHARED), Err(Errno::AGAIN));
        let in_the_way = client.call(Opcode::GetLk, node, &wanted(handle, 3, exclusive))?;
        let expected = FileLock {
            kind: exclusive.cast_unsigned(),
            pid: 4_321,
            ..FileLock::default()
        };
        assert_eq!(in_the_way, encode(&expected), "round {round}");
    }
    // One who waits gets it from a next daemon.
    unlock(host.as_fd(), 8)?;
    client.wait(behind_host)?;
    ensure!(!locks(&host, true, 8, 1)?);
    // The other one because of what was asked while there was none.
    ensure!(service.stop()?.success());
    let given_back = client.send(Opcode::SetLk, node, &wanted(handle, FIRST, none))?;
    service.start_again()?;
    service.wait_until_taken()?;
    client.wait(given_back)?;
    client.wait(behind_guest)?;
    ensure!(!locks(&host, true, 0, 1)?);
    client.call(Opcode::SetLk, node, &wanted(handle, SECOND, none))?;
    client.call(Opcode::SetLk, node, &flock_wanted(none))?;
    ensure!(locks(&host, true, 0, 1)? && flock(&whole_on_host, EXCLUSIVE).is_ok());
    Ok(())
}

/// The host of a lock cannot be told that it moves. Who waits for it there may have it before the next daemon has.
#[test]
fn a_lock_that_somebody_else_has_by_then_is_decided_by_the_operator() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let (mut service, mut client, node, handle) = restartable(folder.path())?;
    client.call(Opcode::SetLk, node, &wanted(handle, 1, libc::F_WRLCK))?;
    let on_host = waiter(open(&folder.path().join("file"))?, 0);
    ensure!(service.stop()?.success());
    let somebody = on_host.recv_timeout(PATIENCE)??;
    for _ in 0..2 {
        service.start_again()?;
        assert_eq!(service.wait()?.code(), Some(1), "{}", service.log());
        let told = service.log().contains("is somebody else's");
        ensure!(told, "{}", service.log());
        assert_eq!(service.stored(), 1, "{}", service.log());
    }
    let mut lenient = line(folder.path());
    lenient.push("--migration-on-error=guest-error".to_owned());
    service.set_arguments(lenient);
    service.start_again()?;
    service.wait_until_taken()?;
    let error = client.write(node, handle, 0, b"x").unwrap_err();
    assert_eq!(error.errno(), Some(libc::EIO), "a lock that was lost");
    drop(somebody);
    client.create(ROOT, "other", libc::O_RDWR.cast_unsigned(), 0o600)?;
    Ok(())
}
