//! Runs in the guest: takes a persistent reservation of a disk, and tells what the disk knows of it.
//!
//! ```text
//! guest_reserver take DISK KEY   registers the key (hexadecimal) and reserves the disk: write exclusive, registrants only
//! guest_reserver show DISK       one line: what READ KEYS and READ RESERVATION answer, byte for byte
//! ```
//!
//! An answer with another status than GOOD is an error, a unit attention included: a disk that has moved has nothing to report.
//! Depends on nothing but `std`, since it is compiled for guests without cargo; the ioctl that Linux has for SCSI commands
//! (`include/scsi/sg.h`) is declared here.
#![expect(unsafe_code, reason = "SG_IO has no safe wrapper in std")]

use std::error::Error;
use std::ffi::{c_int, c_ulong, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::ptr;

type Failure = Box<dyn Error>;

const SG_IO: c_ulong = 0x2285;
const PERSISTENT_RESERVE_IN: u8 = 0x5e;
const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
const READ_KEYS: u8 = 0;
const READ_RESERVATION: u8 = 1;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;
const TIMEOUT_MS: u32 = 60_000;

/// Which way a command's data goes.
const TO_DISK: c_int = -2;
const FROM_DISK: c_int = -3;

unsafe extern "C" {
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
}

/// `sg_io_hdr_t`.
#[repr(C)]
struct Header {
    interface: c_int,
    direction: c_int,
    command_bytes: u8,
    sense_bytes_max: u8,
    pieces: u16,
    data_bytes: u32,
    data: *mut c_void,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: c_int,
    user: *mut c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_bytes: u8,
    host_status: u16,
    driver_status: u16,
    residue: c_int,
    duration_ms: u32,
    info: u32,
}

/// Executes a command; an error unless its status is GOOD.
fn execute(
    disk: &File,
    command: [u8; 10],
    direction: c_int,
    data: &mut [u8],
) -> Result<(), Failure> {
    let mut sense = [0; 32];
    let mut header = Header {
        interface: c_int::from(b'S'),
        direction,
        command_bytes: 10,
        sense_bytes_max: 32,
        pieces: 0,
        data_bytes: u32::try_from(data.len())?,
        data: data.as_mut_ptr().cast(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack_id: 0,
        user: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_bytes: 0,
        host_status: 0,
        driver_status: 0,
        residue: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the header is laid out as the kernel's, and what it points to (command, data, sense) has the lengths that it names
    // and outlives the call, after which the kernel keeps none of it.
    let result = unsafe { ioctl(disk.as_raw_fd(), SG_IO, ptr::from_mut(&mut header)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    if header.status != 0 || header.host_status != 0 {
        let (status, host) = (header.status, header.host_status);
        let text =
            format!("{command:02x?}: status {status:#x}, host {host:#x}, sense {sense:02x?}");
        return Err(text.into());
    }
    Ok(())
}

fn persistent_reserve_out(disk: &File, action: u8, key: u64, new_key: u64) -> Result<(), Failure> {
    let mut parameters = [0; 24];
    parameters[..8].copy_from_slice(&u64_on_the_wire(key));
    parameters[8..16].copy_from_slice(&u64_on_the_wire(new_key));
    let kind = WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    let command = [PERSISTENT_RESERVE_OUT, action, kind, 0, 0, 0, 0, 0, 24, 0];
    execute(disk, command, TO_DISK, &mut parameters)
}

#[expect(clippy::big_endian_bytes, reason = "SCSI is big-endian")]
fn u64_on_the_wire(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

/// The answer in hexadecimal digits.
fn persistent_reserve_in(disk: &File, action: u8) -> Result<String, Failure> {
    let mut answer = [0; 64];
    let command = [PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0, 0, 64, 0];
    execute(disk, command, FROM_DISK, &mut answer)?;
    let digits = answer.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(u32::from(digit), 16));
    Ok(digits.collect())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    match words[..] {
        ["take", disk, key] => {
            let (disk, key) = (open(disk)?, u64::from_str_radix(key, 16)?);
            persistent_reserve_out(&disk, REGISTER, 0, key)?;
            persistent_reserve_out(&disk, RESERVE, key, 0)
        }
        ["show", disk] => {
            let disk = open(disk)?;
            let keys = persistent_reserve_in(&disk, READ_KEYS)?;
            let reservation = persistent_reserve_in(&disk, READ_RESERVATION)?;
            println!("keys={keys} reservation={reservation}");
            Ok(())
        }
        _ => Err("take DISK KEY | show DISK".into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest_reserver: {error}");
            ExitCode::FAILURE
        }
    }
}
