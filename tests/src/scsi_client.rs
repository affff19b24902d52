//! Requests and responses of a virtio-scsi driver as bytes (virtio 1.3, 5.6.6), for tests that put them on rings themselves.
//!
//! Knows the commands that tests need for reading, writing and resetting; checks nothing.

/// The control queue.
pub const CONTROL_RING: usize = 0;
/// The event queue.
pub const EVENT_RING: usize = 1;
/// The first request queue.
pub const REQUEST_RING: usize = 2;

/// Bytes of a logical block.
pub const BLOCK: usize = 512;

/// Bytes of a request without data, with the `cdb_size` that devices start with.
pub const REQUEST: usize = 51;
/// Bytes of a response without data, with the `sense_size` that devices start with.
pub const RESPONSE: usize = 108;
/// Bytes of an event.
pub const EVENT: usize = 16;

/// Where status and response are in a response.
const STATUS_AT: usize = 10;
const RESPONSE_AT: usize = 11;
const SENSE_AT: usize = 12;

/// `event` of a transport reset, and of a parameter that changed (5.6.6.3).
pub const TRANSPORT_RESET: u32 = 1;
/// See [`TRANSPORT_RESET`].
pub const PARAMETER_CHANGE: u32 = 3;
/// Set in `event` when events were lost.
pub const EVENTS_MISSED: u32 = 1 << 31;

/// LOGICAL UNIT RESET.
pub const UNIT_RESET: u32 = 5;

/// `lun` as Linux writes it: target 0, flat addressing.
fn address(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [1, 0, high | 0x40, low, 0, 0, 0, 0]
}

/// A command for `lun`, with its data.
pub fn request(lun: u16, cdb: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = address(lun).to_vec();
    bytes.resize(19, 0); // no name, simple task attribute
    bytes.extend(cdb);
    bytes.resize(REQUEST, 0);
    bytes.extend(data);
    bytes
}

fn transfer(code: u8, block: u32) -> Vec<u8> {
    let mut cdb = vec![code, 0];
    cdb.extend(block.to_be_bytes());
    cdb.extend([0, 0, 1, 0]);
    cdb
}

/// TEST UNIT READY.
pub fn ready(lun: u16) -> Vec<u8> {
    request(lun, &[0; 6], &[])
}

/// READ(10) of one block.
pub fn read(lun: u16, block: u32) -> Vec<u8> {
    request(lun, &transfer(0x28, block), &[])
}

/// WRITE(10) of one block.
pub fn write(lun: u16, block: u32, data: &[u8; BLOCK]) -> Vec<u8> {
    request(lun, &transfer(0x2a, block), data)
}

/// SYNCHRONIZE CACHE(10) of everything.
pub fn flush(lun: u16) -> Vec<u8> {
    request(lun, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
}

/// COMPARE AND WRITE of one block.
pub fn compare_and_write(
    lun: u16,
    block: u32,
    expected: &[u8; BLOCK],
    new: &[u8; BLOCK],
) -> Vec<u8> {
    let mut cdb = vec![0x89, 0, 0, 0, 0, 0];
    cdb.extend(block.to_be_bytes());
    cdb.extend([0, 0, 0, 1, 0, 0]);
    request(lun, &cdb, &[expected.as_slice(), new].concat())
}

/// A task management function; its answer is one byte.
pub fn task(function: u32, lun: u16) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(function.to_le_bytes());
    bytes.extend(address(lun));
    bytes.resize(24, 0);
    bytes
}

/// GOOD, and nothing wrong on the way.
pub fn is_good(answer: &[u8]) -> bool {
    answer.len() >= RESPONSE && answer.get(STATUS_AT..SENSE_AT) == Some(&[0, 0])
}

/// The field `response` of an answer.
pub fn response(answer: &[u8]) -> Option<u8> {
    answer.get(RESPONSE_AT).copied()
}

/// Key and additional sense code of an answer in fixed format.
pub fn sense(answer: &[u8]) -> Option<(u8, u8, u8)> {
    let sense = answer.get(SENSE_AT..)?;
    Some((sense.get(2)? & 0xf, *sense.get(12)?, *sense.get(13)?))
}

/// A block that tells `number`.
pub fn block(number: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (place, byte) in block.iter_mut().zip(number.to_le_bytes().iter().cycle()) {
        *place = byte.wrapping_add(1);
    }
    block
}
