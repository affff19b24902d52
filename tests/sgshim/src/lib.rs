//! `LD_PRELOAD` library: to the program that it is loaded into, `/dev/sg*` are SCSI devices behind the tests' gateway (`$SGSHIM_SOCKET`).
//!
//! `SG_IO` version 3 and `SG_SCSI_RESET` are passed on; questions about the driver are answered here. The file descriptor
//! that the program gets is the connection itself. Knows neither SCSI nor virtio: there is no guest and no kernel driver, and the gateway is both.
#![expect(
    unsafe_code,
    reason = "a preloaded library is called by C, through C's pointers, and finds what it stands before by dlsym"
)]

mod header;
#[path = "../../src/scsi_suite/wire.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "half of it is the gateway's, for which it is public"
)]
mod wire;

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::io::{self, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use header::{SgIoHeader, SgScsiId, SgVector};
use wire::{Answer, Kind, Request};

/// Which file descriptors are ours. Without a lock: `close` also runs inside of what we call.
static OURS: [AtomicBool; 1024] = [const { AtomicBool::new(false) }; 1024];

type OpenFunction = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type StatFunction = unsafe extern "C" fn(c_int, *mut libc::stat) -> c_int;
type IoctlFunction = unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;
type CloseFunction = unsafe extern "C" fn(c_int) -> c_int;

/// The definition of `name` that comes after ours, which is libc's: it has all that is asked for here, so that this is not null.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

fn slot(fd: c_int) -> Option<&'static AtomicBool> {
    OURS.get(usize::try_from(fd).ok()?)
}

fn is_ours(fd: c_int) -> bool {
    slot(fd).is_some_and(|slot| slot.load(Ordering::Relaxed))
}

fn fail(number: c_int) -> c_int {
    // SAFETY: errno of this thread is always there.
    unsafe { *libc::__errno_location() = number };
    -1
}

fn or_errno(result: io::Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => fail(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// Opens device `number`; `None` if the program is not to know why, standard error does.
fn connect(number: u8) -> Option<c_int> {
    let open = || {
        let path = std::env::var_os(wire::SOCKET_VARIABLE)
            .ok_or_else(|| io::Error::other("SGSHIM_SOCKET is not set"))?;
        let mut stream = UnixStream::connect(path)?;
        stream.write_all(&[number])?;
        Ok(stream)
    };
    match open() {
        Ok(stream) => {
            let fd = stream.into_raw_fd();
            slot(fd)?.store(true, Ordering::Relaxed);
            Some(fd)
        }
        Err(error) => {
            let error: io::Error = error;
            eprintln!("sgshim: cannot reach the gateway: {error}");
            None
        }
    }
}

/// One request and its answer. `data` is sent for [`Kind::CommandOut`] and filled for [`Kind::CommandIn`].
fn exchange(fd: c_int, request: &Request, data: &mut [u8]) -> io::Result<Answer> {
    // SAFETY: the descriptor is a connection that `connect` made, and is not closed by this value.
    let mut stream = ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(fd) });
    stream.write_all(&request.encode())?;
    if request.kind == Kind::CommandOut {
        stream.write_all(data)?;
    }
    let mut answer = [0; wire::ANSWER_SIZE];
    stream.read_exact(&mut answer)?;
    if request.kind == Kind::CommandIn {
        stream.read_exact(data)?;
    }
    Ok(Answer::decode(&answer))
}

/// The program's buffers for the data of a command of `kind`, at most as long as `header.length` together.
///
/// # Safety
/// As [`command`].
unsafe fn pieces<'a>(header: &SgIoHeader, kind: Kind) -> Vec<&'a mut [u8]> {
    let single = SgVector {
        base: header.data.cast(),
        length: header.length as usize,
    };
    let vectors = if header.vector_count == 0 {
        std::slice::from_ref(&single)
    } else {
        // SAFETY: the caller promises that there are so many.
        unsafe { std::slice::from_raw_parts(header.data.cast(), header.vector_count.into()) }
    };
    let mut left = header.length as usize;
    let mut pieces = Vec::new();
    for vector in vectors.iter().filter(|_| kind != Kind::Command) {
        let length = vector.length.min(left);
        left -= length;
        if length > 0 && !vector.base.is_null() {
            // SAFETY: the caller promises it.
            pieces.push(unsafe { std::slice::from_raw_parts_mut(vector.base, length) });
        }
    }
    pieces
}

/// `SG_IO`.
///
/// # Safety
/// The pointers of `header` are valid for the lengths that it states.
unsafe fn command(fd: c_int, header: &mut SgIoHeader) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let length = header.length as usize;
    if header.interface_id != c_int::from(b'S') || header.cdb.is_null() {
        return Err(invalid());
    }
    if length > wire::DATA_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    // SAFETY: the caller promises it.
    let given = unsafe { std::slice::from_raw_parts(header.cdb, header.cdb_length.into()) };
    let mut cdb = [0; wire::CDB_MAX];
    cdb.get_mut(..given.len())
        .ok_or_else(invalid)?
        .copy_from_slice(given);
    let kind = match header.direction {
        _ if length == 0 || header.data.is_null() => Kind::Command,
        header::TO_DEVICE => Kind::CommandOut,
        header::FROM_DEVICE | header::TO_AND_FROM_DEVICE => Kind::CommandIn,
        _ => Kind::Command,
    };
    // SAFETY: the caller promises it.
    let mut pieces = unsafe { pieces(header, kind) };
    let mut data = if kind == Kind::CommandIn {
        vec![0; length]
    } else {
        pieces
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect()
    };
    let request = Request {
        kind,
        cdb,
        cdb_length: header.cdb_length,
        length: u32::try_from(data.len()).map_err(|_| invalid())?,
    };
    let answer = exchange(fd, &request, &mut data)?;
    if kind == Kind::CommandIn {
        let places = pieces.iter_mut().flat_map(|piece| piece.iter_mut());
        for (place, byte) in places.zip(data) {
            *place = byte;
        }
    }
    let sense = answer.sense_length.min(header.sense_size);
    if !header.sense.is_null() {
        // SAFETY: the caller promises that there is room for `sense_size` bytes; the source has 96, and the gateway never says more.
        unsafe {
            std::ptr::copy_nonoverlapping(answer.sense.as_ptr(), header.sense, sense.into());
        }
    }
    header.status = answer.status;
    header.masked_status = (answer.status >> 1) & 0x1f;
    header.message_status = 0;
    header.sense_written = sense;
    header.host_status = header::host_status(answer.response);
    header.driver_status = if sense > 0 { header::DRIVER_SENSE } else { 0 };
    header.residual = c_int::try_from(answer.residual).unwrap_or(c_int::MAX);
    header.duration = 0;
    header.info = u32::from(answer.status != 0 || header.host_status != 0);
    Ok(())
}

/// `SG_SCSI_RESET`: the resets that a driver of this kind of device can do (a device reset), and one that it could.
fn reset(fd: c_int, level: c_int) -> io::Result<()> {
    let kind = match level & !header::RESET_NO_ESCALATE {
        header::RESET_NOTHING => return Ok(()),
        header::RESET_DEVICE => Kind::ResetUnit,
        header::RESET_TARGET => Kind::ResetNexus,
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let request = Request {
        kind,
        cdb: [0; wire::CDB_MAX],
        cdb_length: 0,
        length: 0,
    };
    // FUNCTION COMPLETE and FUNCTION SUCCEEDED (virtio 1.3, 5.6.6.2).
    match exchange(fd, &request, &mut [])?.response {
        0 | 10 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

/// # Safety
/// As ioctl(2) on an sg device.
unsafe fn answer_ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request == header::SG_SET_TIMEOUT || request == header::SG_SET_RESERVED_SIZE {
        return 0;
    }
    if request == header::SG_GET_TIMEOUT {
        return 60 * 100; // the answer is the return value, in hundredths of a second
    }
    if argument.is_null() {
        return fail(libc::EFAULT);
    }
    let number = match request {
        header::SG_GET_VERSION_NUM => header::VERSION,
        header::SG_GET_RESERVED_SIZE | header::BLKSECTGET => header::RESERVED_SIZE,
        header::SG_EMULATED_HOST => 0,
        header::SG_SCSI_RESET => {
            // SAFETY: for this request the argument points to an int.
            let level = unsafe { argument.cast::<c_int>().read() };
            return or_errno(reset(fd, level));
        }
        header::SG_GET_SCSI_ID => {
            // SAFETY: for this request the argument points to such a struct.
            unsafe { argument.cast::<SgScsiId>().write(SgScsiId::default()) };
            return 0;
        }
        // SAFETY: for this request the argument points to such a struct, which the program fills as sg wants it.
        header::SG_IO => return or_errno(unsafe { command(fd, &mut *argument.cast()) }),
        _ => return fail(libc::EINVAL),
    };
    // SAFETY: for the requests that come here the argument points to an int.
    unsafe { argument.cast::<c_int>().write(number) };
    0
}

/// # Safety
/// As open(2).
unsafe fn open_path(path: *const c_char, flags: c_int, mode: c_int, name: &CStr) -> c_int {
    // SAFETY: open(2) wants a C string.
    let text = unsafe { CStr::from_ptr(path) }.to_bytes();
    let Some(number) = text.strip_prefix(b"/dev/sg") else {
        // SAFETY: the type is that of libc's function; the caller's arguments, passed on.
        return unsafe {
            std::mem::transmute::<*mut c_void, OpenFunction>(next(name))(path, flags, mode)
        };
    };
    let number = std::str::from_utf8(number)
        .ok()
        .and_then(|text| text.parse().ok());
    number
        .and_then(connect)
        .unwrap_or_else(|| fail(libc::ENXIO))
}

/// # Safety
/// As open(2); without `O_CREAT` the mode is anything, as for every function that stands before this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the same.
    unsafe { open_path(path, flags, mode, c"open") }
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the same.
    unsafe { open_path(path, flags, mode, c"open64") }
}

/// What open(2) is in programs that were built with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same.
    unsafe { open_path(path, flags, 0, c"open") }
}

/// What open(2) is in programs that were built with `_FORTIFY_SOURCE` and 64-bit offsets.
///
/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same.
    unsafe { open_path(path, flags, 0, c"open64") }
}

/// # Safety
/// As fstat(2).
unsafe fn stat(fd: c_int, output: *mut libc::stat, name: &CStr) -> c_int {
    // SAFETY: the type is that of libc's function; the caller's arguments, passed on.
    let result =
        unsafe { std::mem::transmute::<*mut c_void, StatFunction>(next(name))(fd, output) };
    if result == 0 && is_ours(fd) {
        // SAFETY: the call has filled it.
        let output = unsafe { &mut *output };
        output.st_mode = libc::S_IFCHR | 0o660;
        output.st_rdev = libc::makedev(header::MAJOR, 0);
    }
    result
}

/// # Safety
/// As fstat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat(fd: c_int, output: *mut libc::stat) -> c_int {
    // SAFETY: the same.
    unsafe { stat(fd, output, c"fstat") }
}

/// # Safety
/// As fstat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat64(fd: c_int, output: *mut libc::stat) -> c_int {
    // SAFETY: the same; on 64-bit machines there is one struct only.
    unsafe { stat(fd, output, c"fstat64") }
}

/// # Safety
/// As ioctl(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if is_ours(fd) {
        // SAFETY: the same.
        unsafe { answer_ioctl(fd, request, argument) }
    } else {
        // SAFETY: the type is that of libc's function; the caller's arguments, passed on.
        unsafe {
            std::mem::transmute::<*mut c_void, IoctlFunction>(next(c"ioctl"))(fd, request, argument)
        }
    }
}

/// # Safety
/// As close(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(slot) = slot(fd) {
        slot.store(false, Ordering::Relaxed);
    }
    // SAFETY: the type is that of libc's function; the caller's arguments, passed on.
    unsafe { std::mem::transmute::<*mut c_void, CloseFunction>(next(c"close"))(fd) }
}
