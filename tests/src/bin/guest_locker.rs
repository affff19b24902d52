//! Runs in the guest: takes file locks, waits for them, and tells whether others have them.
//!
//! ```text
//! guest_locker hold FILE bytes|whole NAME   waits for an exclusive lock and makes NAME.held; when NAME.release appears, uses the file,
//!                                           gives the lock back and makes NAME.done
//! guest_locker try FILE bytes|whole         prints "free" or "taken"
//! ```
//!
//! `bytes` is a lock of fcntl(2) on all bytes, `whole` one of flock(2). Depends on nothing but `std`, since it is compiled for guests
//! without cargo; fcntl(2) is declared here.
#![expect(unsafe_code, reason = "fcntl(2) has no safe wrapper in std")]

use std::error::Error;
use std::ffi::c_int;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error as IoError, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::ptr;
use std::thread::sleep;
use std::time::Duration;

type Failure = Box<dyn Error>;

const F_SETLK: c_int = 6;
const F_SETLKW: c_int = 7;
const F_WRLCK: i16 = 1;

/// `struct flock`; all zero, it is about all bytes of the file.
#[repr(C)]
#[derive(Default)]
struct Range {
    kind: i16,
    whence: i16,
    start: i64,
    len: i64,
    pid: i32,
}

unsafe extern "C" {
    fn fcntl(descriptor: c_int, command: c_int, ...) -> c_int;
}

/// Takes an exclusive lock on all bytes; false if somebody else has one, and nobody wants to wait.
fn lock_bytes(file: &File, wait: bool) -> Result<bool, Failure> {
    let range = Range {
        kind: F_WRLCK,
        ..Range::default()
    };
    let command = if wait { F_SETLKW } else { F_SETLK };
    // SAFETY: the structure is laid out as the kernel's and outlives the call, which reads it only.
    let result = unsafe { fcntl(file.as_raw_fd(), command, ptr::from_ref(&range)) };
    match IoError::last_os_error() {
        _ if result == 0 => Ok(true),
        error if !wait && error.kind() == ErrorKind::WouldBlock => Ok(false),
        error => Err(error.into()),
    }
}

fn lock(file: &File, kind: &str, wait: bool) -> Result<bool, Failure> {
    match (kind, wait) {
        ("bytes", _) => lock_bytes(file, wait),
        ("whole", true) => Ok(file.lock().map(|()| true)?),
        ("whole", false) => match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error.into()),
        },
        _ => Err("bytes or whole".into()),
    }
}

fn hold(file: &mut File, kind: &str, name: &str) -> Result<(), Failure> {
    lock(file, kind, true)?;
    File::create(format!("{name}.held"))?;
    while !Path::new(&format!("{name}.release")).exists() {
        sleep(Duration::from_millis(20));
    }
    // A lock that was lost would make these fail.
    file.write_all(name.as_bytes())?;
    file.sync_data()?;
    file.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    match words[..] {
        ["hold", path, kind, name] => {
            hold(&mut open(path)?, kind, name)?;
            File::create(format!("{name}.done"))?;
        }
        ["try", path, kind] => {
            let free = lock(&open(path)?, kind, false)?;
            println!("{}", if free { "free" } else { "taken" });
        }
        _ => return Err("hold FILE bytes|whole NAME | try FILE bytes|whole".into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest_locker: {error}");
            ExitCode::FAILURE
        }
    }
}
