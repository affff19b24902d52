//! `<scsi/sg.h>` as far as programs use it: the layout of `SG_IO` version 3, and the numbers of ioctls.
//!
//! Layouts only; knows nothing of what becomes of a request.

use std::ffi::{c_int, c_ulong, c_void};

pub(crate) const SG_SET_TIMEOUT: c_ulong = 0x2201;
pub(crate) const SG_GET_TIMEOUT: c_ulong = 0x2202;
pub(crate) const SG_EMULATED_HOST: c_ulong = 0x2203;
pub(crate) const SG_GET_RESERVED_SIZE: c_ulong = 0x2272;
pub(crate) const SG_SET_RESERVED_SIZE: c_ulong = 0x2275;
pub(crate) const SG_GET_SCSI_ID: c_ulong = 0x2276;
pub(crate) const SG_GET_VERSION_NUM: c_ulong = 0x2282;
pub(crate) const SG_SCSI_RESET: c_ulong = 0x2284;
pub(crate) const SG_IO: c_ulong = 0x2285;
/// `<linux/fs.h>`: on sg, the greatest length of data in bytes.
pub(crate) const BLKSECTGET: c_ulong = 0x1267;

/// Version 3.5.36, which has no `SG_IO` version 4.
pub(crate) const VERSION: c_int = 30_536;
pub(crate) const RESERVED_SIZE: c_int = 256 << 10;
/// Character device number of sg.
pub(crate) const MAJOR: u32 = 21;

pub(crate) const TO_DEVICE: c_int = -2;
pub(crate) const FROM_DEVICE: c_int = -3;
pub(crate) const TO_AND_FROM_DEVICE: c_int = -4;

pub(crate) const RESET_NOTHING: c_int = 0;
pub(crate) const RESET_DEVICE: c_int = 1;
pub(crate) const RESET_TARGET: c_int = 4;
/// A flag: no stronger reset if this one fails.
pub(crate) const RESET_NO_ESCALATE: c_int = 0x100;

/// `DRIVER_SENSE`: there is sense data.
pub(crate) const DRIVER_SENSE: u16 = 8;

/// `struct sg_io_hdr`.
#[repr(C)]
pub(crate) struct SgIoHeader {
    pub(crate) interface_id: c_int,
    pub(crate) direction: c_int,
    pub(crate) cdb_length: u8,
    pub(crate) sense_size: u8,
    pub(crate) vector_count: u16,
    pub(crate) length: u32,
    pub(crate) data: *mut c_void,
    pub(crate) cdb: *const u8,
    pub(crate) sense: *mut u8,
    pub(crate) timeout: u32,
    pub(crate) flags: u32,
    pub(crate) pack_id: c_int,
    pub(crate) user_pointer: *mut c_void,
    pub(crate) status: u8,
    pub(crate) masked_status: u8,
    pub(crate) message_status: u8,
    pub(crate) sense_written: u8,
    pub(crate) host_status: u16,
    pub(crate) driver_status: u16,
    pub(crate) residual: c_int,
    pub(crate) duration: u32,
    pub(crate) info: u32,
}

/// `struct sg_scsi_id`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SgScsiId {
    pub(crate) host: c_int,
    pub(crate) channel: c_int,
    pub(crate) target: c_int,
    pub(crate) lun: c_int,
    pub(crate) device_type: c_int,
    pub(crate) commands_per_lun: i16,
    pub(crate) queue_depth: i16,
    pub(crate) unused: [c_int; 2],
}

/// `VIRTIO_SCSI_S_` (virtio 1.3, 5.6.6.1) as Linux's `DID_`, as its driver has it.
pub(crate) fn host_status(response: u8) -> u16 {
    match response {
        0 => 0, // OK
        2 => 5, // ABORTED: DID_ABORT
        3 => 1, // BAD_TARGET: DID_NO_CONNECT
        4 => 8, // RESET: DID_RESET
        5 => 2, // BUSY: DID_BUS_BUSY
        _ => 7, // OVERRUN and failures: DID_ERROR
    }
}

/// `struct sg_iovec`.
#[repr(C)]
pub(crate) struct SgVector {
    pub(crate) base: *mut u8,
    pub(crate) length: usize,
}
